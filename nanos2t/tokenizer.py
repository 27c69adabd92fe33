"""Ids <-> text, from the files of a checkpoint's tokenizer, through `tokenizers`. apps/vocabularies.py reads
those of mBART-50 and speech_to_text_2, too."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from nanos2t import pretrained

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]

class Tokenizer:
    """A thin layer over tokenizers.Tokenizer: ids are what the checkpoint's own tokenizer gives.
    `cut`: text -> pieces, where something else than the backend does that. `languages`: the codes among the
    special tokens and their ids, {"ar_AR": 250001, ...}, as mBART-50 has them."""
    def __init__(self, backend, cut: Callable[[str], list[str]] | None = None):
        backend.no_truncation()
        backend.no_padding()
        self.backend, self.cut = backend, cut
        added = backend.get_added_tokens_decoder().items()
        special = {token.content: i for i, token in added if token.special}
        self.languages = {code: i for code, i in special.items() if re.fullmatch("[a-z]{2}_[A-Z]{2}", code)}
    def encode(self, text: str) -> list[int]:
        """Text -> ids, with the special tokens around it that the tokenizer's files ask for."""
        if self.cut:
            parts = re.split(f"({'|'.join([*SPECIAL, *self.languages])})", text)  # text, special, text
            text = [token for i, part in enumerate(parts) for token in ([part] if i % 2 else self.cut(part))]
        return self.backend.encode(text, is_pretokenized=self.cut is not None).ids
    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Ids (T,), a tensor too, -> text."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)
    def batch_decode(self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """Ids (B, T) -> B texts."""
        return [self.decode(row, skip_special_tokens) for row in ids]

def read_options(folder: Path) -> dict:
    return pretrained.read_json(file) if (file := folder / "tokenizer_config.json").exists() else {}

def read_merges(file: Path) -> list[tuple[str, str]]:
    """The pairs of merges.txt, if it is there, without a third column and the line of the version."""
    lines = map(str.split, file.read_text("utf-8").split("\n") if file.exists() else ())
    return [(left, right) for left, right, *_ in filter(None, lines) if left != "#version:"]

def load(folder: Path) -> Tokenizer | None:
    """The tokenizer in a folder: tokenizer.json, BERT's vocab.txt, or vocab.json with merges.txt (GPT-2);
    None if it has none. ValueError names a file that is broken."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers
    options = read_options(folder)
    try:
        if (file := folder / "tokenizer.json").exists():
            return Tokenizer(tokenizers.Tokenizer.from_file(str(file)))
        if (file := folder / "vocab.txt").exists():
            case, bare = options.get("do_lower_case", True), options.get("strip_accents")
            return Tokenizer(tokenizers.BertWordPieceTokenizer(str(file), lowercase=case, strip_accents=bare))
        merges, file = read_merges(file := folder / "merges.txt"), folder / "vocab.json"
        if file.exists() or merges:
            split = pre_tokenizers.ByteLevel(options.get("add_prefix_space", False))
            model = models.BPE(pretrained.read_json(file), merges or None)
            return assemble(model, "<s> $A </s>", decoders.ByteLevel(), split)
    except Exception as error:                                # the Rust side raises no narrower class
        where = "" if str(error).startswith(str(file)) else f"{file}: "
        raise ValueError(f"{where}{pretrained.brief(error)}, expected the file of a tokenizer") from None

def assemble(model, around: str, decoder, split=None, special: Iterable[str] = SPECIAL,
             cut: Callable | None = None) -> Tokenizer:
    """A Tokenizer with the special tokens of its vocabulary, those in `around` put around a text, $A."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing
    backend = Backend(model)
    backend.pre_tokenizer, backend.decoder = split, decoder
    names = special if backend.token_to_id("<s>") is not None else ["<|endoftext|>"]
    ids = {token: i for token in names if (i := backend.token_to_id(token)) is not None}
    backend.add_special_tokens([*ids])
    pairs = [(token, ids[token]) for token in around.split() if token in ids]
    backend.post_processor = TemplateProcessing(around if pairs else "$A", special_tokens=pairs)
    return Tokenizer(backend, cut)
