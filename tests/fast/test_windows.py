# pytest tests/fast/test_windows.py
"""nanos2t/fast/windows.py: a convolution is a product of its windows and its flattened kernel."""

import pytest
import torch
from torch import nn

from nanos2t.fast import windows


@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (5, 1), (4, 7)])
@pytest.mark.parametrize("max_windows", [1, 4, 4096])
@torch.no_grad()
def test_windows_times_kernel_is_the_convolution(monkeypatch, kernel, stride, max_windows):
    monkeypatch.setattr(windows, "MAX_WINDOWS", max_windows)
    conv = nn.Conv1d(6, 11, kernel, stride, bias=False)
    x = torch.randn(2, 6, 41)
    parts = list(windows.split_windows(x.transpose(1, 2), conv))
    assert all(part.shape[1] <= max_windows for part in parts)
    matrix = windows.flatten_weight(conv.weight)
    y = torch.cat(parts, dim=1) @ matrix.T  # (B, W, O)
    assert torch.equal(windows.unflatten_weight(matrix, conv.weight.shape), conv.weight)
    torch.testing.assert_close(y.transpose(1, 2), conv(x), rtol=1e-5, atol=1e-5)
