"""The numbers of our model and of transformers', compared item by item."""

import torch

from nanos2t.model import SpeechEncoderDecoder

SAMPLES = 191, 230, 97


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Waveforms, their mask and labels of different lengths."""
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(len(SAMPLES), max(SAMPLES), generator=generator, dtype=torch.float64)
    mask = (torch.arange(max(SAMPLES)) < torch.tensor(SAMPLES)[:, None]).long()
    labels = torch.randint(4, 43, (len(SAMPLES), 7), generator=generator)
    labels[0, 5:] = labels[2, 3:] = -100
    return waveforms * mask, mask, labels


@torch.no_grad()
def assert_same_numbers(theirs, ours: SpeechEncoderDecoder) -> float:
    """Compare a padded batch of ours with transformers' items alone, where there are labels.

    Returns the largest difference of logits; the loss is compared, too.
    """
    waveforms, mask, labels = batch()
    actual, worst = ours(waveforms, mask, labels), 0.0
    total = 0.0
    for i, samples in enumerate(SAMPLES):
        alone = theirs(input_values=waveforms[i : i + 1, :samples], labels=labels[i : i + 1])
        real = int((labels[i] != -100).sum())
        worst = max(worst, float((actual.logits[i, :real] - alone.logits[0, :real]).abs().max()))
        total += float(alone.loss) * real
    assert worst < 1e-10
    assert abs(actual.loss.item() - total / int((labels != -100).sum())) < 1e-10
    return worst
