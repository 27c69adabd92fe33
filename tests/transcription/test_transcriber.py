# pytest tests/transcription/test_transcriber.py
"""SpeechToText: results against the model's own generate; sources, languages, options."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import (
    DECODER,
    ENCODER,
    ENDS,
    LANGUAGES,
    PIECES,
    RATE,
    SOUNDS,
    save_tiny,
    sound,
    write,
)
from helpers.transcripts import assert_same, load_bundled

import nanos2t
from nanos2t.transcription import transcriber
from nanos2t.transcription.loading import BUNDLED
from nanos2t.transcription.results import Result, Segment
from nanos2t.transcription.transcriber import SpeechToText


@pytest.mark.parametrize("seconds", [0.01, 0.37, 1.0, 2.5, 30.0])
def test_blocks_are_of_one_length(stt, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(transcriber, "BLOCK_SECONDS", seconds)
    waveform, size = sound(5.003), round(seconds * RATE)
    for source in waveform, write(tmp_path / "a.wav", waveform):
        blocks = list(stt.read_blocks(source, RATE))
        assert all(len(block) == size for block in blocks[:-1]) and 0 < len(blocks[-1]) <= size
        assert np.array_equal(np.concatenate(blocks), waveform)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.4}]
)
def test_a_result_is_what_the_model_generates(stt: SpeechToText, options: dict):
    """Written out once: prepare, generate, cut behind EOS, decode."""
    ended = set()
    for waveform in SOUNDS:
        values = torch.tensor(
            (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        ).double()[None]
        values = torch.nn.functional.pad(values, (0, max(0, ENCODER.min_samples - len(waveform))))
        actual = stt.model.generate(values, return_dict_in_generate=True, **options)
        tokens = actual.sequences[0].tolist()
        end = next((i for i in range(1, len(tokens)) if tokens[i] in ENDS), len(tokens))
        tokens = tokens[: end + 1]
        ended.add(len(tokens))
        result = stt.transcribe(waveform, sample_rate=RATE, **options)
        assert result.tokens == tokens and tokens[:2] == [1, 4] and 0 not in tokens
        assert (
            result.text == " ".join(PIECES[token] for token in tokens if token > 4) == str(result)
        )
        assert result.score == pytest.approx(actual.sequences_scores[0].item(), abs=1e-6)
        assert result.token_logprobs == pytest.approx(
            actual.token_logprobs[0, : len(tokens) - 1].tolist(), abs=1e-5
        )
        penalty = options.get("length_penalty", 1.0)
        assert sum(result.token_logprobs) / (len(tokens) - 1) ** penalty == pytest.approx(
            result.score, abs=1e-6
        )
        assert result.nbest == [stt.tokenizer.decode(row) for row in actual.sequences]
        seconds = len(waveform) / RATE
        assert result.segments == ([Segment(0.0, seconds, result.text)] if result.text else [])
        assert result.language == "de" and result.words == []
        assert isinstance(result.score, float) and all(
            type(token) is int for token in result.tokens
        )
    assert len(ended) > 3, "the sounds are too alike to test anything"


def test_draws_are_sorted(stt: SpeechToText):
    options = {"do_sample": True, "num_return_sequences": 7, "max_length": 6}
    values, mask = stt.prepare([SOUNDS[1]])
    torch.manual_seed(3)
    actual = stt.model.generate(values, mask, return_dict_in_generate=True, **options)
    order = actual.sequences_scores.argsort(descending=True)
    assert order.tolist() != sorted(order.tolist())
    torch.manual_seed(3)
    result = stt.transcribe(SOUNDS[1], sample_rate=RATE, **options)
    assert result.nbest == [stt.tokenizer.decode(actual.sequences[row]) for row in order]
    assert result.text == result.nbest[0] and result.score == pytest.approx(
        actual.sequences_scores.max().item()
    )


def test_words(stt: SpeechToText):
    for waveform in SOUNDS:
        result = stt.transcribe(waveform, sample_rate=RATE, words=True)
        assert " ".join(word.word for word in result.words) == result.text
        assert all(0 <= word.start <= word.end <= len(waveform) / RATE for word in result.words)
        assert all(0 < word.probability <= 1 for word in result.words)
        assert result.segments == [] or result.segments[0].words == tuple(result.words)


def test_only_words_that_follow_the_sound_are_in_order(model: Path, tmp_path: Path, monkeypatch):
    """A translation is timed word by word; what is written as it is spoken, in order."""
    asked = []
    monkeypatch.setattr(
        transcriber.alignment, "find_words", lambda *arguments: asked.append(arguments[-1]) or []
    )
    save_tiny(tmp_path / "monolingual")
    file = shutil.copytree(model, tmp_path / "verbatim") / "generation_config.json"
    file.write_text(file.read_text().replace('"en"', '"verbatim"'))
    for name, language in ("monolingual", None), ("verbatim", "verbatim"), ("verbatim", "de"):
        stt = nanos2t.load(tmp_path / name)
        stt.transcribe(SOUNDS[1], sample_rate=RATE, language=language, words=True)
    assert [options.monotone for options in asked] == [True, True, False]


SILENCES = [np.zeros(4000), np.zeros(1), np.full(900, 0.25), np.full(3, -1.0)]


@pytest.mark.parametrize(
    "options", [{}, {"words": True}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_silence_is_no_text(stt: SpeechToText, options: dict):
    for waveform in SILENCES:
        result = stt.transcribe(waveform.astype(np.float32), sample_rate=RATE, **options)
        count = options.get("num_return_sequences", 1)
        assert result == Result("", 0.0, [], [], "de", [], [], [""] * count)
    mixed = [SOUNDS[0], SILENCES[0], SOUNDS[1], SILENCES[1]]
    many = [str(result) for result in stt.transcribe_many(mixed, sample_rate=RATE, **options)]
    assert many == [str(stt.transcribe(item, sample_rate=RATE, **options)) for item in mixed]
    assert many[1] == many[3] == "" and many[0] and many[2]


def test_the_same_from_every_source(stt: SpeechToText, tmp_path: Path):
    path, waveform = write(tmp_path / "a b ü.wav", SOUNDS[1]), SOUNDS[1]
    expected = stt.transcribe(path)
    assert expected.text
    with path.open("rb") as file:
        assert_same(stt.transcribe(file), expected)
    for source in str(path), path.read_bytes(), io.BytesIO(path.read_bytes()):
        assert_same(stt.transcribe(source), expected)
    for array in (
        waveform,
        waveform.astype(np.float64),
        torch.tensor(waveform),
        torch.tensor(waveform).double(),
    ):
        assert_same(stt.transcribe(array, sample_rate=RATE), expected)
    with path.open("rb") as file:
        for result in stt.transcribe_many(
            [path, file, path.read_bytes(), waveform], sample_rate=RATE
        ):
            assert_same(result, expected)


def test_integers_and_other_rates(stt: SpeechToText, tmp_path: Path):
    integers = (SOUNDS[1] * 32767).astype(np.int16)
    path = write(tmp_path / "16 bits.wav", integers, subtype="PCM_16")
    assert_same(stt.transcribe(path), stt.transcribe(integers, sample_rate=RATE))
    path = write(tmp_path / "rate.wav", SOUNDS[1], 11025)
    assert_same(stt.transcribe(path), stt.transcribe(SOUNDS[1], sample_rate=11025))
    assert stt.transcribe(path).segments[0].end == pytest.approx(
        len(SOUNDS[1]) / 11025, abs=2 / RATE
    )
    assert stt.transcribe(path).score != stt.transcribe(SOUNDS[1], sample_rate=RATE).score


@pytest.mark.parametrize(
    "source",
    [
        "no/such.wav",
        b"",
        b"no audio",
        io.BytesIO(),
        io.StringIO("text"),
        None,
        7,
        [0.1, 0.2],
        SOUNDS[0][None],
        np.array(["a"]),
        np.array([0.0, np.nan]),
        torch.tensor([0.0, torch.inf]),
        np.zeros(0),
    ],
    ids=lambda source: type(source).__name__,
)
def test_what_is_no_sound_is_a_value_error(stt: SpeechToText, source):
    with pytest.raises(ValueError, match=r"\S") as error:
        stt.transcribe(source, sample_rate=RATE)
    assert "\n" not in str(error.value)
    [outcome] = stt.transcribe_many([source], sample_rate=RATE, return_errors=True)
    assert isinstance(outcome, ValueError)


def test_an_array_needs_its_rate(stt: SpeechToText):
    for rate in None, 0, -8000:
        with pytest.raises(ValueError, match="sample_rate"):
            stt.transcribe(SOUNDS[0], sample_rate=rate)


def test_prepare(stt: SpeechToText, model: Path, tmp_path: Path):
    waveforms = [SOUNDS[0], torch.tensor(SOUNDS[1]), SOUNDS[4].astype(np.float64)]
    values, mask = stt.prepare(waveforms)
    assert values.shape == mask.shape == (3, len(SOUNDS[1])) and values.dtype == torch.float64
    for row, ones, waveform in zip(values, mask, waveforms):
        size = len(waveform)
        assert ones.tolist() == [1] * max(size, ENCODER.min_samples) + [0] * (
            len(ones) - max(size, ENCODER.min_samples)
        )
        assert abs(row[:size].mean()) < 1e-6 and row[:size].std(correction=0) == pytest.approx(
            1, abs=1e-4
        )
        assert not row[size:].any()
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"sampling_rate": 8000, "do_normalize": false}'
    )
    raw = nanos2t.load(tmp_path)
    values, mask = raw.prepare([SOUNDS[1], SOUNDS[0]])
    assert values.dtype == torch.float32 and values[0].numpy() == pytest.approx(SOUNDS[1])
    for wrong in [], [np.zeros((2, 2))], [np.array([np.nan])], SOUNDS[0]:
        with pytest.raises(ValueError):
            stt.prepare(wrong)


def test_languages(stt: SpeechToText):
    assert stt.languages in (("en", "de"), ("de", "en"))
    texts = set()
    for language, token in LANGUAGES.items():
        result = stt.transcribe(SOUNDS[1], sample_rate=RATE, language=language)
        assert result.language == language and result.tokens[1] == token
        texts.add(result.text)
        assert [result.language] == [
            one.language
            for one in stt.transcribe_many(SOUNDS[:1], 1, sample_rate=RATE, language=language)
        ]
    assert len(texts) == 2
    assert stt.transcribe(SOUNDS[1], sample_rate=RATE, language="German").language == "de"
    for name in "xx", "", "French":
        for call in (
            stt.transcribe,
            lambda *source, **more: next(stt.transcribe_many(source, **more)),
        ):
            with pytest.raises(ValueError, match=f"language '{name}'.* (de, en|en, de)$"):
                call(SOUNDS[0], sample_rate=RATE, language=name)


def test_languages_of_the_bundled_model():
    ids = json.loads((BUNDLED / "generation_config.json").read_text())["lang_to_id"]
    assert set(load_bundled().languages) == set(ids) and {"verbatim", "en", "de"} <= set(ids)


def test_a_monolingual_model(tmp_path: Path):
    stt = nanos2t.load(save_tiny(tmp_path))
    assert stt.languages == () and stt.transcribe(SOUNDS[1], sample_rate=RATE).language is None
    with pytest.raises(ValueError, match="language 'en'.*none"):
        stt.transcribe(SOUNDS[1], sample_rate=RATE, language="en")


@pytest.mark.parametrize(
    "option, value",
    [
        ("num_beam", 2),
        ("num_beams", 0),
        ("temperature", 0.0),
        ("top_p", 2.0),
        ("num_return_sequences", 2),
    ],
)
def test_a_wrong_option_is_named(stt: SpeechToText, option: str, value):
    with pytest.raises(ValueError, match=option):
        stt.transcribe(SOUNDS[0], sample_rate=RATE, **{option: value})
    with pytest.raises(ValueError, match=option):
        next(stt.transcribe_many([], sample_rate=RATE, **{option: value}))


def test_no_more_tokens_than_positions(tmp_path: Path):
    """The checkpoint's wish is cut to what its decoder can do; the user's is an error."""
    stt = nanos2t.load(save_tiny(tmp_path, max_length=500, eos_token_id=None, pad_token_id=0))
    result = stt.transcribe(SOUNDS[1], sample_rate=RATE)
    assert len(result.tokens) == DECODER.max_positions + 1
    assert len(stt.transcribe(SOUNDS[1], sample_rate=RATE, max_length=18).tokens) == 18
    assert len(stt.transcribe(SOUNDS[1], sample_rate=RATE, max_new_tokens=3).tokens) == 4
    for options in {"max_length": 19}, {"max_new_tokens": 18}:
        with pytest.raises(ValueError, match="max_length is 19, expected at most 18"):
            stt.transcribe(SOUNDS[1], sample_rate=RATE, **options)


def test_the_bundled_sample():
    sample = BUNDLED.parent / "sample.wav"
    if not sample.exists():
        pytest.skip("there is no sample yet")
    digits = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
    result = load_bundled().transcribe(sample, language="verbatim", words=True)
    assert result.text and set(result.text.split()) <= digits
    starts = [word.start for word in result.words]
    assert starts == sorted(starts) and " ".join(word.word for word in result.words) == result.text


@pytest.mark.parametrize("peak", [1e14, 1e4, 1.0, 3e-4, 1e-4, 1e-5, 1e-9, 1e-12])
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_the_level_of_a_recording_changes_nothing(tmp_path: Path, peak: float, offset: float):
    """From far below what a microphone hears to far above full scale, with an offset or not."""
    stt = load_bundled()
    waveform = stt.load_audio(BUNDLED.parent / "sample.wav")
    waveform = waveform / np.abs(waveform).max() + np.float32(offset)
    path = write(tmp_path / "a.wav", (waveform * peak).astype(np.float32), stt.sample_rate)
    assert stt.transcribe(path).text == "two four seven"
    values, _ = stt.prepare([stt.load_audio(path)])
    assert float(values.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("peak", [1.0, 1e-4, 1e-20])
@pytest.mark.parametrize("seconds", [0.3, 1.9, 5.0])
def test_noise_of_any_level_is_no_text(peak: float, seconds: float):
    noise = np.random.default_rng(0).standard_normal(round(seconds * 16_000)) * peak
    result = load_bundled().transcribe(noise.astype(np.float32), sample_rate=16_000)
    assert result.text == ""
