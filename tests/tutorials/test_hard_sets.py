# pytest tests/tutorials/test_hard_sets.py
"""The sets that measure a model in hard conditions, and the table of the card."""

import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import disturbances
import hard_sets
import numpy as np
import pytest
import soundfile
import spoken_numbers
from effects import RATE
from hard_table import (
    BEGIN,
    END,
    LeftOut,
    Row,
    count_errors,
    format_left_out,
    format_table,
    score_texts,
    wilson_interval,
)
from helpers.speakers import make_clips

from nanos2t.transcription.loading import BUNDLED

TONE = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE)


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
        clips={"v-1": clips["a"], "eve": clips["b"]},
        people=["eve"],
        voices=["v-1"],
        others={"eve": [TONE]},
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
    strangers = SimpleNamespace(clips=clips, people=["a", "b"], voices=[], others={})
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


def test_models_without_a_person_are_averaged_over_their_seeds():
    def make(person: str, right: int, known: int) -> LeftOut:
        return LeftOut(person, Row("", right, 10, 25), Row("", known, 20, 50))

    models = [make("ann", 8, 20), make("bob", 4, 18), make("ann", 6, 19), make("bob", 5, 19)]
    assert format_left_out(models).splitlines()[2:] == [
        "| ann | 2 | 0.700 | 0.141 | 0.397 to 0.892 | 0.975 |",  # 0.8 and 0.6
        "| bob | 2 | 0.450 | 0.071 | 0.201 to 0.726 | 0.925 |",
        "| all, the mean | 4 | 0.575 | 0.112 | 0.364 to 0.762 | 0.950 |",
    ]
    # One model has no deviation, and one person no mean of all.
    assert format_left_out(models[:1]).splitlines()[2:] == [
        "| ann | 1 | 0.800 |  | 0.490 to 0.943 | 1.000 |"
    ]


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
    line = f"_ evaluate --data {tmp_path} --hard --count 4 --card {card} --left-out bob=a bob=b"
    monkeypatch.setattr("sys.argv", line.split())
    spoken_numbers.main()
    text = card.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text and "| some noise | 2 | 0.500 |" in text
    assert "| left out | models |" in text and "| bob | 2 |" in text
    assert capsys.readouterr().out in text

    card.write_text("no place for it")
    with pytest.raises(SystemExit):
        spoken_numbers.main()
    assert "README.md: expected the lines" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*line.split()[:-2], "bob"])
    with pytest.raises(SystemExit) as stop:
        spoken_numbers.main()
    assert stop.value.code == 2 and "expected SPEAKER=MODEL, found bob" in capsys.readouterr().err


def test_a_person_left_out_is_measured_and_so_are_the_others(tmp_path: Path, monkeypatch):
    """The others in their validation recordings, the person, who was unknown, in all but test's."""
    write_tones(tmp_path)
    for digit in range(10):
        soundfile.write(tmp_path / f"{digit}_a-voice_9.wav", TONE[:2000], RATE)
    drawn = []

    def draw_set(condition: str, clips: dict, count: int, is_mixed: bool):
        drawn.append({name: len(takes[7]) for name, takes in clips.items()})
        return hard_sets.HardSet(condition, [((1,), TONE)] * count)

    def transcribe(stt, items, languages):
        return {"verbatim": ["one"] * (len(items) if drawn == [{"bob": 2}] else 1) + ["", ""]}

    monkeypatch.setattr(spoken_numbers, "draw_set", draw_set)
    monkeypatch.setattr(spoken_numbers, "transcribe_items", transcribe)
    monkeypatch.setattr(spoken_numbers.nanos2t, "load", lambda model: model)
    options = SimpleNamespace(data=[tmp_path], count=3)
    scored = spoken_numbers.score_left_out("bob", "there", options)
    assert drawn == [{"bob": 2}, {"ann": 1}]
    assert (scored.person, scored.unseen.right, scored.known.right) == ("bob", 3, 1)

    # Nobody else is there.
    for path in tmp_path.glob("*_ann_*"):
        path.unlink()
    with pytest.raises(ValueError, match="no dev recordings"):
        spoken_numbers.score_left_out("bob", "there", options)


def test_the_card_of_the_bundled_model_has_the_table():
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    table = card.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    header = format_table([]).splitlines()
    assert table[: len(header)] == header
    conditions = [line.split(" | ")[0] for line in table[len(header) :]]
    for part in ("another for each digit", "kept from training", "10 dB", "echo", "no digits"):
        assert any(part in condition for condition in conditions), part
