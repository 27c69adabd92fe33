# pytest tests/fast/test_positional_conv.py
"""nanos2t/fast/positional_conv.py in bfloat16. test_optimise.py has float32."""

import copy

import pytest
import torch
from helpers.fast_pair import relative_error
from torch import nn

from nanos2t.fast.positional_conv import replace_positions
from nanos2t.wav2vec2 import EncoderConfig, PositionalConv, PositionalConvStack


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels", [12, 20])
def test_positions_in_bfloat16_are_near_those_in_float32(
    dtype: torch.dtype, channels: int, layers: int
):
    """On a CPU with AMX torch.conv1d returns something else for groups of 12 channels."""
    config = EncoderConfig(
        hidden_size=4 * channels, position_kernel=16, position_groups=4, position_layers=layers
    )
    torch.manual_seed(0)
    plain = PositionalConvStack(config) if layers else PositionalConv(config)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 30, 4 * channels)
    expected = plain(x)

    holder = nn.ModuleDict({"positions": copy.deepcopy(plain).to(dtype)})
    replace_positions(holder)
    fast = holder.positions
    assert {type(module).__module__ for module in fast.modules()} > {replace_positions.__module__}
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        result = fast(x.to(dtype))
    assert result.dtype == torch.bfloat16 and relative_error(result.float(), expected) < 0.02

    result.sum().backward()
    expected.sum().backward()
    for name, parameter in fast.named_parameters():
        assert relative_error(parameter.grad.float(), plain.get_parameter(name).grad) < 0.03, name
