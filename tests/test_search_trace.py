# pytest tests/test_search_trace.py
"""The record of a search: from it, the whole search can be rebuilt."""

from dataclasses import replace

import pytest
import torch
from helpers.generation_models import LENGTHS, make_batch, paired_models
from helpers.search_scripts import CONFIG
from torch import Tensor

from nanos2t.generate import Generated, beam_search, greedy_search


def search_fixed_logits(logits: Tensor, longest: int, **options) -> tuple[Generated, list]:
    """Search over fixed logits (V,) or (steps, V); return the result and the trace."""
    table, trace = logits.expand(longest, -1) if logits.ndim == 1 else logits, []
    config = CONFIG.override({"max_length": longest, **options})
    search = beam_search if config.num_beams > 1 else greedy_search
    start = torch.ones(2, 1, dtype=torch.long)
    return search(
        lambda tokens, _: table[tokens.shape[1] - 1].expand(len(tokens), -1), start, config, trace
    ), trace


def rebuild(trace: list, row: int, end) -> tuple[list[int], float]:
    """Return the tokens of a finished candidate and the sum of their log-probabilities."""
    tokens, total, at = [end.token], end.logprob, end
    while at.step > 1:
        former = [c for c in trace if (c.row, c.step, c.beam) == (row, at.step - 1, at.parent)]
        assert len(former) == 1 and former[0].status == "kept"
        at = former[0]
        tokens, total = [at.token, *tokens], total + at.logprob
    assert at.parent == 0
    return tokens, total


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "length_penalty": 0.3, "early_stopping": True},
        {"num_beams": 3, "do_sample": True},
        {"do_sample": True},
        {"num_beams": 2, "early_stopping": "never"},
    ],
)
def test_the_trace_is_the_whole_search(options):
    generator = torch.Generator().manual_seed(3)
    result, trace = search_fixed_logits(torch.randn(7, 9, generator=generator), 8, **options)
    again, _ = search_fixed_logits(
        torch.randn(7, 9, generator=torch.Generator().manual_seed(3)), 8, **options
    )
    beams = options.get("num_beams", 1)
    for row in 0, 1:
        ends = [c for c in trace if c.row == row and c.status == "finished"]
        best = max(ends, key=lambda end: end.score)
        tokens, total = rebuild(trace, row, best)
        assert tokens == result.sequences[row, 1 : 1 + len(tokens)].tolist()
        assert best.sum == pytest.approx(total, abs=1e-5) and best.score == pytest.approx(
            result.sequences_scores[row].item(), abs=1e-6
        )
        assert best.score == pytest.approx(
            best.sum / best.step ** options.get("length_penalty", 1.0)
        )
        for step in range(1, max(c.step for c in trace if c.row == row) + 1):
            now = [c for c in trace if (c.row, c.step) == (row, step)]
            kept = sorted(c.beam for c in now if c.status == "kept")
            assert len(now) == (2 * beams if beams > 1 else 1)
            assert kept in ([*range(beams)], []) and all(
                c.beam is None for c in now if c.status != "kept"
            )
            assert not [c for c in now if c.status == "kept" and c.token == 2]
    assert {c.status for c in trace} == (
        {"kept", "dropped", "finished"} if beams > 1 else {"kept", "finished"}
    )
    if not options.get("do_sample"):
        assert torch.equal(result.sequences, again.sequences)


def test_a_trace_stops_with_its_row():
    """The first row ends at once, the second goes on: the first has no more candidates."""
    table = torch.zeros(2, 4, 9)
    table[0, 0, 2] = table[1, :3, 5] = table[1, 3, 2] = 9.0
    start, trace = torch.ones(2, 1, dtype=torch.long), []
    greedy_search(
        lambda tokens, _: table[-len(tokens) :, tokens.shape[1] - 1],
        start,
        replace(CONFIG, max_length=5),
        trace,
    )
    assert [(c.step, c.row, c.token, c.status) for c in trace] == [
        (1, 0, 2, "finished"),
        (1, 1, 5, "kept"),
        (2, 1, 5, "kept"),
        (3, 1, 5, "kept"),
        (4, 1, 2, "finished"),
    ]


def test_generate_fills_the_trace_and_changes_nothing():
    model, trace = paired_models("group norm, 23 words")[1], []
    plain = model.generate(*make_batch(), num_beams=2, max_length=9)
    assert torch.equal(plain, model.generate(*make_batch(), num_beams=2, max_length=9, trace=trace))
    assert {c.row for c in trace} == {*range(len(LENGTHS))} and {c.step for c in trace} <= {
        *range(1, 9)
    }
