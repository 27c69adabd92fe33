"""Inputs of the checks: random numbers, small modules with random weights, a toy model for
searches.

All numbers come from numpy's RandomState, which gives the same on every machine, and are float64.
"""

import numpy as np
import torch
from torch import Tensor, nn

from nanos2t.decoder import DecoderConfig
from nanos2t.wav2vec2 import EncoderConfig

NORMS = (nn.LayerNorm, nn.GroupNorm)

SMALL_ENCODER = {
    "hidden_size": 12,
    "num_layers": 1,
    "num_heads": 3,
    "intermediate_size": 7,
    "conv_bias": True,
    "conv_channels": (4, 5, 6),
    "conv_kernels": (5, 3, 2),
    "conv_strides": (3, 2, 1),
    "position_kernel": 4,
    "position_groups": 3,
}
SMALL_DECODER = {
    "hidden_size": 12,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_size": 7,
    "max_positions": 9,
}
BERT = DecoderConfig.bert(11, **SMALL_DECODER)
GPT2 = DecoderConfig.gpt2(11, **SMALL_DECODER)
MBART = DecoderConfig.mbart(11, **(SMALL_DECODER | {"embed_scale": 2.5}))


class Draw:
    """Draws the random inputs of a check: draw(seed, 2, 3) are normal numbers of shape (2, 3).

    The same seed and shape give the same numbers. With another `shift` all of them are others:
    the answers in keys/ are those for shift 0.
    """

    def __init__(self, shift: int = 0):
        self.shift = shift

    def generator(self, seed: int) -> np.random.RandomState:
        return np.random.RandomState((seed + 1000 * self.shift) % 2**32)

    def __call__(self, seed: int, *shape: int) -> Tensor:
        return torch.from_numpy(self.generator(seed).standard_normal(shape))

    @torch.no_grad()
    def weights(self, module: nn.Module, seed: int) -> nn.Module:
        """Return the module in float64 and eval mode, with weights so large that mistakes show."""
        random = self.generator(seed)
        for part in module.double().eval().modules():
            for name, weight in part.named_parameters(recurse=False):
                noise = torch.from_numpy(random.standard_normal(weight.shape))
                if isinstance(part, NORMS) and name == "weight":
                    noise = 1 + 0.3 * noise
                elif weight.ndim == 1:
                    noise = 0.3 * noise
                elif not isinstance(part, nn.Embedding):
                    fan_in = weight[0].numel()
                    noise = 1.5 / fan_in**0.5 * noise
                weight.copy_(noise)
        return module.requires_grad_(False)

    def toy_model(self, seed: int) -> "ToyModel":
        """Return the same model for each shift: on 1 of 20 others two right searches differ."""
        size = ToyModel.vocab_size
        return ToyModel(2 * Draw()(seed, size, size, size).float())


def drop_all(module: nn.Module) -> nn.Module:
    """Return the module with a dropout that drops all numbers: then nothing is left to chance."""
    module.train()
    module.dropout.p = 1.0
    module.attention_dropout = 0.0
    return module


# What the keys are made of
STORED = Draw()


def encoder_config(**fields) -> EncoderConfig:
    return EncoderConfig(**(SMALL_ENCODER | fields))


def frame_mask(*lengths: int) -> Tensor:
    """Return a mask of real frames, bool (B, T), as nanos2t.wav2vec2.valid_frames does."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def memory_mask(*lengths: int) -> Tensor:
    """Return a mask of real frames for attention, bool (B, 1, 1, T)."""
    return frame_mask(*lengths)[:, None, None]


def replace_end(x: Tensor, start: int, dim: int = 1) -> Tensor:
    """Return x with other values from index `start` of a dimension on."""
    kept = x.narrow(dim, 0, start)
    changed = x.narrow(dim, start, x.shape[dim] - start)
    return torch.cat([kept, 9 + changed], dim)


class ToyModel:
    """`next_logits` of a model that remembers the tokens of each row, as a cache does.

    The logits depend on the last two tokens that it remembers, so wrong `parents` change the
    result.
    """

    vocab_size = 7

    def __init__(self, table: Tensor):
        self.table = table  # (V, V, V), the last dimension are the logits
        self.rows = torch.zeros(0, 0, dtype=torch.long)

    def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        # Row i goes on from what row parents[i] was; the first call has no rows yet.
        if parents is not None:
            self.rows = self.rows[parents]
        new = tokens[:, self.rows.shape[1] :]
        self.rows = torch.cat([self.rows, new], 1) if self.rows.numel() else new

        last = self.rows[:, -1]
        before = torch.zeros_like(last)
        if self.rows.shape[1] > 1:
            before = self.rows[:, -2]
        return self.table[before, last]
