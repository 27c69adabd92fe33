# pytest tests/training/test_evaluation.py
"""Scores beside errors counted by hand; manifests of many languages, with holes."""

from itertools import product
from pathlib import Path

import pytest
import soundfile
from helpers.tiny import RATE, SOUNDS, save_tiny, write

import nanos2t
from nanos2t.training import evaluation
from nanos2t.training.manifest import Item
from nanos2t.transcription.results import Result
from nanos2t.transcription.transcriber import SpeechToText

pytest.importorskip("jiwer")
pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def stt(model: Path) -> SpeechToText:
    return nanos2t.load(model, dtype="float64")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write(folder / f"{i}.wav", SOUNDS[i])) for i in (0, 1, 3, 5, 6)]


def heard(text: str, language: str | None = None) -> Result:
    return Result(text, 0.0, [], [], language)


def distance(left, right) -> int:
    """Levenshtein's, written out."""
    rows = {(i, 0): i for i in range(len(left) + 1)} | {(0, j): j for j in range(len(right) + 1)}
    for i, j in product(range(len(left)), range(len(right))):
        change = rows[i, j] + (left[i] != right[j])
        rows[i + 1, j + 1] = min(change, rows[i, j + 1] + 1, rows[i + 1, j] + 1)
    return rows[len(left), len(right)]


PAIRS = [
    ("two four seven", "two four seven"),
    ("two four seven", "two for seven eleven"),
    ("Zürich, at dawn", "zurich at dawn"),
    ("one", ""),
    ("", "a b"),
]


def test_rates_are_errors_over_lengths_of_the_corpus():
    scores = evaluation.compute_scores(PAIRS)
    words = sum(distance(text.split(), said.split()) for text, said in PAIRS)
    letters = sum(distance(text, said) for text, said in PAIRS)
    assert scores["wer"] == pytest.approx(words / sum(len(text.split()) for text, _ in PAIRS))
    assert scores["cer"] == pytest.approx(letters / sum(len(text) for text, _ in PAIRS))
    assert (scores["items"], scores["exact"]) == (5, 0.2) and words == 6


@pytest.mark.parametrize("empty", [("", ""), ("  ", ""), ("", "\n")])
def test_two_empty_texts_are_not_right(empty: tuple[str, str]):
    """There is nothing to compare: all rates are those of the other items."""
    others = evaluation.compute_scores(PAIRS)
    scores = evaluation.compute_scores([empty, *PAIRS, empty])
    assert scores.pop("items") == 7 and others.pop("items") == 5
    assert scores == others
    alone = evaluation.compute_scores([empty] * 3)
    assert alone == {"items": 3} | dict.fromkeys(["exact", "wer", "cer", "bleu", "chrf"])


def test_an_empty_text_is_wrong_if_something_is_transcribed():
    scores = evaluation.compute_scores([("", "two"), ("four", "four")])
    assert (scores["exact"], scores["wer"]) == (0.5, 1.0)


def test_empty_texts_in_the_table_and_among_the_items():
    items = [Item("a.wav", "...", "de"), Item("b.wav", "zwei", "en"), Item("c.wav", "", "en")]
    results = [heard("", "de"), heard("zwei", "en"), heard("drei", "en")]
    report = evaluation.evaluate_results(items, results, evaluation.normalise_text)
    assert [row["wer"] for row in report["items"]] == [None, 0.0, 1.0]
    assert [row["audio"] for row in report["worst"]] == ["c.wav"]
    table = [line.split() for line in evaluation.render_evaluation(report).splitlines()[1:4]]
    assert table[0] == ["de", "1", "-", "-", "-", "-", "-"]
    assert table[1][:3] == ["en", "2", "0.5000"] and table[2][:3] == ["all", "3", "0.5000"]


def test_bleu_and_chrf_are_sacrebleus():
    import sacrebleu

    pairs = [
        ("the cat sat on the mat", "the cat is on the mat"),
        ("a dog, barking loudly", "dogs bark"),
    ]
    scores = evaluation.compute_scores(pairs)
    texts, predictions = map(list, zip(*pairs))
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, [texts]).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, [texts]).score)
    assert 0 < scores["bleu"] < scores["chrf"] < 100


def test_short_and_unspaced_texts_have_a_bleu():
    assert evaluation.compute_scores([("seven", "seven")])["bleu"] == pytest.approx(100)
    chinese = [("我今天去了北京大学", "我今天去北京大学")]
    assert (
        evaluation.compute_scores(chinese)["bleu"]
        == 0
        < evaluation.compute_scores(chinese, "zh_CN")["bleu"]
        < 100
    )
    japanese = [("今日は東京に行きました", "今日は京都に行きました")]
    assert (
        evaluation.compute_scores(japanese)["bleu"]
        == 0
        < evaluation.compute_scores(japanese, "ja")["bleu"]
        < 100
    )


def test_nothing_is_cleaned_unless_asked():
    items = [Item("a.wav", "Nine, O'Clock — naïve!"), Item("b.wav", "ﬁve")]
    results = [heard("nine o clock naïve"), heard("FIVE.")]
    assert evaluation.evaluate_results(items, results)["scores"]["all"]["exact"] == 0
    clean = evaluation.evaluate_results(items, results, evaluation.normalise_text)
    assert clean["scores"]["all"]["exact"] == 1 and clean["worst"] == []
    assert evaluation.normalise_text(" 3+4 = $7 ") == "3 4 7"


def test_scores_per_language_and_over_all():
    items = [
        Item("a", "eins", "de"),
        Item("b", "zwei", "German"),
        Item("c", "two"),
        Item("d", "x", "fr"),
    ]
    results = [heard("eins", "de"), heard("drei", "de"), heard("two"), ValueError("d: gone")]
    report = evaluation.evaluate_results(items, results)
    assert list(report["scores"]) == ["-", "de", "all"]
    assert [row["items"] for row in report["scores"].values()] == [1, 2, 3]
    assert report["scores"]["de"]["exact"] == 0.5
    assert report["scores"]["all"]["exact"] == pytest.approx(2 / 3)
    assert report["items"][3] == {"audio": "d", "language": "fr", "text": "x", "error": "gone"}


def test_over_all_is_the_language_if_there_is_one():
    items = [Item("a", "我今天去了北京大学", "zh"), Item("b", "seven", "en")]
    results = [heard("我今天去北京大学", "zh"), heard("seven", "en")]
    chinese = evaluation.evaluate_results(items[:1], results[:1])
    mixed = evaluation.evaluate_results(items, results)
    assert chinese["scores"]["all"] == chinese["scores"]["zh"] == mixed["scores"]["zh"]
    assert chinese["scores"]["all"]["bleu"] > 0
    assert mixed["scores"]["en"]["bleu"] == pytest.approx(100)


def test_the_worst_ten_with_an_alignment():
    items = [Item(f"{i}.wav", " ".join("abcdefghijklmno"[: i + 1])) for i in range(15)]
    results = [heard(item.text[:-1] + "z") for item in items[:-1]] + [heard(items[-1].text)]
    worst = evaluation.evaluate_results(items, results)["worst"]
    assert [row["audio"] for row in worst] == [f"{i}.wav" for i in range(10)]
    assert [row["wer"] for row in worst] == pytest.approx([1 / (i + 1) for i in range(10)])
    texts = "two four seven nine ten", "two seven nine ten one"
    row = evaluation.evaluate_results([Item("a.wav", texts[0])], [heard(texts[1])])["worst"][0]
    reference, hypothesis = row["alignment"].splitlines()[:2]
    assert reference.split() == ["REF:", "two", "four", "seven", "nine", "ten", "***"]
    assert hypothesis.split() == ["HYP:", "two", "****", "seven", "nine", "ten", "one"]
    assert reference.index("nine") == hypothesis.index("nine")
    assert evaluation.evaluate_results([Item("a.wav", "")], [heard("two")])["worst"][0]["wer"] >= 1


def test_each_item_in_its_language_whatever_the_batch(stt, clips):
    items = [Item(clips[i % 5], "x", (None, "de", "English")[i % 3]) for i in range(12)]
    expected = [str(stt.transcribe(item.audio, language=item.language or "en")) for item in items]
    assert len({*expected}) > 4
    for size in 1, 5, 20:
        results = evaluation.transcribe_items(stt, items, size, language="en")
        assert list(map(str, results)) == expected
    assert [one.language for one in results[:3]] == ["en", "de", "en"]


def test_a_part_of_a_recording(stt, clips, tmp_path):
    [waveform, _] = soundfile.read(clips[1], dtype="float32")
    part = write(tmp_path / "part.wav", waveform[round(0.3 * RATE) : round(0.8 * RATE)])
    items = [
        Item(clips[1], "x", "de", 0.3, 0.8),
        Item(str(part), "x", "de"),
        Item(clips[1], "x", "de"),
    ]
    results = evaluation.transcribe_items(stt, items)
    assert results[0].tokens == results[1].tokens != results[2].tokens


def test_an_item_that_fails_fails_alone(stt, clips, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio at all")
    items = [
        Item("gone.wav", "x", "de"), Item(clips[0], "x", "de"), Item(clips[0], "x", "tlh"),
        Item(str(tmp_path / "bad.wav"), "x", "en"), Item(clips[1], "x", "de", 50.0, 51.0),
        Item(clips[1], "x", "en"),
    ]  # fmt: skip
    done = []
    results = evaluation.transcribe_items(stt, items, progress=done.append)
    assert [isinstance(one, ValueError) for one in results] == [
        True,
        False,
        True,
        True,
        True,
        False,
    ]
    assert sum(done) == 2
    for one, reason in zip(
        results, ("gone.wav", "", "unknown language 'tlh'", "bad.wav", "s long", "")
    ):
        assert reason in str(one)


def test_a_model_of_one_language_is_not_asked_for_any(clips, tmp_path):
    stt = nanos2t.load(save_tiny(tmp_path), dtype="float64")
    items = [Item(clips[0], "x", "en")]
    results = evaluation.transcribe_items(stt, items)
    assert str(results[0]) == str(stt.transcribe(clips[0]))
    assert list(evaluation.evaluate_results(items, results)["scores"]) == ["en", "all"]
