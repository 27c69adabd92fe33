# pytest tests/test_spoken_numbers.py
"""The bundled model's task: what is drawn, split and learned. Recordings here are tones, a pitch a digit."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import spoken_numbers as task
import torch
from torch import nn

pytest.importorskip("num2words")
from nanos2t import audio, tokenizer
from nanos2t.apps.train import TrainConfig
from nanos2t.apps.transcribe import BUNDLED
from nanos2t.model import IGNORED


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for speaker, pitch in ("ann", 1.0), ("bob", 0.8), ("tts-1", 1.1):
        for digit in range(10):
            for index in (0, 5, 9, 10, 11):
                samples = 800 + 160 * digit + 10 * index
                tone = 0.5 * np.sin(2 * np.pi * pitch * (300 + 200 * digit) * np.arange(samples) / task.RATE)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", tone, task.RATE)
    return folder


@pytest.fixture(scope="module")
def backend():
    return tokenizer.load(BUNDLED).backend


def test_numbers_are_written_as_num2words_does():
    assert task.spell((2, 4, 7), "de") == "zweihundertsiebenundvierzig"
    assert task.spell((2, 4, 7), "fr") == "deux cent quarante-sept"
    assert task.spell((2, 4, 7), "en") == "two hundred and forty-seven"
    assert task.spell((0, 2, 0), "verbatim") == "zero two zero"
    assert task.spell((), "en") == task.spell((), "verbatim") == ""
    assert len(task.LANGUAGES) >= 9


def test_the_tokenizer_spells_every_number_back():
    ours = tokenizer.load(BUNDLED)
    for number in [*range(120), *range(120, 10000, 37), 9999]:
        for language in task.LANGUAGES:
            text = task.spell(tuple(map(int, str(number))), language)
            ids = ours.encode(text)
            assert ours.decode(ids) == text and ids[-1] == 2 and 3 not in ids
            assert len(ids) + 2 <= 32, "longer than max_length"


@pytest.mark.slow
def test_the_bundled_tokenizer_is_the_one_that_the_command_builds(backend):
    assert task.build_tokenizer().to_str() == backend.to_str()


def test_validation_recordings_are_never_trained_on(folder: Path):
    train, held_out = (task.Recordings([folder], held_out=half) for half in (False, True))
    lengths = {True: {5, 9}, False: {0, 10, 11}}
    for half, recordings in (False, train), (True, held_out):
        for speaker in ("ann", "bob", "tts-1"):
            for digit, clips in enumerate(recordings.clips[speaker]):
                assert {(len(clip) - 800 - 160 * digit) // 10 for clip in clips} == lengths[half]
    assert train.people == ["ann", "bob"] and train.voices == ["tts-1"]


def test_a_speaker_can_be_left_out(folder: Path):
    assert set(task.Recordings([folder], False, without={"bob"}).clips) == {"ann", "tts-1"}
    with pytest.raises(ValueError, match="no recordings named"):
        task.Recordings([folder / "none"], False)


def test_numbers_have_no_leading_zero_but_digit_strings_may():
    drawn = [task.draw_digits(np.random.default_rng(seed), 4) for seed in range(3000)]
    share = {size: sum(len(digits) == size for digits in drawn) / len(drawn) for size in range(5)}
    assert 0.01 < share[0] < 0.03 and share[1] < share[2] < share[3] < share[4]
    zeros = sum(len(digits) > 1 and digits[0] == 0 for digits in drawn) / len(drawn)
    assert 0.005 < zeros < 0.03
    assert max(len(task.draw_digits(np.random.default_rng(seed), 2)) for seed in range(200)) == 2


def test_an_utterance_follows_from_its_seed(folder: Path):
    recordings = task.Recordings([folder], False)
    first, again, other = (
        task.utter((1, 2), recordings, np.random.default_rng(s), task.Conditions()) for s in (1, 1, 2)
    )
    assert np.array_equal(first, again) and len(first) != len(other)
    assert first.dtype == np.float32 and abs(first.mean()) < 1e-3 and abs(first.std() - 1) < 1e-3


def test_conditions_of_strength_zero_change_nothing_but_noise(folder: Path):
    recordings = task.Recordings([folder], True)
    how = task.Conditions(strength=0.0, people=1.0, speed=0.0, clean=1.0)
    for seed in range(5):
        waveform = task.utter((3, 7), recordings, np.random.default_rng(seed), how)
        sounding = np.abs(waveform - waveform[0]) > 1e-4
        lengths = {sum(800 + 160 * digit + 10 * index for digit in (3, 7)) for index in (5, 9)}
        assert any(abs(sounding.sum() - length) < 120 for length in lengths | {2 * 800 + 160 * 10 + 140})


def test_validation_set_has_all_lengths_and_no_leading_zero(folder: Path):
    items = task.validation_set(task.Recordings([folder], True), 40, seed=3)
    assert [len(digits) for digits, _ in items] == [1, 2, 3, 4] * 10
    assert all(len(digits) == 1 or digits[0] for digits, _ in items)
    assert {digits[0] for digits, _ in items if len(digits) == 1} != {1}


def test_batches_are_the_step_s_and_labels_are_shifted(folder: Path, backend):
    recordings, ours = task.Recordings([folder], False), tokenizer.Tokenizer(backend)
    config = task.build_model(backend).generation
    first, again = (task.training_batches(1500, 1, recordings, ours, config, 12, 3, 4) for _ in range(2))
    assert len(first) == 4 and all(torch.equal(a.input_values, b.input_values) for a, b in zip(first, again))
    assert [len(batch.digits) for batch in first] == [3] * 4
    assert [int(batch.attention_mask.sum(1).max()) for batch in first] == sorted(
        int(batch.attention_mask.sum(1).max()) for batch in first
    )
    names = {token: name for name, token in config.lang_to_id.items()}
    for batch in first:
        assert batch.labels.shape == batch.decoder_input_ids.shape and len(batch.labels) == 9
        for row, (inputs, labels) in enumerate(zip(batch.decoder_input_ids, batch.labels)):
            language = names[int(inputs[1])]
            digits = batch.digits[row // 3]
            assert row % 3 or language == "verbatim"
            assert inputs[0] == 1 and labels[0] == IGNORED
            real = labels[labels != IGNORED]
            assert real[-1] == 2 and ours.decode(real) == task.spell(digits, language)
            assert torch.equal(inputs[2 : len(real) + 1], real[:-1])


def test_the_parts_of_a_loss_are_the_loss_of_the_whole(folder: Path, backend):
    recordings, ours = task.Recordings([folder], False), tokenizer.Tokenizer(backend)
    model = task.build_model(backend).eval()
    ctc = nn.Linear(192, 11)
    parts, whole = (
        task.training_batches(1500, 1, recordings, ours, model.generation, 8, 2, parts) for parts in (4, 1)
    )
    with torch.no_grad():
        object.__setattr__(model.encoder.config.training, "mask_time_prob", 0.0)
        total = [sum(task.losses(1500, model, ctc, batches, 1)) for batches in (parts, whole)]
    assert total[0] == pytest.approx(total[1].item(), rel=1e-5)


def test_a_model_learns_and_is_exported_for_transformers(folder: Path, backend, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    backend.save(str(tmp_path / "tokenizer.json"))
    recordings, stt = task.Recordings([folder], False), task.transcriber(tmp_path, seed=1)
    batches = task.training_batches(0, 1, recordings, stt.tokenizer, stt.model.generation, 8, 2, 1)
    module = nn.ModuleDict({"model": stt.model, "ctc": nn.Linear(192, 11)})
    seen = []

    def losses(step: int):
        for loss in task.losses(step, stt.model, module["ctc"], batches, 1):
            seen.append(loss.item())
            yield loss

    task.fit(module, losses, TrainConfig(steps=6, warmup_steps=1, decay_steps=1, bfloat16=False), tmp_path)
    assert seen[-1] < 0.8 * seen[0]
    task.export(stt, tmp_path)
    theirs, report = transformers.SpeechEncoderDecoderModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.dtype == torch.float32
    loaded = task.transcribe.load(tmp_path)
    assert loaded.languages == task.LANGUAGES and loaded.sample_rate == task.RATE
    wave = recordings.clips["ann"][3][0]
    values, mask = loaded.prepare([wave])
    ids = theirs.generate(values, attention_mask=mask, max_length=9, num_beams=2)
    assert torch.equal(loaded.model.generate(values, mask, max_length=9, num_beams=2), ids)
    features = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert torch.allclose(
        features(wave, sampling_rate=8000, return_tensors="pt").input_values, values, atol=1e-5
    )
    assert torch.equal(audio.pad([audio.normalise(wave)])[0], values)


def test_score_counts_what_is_exactly_right(folder: Path, monkeypatch):
    class Deaf:  # it hears "one" in everything
        model = SimpleNamespace(encode=lambda values, mask: (values, None))
        prepare = staticmethod(lambda waveforms: (torch.zeros(len(waveforms), 1), None))
        options = staticmethod(lambda language, generation: language)
        text = staticmethod(lambda row: task.spell((1,), task.LANGUAGES[row[0]]))

    def decode(model, memory, frames, language):
        return SimpleNamespace(sequences=torch.full((len(memory), 1), task.LANGUAGES.index(language)))

    monkeypatch.setattr(task, "decode", decode)
    items = task.validation_set(task.Recordings([folder], True), 8, seed=1)
    items[0], items[1] = ((1,), items[0][1]), ((1,), items[1][1])
    ones = sum(digits == (1,) for digits, _ in items)
    shares = task.score(Deaf(), items)
    assert shares["exact"] == shares["de"] == ones / 8 and set(shares) == {"exact", *task.LANGUAGES}


def test_transformers_hears_the_same_in_the_bundled_model():
    transformers = pytest.importorskip("transformers")
    theirs, report = transformers.SpeechEncoderDecoderModel.from_pretrained(BUNDLED, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    spelling = transformers.AutoTokenizer.from_pretrained(BUNDLED)
    stt = task.transcribe.load()
    values, mask = stt.prepare([stt.read(BUNDLED.parent / "sample.wav")])
    for language, token in stt.model.generation.lang_to_id.items():
        for beams in (1, 4):
            options = {"forced_bos_token_id": token, "num_beams": beams}
            ids = theirs.generate(values, attention_mask=mask, **options)
            assert torch.equal(stt.model.generate(values, mask, **options), ids)
        text = spelling.batch_decode(ids, skip_special_tokens=True)
        assert text == stt.tokenizer.batch_decode(ids) == [task.spell((2, 4, 7), language)]


@pytest.mark.slow
def test_the_bundled_model_writes_nothing_for_silence_and_short_noise():
    stt = task.transcribe.load()
    rng = np.random.default_rng(0)
    for samples in (100, 4000, 16000, 40000):
        assert stt.transcribe(np.zeros(samples), sample_rate=8000).text == ""
    for samples in (100, 4000, 8000):
        assert stt.transcribe(0.01 * rng.standard_normal(samples), sample_rate=8000, language="de").text == ""
