# pytest tests/transcription/test_spelling.py
"""nanos2t/transcription/spelling.py: every character of a text, or an error that names it."""

from functools import cache
from pathlib import Path

import pytest
from helpers import vocabularies as samples

from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription import spelling, vocabularies
from nanos2t.transcription.loading import BUNDLED
from nanos2t.transcription.results import Word

tokenizers = pytest.importorskip("tokenizers")


@cache
def bundled() -> Tokenizer:
    return vocabularies.load_tokenizer(BUNDLED)


def word_level() -> Tokenizer:
    """Whole words, and a token for others that is not marked as special."""
    model = tokenizers.models.WordLevel({"<other>": 0, "two": 1, "four": 2}, unk_token="<other>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return Tokenizer(backend)


def without_unknown() -> Tokenizer:
    """Byte pairs without a token for what they lack: the backend drops it without a word."""
    model = tokenizers.models.BPE({"t": 0, "w": 1, "o": 2, "two": 3, "tw": 4}, [("t", "w")])
    return Tokenizer(tokenizers.Tokenizer(model))


def decoded_words(tokenizer: Tokenizer, tokens: list[int]) -> list[Word]:
    """The words of decoded tokens: the i-th lasts from i to i + 1 and has probability 0.25."""
    decoded = tokenizer.decode(tokens).split()
    return [Word(float(i), i + 1.0, word, 0.25) for i, word in enumerate(decoded)]


@pytest.mark.parametrize("text, missing", [
    ("Two four", "'T' of 'Two'"),
    ("two seven.", "'.' of 'seven.'"),
    ("two; four!", "';' of 'two;', '!' of 'four!'"),
    ("two 語", "'語'"),
    ("語語 two", "'語語'"),
    ("Ünd Über", "'Ü' of 'Ünd', 'Ü' of 'Über'"),
    ("two <unk> four", "'<' and '>' of '<unk>'"),
    ("one<s>", "'<' and '>' of 'one<s>'"),
    ("two \N{LOWER ONE EIGHTH BLOCK}four", "'\N{LOWER ONE EIGHTH BLOCK}' of "),
    ("two\N{SOFT HYPHEN}four", r"'\\xad' of 'two\\xadfour'"),
    ("two 4", "'4'"),
])  # fmt: skip
def test_what_the_vocabulary_lacks_is_named(text: str, missing: str):
    with pytest.raises(ValueError, match=f"it lacks {missing}"):
        spelling.encode_text(bundled(), text)


@pytest.mark.parametrize("text", ["two four", "cafe\u0301", "six-seven", "zéro cinq"])
def test_what_the_vocabulary_has_is_spelled(text: str):
    tokens = spelling.encode_text(bundled(), text)
    words = spelling.restore_words(bundled(), text, decoded_words(bundled(), tokens))
    assert " ".join(word.word for word in words) == text
    assert [word.start for word in words] == list(range(len(words)))


def test_a_token_for_other_words_is_no_spelling():
    assert spelling.encode_text(word_level(), "two four") == [1, 2]
    with pytest.raises(ValueError, match="spells 'two five' as 'two <other>': it lacks 'five'"):
        spelling.encode_text(word_level(), "two five")


def test_characters_that_are_dropped_without_a_token_are_named():
    with pytest.raises(ValueError, match="it lacks 'T' of 'Two'"):
        spelling.encode_text(without_unknown(), "Two")


@pytest.mark.parametrize("text", ["Die Luft, und das Wasser.", "ÜBER Größe", "forty-seven: four"])
def test_a_tokenizer_that_normalises_loses_nothing(tmp_path: Path, text: str):
    """Lower case without accents, spaces around punctuation: the words are those of the text."""
    tokenizer = vocabularies.load_tokenizer(samples.bert(tmp_path, lowercase=True))
    tokens = spelling.encode_text(tokenizer, text)
    words = spelling.restore_words(tokenizer, text, decoded_words(tokenizer, tokens))
    assert [word.word for word in words] == text.split()
    assert all(word.probability == pytest.approx(0.25) for word in words)
    assert [word.end for word in words[:-1]] == [word.start for word in words[1:]]


@pytest.mark.parametrize("kind", ["gpt2", "bart", "mbart50", "bert"])
def test_all_scripts(tmp_path: Path, kind: str):
    """Vocabularies that were learned from texts spell them, with the words of the texts."""
    tokenizer = vocabularies.load_tokenizer(getattr(samples, kind)(tmp_path))
    for _, text in samples.LINES:
        tokens = spelling.encode_text(tokenizer, text)
        words = spelling.restore_words(tokenizer, text, decoded_words(tokenizer, tokens))
        assert [word.word for word in words] == text.split()


def test_words_that_are_decoded_as_one_share_its_times():
    decoded = [Word(0.0, 1.0, "bon!", 0.5), Word(1.0, 2.0, "two", 0.5)]
    words = spelling.restore_words(bundled(), "bon ! two", decoded)
    assert [(word.word, word.start) for word in words] == [("bon", 0), ("!", 0), ("two", 1)]


def test_a_word_without_letters():
    with pytest.raises(ValueError, match=r"spells '\\u200b' as nothing"):
        spelling.restore_words(bundled(), "two \u200b", [Word(0.0, 1.0, "two", 0.5)])


def test_parts_of_a_word_become_one():
    parts = [Word(1.0, 1.5, "forty", 0.8), Word(1.4, 1.6, "-", 0.2), Word(1.6, 2.0, "seven", 0.4)]
    [word] = spelling.restore_words(bundled(), "forty-seven", parts)
    assert (word.start, word.end, word.word) == (1.0, 2.0, "forty-seven")
    assert word.probability == pytest.approx((0.8 * 0.2 * 0.4) ** (1 / 3))
