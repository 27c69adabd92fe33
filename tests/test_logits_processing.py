# pytest tests/test_logits_processing.py
"""Each score processor alone: by hand, and against a naive version on random rows."""

from math import exp, inf

import pytest
import torch
from helpers.search_scripts import CONFIG
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanos2t.generation_config import GenerationConfig
from nanos2t.logits_processing import (
    ban_bad_words,
    ban_repeated_ngrams,
    process_logits,
    warp_logits,
)


def constrained(tokens: list[int], V: int = 6, **options) -> list[float]:
    """Return what process_logits makes of the logits 1, 2, 3, ... V after `tokens`."""
    scores = torch.arange(1.0, V + 1)[None]
    before = scores.clone()
    after = process_logits(scores, torch.tensor([tokens]), CONFIG.override(options))
    assert torch.equal(scores, before)
    return after[0].tolist()


def test_constraints():
    assert constrained([1]) == [1, 2, 3, 4, 5, 6]
    assert constrained([1, 3, 3], repetition_penalty=2.0) == [1, 1, 3, 2, 5, 6]
    assert constrained([1, 3, 4, 3], no_repeat_ngram_size=2) == [1, 2, 3, 4, -inf, 6]
    assert constrained([1], no_repeat_ngram_size=1) == [1, -inf, 3, 4, 5, 6]
    words = [[5], [4, 0], [3, 1], [2]]  # the last is EOS, which may end any row
    assert constrained([1, 4], bad_words_ids=words) == [-inf, 2, 3, 4, 5, -inf]
    assert constrained([1, 4], bad_words_ids=[[4, 2]]) == [1, 2, -inf, 4, 5, 6]
    assert constrained([1], suppress_tokens=[0, 5]) == [-inf, 2, 3, 4, 5, -inf]
    assert constrained([1], forced_bos_token_id=4) == [-inf, -inf, -inf, -inf, 0, -inf]
    assert constrained([1, 4], forced_bos_token_id=4) == [1, 2, 3, 4, 5, 6]
    assert constrained([1, 4], forced_eos_token_id=4, max_length=3) == [
        -inf,
        -inf,
        -inf,
        -inf,
        0,
        -inf,
    ]
    assert constrained([1], forced_eos_token_id=4, max_length=3) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("shortest", "free"), [({"min_length": 3}, 3), ({"min_new_tokens": 3}, 4)])
def test_min_length_counts_the_start_token_and_min_new_tokens_does_not(shortest, free):
    for length in range(1, 6):
        row = constrained([1] * length, eos_token_id=[2, 4], **shortest)
        assert row == ([1, 2, -inf, 4, -inf, 6] if length < free else [1, 2, 3, 4, 5, 6])


def test_an_eos_that_the_vocabulary_lacks_needs_no_ban():
    assert constrained([1], min_length=3, eos_token_id=[2, 50256]) == [1, 2, -inf, 4, 5, 6]


def test_the_repetition_penalty_makes_negative_scores_more_negative():
    config = CONFIG.override({"repetition_penalty": 2.0})
    scores = process_logits(
        torch.tensor([[-1.0, 3.0, -2.0, 5.0]]), torch.tensor([[1, 2, 2]]), config
    )
    assert scores.tolist() == [[-1.0, 1.5, -4.0, 5.0]]


rows_of_tokens = st.integers(1, 9).flatmap(
    lambda T: st.lists(st.lists(st.integers(0, 3), min_size=T, max_size=T), min_size=1, max_size=3)
)


lists_of_words = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4
)


def banned(scores: Tensor) -> list[set[int]]:
    """Return the banned tokens of each row, and check that all other scores are unchanged."""
    untouched = torch.arange(scores.shape[1], dtype=scores.dtype).expand_as(scores)
    assert torch.equal(scores.where(scores != -inf, untouched), untouched)
    return [{token for token, score in enumerate(row) if score == -inf} for row in scores.tolist()]


@settings(max_examples=150, deadline=None)
@given(rows_of_tokens, st.integers(0, 5))
@example([[2, 2, 2], [2, 1, 2]], 3)  # rows as long as an n-gram: rarely drawn
@example([[2, 2], [2, 1]], 3)
@example([[2], [3]], 1)
def test_ban_repeats_is_the_naive_one(rows, size):
    want = [set() for _ in rows]
    for i, row in enumerate(rows):
        for token in range(4):
            longer = [*row, token]
            grams = [longer[j : j + size] for j in range(len(longer) - size + 1)]
            if size and longer[len(longer) - size :] in grams[:-1]:
                want[i].add(token)
    scores = torch.arange(4.0).repeat(len(rows), 1)
    assert banned(ban_repeated_ngrams(scores, torch.tensor(rows), size)) == want
    assert torch.equal(scores, torch.arange(4.0).repeat(len(rows), 1))


@settings(max_examples=150, deadline=None)
@given(rows_of_tokens, lists_of_words)
@example([[2, 1], [1, 2]], [[2, 1, 3], [3, 2, 1, 0]])  # rows one token shorter than a word, and two
@example([[2], [3]], [[1], [3, 2]])
def test_ban_words_is_the_naive_one(rows, words):
    want = [
        {token for token in range(4) for word in words if [*row, token][-len(word) :] == word}
        for row in rows
    ]
    scores = torch.arange(4.0).repeat(len(rows), 1)
    config = GenerationConfig(bad_words_ids=words)
    assert banned(ban_bad_words(scores, torch.tensor(rows), config)) == want
    assert torch.equal(scores, torch.arange(4.0).repeat(len(rows), 1))


@settings(max_examples=150, deadline=None)
@given(
    st.permutations(range(6)),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from([None, 0, 1, 3, 9]),
    st.sampled_from([None, 0.0, 0.3, 0.7, 0.95, 1.0]),
    st.integers(1, 3),
)
def test_warp_keeps_the_likeliest_tokens(order, temperature, top_k, top_p, keep):
    logits = [0.7 * i for i in order]
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    kept = sorted(range(6), key=lambda token: -logits[token])[: max(top_k, keep) if top_k else 6]
    chances = [exp(logits[token] / temperature) for token in kept]
    if top_p is not None and top_p < 1:  # the fewest that have top_p together
        enough = next(n for n in range(1, 7) if sum(chances[:n]) >= top_p * sum(chances) - 1e-6)
        kept = kept[: max(enough, keep)]
    actual = warp_logits(torch.tensor([logits]), config, keep)[0].tolist()
    want = [logits[token] / temperature if token in kept else -inf for token in range(6)]
    assert actual == pytest.approx(want, rel=1e-6)
