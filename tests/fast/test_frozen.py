# pytest tests/fast/test_frozen.py
"""nanos2t/fast/frozen.py: weights are neither read nor changed in place, and have no gradients."""

import pytest
import torch
from torch import nn

from nanos2t.fast.onednn import has_onednn
from nanos2t.fast.packed import FastLinear

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("min_rows", [None, 1, 2])
def test_the_weight_can_be_neither_read_nor_changed_in_place(min_rows: int | None):
    """`.weight` and `.weight.data` are one case: the first is refused."""
    packed = FastLinear(nn.Linear(9, 7), min_rows=min_rows)
    for use in (
        lambda: packed.weight,
        lambda: packed.weight.data.mul_(2),
        lambda: setattr(packed, "weight", nn.Parameter(torch.zeros(7, 9))),
    ):
        with pytest.raises(ValueError, match=r"weight of a fast layer is packed: state_dict\(\)"):
            use()
    with pytest.raises(AttributeError):
        packed.weight = torch.zeros(7, 9)
    assert [name for name, _ in packed.named_parameters()] == ["bias"]


def test_gradients_are_refused():
    """Those of the bias, of the input, and of what came before it."""
    packed = FastLinear(nn.Linear(9, 7, bias=False))
    x = torch.randn(2, 9, requires_grad=True)
    for result in packed(x), packed(x * 2), FastLinear(nn.Linear(9, 7))(x.detach()):
        with pytest.raises(ValueError, match="no gradients: to train it, load the model without"):
            result.sum().backward()
    assert not packed(x.detach()).requires_grad
