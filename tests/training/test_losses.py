# pytest tests/test_train_loss.py
"""What training minimises, and which frames it masks."""

from itertools import groupby, product

import numpy as np
import pytest
import torch

from nanos2t.training import losses as train_loss
from nanos2t.wav2vec2 import EncoderTraining

RNG = np.random.default_rng


def spans(row: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    text = "".join("x" if value else " " for value in row.tolist())
    return [len(run) for run in text.split()]


def test_spec_augment_masks_whole_spans_and_never_padding():
    config = EncoderTraining(mask_time_prob=0.3, mask_time_length=4, mask_time_min_masks=1)
    frames = torch.tensor([60, 23, 4, 3, 1])
    for seed in range(50):
        masked = train_loss.spec_augment(frames, 60, config, RNG(seed))
        assert masked.shape == (5, 60)
        for row, count in zip(masked, frames.tolist()):
            assert not row[count:].any()
            assert all(length >= 4 for length in spans(row))
        assert masked[2].sum() == 4 and not masked[3].any() and not masked[4].any()


def test_spec_augment_has_transformers_mean():
    compute = pytest.importorskip(
        "transformers.models.wav2vec2.modeling_wav2vec2"
    )._compute_mask_indices
    config = EncoderTraining(mask_time_prob=0.2, mask_time_length=5, mask_time_min_masks=2)
    frames, attention = torch.tensor([70, 41]), torch.arange(70) < torch.tensor([[70], [41]])
    ours = torch.stack(
        [train_loss.spec_augment(frames, 70, config, RNG(seed)) for seed in range(600)]
    ).float()
    np.random.seed(0)
    theirs = np.stack([compute((2, 70), 0.2, 5, attention, min_masks=2) for _ in range(600)])
    assert np.allclose(ours.mean((0, 2)), theirs.mean((0, 2)), atol=0.01)
    assert np.allclose(ours.std(0).mean(1), theirs.std(0).mean(1), atol=0.02)


def test_spec_augment_can_be_off():
    config = EncoderTraining(mask_time_prob=0.0)
    assert train_loss.spec_augment(torch.tensor([9]), 9, config, RNG(0)) is None


def test_label_smoothing_is_torch_s():
    logits, labels = torch.randn(2, 3, 7), torch.tensor([[1, 2, -100], [3, -100, -100]])
    found = train_loss.cross_entropy(logits, labels, 0.2)
    log_probs = logits.log_softmax(2)
    real = [(0, 0, 1), (0, 1, 2), (1, 0, 3)]
    wanted = -sum(0.8 * log_probs[b, t, v] + 0.2 * log_probs[b, t].mean() for b, t, v in real)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_ctc_is_the_sum_over_all_alignments():
    logits = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    said, frames = torch.tensor([[1, 2], [2, -100], [1, 1]]), torch.tensor([4, 3, 2])
    wanted = 0.0
    for row, count, text in zip(logits.log_softmax(2), frames, ("12", "2", "11")):
        paths = product(range(3), repeat=int(count))
        fit = [path for path in paths if "".join(str(a) for a, _ in groupby(path) if a) == text]
        assert bool(fit) == (text != "11")  # two frames are too few for it: a blank stands between
        if fit:
            wanted -= torch.stack([row[range(count), path].sum() for path in fit]).logsumexp(0)
    assert train_loss.ctc_loss(logits, frames, said, 0).item() == pytest.approx(
        wanted.item(), rel=1e-5
    )
