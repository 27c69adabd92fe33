# pytest tests/test_tokenizer.py
"""Ids and text are those of the checkpoint's own tokenizer, with transformers' as the oracle."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from nanos2t import tokenizer

TEXTS = ["two hundred and forty-seven", "deux cent quarante-sept", "dreiundachtzig", "één", "", "  twee  "]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz,.!'-",
    "##s",
    "##ing",
    "run",
    "cafe",
]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrtuvwxyz"]


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<pad>", "<s>", "</s>", "<unk>"], show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path


def test_tokenizer_json_gives_transformers_ids_and_text(bpe: Path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bpe / "tokenizer.json"))
    ours = tokenizer.load(bpe)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids
        assert ids[-1] == 2
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
        if text == text.strip():
            assert ours.decode(ids) == text


@pytest.mark.parametrize("lowercase", [None, True, False])
def test_vocab_txt_gives_bert_s_ids_and_text(vocab: Path, lowercase: bool | None):
    transformers = pytest.importorskip("transformers")
    config = {} if lowercase is None else {"do_lower_case": lowercase}
    if config:
        (vocab / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.BertTokenizer(str(vocab / "vocab.txt"), **config)
    ours = tokenizer.load(vocab)
    for text in ["running, cafés!", "Don't run", "x y z", "Ünknown 7", ""]:
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ids == [WORDS.index("[CLS]"), WORDS.index("[SEP]")]


def test_batches_and_tensors(bpe: Path):
    ours = tokenizer.load(bpe)
    rows = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(ours.encode(text)) for text in TEXTS], batch_first=True
    )
    assert ours.batch_decode(rows) == [ours.decode(ours.encode(text)) for text in TEXTS]
    assert ours.batch_decode(rows, skip_special_tokens=False)[0].endswith(
        "</s>" + "<pad>" * int((rows[0] == 0).sum())
    )


def test_a_folder_without_tokenizer_has_none(tmp_path: Path):
    assert tokenizer.load(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("tokenizer.json", b"{", "tokenizer.json: EOF"),
        ("tokenizer.json", b"{}", "tokenizer.json: Model missing"),
        ("vocab.txt", b"\xff\xfe", "vocab.txt: .*UTF-8"),
        ("vocab.txt", b"a\nb\n", "vocab.txt: .*sep_token not found"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, found: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=found):
        tokenizer.load(tmp_path)


def test_a_broken_tokenizer_config_is_named(vocab: Path):
    (vocab / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer_config.json: .*expected JSON"):
        tokenizer.load(vocab)
