# pytest tests/test_beam_search.py
"""Beam search: by hand with scripted logits, and by exhaustion on tiny vocabularies."""

from itertools import product
from math import log

import pytest
import torch
from helpers.search_scripts import (
    CONFIG,
    Hypotheses,
    Script,
    Table,
    brute_force,
    letters,
    log_softmax,
    noise,
    search,
    start,
    tree,
)

from nanos2t.generate import Generated, beam_search

MISLEADING = {"": {"a": 0.6, "b": 0.4}, "a": {"a": 0.3, "b": 0.3, ".": 0.4}, "b": {".": 1.0}}


def test_greedy_takes_the_likeliest_token_and_beams_the_likeliest_sequence():
    result = search(tree(MISLEADING))
    assert letters(result) == ["a."]
    assert result.sequences_scores.tolist() == pytest.approx([log(0.6 * 0.4) / 2])
    assert result.token_logprobs[0].tolist() == pytest.approx([log(0.6), log(0.4)])
    result = search(tree(MISLEADING), num_beams=2, num_return_sequences=2)
    assert letters(result) == ["b.", "a."]
    assert result.sequences_scores.tolist() == pytest.approx([log(0.4) / 2, log(0.6 * 0.4) / 2])
    assert result.token_logprobs.flatten().tolist() == pytest.approx(
        [log(0.4), 0, log(0.6), log(0.4)], abs=1e-6
    )


def test_beams_fill_up_with_eos_if_the_pad_id_is_0():
    """As in transformers, whose beam search takes `pad or eos`."""
    table = tree({}, {"": {"a": 1}})
    assert letters(search(table, 2, num_beams=2, pad_token_id=0)) == ["..", "a."]
    assert letters(search(table, 2, num_beams=2, pad_token_id=1)) == [".^", "a."]
    assert letters(search(table, 2, pad_token_id=0)) == [".-", "a."]


def test_only_the_first_num_beams_candidates_may_end():
    """The other candidates are there to run on: an EOS among them does not finish."""
    table = tree({"": {"a": 0.6, ".": 0.4}, "a": {"a": 0.1, ".": 0.9}})
    assert letters(search(table, num_beams=1, length_penalty=0.0)) == ["a."]
    assert letters(search(table, num_beams=2, length_penalty=0.0)) == ["a."]
    table = tree({"": {"a": 0.6, ".": 0.4}, "a": {"a": 0.7, ".": 0.3}, "aa": {"b": 0.6, ".": 0.4}})
    assert letters(search(table, num_beams=1, max_length=4, length_penalty=0.0)) == ["aab"]
    assert letters(search(table, num_beams=2, max_length=4, length_penalty=0.0)) == ["."]


def test_a_beam_runs_on_although_all_likelier_tokens_are_eos():
    """With n EOS ids there are (n + 1) * num_beams candidates."""
    table = tree({"": {".": 0.3, "a": 0.25, "b": 0.2, "c": 0.15, "d": 0.1}}, default="c")
    options = {
        "eos_token_id": [2, 3, 4],
        "max_length": 6,
        "length_penalty": 2.0,
        "early_stopping": "never",
    }
    result = search(table, num_beams=1, **options)
    assert letters(result) == ["ccccc"]
    assert result.sequences_scores.item() == pytest.approx(log(0.15) / 25)
    result = search(table, num_beams=2, num_return_sequences=2, **options)
    assert letters(result) == ["ccccc", "dcccc"]


@pytest.mark.parametrize(
    ("penalty", "best"),
    [
        (-1.0, [".-", "a."]),
        (0.0, [".-", "a."]),
        (0.2, [".-", "a."]),
        (0.5, ["a.", ".-"]),
        (1, ["a.", "aa"]),
    ],
)
def test_length_penalty_chooses_between_shorter_and_longer(penalty, best):
    table = tree({"": {".": 0.4, "a": 0.6}, "a": {".": 0.5, "a": 0.3, "b": 0.2}})
    options = {"length_penalty": penalty, "max_length": 3}
    result = search(table, num_beams=2, num_return_sequences=2, **options)
    assert [row if row[0] == "a" else ".-" for row in letters(result)] == best
    scores = {".-": log(0.4), "a.": log(0.6 * 0.5) / 2**penalty, "aa": log(0.6 * 0.3) / 2**penalty}
    assert result.sequences_scores.tolist() == pytest.approx([scores[row] for row in best])


IMPROVES = {
    "": {"a": 0.65, ".": 0.3, "b": 0.05},
    "a": {"a": 0.55, ".": 0.4, "b": 0.05},
    "aa": {".": 0.9, "a": 0.1},
}


SLOWLY = {
    "": {"a": 0.7, ".": 0.2, "b": 0.1},
    "a": {"a": 0.8, ".": 0.2},
    "aa": {".": 0.9, "a": 0.1},
}


LATE = {"": {".": 0.55, "a": 0.45}, "a": {"a": 1.0}, "aa": {".": 1.0}}


def test_early_stopping():
    best = search(tree(IMPROVES), num_beams=2, num_return_sequences=2, early_stopping=True)
    assert letters(best) == ["a.", ".."]  # two ended: enough
    for never in False, "never":
        best = search(tree(IMPROVES), num_beams=2, num_return_sequences=2, early_stopping=never)
        assert letters(best) == ["aa.", "a.."]
    # At its present length the running beam is worse than the finished one. Later it is better.
    assert letters(search(tree(LATE), num_beams=1, early_stopping=True)) == ["."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping=False)) == ["."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping="never")) == ["aa."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping="never", length_penalty=0.0)) == [
        "."
    ]
    assert letters(
        search(tree(LATE), num_beams=1, early_stopping="never", length_penalty=-1.0)
    ) == ["."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping="never", max_length=2)) == ["."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping="never", max_length=3)) == ["aa"]
    # with a negative penalty a running beam is best as long as it is now
    options = {
        "num_beams": 2,
        "num_return_sequences": 2,
        "length_penalty": -1.0,
        "early_stopping": "never",
    }
    assert letters(search(tree(SLOWLY), **options)) == ["...", "aa."]


@pytest.mark.parametrize(
    ("branch", "options", "alone", "calls"),
    [
        (IMPROVES, {"num_beams": 2, "early_stopping": True}, "a.", 2),
        (LATE, {"num_beams": 1}, ".", 1),
    ],
)
def test_what_is_decided_stays_decided_while_the_batch_goes_on(branch, options, alone, calls):
    long = {
        "".join(word): {"a": 0.6, "b": 0.4} for n in range(7) for word in product("ab", repeat=n)
    }
    config = CONFIG.override({**options, "max_length": 20, "pad_token_id": 3})
    script = Script(tree(branch))
    assert letters(beam_search(script, start(), config)) == [alone]
    assert script.calls == calls
    script = Script(tree(branch, long), 2)
    assert letters(beam_search(script, start(2), config)) == [alone.ljust(8, "a"), "a" * 7 + "."]
    assert script.calls > 7


def test_what_is_decided_stays_decided_beside_samples():
    """With do_sample the first utterance stays in the batch, where longer texts would be better."""
    short = {"": {".": 0.5, "a": 0.5}} | {"a" * n: {".": 0.5, "a": 0.5} for n in range(1, 9)}
    long = {"b" * n: {"b": 1.0} for n in range(8)}
    options = {"num_beams": 2, "early_stopping": True, "length_penalty": 5.0, "do_sample": True}
    config = CONFIG.override({**options, "max_length": 9, "pad_token_id": 3})
    torch.manual_seed(0)
    script = Script(tree(short, long), 2)
    result = beam_search(script, start(2), config)
    assert [text.rstrip("a") for text in letters(result)][0] == "a."
    assert script.row_counts == [4] * script.calls and script.calls > 3


def test_more_beams_than_words():
    result = search(noise(0, 3), num_beams=8, num_return_sequences=8, max_length=4)
    assert result.sequences.tolist()[0] == brute_force(noise(0, 3), 3, 3, 1.0)[0][0]
    assert len({tuple(row) for row in result.sequences.tolist()}) == 8


@pytest.mark.parametrize("size", [1, 2, 5])
def test_num_return_sequences_returns_the_best_of_each_utterance(size):
    all_ = search(noise(1, 7), 3, num_beams=5, num_return_sequences=5, max_length=6)
    some = search(noise(1, 7), 3, num_beams=5, num_return_sequences=size, max_length=6)
    assert torch.equal(some.sequences_scores, all_.sequences_scores.view(3, 5)[:, :size].flatten())
    assert (all_.sequences_scores.view(3, 5).diff() <= 0).all()
    width = some.sequences.shape[1]
    assert torch.equal(
        some.sequences, all_.sequences.view(3, 5, -1)[:, :size, :width].flatten(0, 1)
    )


# All sequences there are


def slow_beams(table: Table, K: int, T: int, penalty: float) -> Hypotheses:
    """Return the K best hypotheses of a beam search in lists, which never stops early."""
    running, ended = [((CONFIG.decoder_start_token_id,), 0.0)], []
    for length in range(1, T + 1):
        longer = [
            ((*tokens, token), total + logprob)
            for tokens, total in running
            for token, logprob in enumerate(log_softmax(table(0, tokens)))
        ]
        longer.sort(key=lambda hypothesis: -hypothesis[1])
        ends = [tokens[-1] == CONFIG.eos_token_id or length == T for tokens, _ in longer]
        ended += [([*longer[i][0]], longer[i][1] / length**penalty) for i in range(K) if ends[i]]
        running = [longer[i] for i in range(len(longer)) if not ends[i]][:K]
    return sorted(ended, key=lambda hypothesis: -hypothesis[1])[:K]


def assert_found(found: Generated, want: Hypotheses) -> None:
    for tokens, score, (want_tokens, want_score) in zip(
        found.sequences.tolist(), found.sequences_scores.tolist(), want, strict=True
    ):
        assert tokens == want_tokens + [2] * (len(tokens) - len(want_tokens))
        assert score == pytest.approx(want_score, rel=1e-5)


@pytest.mark.parametrize(("V", "T"), [(3, 1), (3, 4), (4, 3), (5, 3)])
@pytest.mark.parametrize("stopping", [False, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_beams_as_wide_as_the_tree_find_all_sequences_in_order(V, T, stopping, penalty):
    want = brute_force(noise(V, V), V, T, penalty)
    options = {"length_penalty": penalty, "early_stopping": stopping, "max_new_tokens": T}
    K = max(len(want), 2)
    assert_found(search(noise(V, V), num_beams=K, num_return_sequences=K, **options), want)
    assert_found(search(noise(V, V), num_beams=(V - 1) ** (T - 1) * V, **options), want[:1])


@pytest.mark.parametrize("V", [3, 4, 5])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_never_stops_only_when_nothing_better_can_come(V, penalty):
    for K, T, seed in product(range(1, V), [2, 5], range(4)):
        options = {"length_penalty": penalty, "early_stopping": "never", "max_new_tokens": T}
        result = search(noise(seed, V), num_beams=K, num_return_sequences=K, **options)
        assert_found(result, slow_beams(noise(seed, V), K, T, penalty))
