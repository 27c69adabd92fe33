# pytest tests/transcription/test_results.py
"""nanos2t/transcription/results.py: pieces of a recording as one result."""

import pytest

from nanos2t.transcription.results import Result, Segment, Word, join_results


def part(text: str, score: float, logprobs: list[float], repeated: int = 0) -> Result:
    words = [Word(0.25, 0.5, word, 0.5) for word in text.split()]
    segments = [Segment(0.0, 1.0, text, tuple(words), repeated)] if text else []
    tokens = [1, *range(5, 5 + len(logprobs))] if logprobs else []
    return Result(
        text, score, tokens, logprobs, "de", segments, words, [text, f"{text}?" if text else ""]
    )


def test_times_count_from_the_start():
    joined = join_results(
        {16000: part("c", -1.0, [-1.0], 3), 4000: part("a b", -0.5, [-0.5, -0.5])}, 8000, "de", 2
    )
    assert str(joined) == joined.text == "a b c" and joined.language == "de"
    assert [(item.start, item.end, item.repeated) for item in joined.segments] == [
        (0.5, 1.5, 0),
        (2.0, 3.0, 3),
    ]
    assert [(word.start, word.end, word.word) for word in joined.words] == [
        (0.75, 1.0, "a"), (0.75, 1.0, "b"), (2.25, 2.5, "c"),
    ]  # fmt: skip
    assert joined.words == [word for item in joined.segments for word in item.words]
    assert joined.nbest == ["a b c", "a b? c?"]


def test_tokens_follow_and_the_score_is_their_mean():
    joined = join_results(
        {0: part("a b", -0.5, [-0.25, -0.75]), 9: part("", 0.0, []), 20: part("c", -2.0, [-2.0])},
        8,
        None,
        2,
    )
    assert joined.tokens == [1, 5, 6, 1, 5] and joined.token_logprobs == [-0.25, -0.75, -2.0]
    assert joined.score == pytest.approx(sum(joined.token_logprobs) / 3)
    assert joined.text == "a b c" and joined.nbest == ["a b c", "a b? c?"], (
        "silence leaves no second space"
    )


def test_one_piece_from_the_start_is_itself():
    alone = part("a b", -0.3, [-0.1, -0.5])
    assert join_results({0: alone}, 8000, "de", 2) == alone


def test_nothing_was_heard():
    assert join_results({}, 8000, "de", 3) == Result("", 0.0, [], [], "de", [], [], ["", "", ""])
