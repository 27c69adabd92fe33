# pytest tests/transcription/test_vocabularies.py
"""Ids and text are those of the checkpoint's own tokenizer, with transformers' as the oracle.

Vocabularies are trained on tests/data/scripts.txt, text in some twenty-five scripts, and are in
folders that have the files of the published checkpoints.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from helpers.vocabularies import (
    CORPUS,
    LINES,
    bart,
    bert,
    byte_level,
    fast_bpe,
    gpt2,
    in_order,
    mbart50,
    merge,
    sentencepiece_model,
    write,
)
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription import vocabularies

TEXTS = [
    "two hundred and forty-seven",
    "deux cent quarante-sept",
    "dreiundachtzig",
    "één",
    "",
    "  twee  ",
]
ODD = [
    *TEXTS,
    " ",
    " leading",
    "trailing ",
    "two  spaces   and\ttabs",
    "a\nb\r\nc\n",
    "nul\0byte",
    "\0",
    "😀 👩‍👩‍👧 🇳🇱a😀😀",
    "e\u0301te\u0301 n\u0303",
    "\u0301",
    "ﬁ ３ Å ﷺ ①",
    "zero\u200bwidth\u200d \ufeff",
    "a\u00a0b　c",
    "▁under_score Ġ Ċ",
    "@@ a@@ b@@",
    "\ufffd \U0010ffff",
    "don't won't , . ' s",
    "z" * 300,
    "".join(text[:3] for text in CORPUS),
]
SPECIAL = [
    "<s> x </s>",
    "x</s>y",
    "<pad><unk>",
    "a <mask> b",
    "[CLS] x [SEP]",
    "<|endoftext|>x<|endoftext|>",
]
SPECIAL += ["de_DE x", "x en_XX"]


def unknown(ids: list[list[int]], unk: int) -> float:
    return sum(row.count(unk) for row in ids) / sum(map(len, ids))


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<pad>", "<s>", "</s>", "<unk>"], show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            return value, at


def field(message: bytes, wanted: int) -> bytes:
    """Return a field of a protobuf message: the oracle needs sentencepiece's normaliser."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        size, after = varint(message, at)
        if key & 7 == 2:
            if key >> 3 == wanted:
                return message[after : after + size]
            after += size
        at = after
    return b""


def hf_mbart50(folder: Path, **options: object):
    """What MBart50Tokenizer.from_pretrained(folder) builds where protobuf is installed."""
    transformers = pytest.importorskip("transformers")
    content = (folder / "sentencepiece.bpe.model").read_bytes()
    model = sentencepiece.SentencePieceProcessor(model_proto=content)
    vocab = [(model.id_to_piece(i), model.get_score(i)) for i in range(len(model))]
    normaliser = field(field(content, 3), 2)
    assert len(normaliser) > 1000
    return transformers.MBart50Tokenizer(
        vocab=vocab, _spm_precompiled_charsmap=normaliser, **options
    )


def apply_fast_bpe(text: str, folder: Path) -> list[str]:
    """Word by word, merge by merge, in the order of merges.txt."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    tokens = []
    for word in text.split():
        parts = [*word[:-1], word[-1] + "</w>"]
        for line in lines:
            merge(parts, tuple(line.split()[:2]))
        tokens += [part + "@@" for part in parts[:-1]] + [parts[-1].removesuffix("</w>")]
    return tokens


def compare(ours: Tokenizer, theirs: Callable, texts: list[str]) -> list[list[int]]:
    """Equal ids, equal text of them, with special tokens and without."""
    rows = []
    for text in texts:
        ids = theirs(text).input_ids
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
        rows.append(ids)
    return rows


def test_the_text_is_in_more_than_twenty_scripts():
    assert len({script for script, _ in LINES}) >= 24
    assert all(len(text) > 30 for text in CORPUS)


def test_tokenizer_json_gives_transformers_ids_and_text(bpe: Path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bpe / "tokenizer.json"))
    ours = vocabularies.load_tokenizer(bpe)
    for row in compare(ours, theirs, ODD + SPECIAL):
        assert row[-1] == 2
    for text in TEXTS:
        if text == text.strip():
            assert ours.decode(ours.encode(text)) == text
    assert ours.languages == {}


def test_tokenizer_json_is_read_first_and_neither_cut_nor_padded(bpe: Path):
    backend = Backend.from_file(str(bpe / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=3)
    backend.save(str(bpe / "tokenizer.json"))
    write(bpe, vocab__txt="a\n", vocab__json={}, merges__txt="a b\n", sentencepiece__bpe__model=b"")
    ours = vocabularies.load_tokenizer(bpe)
    assert len(ours.encode(TEXTS[0])) > 3
    assert ours.encode("") == [2]
    assert ours.decode(ours.encode(TEXTS[0])) == TEXTS[0]


@pytest.mark.parametrize("lowercase", [None, True, False])
def test_vocab_txt_gives_bert_s_ids_and_text(tmp_path: Path, lowercase: bool | None):
    transformers = pytest.importorskip("transformers")
    folder = bert(tmp_path, lowercase)
    ours, theirs = (
        vocabularies.load_tokenizer(folder),
        transformers.BertTokenizer.from_pretrained(folder),
    )
    rows = compare(ours, theirs, CORPUS + ODD + SPECIAL)
    assert unknown(rows[: len(CORPUS)], 1) < 0.01
    assert ours.encode("") == [2, 3]
    assert (ours.encode("ÜBER") == ours.encode("uber")) is (lowercase is not False)
    assert ours.languages == {}


def test_accents_are_kept_where_tokenizer_config_says_so(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    folder = write(
        bert(tmp_path), tokenizer_config__json={"do_lower_case": True, "strip_accents": False}
    )
    ours, theirs = (
        vocabularies.load_tokenizer(folder),
        transformers.BertTokenizer.from_pretrained(folder),
    )
    compare(ours, theirs, CORPUS)
    assert ours.encode("ÜBER") != ours.encode("uber")


@pytest.mark.parametrize(
    ("build", "name"),
    [(gpt2, "GPT2Tokenizer"), (bart, "BartTokenizer"), (bart, "RobertaTokenizer")],
)
def test_byte_level_bpe_gives_transformers_ids_and_text(tmp_path: Path, build: Callable, name: str):
    theirs = getattr(pytest.importorskip("transformers"), name).from_pretrained(build(tmp_path))
    ours = vocabularies.load_tokenizer(tmp_path)
    compare(ours, theirs, CORPUS + ODD + SPECIAL)
    for text in CORPUS + ODD:  # bytes: nothing is unknown, nothing is lost
        assert ours.decode(ours.encode(text)) == text
    around = ours.encode("")
    assert around == ([] if build is gpt2 else [0, 2])
    assert ours.languages == {}
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert any(
        token.endswith("@@") for token in vocab
    )  # which alone does not make it speech_to_text_2's


def test_byte_level_bpe_adds_a_space_in_front_where_told(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    write(bart(tmp_path), tokenizer_config__json={"add_prefix_space": True})
    ours, theirs = (
        vocabularies.load_tokenizer(tmp_path),
        transformers.RobertaTokenizer.from_pretrained(tmp_path),
    )
    compare(ours, theirs, CORPUS + ODD)
    assert ours.encode("boat") == ours.encode(" boat")


def test_mbart50_gives_transformers_ids_and_text(tmp_path: Path):
    """Equal but for white space at the end, of which only transformers 5 makes a token."""
    ours, theirs = vocabularies.load_tokenizer(mbart50(tmp_path)), hf_mbart50(tmp_path)
    blank, special, rows, trailing = (
        theirs.convert_tokens_to_ids("▁"),
        {*theirs.all_special_ids} - {3},
        [],
        0,
    )
    for text in CORPUS + ODD + SPECIAL:
        actual = theirs(text).input_ids
        pairs = [*zip(actual, [*actual[1:], blank])]
        ids = [i for i, after in pairs if i != blank or after not in special]
        trailing += ids != actual
        assert ids == actual or text not in CORPUS
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
        rows.append(ids)
    assert trailing > 5
    assert unknown(rows[: len(CORPUS)], 3) < 0.01
    assert {row[0] for row in rows} == {ours.languages["en_XX"]}
    assert {row[-1] for row in rows} == {2}
    assert ours.languages == theirs.lang_code_to_id
    ids = range(len(theirs))
    assert [ours.decode([i], False) for i in ids] == [theirs.decode([i]) for i in ids]
    assert [ours.decode([i]) for i in ids] == [
        theirs.decode([i], skip_special_tokens=True) for i in ids
    ]


def test_mbart50_cuts_as_sentencepiece_does(tmp_path: Path):
    for kind in "unigram", "bpe":
        ours = vocabularies.load_tokenizer(mbart50(tmp_path, kind))
        model = sentencepiece.SentencePieceProcessor(
            model_file=str(tmp_path / "sentencepiece.bpe.model")
        )
        for text in CORPUS + ODD:
            ids = ours.encode(text)
            assert ids[1:-1] == [i + 1 if i else 3 for i in model.encode(text)], text
            if 3 not in ids:
                assert ours.decode(ids) == model.decode(model.encode(text))


def test_mbart50_ids_are_in_fairseq_s_order(tmp_path: Path):
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    ours = vocabularies.load_tokenizer(mbart50(tmp_path))
    size = len(
        sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    )
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    assert [ours.decode([i], skip_special_tokens=False) for i in range(4)] == first
    assert [*ours.languages] == FAIRSEQ_LANGUAGE_CODES
    assert [*ours.languages.values()] == [*range(size + 1, size + 53)]
    assert ours.decode([size + 53], skip_special_tokens=False) == "<mask>"
    card = {
        "de_DE": 250003,
        "tr_TR": 250023,
        "fa_IR": 250029,
        "sv_SE": 250042,
        "mn_MN": 250037,
        "zh_CN": 250025,
    }
    card |= {
        "sl_SI": 250052,
        "et_EE": 250006,
        "id_ID": 250032,
        "ar_AR": 250001,
        "ta_IN": 250044,
        "en_XX": 250004,
    }
    assert {code: ours.languages[code] - size + 250000 for code in card} == card


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({}, "en_XX"),
        ({"src_lang": "de_DE"}, "de_DE"),
        ({"tgt_lang": "sv_SE"}, "sv_SE"),
        ({"src_lang": "en_XX", "tgt_lang": "ta_IN"}, "ta_IN"),
    ],
)
def test_mbart50_puts_the_language_of_the_target_in_front(tmp_path: Path, config: dict, code: str):
    ours, theirs = (
        vocabularies.load_tokenizer(mbart50(tmp_path, **config)),
        hf_mbart50(tmp_path, **config),
    )
    ids = ours.encode("ein Wort")
    assert ids == theirs(text_target="ein Wort").input_ids
    assert ids[0] == ours.languages[code]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == "ein Wort"


def test_mbart50_saved_by_transformers_5_has_its_languages(tmp_path: Path):
    before = vocabularies.load_tokenizer(mbart50(tmp_path))
    hf_mbart50(tmp_path, src_lang="de_DE").save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").unlink()
    after = vocabularies.load_tokenizer(tmp_path)
    assert after.languages == before.languages
    assert [*after.languages] == [*before.languages]
    assert after.encode("ein Wort") == [after.languages["de_DE"], *before.encode("ein Wort")[1:]]


@pytest.mark.parametrize("columns", [2, 3])
def test_speech_to_text_2_cuts_words_and_joins_them(tmp_path: Path, columns: int):
    ours = vocabularies.load_tokenizer(fast_bpe(tmp_path, columns))
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    rows = []
    for text in CORPUS + ODD:
        tokens = apply_fast_bpe(text, tmp_path)
        rows.append(ours.encode(text))
        assert rows[-1] == [vocab.get(token, 3) for token in tokens], text
        if 3 not in rows[-1]:
            assert ours.decode(rows[-1]) == " ".join(text.split())
    assert unknown(rows[: len(CORPUS)], 3) < 0.01
    assert max(Counter(map(len, apply_fast_bpe(CORPUS[0], tmp_path)))) > 4  # merges were at work
    assert ours.languages == {}


def test_speech_to_text_2_joins_whatever_is_generated(tmp_path: Path):
    ours = vocabularies.load_tokenizer(fast_bpe(tmp_path))
    tokens = in_order(json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")))
    for size in range(40):
        ids = random.choices(range(len(tokens)), k=size)
        joined = {
            skip: " ".join(tokens[i] for i in ids if i > 3 or not skip).replace("@@ ", "")
            for skip in (True, False)
        }
        assert ours.decode([2, *ids, 2, 1, 1]) == joined[True]
        assert ours.decode(ids, skip_special_tokens=False) == joined[False]


def test_speech_to_text_2_by_hand(tmp_path: Path):
    """A vocabulary as fairseq's, which lacks what only lies on the way to a longer piece."""
    tokens = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "hel@@",
        "lo",
        "low@@",
        "er",
        "w",
        "o",
        "l@@",
        "e@@",
        "##",
    ]
    merges = "#version: 0.2\nl o\nh e\nhe l\nl o</w>\nlo w\ne r</w>\n"
    write(tmp_path, vocab__json={token: i for i, token in enumerate(tokens)}, merges__txt=merges)
    ours = vocabularies.load_tokenizer(tmp_path)
    assert ours.encode("hello lower  w\nhew </s>") == [4, 5, 6, 7, 8, 3, 8, 2]  # "he@@" has no id
    assert ours.decode([2, 4, 5, 6, 7, 2, 1]) == "hello lower"
    assert ours.decode([4, 5, 6]) == "hello low@@"
    assert ours.decode([8, 12, 4, 5]) == "w ## hello"
    assert ours.encode("HELLO") == [3] * 5
    write(tmp_path, tokenizer_config__json={"do_lower_case": True})
    assert vocabularies.load_tokenizer(tmp_path).encode("HELLO") == [4, 5]


def test_speech_to_text_2_without_merges_only_decodes(tmp_path: Path):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "Gu@@", "ten", "Tag"]
    write(tmp_path, vocab__json={token: i for i, token in enumerate(tokens)})
    ours = vocabularies.load_tokenizer(tmp_path)
    assert ours.batch_decode([[2, 4, 5, 6, 2], [6, 2, 1, 1, 1]]) == ["Guten Tag", "Tag"]
    for text in "Tag", "":
        with pytest.raises(ValueError, match=r"merges.txt: no such file, expected one to encode"):
            ours.encode(text)


def test_batches_and_tensors(bpe: Path):
    ours = vocabularies.load_tokenizer(bpe)
    rows = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(ours.encode(text)) for text in TEXTS], batch_first=True
    )
    assert ours.batch_decode(rows) == [ours.decode(ours.encode(text)) for text in TEXTS]
    assert ours.batch_decode(rows, skip_special_tokens=False)[0].endswith(
        "</s>" + "<pad>" * int((rows[0] == 0).sum())
    )


def test_a_folder_without_tokenizer_has_none(tmp_path: Path):
    assert vocabularies.load_tokenizer(tmp_path) is None
    write(tmp_path, config__json={}, tokenizer_config__json={}, special_tokens_map__json={})
    assert vocabularies.load_tokenizer(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"tokenizer__json": b"{"}, "tokenizer.json: EOF"),
        ({"tokenizer__json": b"{}"}, "tokenizer.json: Model missing"),
        ({"vocab__txt": b"\xff\xfe"}, "vocab.txt: .*UTF-8"),
        ({"vocab__txt": b"a\nb\n"}, "vocab.txt: .*sep_token not found"),
        ({"sentencepiece__bpe__model": b"\x0a\xff"}, "sentencepiece.bpe.model: "),
        ({"sentencepiece__bpe__model": b""}, "sentencepiece.bpe.model: "),
        ({"vocab__json": b"{", "merges__txt": b"a b\n"}, "vocab.json: .*expected JSON"),
        ({"vocab__json": [], "merges__txt": b"a b\n"}, "vocab.json: list, expected a JSON object"),
        ({"vocab__json": {"a": "b"}, "merges__txt": b"a b\n"}, "vocab.json: .*"),
        ({"vocab__json": {"a": 0}, "merges__txt": b"a b\n"}, "vocab.json: .*`b` out of vocabulary"),
        (
            {"vocab__json": {"a": 0}, "merges__txt": b"ab\n"},
            "merges.txt: .*expected at least 2, got 1",
        ),
        ({"vocab__json": {"a": 0}, "merges__txt": b"\xff a\n"}, "merges.txt: .*utf-8"),
        ({"vocab__json": {"<pad>": 0, "|": 1, "E": 2}}, "vocab.json: .*merges"),
        ({"merges__txt": b"a b\n"}, "vocab.json: No such file"),
        (
            {"vocab__txt": b"a\n", "tokenizer_config__json": b"{"},
            "tokenizer_config.json: .*expected JSON",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, files: dict, found: str):
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}/{found}") as caught:
        vocabularies.load_tokenizer(write(tmp_path, **files))
    assert str(caught.value).count("\n") == 0
    assert f": {tmp_path}" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "XLMRobertaTokenizer"),
        ({"tgt_lang": "sv"}, "language 'sv'"),
        ({"src_lang": "cy_GB"}, "language 'cy_GB'"),
    ],
)
def test_another_sentencepiece_tokenizer_than_mbart50_s_is_refused(
    tmp_path: Path, config: dict, found: str
):
    with pytest.raises(ValueError, match=f"sentencepiece.bpe.model: .*{found}.* not mBART-50's"):
        vocabularies.load_tokenizer(mbart50(tmp_path, **config))


def test_a_sentencepiece_model_with_other_ids_is_refused(tmp_path: Path):
    model = sentencepiece_model(pad_id=0, unk_id=1, bos_id=2, eos_id=3)
    with pytest.raises(ValueError, match="sentencepiece.bpe.model: .*'<pad>', '<unk>', '<s>'"):
        vocabularies.load_tokenizer(write(tmp_path, sentencepiece__bpe__model=model))


def test_bytes_come_back(tmp_path: Path):
    ours = vocabularies.load_tokenizer(
        byte_level(tmp_path, ["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"])
    )
    for text in CORPUS:
        ids = ours.encode(text)
        assert (ids[0], ids[-1]) == (0, 2) and ours.decode(ids) == text
