# pytest tests/transcription/test_loading.py
"""A transcriber from a folder: device, dtype, preprocessor, languages, missing files, saving."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pairs import ADAPTER
from helpers.tiny import (
    ENDS,
    RATE,
    SOUNDS,
    save_tiny,
)
from helpers.vocabularies import (
    mbart50,
)

import nanos2t
from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription import loading, vocabularies
from nanos2t.transcription.loading import BUNDLED, from_folder
from nanos2t.transcription.segmentation import Limits
from nanos2t.transcription.transcriber import SpeechToText

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


def test_a_folder_with_the_model_only(tmp_path: Path):
    stt = nanos2t.load(save_tiny(tmp_path, tokenizer=False, preprocessor=False))
    assert stt.tokenizer is None and stt.sample_rate == 16000 and stt.normalise is True
    alone = [stt.transcribe(waveform, sample_rate=16000, words=True) for waveform in SOUNDS]
    together = stt.transcribe_many(SOUNDS, sample_rate=16000, words=True)
    for one, other in zip(alone, together, strict=True):
        assert one.text == other.text == " ".join(map(str, one.tokens)) and one.words == []
        assert one.tokens[0] == 1 and not {0, *ENDS} & set(one.tokens[:-1])
    assert stt.transcribe(np.zeros(99, np.int16), sample_rate=16000).text == ""


@pytest.mark.parametrize("content, expected", [
    ({"sampling_rate": 11025}, (11025, True)),
    ({"do_normalize": False}, (16000, False)),
    ({}, (16000, True)),
    ({"feature_extractor": None, "sampling_rate": 8000}, (8000, True)),
])  # fmt: skip
def test_the_rate_stands_in_either_file(tmp_path: Path, content: dict, expected: tuple):
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"feature_extractor": content, "processor_class": "x"})
    )
    assert loading.read_preprocessor(tmp_path) == loading.Preprocessor(*expected)
    (tmp_path / "processor_config.json").write_text(
        '{"feature_extractor": {"sampling_rate": 4000}}'
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    assert loading.read_preprocessor(tmp_path) == loading.Preprocessor(*expected)


def test_limits_stand_there_too(tmp_path: Path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"chunk_length": 20, "chunk_sounds": 7}')
    assert loading.read_preprocessor(tmp_path).limits == Limits(20, 7)
    for wrong in (
        '"chunk_length": 0.5',
        '"chunk_length": "5"',
        '"chunk_length": Infinity',
        '"chunk_sounds": 0',
    ):
        file.write_text("{" + wrong + "}")
        name, value = wrong.replace('"', "").split(": ")
        with pytest.raises(
            ValueError, match=rf"preprocessor_config\.json: {name} is .*{value[:3].lower()}"
        ):
            loading.read_preprocessor(tmp_path)


@pytest.mark.parametrize("content", [
    "{", "[]", '{"sampling_rate": "8000"}', '{"sampling_rate": 0}', '{"sampling_rate": true}',
    '{"sampling_rate": 8000000}',
    '{"sampling_rate": null}', '{"do_normalize": "false"}',
    '{"feature_extractor": {"sampling_rate": null}}',
])  # fmt: skip
def test_a_broken_preprocessor_is_named(model: Path, tmp_path: Path, content: str):
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        nanos2t.load(tmp_path)


@pytest.mark.parametrize("name", list(loading.DTYPES))
def test_dtypes(model: Path, name: str):
    for dtype in name, getattr(torch, name):
        stt = nanos2t.load(model, dtype=dtype)
        assert {weight.dtype for weight in stt.model.parameters()} == {getattr(torch, name)}
        result = stt.transcribe(SOUNDS[1], sample_rate=RATE, words=True)
        assert result.text and np.isfinite(result.score) and result.words


def test_single_precision_is_close(model: Path, stt: SpeechToText):
    single = nanos2t.load(model).transcribe(SOUNDS[1], sample_rate=RATE)
    assert single.score == pytest.approx(
        stt.transcribe(SOUNDS[1], sample_rate=RATE).score, abs=1e-4
    )


@pytest.mark.parametrize("dtype", ["int4", "", "float", None, torch.int64, "nn"])
def test_an_unknown_dtype_is_an_error(dtype):
    with pytest.raises(ValueError, match="dtype is .*expected one of float32, float64, bfloat16"):
        nanos2t.load(dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "meta", None, torch.device("meta")])
def test_an_unknown_device_is_an_error(device):
    with pytest.raises(ValueError, match="device is .*expected one of auto, .*cpu"):
        nanos2t.load(device=device)


def test_devices(monkeypatch, model: Path):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert loading.choose_device("auto") == loading.choose_device(torch.device("cpu")) == "cpu"
    assert nanos2t.load(model, device="auto").model.encoder.norm.weight.device.type == "cpu"
    with pytest.raises(ValueError, match="'cuda', expected one of auto, cpu"):
        loading.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, chosen in (
        ("auto", "cuda:0"),
        ("cuda", "cuda:0"),
        ("cuda:1", "cuda:1"),
        ("cpu", "cpu"),
    ):
        assert loading.choose_device(name) == chosen
    with pytest.raises(ValueError, match="'cuda:2', expected one of auto, cuda:0, cuda:1, cpu"):
        loading.choose_device("cuda:2")


def test_an_empty_name_is_not_the_bundled_model(tmp_path: Path, monkeypatch):
    """Nor the folder where one is, be there a model in it."""
    monkeypatch.chdir(save_tiny(tmp_path))
    with pytest.raises(ValueError, match="name of the model is '', expected a folder"):
        nanos2t.load("")


# the languages of a pair with mBART-50's tokenizer


def pair_with(folder: Path, vocab_size: int, forced: int | None):
    decoder = DecoderConfig.mbart(vocab_size, 8, num_layers=1, num_heads=2, intermediate_size=4)
    with torch.device("meta"):
        model = SpeechEncoderDecoder(ADAPTER, decoder, GenerationConfig(forced_bos_token_id=forced))
    return from_folder(model, mbart50(folder))


def test_languages_of_the_translation_models_are_those_of_their_cards(tmp_path: Path):
    """Welsh and Catalan have the ids of fi_FI and es_XX there: names alone would be wrong."""
    stt = pair_with(tmp_path, 250_054, 250_003)
    codes = "ar ca cy de et fa id ja lv mn sl sv ta tr zh"
    assert sorted(stt.languages) == codes.split()
    for language, token in {
        "sv": 250_042,
        "Welsh": 250_007,
        "ca": 250_005,
        "chinese": 250_025,
    }.items():
        assert stt.generation_options(language, {})["forced_bos_token_id"] == token
    for language in "fi", "en", "sv_SE", "klingon":
        with pytest.raises(ValueError, match=f"unknown language {language!r}, the model's are: "):
            stt.generation_options(language, {})
    assert pair_with(tmp_path, 250_054, 250_004).languages == ("en",)


def test_languages_of_any_other_model_with_this_tokenizer_are_its_codes(tmp_path: Path):
    for vocab_size, forced in (250_054, None), (250_054, 250_010), (400, 303):
        stt = pair_with(tmp_path, vocab_size, forced)
        assert stt.languages == tuple(vocabularies.MBART50_LANGUAGES)
    assert (
        stt.generation_options("de", {})["forced_bos_token_id"] == stt.tokenizer.languages["de_DE"]
    )
    assert (
        stt.generation_options("swedish", {})["forced_bos_token_id"]
        == stt.tokenizer.languages["sv_SE"]
    )
