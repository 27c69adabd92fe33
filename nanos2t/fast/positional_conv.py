"""The positional convolution on a CPU: over an image in float32, with wider groups in bfloat16.

Shapes: B batch, T frames, H hidden_size, G groups, C = H / G channels of a group, K taps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.fast.onednn import is_supported
from nanos2t.wav2vec2 import PositionalConv

# For groups of fewer channels, oneDNN's bfloat16 kernels for AMX (torch 2.13) return wrong numbers
# and raise no error.
MIN_BFLOAT16_CHANNELS = 16


class FastPositionalConv(PositionalConv):
    """The core's PositionalConv with the same parameters, also for training in bfloat16."""

    def __init__(self, core: PositionalConv):
        nn.Module.__init__(self)
        self.groups = core.groups
        self.gain = core.gain
        self.direction = core.direction
        self.bias = core.bias
        self.activation = core.activation

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        if self.needs_wider_groups(x):
            y = self.convolve_wider_groups(x)
        elif is_supported(x, self.direction):
            y = self.convolve_image(x)
        else:
            return super().forward(x)
        return self.activation(y)  # (B, T, H)

    def needs_wider_groups(self, x: Tensor) -> bool:
        """Return whether this is bfloat16 on a CPU, with groups that oneDNN computes wrongly."""
        is_bfloat16 = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        is_narrow = self.direction.shape[1] < MIN_BFLOAT16_CHANNELS
        return is_bfloat16 and is_narrow and x.device.type == "cpu"

    def weight(self) -> Tensor:
        """Return the weight (H, C, K): one gain for each tap times the normalised direction."""
        norm = self.direction.square().sum(dim=(0, 1), keepdim=True).sqrt()  # (1, 1, K)
        return self.direction * (self.gain / norm)

    def convolve_image(self, x: Tensor) -> Tensor:  # (B, T, H)
        """Convolve x as an image of height 1 with channels last: oneDNN is faster for these."""
        image = x.transpose(1, 2)[:, :, None]  # (B, H, 1, T), a view with channels last
        weight = self.weight()[:, :, None]  # (H, C, 1, K)
        padding = (0, weight.shape[3] // 2)
        y = F.conv2d(image, weight, self.bias, padding=padding, groups=self.groups)

        # An even number of taps gives one frame too many.
        y = y[:, :, 0, : x.shape[1]]  # (B, H, T)
        return y.transpose(1, 2)  # (B, T, H)

    def convolve_wider_groups(self, x: Tensor) -> Tensor:  # (B, T, H)
        """Convolve x with each group filled up with zeros to MIN_BFLOAT16_CHANNELS channels."""
        weight = self.weight()  # (H, C, K)
        channels, taps = weight.shape[1:]
        missing = MIN_BFLOAT16_CHANNELS - channels

        # Below, 16 is MIN_BFLOAT16_CHANNELS: first the inputs, then the weight on both sides.
        grouped = x.transpose(1, 2).unflatten(1, (self.groups, channels))  # (B, G, C, T)
        grouped = F.pad(grouped, (0, 0, 0, missing)).flatten(1, 2)  # (B, G * 16, T)
        weight = weight.unflatten(0, (self.groups, channels))  # (G, C, C, K)
        weight = F.pad(weight, (0, 0, 0, missing, 0, missing)).flatten(0, 1)  # (G * 16, 16, K)

        y = F.conv1d(grouped, weight, padding=taps // 2, groups=self.groups)  # (B, G * 16, T + 1)
        y = y[:, :, : x.shape[1]]  # (B, G * 16, T)

        # Drop the outputs that were added, then add the bias.
        y = y.unflatten(1, (self.groups, -1))[:, :, :channels].flatten(1, 2)  # (B, H, T)
        y = y + self.bias.to(y.dtype)[:, None]
        return y.transpose(1, 2)  # (B, T, H)
