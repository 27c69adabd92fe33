"""What is minimised: the cross-entropy of the decoder's labels and, if asked for, CTC of the encoding."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.model import IGNORED, SpeechEncoderDecoder
from nanos2t.training.config import TrainConfig
from nanos2t.wav2vec2 import EncoderTraining


def spec_augment(
    frames: Tensor, total: int, config: EncoderTraining, rng: np.random.Generator
) -> Tensor | None:
    """Frames to mask (B, total) bool, never padding, by the law of transformers' _compute_mask_indices.

    Each item gets int(p * frames / length + u) spans, u uniform in [0, 1), at least mask_time_min_masks and
    no more than fit, at distinct starts. None if the config masks nothing.
    """
    if not config.mask_time_prob:
        return None
    length, masked = config.mask_time_length, torch.zeros(len(frames), total, dtype=torch.bool)
    u = rng.random()
    for row, count in zip(masked, frames.tolist()):
        spans = int(config.mask_time_prob * count / length + u)
        spans = min(max(spans, config.mask_time_min_masks), count // length)
        for start in rng.choice(max(count - length + 1, 0), spans, replace=False) if spans else ():
            row[start : start + length] = True
    return masked


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The sum over labels (B, T) that are not IGNORED, of logits (B, T, V)."""
    return F.cross_entropy(
        logits.flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )


def ctc_loss(logits: Tensor, frames: Tensor, said: Tensor, blank: int) -> Tensor:
    """Sum of -log p(said (B, N) | logits (B, S, V)) over all alignments (Graves et al. 2006); a clip that
    speed has left with too few frames adds 0.
    """
    log_probs, sizes = logits.float().log_softmax(2).transpose(0, 1), (said != IGNORED).sum(1)
    return F.ctc_loss(
        log_probs, said.clamp(min=0), frames, sizes, blank, reduction="sum", zero_infinity=True
    )


class TrainingModule(nn.Module):
    """What is trained: the model, and for CTC a head that reads the encoding alone and is not kept. The
    encoder learns from it where the words are (with attention: Watanabe et al. 2017).
    """

    def __init__(self, model: SpeechEncoderDecoder, config: TrainConfig):
        super().__init__()
        sizes = model.decoder.config.hidden_size, model.decoder.config.vocab_size
        self.model, self.config = model, config
        self.ctc = nn.Linear(*sizes, dtype=model.encoder.norm.weight.dtype) if config.ctc else None

    def forward(
        self,
        values: Tensor,
        mask: Tensor,
        masked: Tensor | None,
        tokens: Tensor,
        labels: Tensor,
        said: Tensor,
    ) -> Tensor:
        """The loss of a train_data.Batch, summed over its labels; `masked`: spec_augment's frames."""
        out = self.model(values, mask, None, tokens, masked)
        loss = cross_entropy(out.logits, labels, self.config.label_smoothing)
        if self.ctc is None:
            return loss
        aligned = ctc_loss(
            self.ctc(out.memory), out.frame_lengths, said, self.model.generation.pad_token_id
        )
        return loss + self.config.ctc * self.config.targets * aligned
