# pytest tests/tutorials/test_voices.py
"""Voices: trimmed, at 8 kHz, and the same again with the same seed (some need espeak-ng)."""

import itertools
import random
import shutil
from pathlib import Path

import numpy as np
import other_words
import prompts
import pytest
import soundfile
import voices
from prompts import SPEAKERS


def test_trimmed_keeps_the_word_and_20_ms_around_it():
    tone = np.sin(2 * np.pi * 440 * np.arange(4800) / 16000)
    clip = np.concatenate([np.zeros(8000), tone, np.zeros(6400)])
    cut = voices.trim(clip, 16000)
    assert abs(len(cut) - (2400 + 2 * 160)) <= 160
    assert np.abs(cut).max() == pytest.approx(0.7)


def test_takes_depend_on_seed_and_voice():
    def draw(voice: str, seed: int) -> list[float]:
        return [rng.random() for rng, _, _ in voices.draw_takes(voice, 2, seed)]

    assert draw("a", 0) == draw("a", 0) and len(draw("a", 0)) == 20
    assert draw("a", 0) != draw("b", 0) and draw("a", 0) != draw("a", 1)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_espeak_says_the_same_again(tmp_path: Path):
    first, again = (
        list(itertools.islice(voices.speak_espeak(0, tmp_path / "x.wav"), 2)) for _ in range(2)
    )
    for (digit, voice, index, samples, rate), other in zip(first, again):
        assert (digit, voice, index, rate) == (*other[:3], other[4])
        assert np.array_equal(samples, other[3]) and np.abs(samples).max() > 0.01
        assert "_" not in voice


def write_tone(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(int(16000 * seconds)))[:, None] * [0.5, 0.1], 16000)


def test_prompts_of_the_speakers_that_are_installed_are_read(tmp_path: Path):
    for digit, word in enumerate(prompts.DIGITS):
        write_tone(tmp_path / f"games/csmash/wav/{word}.wav")
        if digit < 9:  # one is missing
            write_tone(tmp_path / f"saytime/{digit}.au")
    takes = [*prompts.read_prompts(tmp_path)]
    assert [take[:3] for take in takes] == [(digit, "csmash", 0) for digit in range(10)]
    assert all(rate == 16000 and samples.shape == (8000,) for *_, samples, rate in takes)
    assert np.abs(takes[0][3]).max() == pytest.approx(0.3, abs=1e-3)  # the mean of two channels
    with pytest.raises(FileNotFoundError, match="none of allison, csmash"):
        next(prompts.read_prompts(tmp_path / "nothing"))


def test_prompts_without_digits_name_no_digit(tmp_path: Path):
    assert not [*prompts.read_other_prompts(tmp_path)]
    write_tone(tmp_path / prompts.ALPHABET.format(letter="c"))
    write_tone(tmp_path / prompts.SENTENCES.format(name="hello"))
    found = [(speaker, index) for speaker, index, _, _ in prompts.read_other_prompts(tmp_path)]
    assert found == [("allison", 2), ("allison", 26 + prompts.SENTENCE_NAMES.index("hello"))]
    names = " ".join(prompts.SENTENCE_NAMES).replace("-", " ").split()
    assert not set(names) & {*prompts.DIGITS, "to", "too", "for", "ate", "won"}


def test_shouts_are_neither_silent_nor_long(tmp_path: Path):
    for name, seconds in {"a": 1.0, "b": 0.1, "c": 4.0, "d": 0.5}.items():
        write_tone(tmp_path / f"Default_pl/{name}.ogg", seconds)
    soundfile.write(tmp_path / "Default_pl/e.ogg", np.zeros(16000), 16000)
    found = [(speaker, index) for speaker, index, _, _ in other_words.read_shouts(tmp_path)]
    assert found == [("hedgewars-default-pl", 0), ("hedgewars-default-pl", 3)]


def test_names_of_pictures_are_in_other_languages_and_no_symbols(tmp_path: Path):
    for name in ("animals/cat_fr", "animals/cat", "symbols/math/3_fr", "people/man_desc_ru"):
        write_tone(tmp_path / f"{name}.ogg")
    write_tone(tmp_path / "animals/cow_es.ogg", 5.0)
    read = other_words.read_stamps
    speakers = sorted(speaker for speaker, *_ in read(9, random.Random(0), tmp_path))
    assert speakers == ["tuxpaint-fr", "tuxpaint-ru"]
    assert len([*read(1, random.Random(0), tmp_path)]) == 1
    assert not set(speakers) & {*SPEAKERS}


def test_programs_for_children_have_a_speaker_for_each_language(tmp_path: Path):
    for name in ("ktuberling/sounds/fr/nose.wav", "klettres/pt_BR/alpha/a.ogg"):
        write_tone(tmp_path / name)
    write_tone(tmp_path / "ktuberling/sounds/sr@latin/nose.wav")  # the same as sr
    write_tone(tmp_path / "klettres/da/syllab/ba.ogg", 0.1)  # too short
    (tmp_path / "klettres/da.txt").write_text("no recording")
    found = [(speaker, index) for speaker, index, *_ in other_words.read_toys(tmp_path)]
    assert found == [("ktuberling-fr", 0), ("klettres-pt-br", 1)]


def test_an_exchange_says_parts_of_its_prompts(tmp_path: Path):
    folder = tmp_path / other_words.OPERATORS["carlo"]
    for name, seconds in {"a": 0.5, "b": 9.0, "c": 0.1}.items():
        write_tone(folder / f"{name}.wav", seconds)
    write_tone(folder / "digits/1.wav")
    first, again = ([*other_words.read_operators(random.Random(3), tmp_path)] for _ in range(2))
    assert [take[:2] for take in first] == [("asterisk-carlo", 0), ("asterisk-carlo", 1)]
    assert len(first[0][2]) == 8000 and 16000 <= len(first[1][2]) <= 48000
    assert all(np.array_equal(take[2], other[2]) for take, other in zip(first, again))


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_words_with_the_sound_of_a_digit_are_not_drawn(tmp_path: Path):
    path = tmp_path / "words"
    path.write_text("someone\nwaiting\ngarden\nAnn\nto\nlemon\nseventh\nriver\n")
    draw = other_words.draw_dictionary_words
    assert sorted(draw(9, random.Random(0), {"river"}, path)) == ["garden", "lemon"]
    assert len(draw(1, random.Random(0), set(), path)) == 1


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_words_are_written_beside_digits(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(voices, "OTHER_WORDS", ("hello", "garden"))
    monkeypatch.setattr(voices, "read_prompts", lambda: [(3, "ann", 0, np.ones(9000), 16000)])
    monkeypatch.setattr(voices, "read_other_prompts", lambda: [("ann", 5, np.ones(9000), 16000)])
    for engine in ("words", "prompts"):
        voices.write_recordings(engine, tmp_path, 0, tmp_path / "x.wav")
    names = sorted(path.name for path in tmp_path.glob("*_*.wav"))
    assert names[0] == "3_ann_0.wav" and len(names) == 2 + 8 and "word_ann-5.wav" in names
