"""Read the tokenizers of official checkpoints: GPT-2's, mBART-50's and speech_to_text_2's.

nanos2t/tokenizer.py reads tokenizer.json and vocab.txt. The readers here, one for each family,
build a tokenizer with the same ids from older files. transformers does it in
tokenization_gpt2.py, tokenization_mbart50.py and tokenization_speech_to_text_2.py.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanos2t import files, tokenizer
from nanos2t.tokenizer import Tokenizer

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

# mBART-50's languages in the order of their ids.
MBART50_LANGUAGES = """
    ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV
    my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID
    ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA
    ur_PK xh_ZA gl_ES sl_SI
""".split()  # noqa: SIM905, fifty strings would fill a screen
MBART50_VOCAB_SIZE = 250_054

# The languages that wav2vec2-xls-r-*-en-to-15 and wav2vec2-xls-r-*-21-to-en write, from their model
# cards. The default forced_bos_token_id, here the key, tells the two apart.
MODEL_CARD_LANGUAGES = {
    250003: {
        "de": 250003,
        "tr": 250023,
        "fa": 250029,
        "sv": 250042,
        "mn": 250037,
        "zh": 250025,
        "cy": 250007,
        "ca": 250005,
        "sl": 250052,
        "et": 250006,
        "id": 250032,
        "ar": 250001,
        "ta": 250044,
        "lv": 250017,
        "ja": 250012,
    },
    250004: {"en": 250004},
}


class PresplitTokenizer(Tokenizer):
    """A tokenizer whose text is split into pieces by `split_text` instead of by its backend."""

    def __init__(self, backend, split_text: Callable[[str], list[str]]):
        super().__init__(backend)
        self.split_text = split_text

    def encode(self, text: str) -> list[int]:
        # Special tokens in the text stay whole: they are every second part.
        names = "|".join([*SPECIAL_TOKENS, *self.languages])
        pieces = []
        for place, part in enumerate(re.split(f"({names})", text)):
            is_special = place % 2 == 1
            if is_special:
                pieces.append(part)
            else:
                pieces += self.split_text(part)
        return self.backend.encode(pieces, is_pretokenized=True).ids


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the tokenizer of a checkpoint's folder; None if it has none.

    Raises ValueError that names the file that is broken.
    """
    if (folder / "tokenizer.json").exists() or (folder / "vocab.txt").exists():
        return tokenizer.load_tokenizer(folder)
    options = tokenizer.read_tokenizer_config(folder)

    file = folder / "sentencepiece.bpe.model"
    if file.exists():
        with tokenizer.named_errors(file):
            return read_sentencepiece(file, options)

    merges_file = folder / "merges.txt"
    with tokenizer.named_errors(merges_file):
        merges = read_merges(merges_file)
    vocab_file = folder / "vocab.json"
    if not vocab_file.exists() and not merges:
        return None
    with tokenizer.named_errors(vocab_file):
        vocab = files.read_json(vocab_file)
        if not is_fast_bpe(vocab):
            return read_byte_bpe(vocab, merges, options)
    with tokenizer.named_errors(merges_file):
        return read_fast_bpe(merges_file, vocab, merges, options)


def is_fast_bpe(vocab: dict[str, int]) -> bool:
    """Tell speech_to_text_2's vocabulary from a byte-level one, which has letters for the bytes."""
    has_bytes = "Ġ" in vocab and "Ċ" in vocab
    return not has_bytes and any(token.endswith("@@") for token in vocab)


def read_merges(file: Path) -> list[tuple[str, str]]:
    """Read the pairs of merges.txt; [] if it is missing.

    The line of the version and a third column, the counts of fastBPE, are left out.
    """
    if not file.exists():
        return []
    merges = []
    for line in file.read_text("utf-8-sig").split("\n"):
        columns = line.split()
        if not columns:
            continue
        left, right, *_ = columns
        if left != "#version:":
            merges.append((left, right))
    return merges


def read_byte_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], options: dict) -> Tokenizer:
    """Build the tokenizer of GPT-2, RoBERTa and BART: byte pair encoding of bytes."""
    from tokenizers import decoders, models, pre_tokenizers

    parts = BackendParts(
        model=models.BPE(vocab, merges or None),
        decoder=decoders.ByteLevel(),
        template="<s> $A </s>",
        pre_tokenizer=pre_tokenizers.ByteLevel(options.get("add_prefix_space", False)),
    )
    return Tokenizer(build_backend(parts))


def read_sentencepiece(file: Path, options: dict) -> Tokenizer:
    """Build mBART-50's tokenizer from a SentencePiece model.

    Its ids are four special tokens, the model's pieces without its own three special ones, the
    languages, and <mask>.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import decoders, models

    processor = SentencePieceProcessor(model_file=str(file))
    pieces = [processor.id_to_piece(i) for i in range(len(processor))]

    # Others than mBART-50 number the pieces in another way.
    name = options.get("tokenizer_class") or "MBart50"
    language = options.get("tgt_lang") or options.get("src_lang") or "en_XX"
    has_name = name.startswith("MBart50") and language in MBART50_LANGUAGES
    if not has_name or pieces[:3] != ["<unk>", "<s>", "</s>"]:
        raise ValueError(
            f"a {name} with language {language!r} and first pieces {pieces[:3]} is not mBART-50's"
        )

    tokens = [*SPECIAL_TOKENS[:4], *pieces[3:], *MBART50_LANGUAGES, "<mask>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    parts = BackendParts(
        model=models.WordLevel(vocab, "<unk>"),
        decoder=decoders.Metaspace(),
        template=f"{language} $A </s>",
        special_tokens=(*SPECIAL_TOKENS, *MBART50_LANGUAGES),
    )
    return PresplitTokenizer(build_backend(parts), processor.encode_as_pieces)


def read_fast_bpe(
    merges_file: Path, vocab: dict[str, int], merges: list[tuple[str, str]], options: dict
) -> Tokenizer:
    """Build speech_to_text_2's tokenizer, where "@@" ends each piece of a word but the last.

    Without merges it can only decode.
    """
    from tokenizers import decoders, models

    # The library's BPE marks the last piece of a word, by "</w>", and needs ids for all that can
    # come of the merges. The ids are not used.
    symbols = {" "}
    for token in vocab:
        symbols.add(f"{token}</w>".replace("@@</w>", ""))
    for left, right in merges:
        symbols.update((left, right, left + right))
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    bpe = models.BPE(ids, merges, unk_token=" ", end_of_word_suffix="</w>")

    def split_text(text: str) -> list[str]:
        if not merges:
            raise ValueError(f"{merges_file}: no such file, expected one to encode text")
        if options.get("do_lower_case"):
            text = text.lower()
        pieces = []
        for word in text.split():
            for piece in bpe.tokenize(word):
                pieces.append(f"{piece.value}@@".replace("</w>@@", ""))
        return pieces

    # Join the tokens by spaces, then remove the space after each "@@".
    decoder = decoders.Sequence(
        [decoders.WordPiece("\n", False), decoders.Fuse(), decoders.Replace("@@ ", "")]
    )
    parts = BackendParts(model=models.WordLevel(vocab, "<unk>"), decoder=decoder, template="$A")
    return PresplitTokenizer(build_backend(parts), split_text)


@dataclass
class BackendParts:
    """What a tokenizers.Tokenizer is built of; `template`: the special tokens around a text, $A."""

    model: Any
    decoder: Any
    template: str
    pre_tokenizer: Any = None
    special_tokens: Sequence[str] = SPECIAL_TOKENS


def build_backend(parts: BackendParts):
    """Build a tokenizers.Tokenizer, with those special tokens that its vocabulary has."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    backend = Backend(parts.model)
    backend.pre_tokenizer = parts.pre_tokenizer
    backend.decoder = parts.decoder

    # GPT-2 has a single special token.
    names = parts.special_tokens
    if backend.token_to_id("<s>") is None:
        names = ["<|endoftext|>"]
    ids = {}
    for name in names:
        token = backend.token_to_id(name)
        if token is not None:
            ids[name] = token
    backend.add_special_tokens(list(ids))

    around = [(name, ids[name]) for name in parts.template.split() if name in ids]
    template = parts.template if around else "$A"
    backend.post_processor = TemplateProcessing(template, special_tokens=around)
    return backend
