# pytest tests/fast/test_packed.py
"""nanos2t/fast/packed.py: a layer whose weight is packed."""

import copy
import pickle

import pytest
import torch
from helpers.fast_pair import FAST_DTYPES, relative_error
from torch import nn

from nanos2t.fast.onednn import has_onednn
from nanos2t.fast.packed import FastConv, FastLinear
from nanos2t.fast.windows import split_windows

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("dtype", FAST_DTYPES)
@pytest.mark.parametrize("min_rows", [None, 1, 2])
@pytest.mark.parametrize("activation", [None, nn.GELU(), nn.Tanh()], ids=str)
@torch.no_grad()
def test_a_packed_layer_is_linear_and_activation(
    activation: nn.Module | None, min_rows: int | None, dtype: torch.dtype
):
    """For one row, for several, and for one again, when the weight is packed."""
    linear = nn.Linear(33, 19)
    weight = linear.weight.clone()
    packed = FastLinear(copy.deepcopy(linear).to(dtype), activation, min_rows)
    for shape in (1, 33), (1, 1, 33), (3, 33), (2, 5, 33), (1, 33), (0, 33):
        x = torch.randn(shape).to(dtype)
        expected = linear(x.float())
        if activation is not None:
            expected = activation(expected)
        torch.testing.assert_close(
            packed(x).float(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.05
        )
    state = packed.state_dict()
    assert list(state) == ["weight", "bias"]
    assert torch.equal(state["weight"], weight.to(dtype))


@pytest.mark.parametrize("kernel, stride, inputs", [(3, 2, 12), (10, 5, 1)])
@torch.no_grad()
def test_a_packed_convolution(kernel: int, stride: int, inputs: int):
    conv = nn.Conv1d(inputs, 17, kernel, stride)
    packed = FastConv(conv, nn.ReLU())
    x = torch.randn(2, inputs, 43)
    [windows] = split_windows(x.transpose(1, 2), packed)
    result = packed.multiply(windows).transpose(1, 2)
    assert relative_error(result, conv(x).relu()) < 1e-6
    assert torch.equal(packed.state_dict()["weight"], conv.weight)


@pytest.mark.parametrize("min_rows", [None, 1, 2])
@torch.no_grad()
def test_what_state_dict_gives_is_a_copy(min_rows: int | None):
    packed = FastLinear(nn.Linear(9, 7), min_rows=min_rows)
    x = torch.randn(1, 9)
    expected = packed(x)
    packed.state_dict()["weight"].zero_()
    assert torch.equal(packed(x), expected)


@pytest.mark.parametrize("min_rows", [None, 1, 2])
@torch.no_grad()
def test_copies_are_independent(min_rows: int | None):
    packed = FastLinear(nn.Linear(9, 7), nn.GELU(), min_rows).eval()
    x = torch.randn(1, 9)
    expected = packed(x)
    for other in copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)):
        assert torch.equal(other(x), expected) and not other.training
        other.load_state_dict({"weight": torch.zeros(7, 9), "bias": torch.zeros(7)})
        assert not other(x).any()
    assert torch.equal(packed(x), expected)


@pytest.mark.parametrize("change", [nn.Module.double, nn.Module.half, lambda m: m.to("meta")])
def test_what_cannot_be_packed_is_refused(change):
    with pytest.raises(
        ValueError, match="float32 on the CPU, or bfloat16 on .*, found torch.float"
    ):
        change(FastLinear(nn.Linear(9, 7)))
