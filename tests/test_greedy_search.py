# pytest tests/test_greedy_search.py
"""Greedy search with scripted logits: padding, lengths, scores, and its equality with one beam."""

from dataclasses import replace
from math import log

import pytest
import torch
from helpers.search_scripts import (
    CONFIG,
    SEARCHES,
    Script,
    assert_scores_add_up,
    letters,
    noise,
    search,
    start,
    tree,
)

from nanos2t.generate import beam_search, greedy_search


def test_greedy_pads_behind_the_eos_and_stops_when_all_have_ended():
    script = Script(tree({}, {"": {"a": 1}, "a": {"b": 1}}, {"": {"a": 1}}), 3)
    result = greedy_search(script, start(3), replace(CONFIG, pad_token_id=0))
    assert letters(result) == [".--", "ab.", "a.-"]
    assert script.calls == 3
    result = search(tree({}, {"": {"a": 1}}), 2, pad_token_id=None)
    assert letters(result) == ["..", "a."]  # no pad: EOS
    assert letters(search(tree({}, {"": {"a": 1}}), 2, pad_token_id=4)) == [".b", "a."]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_utterance_whose_search_is_over_leaves_the_batch(num_beams):
    """With do_sample it stays, so that the others draw the tokens of transformers."""
    branches = [{"": {".": 1}}, {word: {"a": 1} for word in ("", "a", "aa")}, {"": {"a": 1}}]
    for sample in False, True:
        options = {"num_beams": num_beams, "do_sample": sample, "max_length": 9}
        config = CONFIG.override(options)
        script = Script(tree(*branches), 3)
        search = beam_search if num_beams > 1 else greedy_search
        result = search(script, start(3), config)
        assert [text.rstrip("-.") for text in letters(result)] == ["", "aaa", "a"]
        if sample:
            assert set(script.row_counts) == {3 * num_beams}
        else:
            assert script.row_counts == sorted(script.row_counts, reverse=True)
            assert script.row_counts[0] == 3 * num_beams > script.row_counts[-1]


def test_what_a_row_says_behind_its_eos_costs_nothing():
    table = tree({".": {"a": 0.5, "b": 0.5}}, {"": {"a": 0.9, "b": 0.1}})
    for options in {}, {"num_beams": 1}, {"num_beams": 2}:
        result = search(table, 2, **options)
        assert letters(result) == [".-" if not options else "..", "a."]
        assert result.token_logprobs[0].tolist() == pytest.approx([0, 0], abs=1e-6)
        assert result.sequences_scores.tolist() == pytest.approx([0, log(0.9) / 2], abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"num_beams": 1}, {"num_beams": 3}])
def test_the_last_token_need_not_be_eos(options):
    table = tree({}, default="a")
    assert letters(search(table, max_length=4, **options)) == ["aaa"]
    assert letters(search(table, max_new_tokens=4, **options)) == ["aaaa"]
    assert letters(search(table, **options)) == ["a" * 20]
    assert letters(search(table, max_length=4, eos_token_id=None, **options)) == ["aaa"]
    assert letters(search(tree({}), max_length=4, eos_token_id=None, **options)) == ["..."]


@pytest.mark.parametrize("options", [{}, {"num_beams": 1}, {"num_beams": 2}])
def test_any_of_several_eos_ends(options):
    table = tree({"": {"a": 1}, "a": {"b": 1}}, {"": {"c": 1}}, {"": {"a": 1}, "a": {"a": 1}})
    result = search(table, 3, eos_token_id=[4, 5, 2], pad_token_id=1, **options)
    assert letters(result) == ["ab^", "c^^", "aa."]


@pytest.mark.parametrize("penalty", [-1, -0.5, 0, 0.5, 1, 2])
def test_the_length_penalty_of_greedy_is_that_of_a_beam(penalty):
    table = tree({"": {"a": 0.6, "b": 0.4}, "a": {".": 0.9, "a": 0.1}}, {"": {".": 0.8, "a": 0.2}})
    for beams in {}, {"num_beams": 1}:
        result = search(table, 2, length_penalty=penalty, early_stopping=True, **beams)
        assert result.sequences_scores.tolist() == pytest.approx([log(0.54) / 2**penalty, log(0.8)])


def test_ties_go_to_the_first_index():
    flat = tree({}, default="none")
    assert letters(search(flat, max_length=4)) == ["---"]
    assert letters(search(tree({"": {"c": 0.3, "b": 0.3, "d": 0.3}}))) == ["b."]


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("eager", [True, False])
def test_one_beam_is_greedy(penalty, eager):
    for seed in range(8):
        options = {"length_penalty": penalty, "pad_token_id": 1, "max_length": 9}
        want = search(noise(seed, 6), 3, **options)
        result = search(noise(seed, 6), 3, num_beams=1, early_stopping=eager, **options)
        assert torch.equal(result.sequences, want.sequences)
        assert torch.allclose(result.sequences_scores, want.sequences_scores, rtol=1e-5)
        assert torch.allclose(result.token_logprobs, want.token_logprobs, atol=1e-6)


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("seed", range(4))
def test_each_utterance_of_a_batch_is_searched_as_if_alone(options, seed):
    B, table = 5, noise(seed, 7)
    options = {**options, "max_length": 8, "pad_token_id": 6}
    batch = search(table, B, **options)
    each = options.get("num_return_sequences", 1)
    for i in range(B):
        alone = search(lambda _, tokens, i=i: table(i, tokens), **options)
        rows, width = slice(i * each, (i + 1) * each), alone.sequences.shape[1]
        assert torch.equal(batch.sequences[rows, :width], alone.sequences)
        assert (batch.sequences[rows, width:] == 6).all()
        assert torch.equal(batch.sequences_scores[rows], alone.sequences_scores)
        assert torch.equal(batch.token_logprobs[rows, : width - 1], alone.token_logprobs)
        assert (batch.token_logprobs[rows, width - 1 :] == 0).all()


# Scores


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("sample", [False, True])
def test_scores_are_the_sum_of_what_the_tokens_cost(options, sample):
    options = {
        **options,
        "max_length": 8,
        "pad_token_id": 6,
        "do_sample": sample,
        "temperature": 0.8,
    }
    for seed in range(3):
        result = search(noise(seed, 20), 3, **options)
        assert_scores_add_up(result, CONFIG.override(options))
        assert (result.token_logprobs <= 0).all()


@pytest.mark.parametrize("beams", [{}, {"num_beams": 1}, {"num_beams": 3}])
@pytest.mark.parametrize("sample", [False, True])
def test_forced_tokens_cost_nothing(beams, sample):
    options = {
        "forced_bos_token_id": 5,
        "forced_eos_token_id": 4,
        "eos_token_id": [2, 4],
        "max_length": 5,
    }
    result = search(
        noise(0, 9), **options, bad_words_ids=[[2]], min_length=5, do_sample=sample, **beams
    )
    tokens, logprobs = result.sequences[0, 1:], result.token_logprobs[0]
    assert (tokens[0], tokens[-1], len(tokens)) == (5, 4, 4)
    assert (logprobs[0], logprobs[-1]) == (0, 0)
    assert (logprobs[1:-1] < 0).all()


def test_a_forced_last_token_goes_before_a_forced_first():
    options = {"forced_bos_token_id": 5, "forced_eos_token_id": 2, "max_length": 2}
    assert (
        letters(search(noise(0, 9), **options))
        == letters(search(noise(0, 9), num_beams=2, **options))
        == ["."]
    )


def test_greedy_scores_are_probabilities_after_the_constraints():
    table = tree({"": {"a": 0.5, "b": 0.3, ".": 0.2}})
    result = search(table, bad_words_ids=[[3]])
    assert letters(result) == ["b."]
    assert result.token_logprobs[0].tolist() == pytest.approx([log(0.3 / 0.5), 0], abs=1e-6)
    result = search(table, bad_words_ids=[[3]], num_beams=1)
    assert result.token_logprobs[0].tolist() == pytest.approx(
        [log(0.3), 0], abs=1e-6
    )  # as in transformers
