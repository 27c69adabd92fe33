# pytest tests/tutorials/test_spoken_numbers.py
"""What is drawn, split and learned for the bundled model. The recordings here are tones."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import spoken_numbers
import torch
from digits import DIGITS, LANGUAGES, draw_digits, spell, spell_all
from effects import RATE, cut_badly
from safetensors.torch import load_file
from utterances import (
    PARTS,
    TRAINING,
    Conditions,
    Recordings,
    choose_part,
    draw_utterance,
    draw_validation_set,
)

pytest.importorskip("num2words")
import nanos2t
from nanos2t import audio, tokenizer
from nanos2t.training import config as train_config
from nanos2t.training.run import run_training
from nanos2t.transcription.loading import BUNDLED


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for speaker, pitch in ("ann", 1.0), ("bob", 0.8), ("tts-1", 1.1):
        for digit in range(10):
            for index in (0, 5, 9, 10, 11, 18):
                samples = 800 + 160 * digit + 10 * index
                tone = 0.5 * np.sin(
                    2 * np.pi * pitch * (300 + 200 * digit) * np.arange(samples) / RATE
                )
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", tone, RATE)
    return folder


def test_numbers_are_written_as_num2words_does():
    assert spell((2, 4, 7), "de") == "zweihundertsiebenundvierzig"
    assert spell((2, 4, 7), "fr") == "deux cent quarante-sept"
    assert spell((2, 4, 7), "en") == "two hundred and forty-seven"
    assert spell((0, 2, 0), "verbatim") == "zero two zero"
    assert spell((), "en") == spell((), "verbatim") == ""
    assert len(LANGUAGES) >= 9


def test_the_tokenizer_spells_every_number_back():
    ours = tokenizer.load_tokenizer(BUNDLED)
    for number in [*range(120), *range(120, 10000, 37), 9999]:
        for language in LANGUAGES:
            text = spell(tuple(map(int, str(number))), language)
            ids = ours.encode(text)
            assert ours.decode(ids) == text and ids[-1] == 2 and 3 not in ids
            assert len(ids) + 2 <= 32, "longer than max_length"


def test_validation_recordings_are_never_trained_on(folder: Path):
    parts = {part: Recordings([folder], part) for part in PARTS}
    indices = {"train": {5, 10, 11}, "dev": {9, 18}, "test": {0}}
    for part, recordings in parts.items():
        for speaker in recordings.clips:
            for digit, clips in enumerate(recordings.clips[speaker]):
                expected = indices[part] | (
                    {0} if speaker == "tts-1" and part == "train" else set()
                )
                assert {(len(clip) - 800 - 160 * digit) // 10 for clip in clips} == expected
    assert parts["train"].people == ["ann", "bob"] == parts["test"].people
    assert parts["train"].voices == ["tts-1"] and not parts["test"].voices
    split = [choose_part("ann", index) for index in range(50)]
    assert [split.count(part) for part in PARTS] == [40, 5, 5]


def test_a_speaker_can_be_left_out(folder: Path):
    assert set(Recordings([folder], "train", is_wanted=lambda name: name != "bob").clips) == {
        "ann",
        "tts-1",
    }
    with pytest.raises(ValueError, match="no dev recordings"):
        Recordings([folder / "none"], "dev")
    with pytest.raises(
        ValueError, match="no train or dev recordings .* of the speakers that are asked for"
    ):
        Recordings([folder], "train", "dev", is_wanted=lambda name: name == "theo")


def test_numbers_have_no_leading_zero_but_digit_strings_may():
    drawn = [draw_digits(np.random.default_rng(seed), 4) for seed in range(3000)]
    share = {size: sum(len(digits) == size for digits in drawn) / len(drawn) for size in range(5)}
    assert 0.01 < share[0] < 0.03 and share[1] < share[2] < share[3] < share[4]
    zeros = sum(len(digits) > 1 and digits[0] == 0 for digits in drawn) / len(drawn)
    assert 0.005 < zeros < 0.03
    assert max(len(draw_digits(np.random.default_rng(seed), 2)) for seed in range(200)) == 2


def test_an_utterance_follows_from_its_seed(folder: Path):
    recordings = Recordings([folder], "train")
    first, again, other = (
        draw_utterance((1, 2), recordings, np.random.default_rng(s), Conditions())
        for s in (1, 1, 2)
    )
    assert np.array_equal(first, again) and len(first) != len(other)
    assert first.dtype == np.float32 and abs(first.mean()) < 1e-3 and abs(first.std() - 1) < 1e-3


def test_conditions_of_strength_zero_change_nothing_but_noise(folder: Path):
    recordings = Recordings([folder], "dev")
    conditions = Conditions(strength=0.0, people=1.0, speed=0.0, clean=1.0)
    for seed in range(5):
        waveform = draw_utterance((3, 7), recordings, np.random.default_rng(seed), conditions)
        sounding = np.abs(waveform - waveform[0]) > 1e-4
        lengths = {sum(800 + 160 * digit + 10 * index for digit in (3, 7)) for index in (9, 18)}
        assert any(
            abs(sounding.sum() - length) < 120 for length in lengths | {2 * 800 + 160 * 10 + 270}
        )


def test_validation_set_has_all_lengths_and_no_leading_zero(folder: Path):
    items = draw_validation_set(Recordings([folder], "dev"), 40, seed=3)
    assert [len(digits) for digits, _ in items] == [1, 2, 3, 4] * 10
    assert all(len(digits) == 1 or digits[0] for digits, _ in items)
    assert {digits[0] for digits, _ in items if len(digits) == 1} != {1}


def test_a_bad_cut_loses_a_part_or_runs_into_the_next_take():
    take = np.arange(100.0)
    next_take = np.arange(1000.0, 1100.0)
    kinds = set()
    for seed in range(200):
        x = cut_badly(take, next_take, np.random.default_rng(seed))
        own = x[x < 1000]
        assert np.array_equal(own, np.arange(own[0], own[-1] + 1)) and len(own) >= 55
        assert np.array_equal(x[len(own) :], next_take[: len(x) - len(own)])
        kinds.add((own[0] > 0, own[-1] < 99, len(x) > len(own)))
    assert kinds == {(False, True, False), (True, False, False), (True, False, True)}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepare(folder: Path, output: Path, **more) -> Path:
    options = {
        "data": [folder],
        "output": output,
        "count": 60,
        "leave_out": "",
        "seed": 1,
        "most": 4,
    }
    spoken_numbers.prepare(SimpleNamespace(**options | {"conditions": TRAINING} | more))
    return output


@pytest.fixture(scope="module")
def numbers(folder: Path, tmp_path_factory) -> Path:
    return prepare(folder, tmp_path_factory.mktemp("numbers"))


def test_manifests_say_each_number_in_each_language(numbers: Path):
    for name, count in ("train", 60), ("dev", 100):
        rows = lines(numbers / f"{name}.jsonl")
        texts: dict[str, dict] = {}
        for row in rows:
            texts.setdefault(row["audio"], {})[row["language"]] = row["text"]
        assert [*texts] == [f"{name}/{i:05d}.wav" for i in range(count)]
        for path, said in texts.items():
            digits = tuple(map(DIGITS.index, said["verbatim"].split()))
            assert said == spell_all(digits) and [*said][0] == "verbatim"
            assert len(said) == (9 if len(digits) < 2 or digits[0] else 1)
            waveform = audio.load_audio(numbers / path, RATE)
            assert np.abs(waveform).max() == pytest.approx(0.9, abs=1e-3)
    assert {len(row["text"].split()) for row in rows if row["language"] == "verbatim"} == {
        1,
        2,
        3,
        4,
    }


def test_manifests_follow_from_the_seed_and_leave_a_speaker_out(
    folder: Path, numbers: Path, tmp_path: Path
):
    again = prepare(folder, tmp_path / "again")
    assert (again / "train.jsonl").read_bytes() == (numbers / "train.jsonl").read_bytes()
    assert (again / "train" / "00007.wav").read_bytes() == (
        numbers / "train" / "00007.wav"
    ).read_bytes()
    other = prepare(folder, tmp_path / "other", leave_out="bob", count=2)
    bob = Recordings([folder], "dev", is_wanted=lambda name: name == "bob")
    for i, (_, waveform) in enumerate(draw_validation_set(bob, 100, seed=7)):
        assert len(waveform) == len(audio.load_audio(other / "dev" / f"{i:05d}.wav", RATE))


def test_an_augmentation_can_be_left_out(folder: Path, tmp_path: Path):
    plain = spoken_numbers.parse_conditions('{"strength": 0, "people": 1, "speed": 0, "cut": 0}')
    prepare(folder, tmp_path, count=30, most=1, conditions=plain)
    recordings = Recordings([folder], "train")
    words = set()
    for row in lines(tmp_path / "train.jsonl"):
        if row["language"] == "verbatim" and row["text"]:
            waveform = audio.load_audio(tmp_path / row["audio"], RATE)
            sounding = np.flatnonzero(
                np.abs(waveform - waveform[0]) > 1e-3
            )  # the mean is subtracted
            digit = DIGITS.index(row["text"])
            takes = [
                len(clip) for name in recordings.people for clip in recordings.clips[name][digit]
            ]
            assert min(abs(sounding[-1] - sounding[0] - take) for take in takes) < 9
            words.add(digit)
    assert len(words) > 5
    with pytest.raises(argparse.ArgumentTypeError, match="bad_cuts"):
        spoken_numbers.parse_conditions('{"bad_cuts": 0}')
    assert spoken_numbers.parse_conditions('{"snr": [0, 9.5]}').snr == [0, 9.5]


def test_some_utterances_are_one_digit_alone(folder: Path, tmp_path: Path):
    for share in (0.0, 0.5, 1.0):
        output = tmp_path / str(share)
        prepare(folder, output, count=100, conditions=replace(TRAINING, empty=0.0, plain=share))
        rows = lines(output / "train.jsonl")
        counts = [len(row["text"].split()) for row in rows if row["language"] == "verbatim"]
        assert len(counts) == 100
        assert counts.count(1) == pytest.approx(10 + 90 * share, abs=15)


def test_utterances_may_begin_and_end_with_the_word(folder: Path):
    recordings = Recordings([folder], "train")
    conditions = Conditions(strength=0.0, people=1.0, speed=0.0, clean=1.0)
    loose = []
    tight = []
    for seed in range(20):
        for found, share in ((loose, 0.0), (tight, 1.0)):
            rng = np.random.default_rng(seed)
            found.append(draw_utterance((1, 7), recordings, rng, replace(conditions, tight=share)))
    clips = {len(a) + len(b) for name in recordings.people for a in recordings.clips[name][1]
             for b in recordings.clips[name][7]}  # fmt: skip
    for before, after in zip(loose, tight):
        assert len(after) < len(before)
        assert min(len(after) - size for size in clips) < 0.8 * RATE  # the pause between
        assert not np.isclose(after[:40], after[0], atol=1e-3).all()
        assert np.isclose(before[:40], before[0], atol=1e-3).all()
    silent = draw_utterance(
        (), recordings, np.random.default_rng(3), replace(conditions, tight=1.0)
    )
    assert len(silent) > 0


@pytest.mark.parametrize(
    "line, code, expected",
    [
        ("evaluate --data gone", 1, "gone: no dev recordings"),
        ("pack --model gone --output x", 1, "gone: no such folder"),
        ("evaluate --data gone --most 0", 2, "argument --most"),
        ('prepare --data gone --output x --conditions {"bad_cuts":0}', 2, "argument --conditions"),
        (
            'prepare --data gone --output x --conditions {"cut":"no"}',
            2,
            "cut is 'no', expected 0.04 or so",
        ),
        ("prepare --data gone --output x --conditions [0]", 2, "expected an object with some of"),
        (
            'prepare --data gone --output x --conditions {"snr":3}',
            2,
            "snr is 3, expected (3.0, 35.0) or so",
        ),
        ("prepare --data gone --output x --count 0", 2, "expected a number above 0, found 0"),
        ("evaluate --data gone --count -3", 2, "argument --count"),
    ],
)
def test_what_is_missing_is_said_in_a_line(
    monkeypatch, capsys, line: str, code: int, expected: str
):
    monkeypatch.setattr("sys.argv", ["spoken_numbers.py", *line.split()])
    with pytest.raises(SystemExit) as stop:
        spoken_numbers.main()
    assert stop.value.code == code and expected in capsys.readouterr().err.splitlines()[-1]


def test_a_package_that_is_missing_is_named(folder: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "num2words", None)
    spell.cache_clear()
    monkeypatch.setattr("sys.argv", f"_ prepare --data {folder} --output {tmp_path}".split())
    with pytest.raises(SystemExit) as stop:
        spoken_numbers.main()
    results = capsys.readouterr().err
    assert stop.value.code == 1 and results == "_: needs num2words: pip install num2words\n"


def test_weights_are_mixed_by_their_share():
    model = torch.nn.Linear(2, 2)
    other = torch.nn.Linear(2, 2)
    expected = {
        name: 0.75 * weight + 0.25 * other.state_dict()[name]
        for name, weight in model.state_dict().items()
    }
    spoken_numbers.mix_weights(model, other, 0.25)
    for name, weight in model.state_dict().items():
        assert torch.allclose(weight, expected[name])
    with pytest.raises(ValueError, match=r"^--mix: its weights have other names or shapes"):
        spoken_numbers.mix_weights(model, torch.nn.Linear(2, 3), 0.25)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"^--share is .*, expected 0 to 1$"):
            spoken_numbers.mix_weights(model, other, share)


def test_a_trained_model_is_packed_with_a_share_of_another(tmp_path: Path, monkeypatch):
    """A share of 1 is the other model itself."""
    path = tmp_path / "packed"
    options = f"_ pack --model {BUNDLED} --mix {BUNDLED} --share 1 --output {path}"
    monkeypatch.setattr("sys.argv", options.split())
    spoken_numbers.main()
    packed, bundled = (load_file(Path(folder) / "model.safetensors") for folder in (path, BUNDLED))
    assert packed.keys() == bundled.keys()
    assert all(torch.equal(packed[name], bundled[name]) for name in packed)


def test_the_recipe_runs_and_its_model_is_packed_for_transformers(numbers: Path, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    home = Path(spoken_numbers.__file__).parent
    flags = {"train": str(numbers / "train.jsonl"), "dev": str(numbers / "dev.jsonl"), "steps": 2}
    flags |= {"model": str(home), "output": str(tmp_path / "first"), "batch_seconds": 9.0}
    run_training(train_config.resolve_config(flags, str(home / "train.json")))
    flags |= {"model": str(tmp_path / "first" / "last"), "output": str(tmp_path / "run")}
    run_training(train_config.resolve_config(flags, str(home / "tight.json")))
    packed = tmp_path / "packed"
    last = str(tmp_path / "run" / "last")
    spoken_numbers.pack(SimpleNamespace(model=last, mix=None, output=packed))
    assert {x.dtype for x in load_file(packed / "model.safetensors").values()} == {torch.float16}
    theirs, report = transformers.SpeechEncoderDecoderModel.from_pretrained(
        packed, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.dtype == torch.float32
    loaded = nanos2t.load(packed)
    assert loaded.languages == LANGUAGES and loaded.sample_rate == RATE
    assert loaded.limits == nanos2t.load().limits
    wave = audio.load_audio(numbers / "dev" / "00003.wav", RATE)
    values, mask = loaded.prepare([wave])
    ids = theirs.generate(values, attention_mask=mask, max_length=9, num_beams=2)
    assert torch.equal(loaded.model.generate(values, mask, max_length=9, num_beams=2), ids)
    spelling = transformers.AutoTokenizer.from_pretrained(packed)
    text = spell((2, 4, 7), "fr")
    assert [spelling.pad_token, spelling.bos_token, spelling.eos_token] == ["<pad>", "<s>", "</s>"]
    ids = loaded.tokenizer.encode(text)
    assert (
        spelling(text).input_ids == ids and spelling.decode(ids, skip_special_tokens=True) == text
    )
    features = transformers.AutoFeatureExtractor.from_pretrained(packed)
    assert torch.allclose(
        features(wave, sampling_rate=8000, return_tensors="pt").input_values, values, atol=1e-5
    )
    assert torch.equal(audio.pad([audio.normalise(wave)])[0], values)


def test_score_counts_what_is_exactly_right(folder: Path, monkeypatch):
    class Deaf:  # it hears "one" in everything
        languages = LANGUAGES
        model = SimpleNamespace(encode=lambda values, mask: (values, None))
        prepare = staticmethod(lambda waveforms: (torch.zeros(len(waveforms), 1), None))
        generation_options = staticmethod(lambda language, generation: language)
        decode_tokens = staticmethod(lambda row: spell((1,), LANGUAGES[row[0]]))

    def decode(model, memory, frames, language):
        return SimpleNamespace(sequences=torch.full((len(memory), 1), LANGUAGES.index(language)))

    monkeypatch.setattr(spoken_numbers, "decode_memory", decode)
    items = draw_validation_set(Recordings([folder], "dev"), 8, seed=1)
    items[0] = ((1,), items[0][1])
    items[1] = ((1,), items[1][1])
    ones = sum(digits == (1,) for digits, _ in items)
    shares = spoken_numbers.compute_scores(Deaf(), items)
    assert shares["exact"] == shares["de"] == ones / 8 and set(shares) == {"exact", *LANGUAGES}
    Deaf.languages = ("de", "verbatim")
    assert set(spoken_numbers.compute_scores(Deaf(), items)) == {"exact", "de", "verbatim"}


def test_evaluate_says_numbers_with_the_recordings_that_are_asked_for(
    folder: Path, monkeypatch, capsys
):
    drawn = []
    monkeypatch.setattr(nanos2t, "load", lambda model: None)
    monkeypatch.setattr(spoken_numbers, "compute_scores", lambda stt, items: {})
    monkeypatch.setattr(
        spoken_numbers, "draw_validation_set", lambda recordings, *rest: drawn.append(recordings)
    )
    for arguments, speakers, count in [
        ([], ["ann", "bob"], 2),  # of each digit by each speaker: 9 and 18
        (["--part", "train"], ["ann", "bob"], 3),
        (["--part", "train", "dev", "--speaker", "bob"], ["bob"], 5),
        (["--part", "test", "--speaker", "ann"], ["ann"], 1),
        (["--speaker", "bob", "ann"], ["ann", "bob"], 2),
    ]:
        monkeypatch.setattr(
            "sys.argv", ["spoken_numbers.py", "evaluate", "--data", str(folder), *arguments]
        )
        spoken_numbers.main()
        assert json.loads(capsys.readouterr().out)["speakers"] == speakers == drawn[-1].people
        assert {len(clips) for name in speakers for clips in drawn[-1].clips[name]} == {count}
    monkeypatch.setattr(
        "sys.argv", ["spoken_numbers.py", "evaluate", "--data", str(folder), "--speaker", "eve"]
    )
    with pytest.raises(SystemExit) as stop:
        spoken_numbers.main()
    assert stop.value.code == 1 and "no dev recordings named" in capsys.readouterr().err


def test_a_speaker_who_lacks_a_digit_is_named(tmp_path: Path):
    for digit in range(9):
        soundfile.write(tmp_path / f"{digit}_ann_9.wav", np.ones(800), RATE)
    with pytest.raises(ValueError, match="ann has no dev recording of nine"):
        Recordings([tmp_path], "dev")


def test_transformers_hears_the_same_in_the_bundled_model():
    transformers = pytest.importorskip("transformers")
    theirs, report = transformers.SpeechEncoderDecoderModel.from_pretrained(
        BUNDLED, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    spelling = transformers.AutoTokenizer.from_pretrained(BUNDLED)
    stt = nanos2t.load()
    values, mask = stt.prepare([stt.load_audio(BUNDLED.parent / "sample.wav")])
    for language, token in stt.model.generation.lang_to_id.items():
        for beams in (1, 4):
            options = {"forced_bos_token_id": token, "num_beams": beams}
            ids = theirs.generate(values, attention_mask=mask, **options)
            assert torch.equal(stt.model.generate(values, mask, **options), ids)
        text = spelling.batch_decode(ids, skip_special_tokens=True)
        assert text == stt.tokenizer.batch_decode(ids) == [spell((2, 4, 7), language)]


@pytest.mark.slow
def test_the_bundled_model_writes_nothing_for_silence_and_short_noise():
    stt = nanos2t.load()
    rng = np.random.default_rng(0)
    for samples in (100, 4000, 16000, 40000):
        assert stt.transcribe(np.zeros(samples), sample_rate=8000).text == ""
    for samples in (100, 4000, 8000):
        assert (
            stt.transcribe(
                0.01 * rng.standard_normal(samples), sample_rate=8000, language="de"
            ).text
            == ""
        )


def test_the_stages_of_the_recipe_fit_together():
    """Each goes on from a run, and with utterances, that the guide makes."""
    home = Path(spoken_numbers.__file__).parent
    guide = (home.parents[1] / "train_spoken_numbers.md").read_text(encoding="utf-8")
    guide = guide.replace("$person", "theo")
    made = {"tutorials/recipes/spoken_numbers"}
    stages = ["train", "tight", "strangers", "strangers_tight", "no_digits"]
    stages += ["only_voices", "left_out"]
    for name in stages:
        stage = train_config.resolve_config({}, str(home / f"{name}.json"))
        assert f"--output {Path(stage.train).parent} " in guide
        origins = (stage.model, str(Path(stage.model).parent))
        assert stage.model in made or any(f"--output {name}" in guide for name in origins)
        made.add(f"{stage.output}/last")
    for path in home.glob("*_conditions.json"):
        assert path.name in guide
        assert spoken_numbers.parse_conditions(path.read_text()) != TRAINING
