# pytest tests/test_tokenizer.py
"""The tokenizers by hand; test_vocabularies.py compares them with those of transformers."""

import os
from pathlib import Path

import pytest
import torch
from helpers.vocabularies import write

from nanos2t import tokenizer
from nanos2t.transcription import vocabularies


def test_word_pieces_by_hand(tmp_path: Path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "two", "##fold", ",", "fold"]
    ours = tokenizer.load_tokenizer(write(tmp_path, vocab__txt="\n".join(words) + "\n"))
    assert ours.encode("Twofold, fold three") == [2, 4, 5, 6, 7, 1, 3]
    assert ours.decode(torch.tensor([2, 4, 5, 6, 7, 3])) == "twofold, fold"
    assert ours.decode([2, 4, 3], skip_special_tokens=False) == "[CLS] two [SEP]"
    assert ours.batch_decode([[4], [7, 0]]) == ["two", "fold"] and ours.languages == {}


def test_chinese_characters_are_words_unless_the_config_says_no(tmp_path: Path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "日本", "日", "本", "##本"]
    write(tmp_path, vocab__txt="\n".join(words) + "\n")
    assert tokenizer.load_tokenizer(tmp_path).encode("日本") == [2, 5, 6, 3]
    write(tmp_path, tokenizer_config__json={"tokenize_chinese_chars": False})
    assert tokenizer.load_tokenizer(tmp_path).encode("日本") == [2, 4, 3]


def test_a_code_is_a_language_where_it_is_special(tmp_path: Path):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    backend = Backend(models.WordLevel({"<unk>": 0, "a": 1, "de_DE": 2, "en_XX": 3}, "<unk>"))
    backend.add_special_tokens(["de_DE"])
    backend.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.load_tokenizer(tmp_path).languages == {"de_DE": 2}


def test_what_is_held_back_is_written_if_it_can_be(capfd):
    with tokenizer.hold_stderr():
        os.write(2, b"a note")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "a note"
    stderr = os.dup(2)
    for path, flags in ("/dev/full", os.O_WRONLY), ("/dev/null", os.O_RDONLY):
        other = os.open(path, flags)
        os.dup2(other, 2)
        os.close(other)
        for text in b"", b"a note":
            with tokenizer.hold_stderr():
                os.write(2, text)
    os.dup2(stderr, 2)
    os.close(stderr)


def test_nothing_there_and_something_broken(tmp_path: Path):
    assert tokenizer.load_tokenizer(tmp_path) is None
    write(tmp_path, vocab__json={"a": 0}, merges__txt=b"ab\n")
    assert tokenizer.load_tokenizer(tmp_path) is None
    with pytest.raises(ValueError, match=r"merges.txt: .*, expected the file of a tokenizer"):
        vocabularies.load_tokenizer(tmp_path)
    write(tmp_path, tokenizer__json=b"{")
    for load in tokenizer.load_tokenizer, vocabularies.load_tokenizer:
        with pytest.raises(
            ValueError, match=r"tokenizer.json: .*, expected the file of a tokenizer"
        ):
            load(tmp_path)
