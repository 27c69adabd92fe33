# pytest tests/fast/test_onednn.py
"""nanos2t/fast/onednn.py: the product with every activation, and where it is not used."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nanos2t.fast.onednn import FastLinear, has_onednn, is_supported, linear_onednn
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
    result = linear_onednn(x, weight, offset, module)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


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


def test_a_fast_linear_shares_its_parameters_and_has_gradients():
    linear = nn.Linear(9, 7)
    fast = FastLinear(linear)
    assert fast.weight is linear.weight and fast.bias is linear.bias
    assert repr(fast).removeprefix("Fast") == repr(linear)
    x = torch.randn(2, 9)
    fast(x).sum().backward()
    assert torch.equal(linear.bias.grad, torch.full((7,), 2.0))
    assert list(FastLinear(nn.Linear(9, 7, bias=False)).state_dict()) == ["weight"]
