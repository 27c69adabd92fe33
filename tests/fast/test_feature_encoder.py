# pytest tests/fast/test_feature_encoder.py
"""nanos2t/fast/feature_encoder.py: each fast layer does what the core's layer does."""

import pytest
import torch
from helpers.fast_pair import build_model

from nanos2t.fast.feature_encoder import make_fast_layer
from nanos2t.fast.onednn import has_onednn

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([90, 61])])
@pytest.mark.parametrize("min_rows", [None, 1])
@torch.no_grad()
def test_a_layer_is_the_cores(norm: str, lengths: torch.Tensor | None, min_rows: int | None):
    """Real frames; what stands in the padding is nobody's concern."""
    x = torch.randn(2, 1, 90)
    for layer in build_model(norm).encoder.feature_encoder.conv_layers:
        expected, expected_lengths = layer(x, lengths)
        result, result_lengths = make_fast_layer(layer, min_rows)(x, lengths)
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
