"""Ids <-> text, from the tokenizer files of a checkpoint, through the `tokenizers` package."""

import json
from collections.abc import Iterable
from pathlib import Path


class Tokenizer:
    """A thin layer over tokenizers.Tokenizer: ids are what the checkpoint's own tokenizer gives."""

    def __init__(self, backend):
        self.backend = backend

    def encode(self, text: str) -> list[int]:
        """Text -> ids, with the special tokens around it that the tokenizer's files ask for."""
        return self.backend.encode(text).ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Ids (T,), a tensor too, -> text."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """Ids (B, T) -> B texts."""
        return [self.decode(row, skip_special_tokens) for row in ids]


def load(folder: Path) -> Tokenizer | None:
    """The tokenizer in a checkpoint's folder, from tokenizer.json or BERT's vocab.txt; None without either.
    ValueError names a file that cannot be read."""
    import tokenizers

    if (file := folder / "tokenizer.json").exists():
        try:
            return Tokenizer(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as error:  # the Rust side raises plain Exception
            raise ValueError(f"{file}: not a tokenizer: {error}") from None
    if (file := folder / "vocab.txt").exists():
        return Tokenizer(word_piece(file, lowercase=lowercases(folder / "tokenizer_config.json")))
    return None


def lowercases(file: Path) -> bool:
    """`do_lower_case` of a BERT tokenizer_config.json; true if nothing is said, as in transformers."""
    try:
        return not file.exists() or json.loads(file.read_text(encoding="utf-8")).get("do_lower_case", True)
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None


def word_piece(file: Path, lowercase: bool):
    """BERT's tokenizer from its vocabulary, one token a line (google-research/bert, tokenization.py)."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    try:
        vocabulary = {token: i for i, token in enumerate(file.read_text(encoding="utf-8").splitlines())}
    except ValueError as error:
        raise ValueError(f"{file}: not UTF-8 text: {error}") from None
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for token in special:
        if token not in vocabulary:
            raise ValueError(f"{file}: no {token} among its {len(vocabulary)} tokens")
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    sep, cls = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    backend.post_processor = processors.BertProcessing(sep, cls)
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(special)
    return backend
