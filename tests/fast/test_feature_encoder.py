# pytest tests/fast/test_feature_encoder.py
"""nanos2t/fast/feature_encoder.py: each fast layer does what the core's layer does."""

from functools import partial

import pytest
import torch
from helpers.fast_pair import build_model, relative_error

from nanos2t.fast.feature_encoder import FoldedConvLayer, join, make_fast_layer
from nanos2t.fast.onednn import has_onednn
from nanos2t.fast.packed import FastConv

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([90, 61])])
@pytest.mark.parametrize("min_rows", [None, 1])
@torch.no_grad()
def test_a_layer_is_the_cores(norm: str, lengths: torch.Tensor | None, min_rows: int | None):
    """Real frames; what stands in the padding is nobody's concern."""
    x = torch.randn(2, 1, 90)
    make_conv = partial(FastConv, min_rows=min_rows)
    for layer in build_model(norm).encoder.feature_encoder.conv_layers:
        expected, expected_lengths = layer(x, lengths)
        result, result_lengths = make_fast_layer(layer, make_conv)(x, lengths)
        if lengths is None:
            assert result_lengths is None
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(result_lengths, expected_lengths)
            for i, length in enumerate(result_lengths):
                a = result[i, :, :length]
                b = expected[i, :, :length]
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        x = expected
        lengths = expected_lengths


@torch.no_grad()
def test_a_norm_is_folded_into_weights_of_any_offset():
    """Samples with a mean that is large beside their spread; and a bias, which the norm undoes."""
    layer = build_model().encoder.feature_encoder.conv_layers[0]
    folded = make_fast_layer(layer, FastConv)
    assert type(folded) is FoldedConvLayer
    x = torch.randn(2, 1, 900) * 0.1 + torch.tensor([3.0, -7.0])[:, None, None]
    lengths = torch.tensor([900, 500])
    for frame_lengths in None, lengths:
        result = folded(x, frame_lengths)[0]
        layer.double()
        expected = layer(x.double(), frame_lengths)[0].float()
        layer.float()
        for i, length in enumerate([299, 299] if frame_lengths is None else [299, 166]):
            assert relative_error(result[i, :, :length], expected[i, :, :length]) < 3e-5

    layer.conv.bias = torch.nn.Parameter(torch.randn(8))
    assert relative_error(folded(x, lengths)[0], result) < 1e-6


@torch.no_grad()
def test_parameters_of_a_folded_norm_are_those_of_the_core():
    layer = build_model().encoder.feature_encoder.conv_layers[0]
    folded = make_fast_layer(layer, FastConv)
    assert dict(folded.named_parameters()) == dict(layer.named_parameters())
    x = torch.randn(1, 1, 90)
    for parameter in layer.parameters():
        parameter.data.mul_(1.5)
    assert relative_error(folded(x, None)[0], layer(x, None)[0]) < 1e-5


def test_a_part_that_is_alone_is_not_copied():
    parts = torch.randn(2, 3, 5).unbind()
    assert join(parts[:1], dim=0) is parts[0]
    assert torch.equal(join(parts, dim=0), torch.cat(parts))
