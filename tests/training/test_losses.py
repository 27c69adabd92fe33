# pytest tests/training/test_losses.py
"""What training minimises."""

from itertools import groupby, product

import pytest
import torch

from nanos2t.training.losses import cross_entropy, ctc_loss


def test_label_smoothing_is_torch_s():
    logits = torch.randn(2, 3, 7)
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    loss = cross_entropy(logits, labels, 0.2)
    log_probs = logits.log_softmax(2)
    real = [(0, 0, 1), (0, 1, 2), (1, 0, 3)]
    wanted = -sum(0.8 * log_probs[b, t, v] + 0.2 * log_probs[b, t].mean() for b, t, v in real)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_ctc_is_the_sum_over_all_alignments():
    logits = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 2], [2, -100], [1, 1]])
    frames = torch.tensor([4, 3, 2])
    wanted = 0.0
    for row, count, text in zip(logits.log_softmax(2), frames, ("12", "2", "11")):
        paths = product(range(3), repeat=int(count))
        fit = [path for path in paths if "".join(str(a) for a, _ in groupby(path) if a) == text]
        assert bool(fit) == (
            text != "11"
        )  # two frames are too few: a blank has to separate the two
        if fit:
            wanted -= torch.stack([row[range(count), path].sum() for path in fit]).logsumexp(0)
    assert ctc_loss(logits, frames, labels, 0).item() == pytest.approx(wanted.item(), rel=1e-5)
