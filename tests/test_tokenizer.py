# pytest tests/test_tokenizer.py
"""The tokenizers that need `tokenizers` alone; test_vocabularies.py compares them with transformers'."""

from pathlib import Path

import pytest
import torch
from test_vocabularies import CORPUS, byte_level, fast_bpe, write

from nanos2t import tokenizer
from nanos2t.apps import vocabularies


def test_word_pieces_by_hand(tmp_path: Path):
    words = "[PAD] [UNK] [CLS] [SEP] two ##fold , fold".split()
    ours = tokenizer.load(write(tmp_path, vocab__txt="\n".join(words) + "\n"))
    assert ours.encode("Twofold, fold three") == [2, 4, 5, 6, 7, 1, 3]
    assert ours.decode(torch.tensor([2, 4, 5, 6, 7, 3])) == "twofold, fold"
    assert ours.decode([2, 4, 3], skip_special_tokens=False) == "[CLS] two [SEP]"
    assert ours.batch_decode([[4], [7, 0]]) == ["two", "fold"] and ours.languages == {}


def test_bytes_come_back(tmp_path: Path):
    ours = tokenizer.load(byte_level(tmp_path, ["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"]))
    for text in CORPUS:
        ids = ours.encode(text)
        assert (ids[0], ids[-1]) == (0, 2) and ours.decode(ids) == text
    assert vocabularies.load(tmp_path).encode(CORPUS[0]) == ours.encode(CORPUS[0])


def test_a_code_is_a_language_where_it_is_special(tmp_path: Path):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    backend = Backend(models.WordLevel({"<unk>": 0, "a": 1, "de_DE": 2, "en_XX": 3}, "<unk>"))
    backend.add_special_tokens(["de_DE"])
    backend.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.load(tmp_path).languages == {"de_DE": 2}


def test_nothing_there_and_something_broken(tmp_path: Path):
    assert tokenizer.load(tmp_path) is None
    write(tmp_path, vocab__json={"a": 0}, merges__txt=b"ab\n")
    for load in tokenizer.load, vocabularies.load:
        with pytest.raises(ValueError, match=r"merges.txt: .*, expected the file of a tokenizer"):
            load(tmp_path)


def test_the_core_alone_does_not_take_fast_bpe_for_bytes(tmp_path: Path):
    """It has no bytes to begin with: apps/vocabularies.py reads it."""
    with pytest.raises(ValueError, match=r"vocab.json: "):
        tokenizer.load(fast_bpe(tmp_path))
    assert vocabularies.load(tmp_path).decode([4, 5])
