"""The tokenizers that official checkpoints have beside the core's: of GPT-2, mBART-50, speech_to_text_2."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from nanos2t import files, tokenizer
from nanos2t.tokenizer import Tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LANGUAGES = """ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV
    my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE
    km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA
    gl_ES sl_SI""".split()  # mBART-50's, in the order of their ids
OFFICIAL = 250_054  # mBART-50's tokens
CARDS = {  # forced_bos_token_id -> languages of wav2vec2-xls-r-*-en-to-15 and -21-to-en, by their cards
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


class CutTokenizer(Tokenizer):
    """One whose text something else than the backend cuts into pieces: `cut`."""

    def __init__(self, backend, cut: Callable[[str], list[str]]):
        super().__init__(backend)
        self.cut = cut

    def encode(self, text: str) -> list[int]:
        parts = re.split(f"({'|'.join([*SPECIAL, *self.languages])})", text)  # text, special, text
        pieces = [
            piece for i, part in enumerate(parts) for piece in ([part] if i % 2 else self.cut(part))
        ]
        return self.backend.encode(pieces, is_pretokenized=True).ids


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a checkpoint's folder; None if it has none. ValueError names a file that is broken."""
    if any((folder / name).exists() for name in ("tokenizer.json", "vocab.txt")):
        return tokenizer.load_tokenizer(folder)
    options = tokenizer.read_tokenizer_config(folder)
    try:
        if (file := folder / "sentencepiece.bpe.model").exists():
            return read_sentencepiece(file, options)
        merges, file = read_merges(file := folder / "merges.txt"), folder / "vocab.json"
        if not (file.exists() or merges):
            return None
        vocab = files.read_json(file)
        if {"Ġ", "Ċ"} <= vocab.keys() or not any(token.endswith("@@") for token in vocab):
            return read_byte_bpe(vocab, merges, options)
        return read_fast_bpe(file := folder / "merges.txt", vocab, merges, options)
    except Exception as error:  # the C++ side raises no narrower class
        raise tokenizer.damaged_tokenizer(file, error) from None


def read_merges(file: Path) -> list[tuple[str, str]]:
    """The pairs of merges.txt, if it is there, without a third column and the line of the version."""
    lines = map(str.split, file.read_text("utf-8").split("\n") if file.exists() else ())
    return [(left, right) for left, right, *_ in filter(None, lines) if left != "#version:"]


def read_byte_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], options: dict) -> Tokenizer:
    """GPT-2's, RoBERTa's and BART's: byte pairs over bytes."""
    from tokenizers import decoders, models, pre_tokenizers

    split = pre_tokenizers.ByteLevel(options.get("add_prefix_space", False))
    return assemble(models.BPE(vocab, merges or None), "<s> $A </s>", decoders.ByteLevel(), split)


def read_sentencepiece(file: Path, options: dict) -> Tokenizer:
    """mBART-50's ids: four special tokens, the model's pieces but for its own three, languages, <mask>."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import decoders, models

    cutter, kind = (
        SentencePieceProcessor(model_file=str(file)),
        options.get("tokenizer_class") or "MBart50",
    )
    pieces = [cutter.id_to_piece(i) for i in range(len(cutter))]
    code = options.get("tgt_lang") or options.get("src_lang") or "en_XX"
    if (
        not kind.startswith("MBart50")
        or code not in LANGUAGES
        or pieces[:3] != ["<unk>", "<s>", "</s>"]
    ):
        raise ValueError(
            f"a {kind} with language {code!r} and first pieces {pieces[:3]} is not mBART-50's"
        )
    vocab = {
        token: i for i, token in enumerate([*SPECIAL[:4], *pieces[3:], *LANGUAGES, SPECIAL[4]])
    }
    model, around = models.WordLevel(vocab, "<unk>"), f"{code} $A </s>"
    special = [*SPECIAL, *LANGUAGES]
    return assemble(
        model, around, decoders.Metaspace(), special=special, cut=cutter.encode_as_pieces
    )


def read_fast_bpe(
    file: Path, vocab: dict[str, int], merges: list[tuple[str, str]], options: dict
) -> Tokenizer:
    """fastBPE, where "@@" ends each piece of a word but the last; without merges.txt it only decodes."""
    from tokenizers import decoders, models

    known = {" ", *((token + "</w>").replace("@@</w>", "") for token in vocab)}
    known |= {symbol for left, right in merges for symbol in (left, right, left + right)}
    bpe = models.BPE(
        dict(zip(known, range(len(known)))), merges, unk_token=" ", end_of_word_suffix="</w>"
    )

    def cut(text: str) -> list[str]:
        if not merges:
            raise ValueError(f"{file}: no such file, expected one to encode text")
        words = (text.lower() if options.get("do_lower_case") else text).split()
        return [
            (part.value + "@@").replace("</w>@@", "")
            for word in words
            for part in bpe.tokenize(word)
        ]

    glue = decoders.Sequence(
        [decoders.WordPiece("\n", False), decoders.Fuse(), decoders.Replace("@@ ", "")]
    )
    return assemble(models.WordLevel(vocab, "<unk>"), "$A", glue, cut=cut)


def assemble(
    model,
    around: str,
    decoder,
    split=None,
    special: Iterable[str] = SPECIAL,
    cut: Callable | None = None,
) -> Tokenizer:
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
    return CutTokenizer(backend, cut) if cut else Tokenizer(backend)
