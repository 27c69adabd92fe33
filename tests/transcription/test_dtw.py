# pytest tests/transcription/test_dtw.py
"""nanos2t/transcription/alignment.py: the cheapest path, against all paths."""

import time

import numpy as np
import pytest

from nanos2t.transcription import alignment


def all_paths(T: int, S: int) -> list[list[tuple[int, int]]]:
    if T == 1 and S == 1:
        return [[(0, 0)]]
    before = [(t, s) for t, s in ((T - 1, S - 1), (T - 1, S), (T, S - 1)) if t and s]
    return [[*path, (T - 1, S - 1)] for t, s in before for path in all_paths(t, s)]


@pytest.mark.parametrize("T, S", [(1, 1), (1, 5), (4, 1), (2, 3), (3, 3), (3, 5), (5, 3), (4, 6)])
def test_dtw_finds_the_cheapest_of_all_paths(T: int, S: int):
    rng = np.random.default_rng((T, S))
    for cost in (rng.normal(size=(T, S)), rng.random((T, S)), rng.integers(0, 3, (T, S)) / 1.0):
        path = [tuple(step) for step in alignment.dtw(cost).tolist()]
        every = all_paths(T, S)
        assert path in every
        assert sum(cost[step] for step in path) == pytest.approx(
            min(sum(cost[s] for s in p) for p in every)
        )


def test_dtw_follows_a_planted_path():
    rng = np.random.default_rng(5)
    for T, S in ((9, 40), (1, 12), (30, 31), (12, 5)):
        planted = [(0, 0)]
        while planted[-1] != (T - 1, S - 1):
            t, s = planted[-1]
            steps = [(t + a, s + b) for a, b in ((1, 1), (1, 0), (0, 1)) if t + a < T and s + b < S]
            planted.append(steps[rng.integers(len(steps))])
        cost = np.ones((T, S)) + rng.random((T, S))
        cost[tuple(np.array(planted).T)] = -1e-3 * rng.random(len(planted)) - 1
        assert alignment.dtw(cost).tolist() == [list(step) for step in planted]


def test_dtw_prefers_the_diagonal_and_keeps_its_input():
    cost = np.zeros((3, 5))
    assert alignment.dtw(cost).tolist() == [[0, 0], [0, 1], [0, 2], [1, 3], [2, 4]]
    assert not cost.any()


def test_dtw_is_fast_enough():
    cost = np.random.default_rng(0).random((200, 1500))
    started = time.process_time()
    path = alignment.dtw(cost)
    assert time.process_time() - started < 1.0
    assert (np.abs(np.diff(path, axis=0)) <= 1).all() and path[-1].tolist() == [199, 1499]
