# Shared by the tests of this folder; run them with: pytest tests/transcription
"""A tiny transcriber of two languages."""

from pathlib import Path

import pytest

import nanos2t
from nanos2t.transcription.transcriber import SpeechToText


@pytest.fixture(scope="session")
def stt(model: Path) -> SpeechToText:
    return nanos2t.load(model, dtype="float64")
