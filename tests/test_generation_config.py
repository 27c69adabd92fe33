# pytest tests/test_checks.py
"""Bad defaults of generation in a model's folder: a line that names file, key and value, and exit code 3."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

import nanos2t
from nanos2t.cli import main as cli
from nanos2t.inspection import info
from nanos2t.transcription.loading import BUNDLED

SAMPLE = str(BUNDLED.parent / "sample.wav")
BAD = [
    ("length_penalty", float("nan")),
    ("forced_bos_token_id", 99999), ("forced_bos_token_id", -1), ("decoder_start_token_id", "a"),
    ("decoder_start_token_id", 2.0), ("pad_token_id", 99999), ("max_length", "a"), ("max_length", 10.5),
    ("max_length", 0), ("min_length", 100), ("num_beams", 0), ("num_beams", "4"), ("temperature", 0),
    ("bad_words_ids", [1]), ("bad_words_ids", [[99999]]), ("bad_words_ids", [[]]), ("bad_words_ids", "x"),
    ("suppress_tokens", [99999]), ("suppress_tokens", ["a"]), ("eos_token_id", "x"), ("eos_token_id", ["2"]),
    ("eos_token_id", 2**63), ("bos_token_id", -(2**31)),
    ("lang_to_id", [1]), ("lang_to_id", {"de": "x"}), ("top_p", 7), ("top_k", -1),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLED, tmp_path / "model")


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_default_is_named(folder: Path, key: str, value: object, capsys):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert cli.main(["transcribe", SAMPLE, "--model", str(folder)]) == 3
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and str(path) in err


def test_ends_that_the_vocabulary_lacks_do_no_harm(folder: Path):
    path = folder / "generation_config.json"
    for one in 50256, -1:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token_id": one}))
        assert nanos2t.load(folder).transcribe(SAMPLE).text == "two four seven"
        assert any(f"bos_token_id={one}" in line for line in info.describe_model(folder))


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
