# pytest tests/transcription/test_forced_alignment.py
"""nanos2t/transcription/forced_alignment.py: texts that have no tokens."""

import pytest
from helpers.tiny import SOUNDS, save_tiny, write

import nanos2t
from nanos2t.transcription import forced_alignment

tokenizers = pytest.importorskip("tokenizers")


@pytest.mark.parametrize("kind, text", [
    ("no tokenizer", "has no tokenizer"), ("no word", "cannot encode 'w7 other'"),
    ("more", "expected tokens below 40"),
])  # fmt: skip
def test_a_text_that_has_no_tokens(tmp_path, kind: str, text: str):
    """The tokenizer lacks a word and has none for that, or has more tokens than the decoder."""
    vocab = {"<s>": 1, "w7": 7, "other": 41} if kind == "more" else {"w7": 7}
    folder = save_tiny(tmp_path, tokenizer=False)
    if kind != "no tokenizer":
        backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        backend.save(str(folder / "tokenizer.json"))
    stt = nanos2t.load(folder)
    with pytest.raises(ValueError, match=text):
        forced_alignment.align_text(stt, write(tmp_path / "a.wav", SOUNDS[1]), "w7 other")
