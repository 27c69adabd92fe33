# pytest tests/transcription/test_loading.py
"""A transcriber from a folder: damaged weights, missing files, and saving it again."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

import nanos2t
from nanos2t.transcription.loading import BUNDLED

SAMPLE = str(BUNDLED.parent / "sample.wav")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLED, tmp_path / "model")


def test_weights_that_are_not_numbers_are_not_taken_for_silence(folder: Path, capsys):
    stt = nanos2t.load(folder)
    with torch.no_grad():
        stt.model.decoder.head.bias[7] = torch.nan
    with pytest.raises(ValueError, match="not finite|logit nan"):
        stt.transcribe(SAMPLE)


def test_what_is_assumed_and_what_is_missing_is_said(folder: Path, caplog, capsys):
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with caplog.at_level(logging.WARNING, "nanos2t"):
        stt = nanos2t.load(folder)
    assert "no preprocessor_config.json: 16000 Hz" in caplog.text and "no tokenizer" in caplog.text
    assert stt.tokenizer is None and stt.sample_rate == 16000


def test_all_that_a_folder_has_goes_where_the_transcriber_is_saved(folder: Path, tmp_path: Path):
    nanos2t.load(folder).save_pretrained(tmp_path / "again")
    assert (
        nanos2t.load(tmp_path / "again").transcribe(SAMPLE, language="de").text
        == "zweihundertsiebenundvierzig"
    )
    nanos2t.load(tmp_path / "again").save_pretrained(tmp_path / "again")
    assert nanos2t.load(tmp_path / "again").transcribe(SAMPLE).text == "two four seven"
