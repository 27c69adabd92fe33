# pytest tests/tutorials/test_strangers.py
"""What disturbs speech in training and in the hard sets, and the table that is made of them."""

import itertools
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import disturbances
import hard_sets
import neural_voices
import numpy as np
import pytest
import soundfile
import spoken_numbers
import utterances
from accents import ACCENTS
from digits import DIGITS, draw_digits
from effects import (
    RATE,
    change_voice,
    draw_babble,
    draw_buzz,
    draw_music,
    draw_tones,
    drop_details,
    overdrive,
    reverberate_strongly,
    stretch_time,
    tilt,
)
from hard_table import BEGIN, END, Row, count_errors, format_table, score_texts, wilson_interval
from other_words import OTHER_WORDS
from prompts import SPEAKERS
from utterances import (
    KEPT_VOICES,
    OTHER_KINDS,
    Conditions,
    Recordings,
    choose_part,
    draw_crowd,
    draw_utterance,
    draw_words,
    join_takes,
)

from nanos2t.transcription.loading import BUNDLED

TONE = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE)
PLAIN = Conditions(strength=0.0, people=1.0, speed=0.0, clean=1.0)


def find_pitch(x: np.ndarray) -> float:
    """The loudest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), 8 * RATE))
    return float(np.argmax(spectrum)) / 8


def make_clips(speakers: str) -> dict:
    """Speakers whose every sample is the speaker's number: 1, 2, ..., digit d is 100 + d long."""
    return {
        name: [[np.full(100 + digit, 1.0 + number)] for digit in range(10)]
        for number, name in enumerate(speakers)
    }


def make_recordings(speakers: str) -> SimpleNamespace:
    return SimpleNamespace(clips=make_clips(speakers), people=[*speakers], voices=[], others=[])


# Changes of training


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_stretching_keeps_the_pitch_and_a_changed_voice_the_length(factor: float):
    longer = stretch_time(TONE, factor)
    assert len(longer) == round(RATE * factor)
    assert find_pitch(longer) == pytest.approx(400, abs=2)
    inner = longer[400:-400]
    assert 0.6 < inner.std() < 0.8  # windows that cancel each other would be weaker

    higher = change_voice(TONE, factor)
    assert abs(len(higher) - RATE) < 3
    assert find_pitch(higher) == pytest.approx(400 * factor, abs=3)


def test_babble_and_tones_fill_what_is_asked_for():
    takes = [np.random.default_rng(i).standard_normal(900) for i in range(4)]
    for seed, samples in itertools.product(range(5), (300, 9000)):
        rng = np.random.default_rng(seed)
        babble = draw_babble(takes, samples, rng)
        tones = draw_tones(samples, rng)
        buzz = draw_buzz(samples, rng)
        for x in (babble, tones, buzz):
            assert len(x) == samples and x.std() == pytest.approx(1, abs=1e-3)


def test_a_crowd_says_digits_backwards_and_other_words():
    # A take that rises to its end: backwards it falls.
    recordings = make_recordings("a")
    for takes in recordings.clips["a"]:
        takes[0] = np.arange(1.0, 5001.0)
    falling = draw_crowd(4000, recordings, np.random.default_rng(0))
    assert np.diff(falling).mean() < 0
    assert falling.std() == pytest.approx(0.1, abs=1e-3)
    recordings.others = [np.tile([5000.0, -5000.0], 2000)]
    both = draw_crowd(4000, recordings, np.random.default_rng(0))
    assert np.abs(np.diff(both)).mean() > 10 * np.abs(np.diff(falling)).mean()


def test_music_is_in_time():
    num_melodies = 0
    for seed in range(60):
        x = draw_music(4 * RATE, np.random.default_rng(seed))
        assert len(x) == 4 * RATE and np.isfinite(x).all()
        assert not x.any() or x.std() == pytest.approx(1, abs=1e-3)

        # After a rest a note begins at a multiple of the beat, the first number that is drawn.
        beat = int(np.random.default_rng(seed).uniform(0.1, 0.8) * RATE)
        starts = np.flatnonzero(~x[:-2].astype(bool) & x[1:-1].astype(bool) & x[2:].astype(bool))
        starts = [i for i in starts if not x[max(0, i - 40) : i].any()]
        num_melodies += len(starts) > 1
        phases = {(i + 1) % beat for i in starts}
        assert max(phases, default=0) - min(phases, default=0) <= 2
    assert num_melodies > 5


def test_equipment_changes_speech_but_not_beyond_recognition():
    rng = np.random.default_rng(3)
    x = np.sin(np.cumsum(rng.uniform(0.2, 0.8, 6000))) * np.hanning(6000)
    for change, least in ((drop_details, 0.9), (overdrive, 0.8), (reverberate_strongly, 0.1)):
        for seed in range(4):
            y = change(x, np.random.default_rng(seed))
            assert len(y) == len(x) and np.isfinite(y).all()
            assert least < np.corrcoef(x, y)[0, 1] < 0.9999
    # A room still sounds when the speech has ended.
    pulse = np.zeros(4000)
    pulse[10] = 1.0
    tail = reverberate_strongly(pulse, np.random.default_rng(1))[500:1000]
    assert tail.std() > 1e-3


def test_a_tilt_raises_each_octave_above_the_one_below():
    times = np.arange(RATE) / RATE
    for decibels in (-3.0, 6.0):
        for hertz in (500, 1000, 2000):
            level = tilt(np.sin(2 * np.pi * hertz * times), decibels)[100:-100].std()
            expected = decibels * np.log2((hertz + 50) / 1000)
            assert 20 * np.log10(level * 2**0.5) == pytest.approx(expected, abs=0.1)
    recordings = make_recordings("a")
    for takes in recordings.clips["a"]:
        takes[0] = np.random.default_rng(1).standard_normal(900)
    plain, tilted = (
        draw_utterance((1, 2), recordings, np.random.default_rng(5), conditions)
        for conditions in (PLAIN, replace(PLAIN, tilt=1.0))
    )
    assert len(plain) == len(tilted) and not np.allclose(plain, tilted)


def test_a_machine_sounds_the_same_all_the_time():
    for seed in range(5):
        x = draw_buzz(2 * RATE, np.random.default_rng(seed))
        first, second = np.abs(np.fft.rfft(x.reshape(2, RATE) * np.hanning(RATE)))
        assert np.corrcoef(first, second)[0, 1] > 0.99


# Utterances


def speakers_of(parts: list[np.ndarray]) -> list[float]:
    return [float(part[0]) for part in parts if part.any()]


def test_digits_of_a_number_come_from_several_speakers_if_asked_for():
    recordings = make_recordings("abcdef")
    digits = (1, 2, 3, 4)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        alone = speakers_of(join_takes(digits, recordings, rng, PLAIN))
        assert len(alone) == 4 and len(set(alone)) == 1
    mixed = replace(PLAIN, mixed=1.0)
    counts = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counts.add(len(set(speakers_of(join_takes(digits, recordings, rng, mixed)))))
    assert counts >= {2, 3, 4}


def test_a_background_of_its_own_begins_and_ends_with_a_digit():
    recordings = make_recordings("a")
    noisy = replace(PLAIN, background=1.0, snr=(10.0, 10.0))
    for seed in range(5):
        parts = join_takes((7, 7), recordings, np.random.default_rng(seed), noisy)
        sounding = [part for part in parts if part.any()]
        assert len(sounding) == 2
        assert all(part.std() > 0.01 for part in sounding)  # constant without a noise
        assert not any(part.any() for part in parts if len(part) != 107)


def test_music_and_machines_are_added_at_up_to_the_level_of_the_speech():
    recordings = make_recordings("a")
    loud = replace(PLAIN, tones=1.0)
    ratios = []
    for seed in range(30):
        plain = draw_utterance((7, 7), recordings, np.random.default_rng(seed), PLAIN)
        x = draw_utterance((7, 7), recordings, np.random.default_rng(seed), loud)
        assert len(x) == len(plain)
        ratios.append(1 - np.corrcoef(plain, x)[0, 1])
    # Music may rest as long as a short utterance.
    assert np.mean(np.array(ratios) > 1e-5) > 0.8 and max(ratios) > 1e-3


def test_pauses_are_as_long_as_the_longest():
    recordings = make_recordings("a")
    for longest in (0.3, 1.2):
        slow = replace(PLAIN, pause=5.0, longest_pause=longest)
        parts = join_takes((7, 7), recordings, np.random.default_rng(0), slow)
        assert len(parts[2]) == int(longest * RATE)


def test_what_has_no_digits_is_silence_words_or_music():
    recordings = make_recordings("a")
    recordings.others = [np.linspace(-1, 1, 800)]
    others = replace(PLAIN, others=1.0)
    for seed in range(30):
        x = draw_utterance((), recordings, np.random.default_rng(seed), others)
        assert len(x) > 100 and np.isfinite(x).all() and x.std() == pytest.approx(1, abs=1e-2)
    shares = [
        np.mean([draw_digits(np.random.default_rng(seed), 4, empty) == () for seed in range(800)])
        for empty in (0.0, 0.3)
    ]
    assert shares[0] == 0 and shares[1] == pytest.approx(0.3, abs=0.05)


def test_words_without_digits_are_others_and_digits_backwards_but_nine(monkeypatch):
    monkeypatch.setattr(utterances, "change_voice", lambda x, factor: x)
    recordings = make_recordings("a")
    for digit, takes in enumerate(recordings.clips["a"]):
        takes[0] = np.full(900, 1.0 + digit)
    recordings.others = [np.full(900, 50.0)]
    heard = set()
    for seed in range(200):
        heard |= set(np.unique(draw_words(recordings, np.random.default_rng(seed))))
    assert {0.0, 1.0, 9.0, 50.0} <= heard and 10.0 not in heard
    assert sum(OTHER_KINDS.values()) == pytest.approx(1)


def test_babble_and_damage_are_drawn_from_the_recordings():
    recordings = make_recordings("ab")
    for clips in recordings.clips.values():
        for takes in clips:
            takes[0] = np.random.default_rng(len(takes[0])).standard_normal(900)
    for change in ({"babble": 1.0}, {"damage": 1.0}, {"voice": 0.2}):
        plain, changed = (
            draw_utterance((1, 2), recordings, np.random.default_rng(5), conditions)
            for conditions in (PLAIN, replace(PLAIN, **change))
        )
        assert np.isfinite(changed).all()
        assert len(plain) != len(changed) or not np.allclose(plain, changed)


def test_kept_voices_and_other_words_are_not_trained_on_as_digits(tmp_path: Path):
    assert all(choose_part(voice, 7) == "test" for voice in KEPT_VOICES)
    for digit in range(10):
        for voice in ("tts-1", "piper-joe"):
            soundfile.write(tmp_path / f"{digit}_{voice}_1.wav", TONE, RATE)
    soundfile.write(tmp_path / "word_espeak-m1-3.wav", TONE[:500], RATE)
    trained = Recordings([tmp_path], "train")
    assert [*trained.clips] == ["tts-1"] and [len(x) for x in trained.others] == [500]
    assert [*Recordings([tmp_path], "test").clips] == ["piper-joe"]
    assert not Recordings([tmp_path], "test").others

    # People of prompts.py, too, and what they say besides.
    assert all(choose_part(speaker, 0) == "test" for speaker in SPEAKERS)
    soundfile.write(tmp_path / "word_allison-3.wav", TONE[:700], RATE)
    assert [len(x) for x in Recordings([tmp_path], "test").others] == [700]
    assert [len(x) for x in Recordings([tmp_path], "train").others] == [500]


# Voices


def test_every_accent_has_ten_words_and_other_words_have_no_digit():
    assert all(len(words) == len(set(words)) == 10 for words in ACCENTS.values())
    spoken = " ".join((*OTHER_WORDS, *disturbances.SENTENCES)).split()
    assert not set(spoken) & {*DIGITS, "oh", "to", "too", "for", "won", "ate"} - {"to"}
    assert not set(OTHER_WORDS) & set(disturbances.SENTENCES)


def test_a_mixture_of_voices_is_spoken_with_one_style(monkeypatch):
    weights = [neural_voices.draw_weights(random.Random(seed), 5) for seed in range(50)]
    assert all(w.sum() == pytest.approx(1) for w in weights)
    assert len({round(w[0], 6) for w in weights}) == 50
    model = neural_voices.Kokoro.__new__(neural_voices.Kokoro)
    model.vocabulary = {symbol: i for i, symbol in enumerate("abc", start=1)}
    model.voices = np.arange(5 * 9 * 4, dtype=float).reshape(5, 9, 1, 4)
    asked = {}
    model.session = SimpleNamespace(run=lambda names, inputs: [asked.update(inputs) or np.ones(3)])
    model.speak("cab", np.array([0, 1, 0, 0, 0]), 0.9)
    assert asked["tokens"].tolist() == [[0, 3, 1, 2, 0]]
    assert np.array_equal(asked["style"], model.voices[1, 2]) and asked["speed"] == [
        np.float32(0.9)
    ]


# The hard sets


def test_noise_has_the_level_that_is_asked_for():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros(4000), TONE])  # silence does not count
    for draw in (disturbances.draw_white, disturbances.draw_hum, disturbances.draw_chords):
        noise = draw(len(x), rng)
        added = disturbances.add_noise(x, noise, 10.0) - x
        assert 10 * np.log10(0.5 / np.mean(added**2)) == pytest.approx(10, abs=0.2)
    spectrum = np.abs(np.fft.rfft(disturbances.draw_hum(RATE, rng)))
    strong = np.flatnonzero(spectrum > spectrum.max() / 100)
    assert set(strong % 50) == {0} or set(strong % 60) == {0}


def test_echoes_of_a_room_fade_by_60_db_in_its_time():
    for seconds in (0.3, 0.6):
        room = disturbances.make_room(seconds, np.random.default_rng(1))
        energy = np.cumsum(room[::-1] ** 2)[::-1]
        decibels = 10 * np.log10(energy / energy[0] + 1e-12)
        faded = np.argmax(decibels < -25) / RATE * 60 / 25
        assert faded == pytest.approx(seconds, rel=0.4)
        assert np.sum(room**2) == pytest.approx(1)


def test_peaks_levels_and_codecs():
    x = TONE * np.linspace(0.1, 1, RATE)
    assert np.abs(disturbances.clip_peaks(x, 6)).max() == pytest.approx(0.501, abs=1e-3)
    quiet = disturbances.quantise(x, 40)
    assert np.abs(quiet).max() == pytest.approx(0.01, abs=1e-4)
    assert 200 < len(np.unique(quiet)) <= 2 * 328 + 1
    coded = disturbances.code_gsm(x)
    assert len(coded) == RATE and 0.8 < np.corrcoef(x, coded)[0, 1] < 0.9999


def test_opus_keeps_the_length_and_the_time():
    pytest.importorskip("av")
    x = TONE * np.linspace(0.1, 1, RATE)
    coded = disturbances.code_opus(x)
    assert abs(len(coded) - RATE) < 200
    assert 0.8 < np.corrcoef(x, coded[:RATE])[0, 1] < 0.99999


def test_sets_have_the_same_numbers_in_all_conditions(monkeypatch):
    sentence = np.random.default_rng(0).standard_normal(3000)
    monkeypatch.setattr(hard_sets, "speak_sentences", lambda: [sentence] * 20)
    monkeypatch.setattr(hard_sets, "code_opus", lambda x: x)
    monkeypatch.setattr(hard_sets, "make_room", lambda seconds, rng: np.array([1.0, 0.5]))
    clips = make_clips("abcdef")
    strangers = SimpleNamespace(
        clips={"v-1": clips["a"], "eve": clips["b"]}, people=["eve"], voices=["v-1"], others=[TONE]
    )
    sets = [*hard_sets.draw_hard_sets(clips, strangers, 4)]
    names = [hard_set.condition for hard_set in sets]
    assert len(names) == len(set(names)) > 35
    numbers = [[digits for digits, _ in hard_set.items] for hard_set in sets]
    with_digits = [n for n, name in zip(numbers, names) if not name.startswith("no digits")]
    assert all(own == with_digits[0] for own in with_digits)
    assert [len(digits) for digits in with_digits[0]] == [1, 2, 3, 4]
    without = [n for n, name in zip(numbers, names) if name.startswith("no digits")]
    assert len(without) == 7 and all(set(own) == {()} for own in without)
    assert all(np.isfinite(x).all() for hard_set in sets for _, x in hard_set.items)

    # Without strangers there are fewer.
    known = [hard_set.condition for hard_set in hard_sets.draw_hard_sets(clips, None, 4)]
    assert set(names) - set(known) == {
        "unknown people, one in each number", "unknown people, another for each digit",
        "a person who is unknown: eve", "a voice kept from training: v-1",
        "no digits: other words by a person",
    }  # fmt: skip


def test_unknown_people_say_numbers_alone_and_in_turns():
    clips = make_clips("ab")
    strangers = SimpleNamespace(clips=clips, people=["a", "b"], voices=[], others=[])
    sets = {
        hard_set.condition: hard_set.items
        for hard_set in hard_sets.draw_speaker_sets(make_clips("cde"), strangers, 8)
    }
    alone = [set(np.unique(x)) - {0} for _, x in sets["unknown people, one in each number"]]
    assert all(len(speakers) == 1 for speakers in alone) and len(set.union(*alone)) == 2
    in_turns = sets["unknown people, another for each digit"]
    assert all(len(set(np.unique(x)) - {0}) == min(len(digits), 2) for digits, x in in_turns)


def test_people_and_voices_that_are_kept_are_found_by_their_files(tmp_path: Path):
    for name in ("allison", "piper-joe", "ann", "tts-1"):
        (tmp_path / f"3_{name}_0.wav").touch()
    assert spoken_numbers.find_kept_speakers([tmp_path]) == {"allison", "piper-joe"}


def test_a_number_is_by_one_speaker_or_by_others_for_each_digit():
    clips = make_clips("abcdef")
    join = partial(hard_sets.join_digits, clips, count=4)
    for seed in range(10):
        digits, x = join(rng=np.random.default_rng(seed))
        assert len(set(np.unique(x)) - {0.0}) == 4
        assert np.count_nonzero(x) == sum(100 + digit for digit in digits)
        _, x = join(rng=np.random.default_rng(seed), is_mixed=False, pause=(0.25, 0.25))
        assert len(set(np.unique(x)) - {0.0}) == 1
        assert np.count_nonzero(x == 0) == 3 * RATE // 4 + 2 * (RATE // 5)


# The table


def test_intervals_are_wilsons():
    # From R: binom::binom.confint(x, n, methods = "wilson")
    for right, count, low, high in ((0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433)):
        assert wilson_interval(right, count) == pytest.approx((low, high), abs=1e-4)
    assert wilson_interval(120, 120)[1] == 1.0


def test_errors_are_as_few_as_possible():
    cases = {
        ("one two", "one two"): (0, 0, 0),
        ("one two three", "one three"): (0, 1, 0),
        ("one", "nine one"): (0, 0, 1),
        ("one two", "nine two"): (1, 0, 0),
        ("", "five five"): (0, 0, 2),
        ("one two", ""): (0, 2, 0),
        ("one two three four", "two three nine four four"): (0, 1, 2),
    }
    for (expected, written), errors in cases.items():
        assert count_errors(expected.split(), written.split()) == errors


def test_a_row_counts_texts_and_words():
    row = score_texts("noise", ["one two", "three", ""], ["one two", "four three", "six"])
    assert row == Row("noise", 1, 3, words=3, inserted=2)
    table = format_table([row, Row("silence", 2, 2, 0)])
    assert "| noise | 3 | 0.333 | 0.061 to 0.792 | 0.0 | 0.0 | 66.7 |" in table
    assert table.splitlines()[-1] == "| silence | 2 | 1.000 | 0.342 to 1.000 |  |  |  |"


def write_tones(folder: Path) -> None:
    for digit, speaker in itertools.product(range(10), ("ann", "bob")):
        soundfile.write(folder / f"{digit}_{speaker}_9.wav", TONE[:2000], RATE)
        soundfile.write(folder / f"{digit}_{speaker}_10.wav", TONE[:3000], RATE)


def test_evaluate_writes_the_table_into_the_card(tmp_path: Path, monkeypatch, capsys):
    write_tones(tmp_path)
    card = tmp_path / "README.md"
    card.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    def transcribe(stt, items, languages):
        return {languages[0]: [stt if digits == (1,) else "" for digits, _ in items]}

    def draw_sets(people: dict, strangers: dict, count: int):
        assert sorted(people) == ["ann", "bob"] and not strangers
        yield hard_sets.HardSet("some noise", [((1,), TONE), ((2,), TONE)])

    monkeypatch.setattr(spoken_numbers, "transcribe_items", transcribe)
    monkeypatch.setattr(spoken_numbers, "draw_hard_sets", draw_sets)
    monkeypatch.setattr(spoken_numbers.nanos2t, "load", lambda model: "one")
    line = f"_ evaluate --data {tmp_path} --hard --count 4 --card {card} --left-out bob=there"
    monkeypatch.setattr("sys.argv", line.split())
    spoken_numbers.main()
    text = card.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text and "| some noise | 2 | 0.500 |" in text
    assert "bob, by another model that was trained without bob" in text
    assert capsys.readouterr().out in text

    card.write_text("no place for it")
    with pytest.raises(SystemExit):
        spoken_numbers.main()
    assert "README.md: expected the lines" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*line.split()[:-1], "bob"])
    with pytest.raises(SystemExit) as stop:
        spoken_numbers.main()
    assert stop.value.code == 2 and "expected SPEAKER=MODEL, found bob" in capsys.readouterr().err


def test_the_card_of_the_bundled_model_has_the_table():
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    table = card.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    header = format_table([]).splitlines()
    assert table[: len(header)] == header
    conditions = [line.split(" | ")[0] for line in table[len(header) :]]
    for part in ("another for each digit", "kept from training", "10 dB", "echo", "no digits"):
        assert any(part in condition for condition in conditions), part
