"""Positional convolutions on a CPU: over an image in float32, with wider groups in bfloat16.

Shapes: B batch, T frames, H hidden_size, G groups, C = H / G channels of a group, K taps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.fast.onednn import is_supported
from nanos2t.wav2vec2 import Encoder, PositionalConv, PositionalConvLayer

# For groups of fewer channels, oneDNN's bfloat16 kernels for AMX (torch 2.13) return wrong numbers
# and raise no error.
MIN_BFLOAT16_CHANNELS = 16


def replace_positions(encoder: Encoder) -> None:
    """Put fast modules, with the same parameters, in the place of the positional convolutions."""
    if isinstance(encoder.positions, PositionalConv):
        encoder.positions = FastPositionalConv(encoder.positions)
        return
    layers = encoder.positions.layers
    for i, layer in enumerate(layers):
        layers[i] = FastPositionalConvLayer(layer)


class FastPositionalConv(PositionalConv):
    """The core's PositionalConv with the same parameters, also for training in bfloat16."""

    def __init__(self, core: PositionalConv):
        nn.Module.__init__(self)
        self.groups = core.groups
        self.gain = core.gain
        self.direction = core.direction
        self.bias = core.bias
        self.activation = core.activation

    def forward(self, x: Tensor, frame_lengths: Tensor | None = None) -> Tensor:  # (B, T, H)
        if is_core_best(x, self.direction):
            return super().forward(x, frame_lengths)

        # One gain for each tap times the normalised direction.
        norm = self.direction.square().sum(dim=(0, 1), keepdim=True).sqrt()  # (1, 1, K)
        weight = self.direction * (self.gain / norm)  # (H, C, K)
        return self.activation(convolve(x, weight, self.bias, self.groups))  # (B, T, H)


class FastPositionalConvLayer(PositionalConvLayer):
    """The core's PositionalConvLayer with the same parameters."""

    def __init__(self, core: PositionalConvLayer):
        nn.Module.__init__(self)
        self.conv = core.conv
        self.norm = core.norm
        self.activation = core.activation

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        if is_core_best(x, self.conv.weight):
            return super().forward(x)

        y = convolve(x, self.conv.weight, self.conv.bias, self.conv.groups)  # (B, T, H)
        return self.activation(self.norm(y))  # (B, T, H)


def is_core_best(x: Tensor, weight: Tensor) -> bool:
    """Return whether `convolve` is no help for x (B, T, H) and a weight (H, C, K)."""
    return not needs_wider_groups(x, weight) and not is_supported(x, weight)


def needs_wider_groups(x: Tensor, weight: Tensor) -> bool:
    """Return whether this is bfloat16 on a CPU, with groups that oneDNN computes wrongly."""
    is_bfloat16 = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    is_narrow = weight.shape[1] < MIN_BFLOAT16_CHANNELS
    return is_bfloat16 and is_narrow and x.device.type == "cpu"


def convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Convolve x (B, T, H) over time with a weight (H, C, K) and a bias (H,)."""
    if needs_wider_groups(x, weight):
        return convolve_wider_groups(x, weight, bias, groups)
    return convolve_image(x, weight, bias, groups)  # (B, T, H)


def convolve_image(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Convolve x as an image of height 1 with channels last: oneDNN is faster for these."""
    image = x.transpose(1, 2)[:, :, None]  # (B, H, 1, T), a view with channels last
    kernel = weight[:, :, None]  # (H, C, 1, K)
    padding = (0, kernel.shape[3] // 2)
    y = F.conv2d(image, kernel, bias, padding=padding, groups=groups)

    # An even number of taps gives one frame too many.
    y = y[:, :, 0, : x.shape[1]]  # (B, H, T)
    return y.transpose(1, 2)  # (B, T, H)


def convolve_wider_groups(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Convolve x with each group filled up with zeros to MIN_BFLOAT16_CHANNELS channels."""
    channels, taps = weight.shape[1:]
    missing = MIN_BFLOAT16_CHANNELS - channels

    # Below, 16 is MIN_BFLOAT16_CHANNELS: first the inputs, then the weight on both sides.
    grouped = x.transpose(1, 2).unflatten(1, (groups, channels))  # (B, G, C, T)
    grouped = F.pad(grouped, (0, 0, 0, missing)).flatten(1, 2)  # (B, G * 16, T)
    weight = weight.unflatten(0, (groups, channels))  # (G, C, C, K)
    weight = F.pad(weight, (0, 0, 0, missing, 0, missing)).flatten(0, 1)  # (G * 16, 16, K)

    y = F.conv1d(grouped, weight, padding=taps // 2, groups=groups)  # (B, G * 16, T + 1)
    y = y[:, :, : x.shape[1]]  # (B, G * 16, T)

    # Drop the outputs that were added, then add the bias.
    y = y.unflatten(1, (groups, -1))[:, :, :channels].flatten(1, 2)  # (B, H, T)
    y = y + bias.to(y.dtype)[:, None]
    return y.transpose(1, 2)  # (B, T, H)
