# pytest tests/fast/test_onednn.py
"""nanos2t/fast/onednn.py: the product with every activation, and where it is not used."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nanos2t.fast import onednn, packed
from nanos2t.fast.onednn import (
    choose_min_rows,
    has_onednn,
    is_supported,
    linear_onednn,
    multiply_from_left,
    pack_weight,
)
from nanos2t.fast.packed import FastLinear
from nanos2t.wav2vec2 import ACTIVATIONS

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS, "tanh"])
@torch.no_grad()
def test_linear_onednn_is_linear_and_activation(activation: str | None, bias: bool):
    """Activations of the core, and one that oneDNN is not asked for."""
    module = None
    if activation is not None:
        module = (ACTIVATIONS | {"tanh": nn.Tanh})[activation]()
    x = torch.randn(2, 3, 9)
    weight = torch.randn(7, 9)
    offset = torch.randn(7) if bias else None
    expected = F.linear(x, weight, offset)
    if module is not None:
        expected = module(expected)
    for matrix in weight, pack_weight(weight):
        result = linear_onednn(x, matrix, offset, module)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5, 1), (2, 0)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_head_in_bfloat16(shape: tuple[int, int], bias: bool):
    """Rounded once: of the exact result, at most half a unit of the last of 8 bits is lost."""
    x = torch.randn(*shape, 96).bfloat16()
    weight = torch.randn(70, 96).bfloat16()
    offset = torch.randn(70).bfloat16() if bias else None
    exact = F.linear(x.double(), weight.double(), offset.double() if bias else None)
    result = multiply_from_left(x, weight, offset)
    assert result.dtype == torch.bfloat16 and result.is_contiguous()
    torch.testing.assert_close(result.double(), exact, rtol=1.01 * 2**-8, atol=1e-4)


def test_what_is_supported():
    x = torch.randn(2, 9)
    weight = torch.randn(7, 9)
    assert not is_supported(x, weight)  # it would need a gradient
    with torch.no_grad():
        assert is_supported(x, weight)
        assert not is_supported(x.double(), weight)
        assert not is_supported(x, weight.bfloat16())
        assert not is_supported(x[:0], weight)
        assert not is_supported(x, weight.to("meta"))
        assert is_supported(x, weight, min_rows=2) and not is_supported(x[:1], weight, min_rows=2)
        assert is_supported(x.view(1, 2, 9), weight, min_rows=2)


@needs_onednn
@pytest.mark.parametrize("fast_one, min_rows", [("linear", 2), ("linear_onednn", 1)])
@torch.no_grad()
def test_one_row_is_multiplied_by_the_faster_of_the_two(monkeypatch, fast_one: str, min_rows: int):
    """The other one takes 5 ms. Which of them won decides for one row, and for no other number."""
    called = []

    def slow_down(function, name):
        def run(*args):
            called.append(name)
            if name != fast_one:
                time.sleep(0.005)
            return function(*args)

        return run

    monkeypatch.setattr(onednn.F, "linear", slow_down(F.linear, "linear"))
    monkeypatch.setattr(onednn, "linear_onednn", slow_down(linear_onednn, "linear_onednn"))
    assert choose_min_rows([torch.randn(7, 9), torch.randn(9, 7)]) == min_rows
    assert len(called) == 32

    monkeypatch.setattr(packed, "linear_onednn", onednn.linear_onednn)
    fast = FastLinear(nn.Linear(9, 7), min_rows=min_rows)
    for rows in 1, 2, 5:
        called.clear()
        fast(torch.randn(rows, 9))
        assert called == ["linear" if rows < min_rows else "linear_onednn"]
