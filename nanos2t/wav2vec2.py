"""Speech encoder of the Wav2Vec2 family: waveform in, one vector for every 20 ms out.

The whole encoder is in this file, smallest parts first: start with `Encoder` at the end to see the data flow.

    waveform -> FeatureEncoder -> FeatureProjection -> PositionalConv -> Blocks -> Adapter -> frames

Papers: wav2vec 2.0 (Baevski et al. 2020, section 2), HuBERT (Hsu et al. 2021), XLS-R (Babu et al. 2021).
Official code: fairseq/models/wav2vec/wav2vec2.py, transformers/models/wav2vec2/modeling_wav2vec2.py.

Padding never influences real frames, so that an utterance gives the same frames alone and in a batch. Three
functions see to that, wherever an operation mixes time steps: `zero_padding` before a convolution,
`masked_group_norm` for statistics over time, and the mask of `attend`, which is made of `valid_frames`.
All three know the real length of each item from `sample_lengths` or `frame_lengths`, (B,) integers. None stands
for "nothing is padded": then no mask is built at all.

Shapes: B batch, L samples, T frames (about L / 320), S frames attended to, C conv channels, H hidden_size,
N num_heads, D head_size, K taps of a convolution.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
}


@dataclass(frozen=True)
class EncoderTraining:
    """What only training reads: rates between 0 and 1, and the spans of SpecAugment."""

    feat_proj_dropout: float = 0.0  # FeatureProjection
    hidden_dropout: float = 0.1  # Encoder, Attention, MLP
    attention_dropout: float = 0.1  # Attention
    activation_dropout: float = 0.1  # MLP
    layerdrop: float = 0.1  # Encoder
    # SpecAugment: training/ draws the spans, the encoder is told which frames to mask.
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and variants of an encoder. The defaults are facebook/wav2vec2-base."""

    # Attention, MLP and Block: the Transformer.
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    norm_eps: float = 1e-5
    activation: str = "gelu"
    # FeatureEncoder (and the activation also in PositionalConv): one entry for each convolution.
    conv_activation: str = "gelu"
    conv_channels: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    # PositionalConv.
    position_kernel: int = 128
    position_groups: int = 16
    # initialize.py: the standard deviation of new matrices.
    init_std: float = 0.02
    training: EncoderTraining = EncoderTraining()
    # Block and Encoder: norm before each sublayer (large-lv60, xlsr-53, xls-r, hubert-large) or after it.
    pre_norm: bool = False
    # FeatureEncoder: "group" is one norm over time, after the first convolution (base models); "layer" is a
    # norm over the channels of each frame, after every convolution (the models with pre_norm).
    conv_norm: str = "group"
    # FeatureEncoder: whether convolutions have a bias (the models with pre_norm).
    conv_bias: bool = False
    # FeatureProjection: whether it starts with a norm (not in some HuBERT models).
    feat_proj_norm: bool = True
    # Adapter: 3 layers in the XLS-R models for speech translation, none in all others.
    adapter_layers: int = 0
    adapter_kernel: int = 3
    adapter_stride: int = 2
    # Adapter: the width it projects to before its convolutions; None: no projection.
    adapter_size: int | None = None

    @classmethod
    def large(cls, **changes) -> "EncoderConfig":
        """facebook/wav2vec2-large-lv60, wav2vec2-large-xlsr-53, wav2vec2-xls-r-300m; `changes` are fields."""
        config = cls(
            hidden_size=1024,
            num_layers=24,
            num_heads=16,
            intermediate_size=4096,
            norm_eps=1e-5,
            activation="gelu",
            conv_activation="gelu",
            conv_channels=(512, 512, 512, 512, 512, 512, 512),
            conv_kernels=(10, 3, 3, 3, 3, 2, 2),
            conv_strides=(5, 2, 2, 2, 2, 2, 2),
            position_kernel=128,
            position_groups=16,
            init_std=0.02,
            pre_norm=True,
            conv_norm="layer",
            conv_bias=True,
            feat_proj_norm=True,
            adapter_layers=0,
        )
        return replace(config, **changes)

    @property
    def output_size(self) -> int:
        """Width of the frames that the encoder returns."""
        if self.adapter_layers and self.adapter_size:
            return self.adapter_size
        return self.hidden_size

    @property
    def min_samples(self) -> int:
        """Number of samples that one frame sees (400 in official models): shorter clips are padded to it."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides)):
            samples = (samples - 1) * stride + kernel
        return samples


def conv_output_lengths(lengths: Tensor | None, conv: nn.Conv1d) -> Tensor | None:
    """Return how many steps a convolution makes of inputs with `lengths` (B,) steps; None stays None."""
    if lengths is None:
        return None
    padding, kernel, stride = conv.padding[0], conv.kernel_size[0], conv.stride[0]
    return (lengths + 2 * padding - kernel) // stride + 1


def valid_frames(lengths: Tensor, total: int) -> Tensor:
    """Turn lengths (B,) into a mask (B, total): True for real frames, False for padding."""
    return torch.arange(total, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Set the padding of x (B, T, H) to zero, so that a convolution sees each item as if it were alone."""
    if lengths is None:
        return x
    padding = ~valid_frames(lengths, x.shape[1])  # (B, T)
    return x.masked_fill(padding[:, :, None], 0.0)  # (B, T, H)


def masked_group_norm(
    x: Tensor, lengths: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Normalise each channel of x (B, C, T) over the real frames of its item: group norm with C groups."""
    if lengths is None:
        return F.group_norm(x, x.shape[1], weight, bias, eps)
    padding = ~valid_frames(lengths, x.shape[2])[:, None]  # (B, 1, T)
    count = lengths[:, None, None]  # (B, 1, 1)
    mean = x.masked_fill(padding, 0.0).sum(2, keepdim=True) / count  # (B, C, 1)
    centred = x - mean  # (B, C, T)
    squares = centred.square().masked_fill(padding, 0.0)  # (B, C, T)
    variance = squares.sum(2, keepdim=True) / count  # (B, C, 1)
    return centred / (variance + eps).sqrt() * weight[:, None] + bias[:, None]  # (B, C, T)


def position_conv(x: Tensor, gain: Tensor, direction: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Apply a wide grouped convolution with weight norm (Salimans and Kingma 2016) to x (B, T, H)."""
    # Weight norm: each of the K taps has one gain (1, 1, K), and a direction of length 1.
    length = direction.norm(dim=(0, 1), keepdim=True)  # (1, 1, K)
    weight = gain * direction / length  # (H, H / groups, K)
    y = F.conv1d(x.transpose(1, 2), weight, bias, padding=weight.shape[2] // 2, groups=groups)
    # An even number of taps makes T + 1 frames of T: drop the last.
    y = y[:, :, : x.shape[1]]  # (B, H, T)
    return y.transpose(1, 2)  # (B, T, H)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Compute softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, equation 1).

    queries: (B, N, T, D); keys and values: (B, N, S, D); mask: bool, True where a query may look, broadcast
    to (B, N, T, S). The result is (B, N, T, D). PyTorch's function is fast, but one cannot step into it: set
    `wav2vec2.attend = wav2vec2.attend_step_by_step` to see the scores on the way.
    """
    return F.scaled_dot_product_attention(queries, keys, values, mask, dropout, is_causal)


def attend_step_by_step(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Compute what `attend` computes, written out."""
    if is_causal:
        T, S = queries.shape[2], keys.shape[2]
        mask = torch.ones(T, S, dtype=torch.bool, device=queries.device).tril()
    weights = attention_weights(queries, keys, mask)  # (B, N, T, S)
    weights = F.dropout(weights, dropout)
    return weights @ values  # (B, N, T, D)


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the attention probabilities (B, N, T, S), which `F.scaled_dot_product_attention` does not show."""
    scores = queries @ keys.transpose(2, 3)  # (B, N, T, S)
    scores = scores / math.sqrt(queries.shape[3])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=3)  # (B, N, T, S), rows sum to 1


class Attention(nn.Module):
    """Multi-head attention. Queries come from x; the caller decides where keys and values come from."""

    def __init__(self, config):
        super().__init__()
        if config.hidden_size % config.num_heads:
            raise ValueError(
                f"hidden_size {config.hidden_size} is not a multiple of num_heads {config.num_heads}"
            )
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_dropout = config.training.attention_dropout
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.training.hidden_dropout)

    def project_keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Make keys and values, (B, N, S, D) both, of a source (B, S, H)."""
        keys = self.split_heads(self.k_proj(source))  # (B, N, S, D)
        values = self.split_heads(self.v_proj(source))  # (B, N, S, D)
        return keys, values

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Let each row of x (B, T, H) look at keys and values (B, N, S, D): the result is (B, T, H)."""
        dropout = self.attention_dropout if self.training else 0.0
        queries = self.split_heads(self.q_proj(x))  # (B, N, T, D)
        y = attend(queries, keys, values, mask, is_causal, dropout)  # (B, N, T, D)
        y = y.transpose(1, 2).flatten(2)  # (B, T, H), heads side by side
        return self.dropout(self.out_proj(y))  # (B, T, H)

    def split_heads(self, x: Tensor) -> Tensor:
        """Cut the width of x (B, T, H) into heads: (B, N, T, D)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    """Feed-forward network, applied to each frame alone."""

    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.activation]()
        self.activation_dropout = nn.Dropout(config.training.activation_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.training.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        x = self.activation(self.up_proj(x))  # (B, T, intermediate_size)
        x = self.down_proj(self.activation_dropout(x))  # (B, T, H)
        return self.dropout(x)


class Block(nn.Module):
    """Self-attention and MLP, each with a norm and a residual connection."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = Attention(config)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, H), (B, 1, 1, T)
        if self.pre_norm:
            x = x + self.attend_frames(self.self_attn_norm(x), mask)
            x = x + self.mlp(self.mlp_norm(x))
        else:
            x = self.self_attn_norm(x + self.attend_frames(x, mask))
            x = self.mlp_norm(x + self.mlp(x))
        return x  # (B, T, H)

    def attend_frames(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Let each frame of x (B, T, H) look at all real frames of its item."""
        keys, values = self.self_attn.project_keys_values(x)  # (B, N, T, D) both
        return self.self_attn(x, keys, values, mask)  # (B, T, H)


class MaskedGroupNorm(nn.GroupNorm):
    """A norm over time: each channel of x (B, C, T) has a mean of 0 over the real frames of its item."""

    def forward(self, x: Tensor, frame_lengths: Tensor | None) -> Tensor:
        return masked_group_norm(x, frame_lengths, self.weight, self.bias, self.eps)  # (B, C, T)


class ChannelLayerNorm(nn.LayerNorm):
    """A norm over channels: each frame of x (B, C, T) on its own, so that padding has no influence."""

    def forward(self, x: Tensor, frame_lengths: Tensor | None) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)  # (B, C, T)


class ConvLayer(nn.Module):
    """One step of the feature encoder: convolution, norm (in some layers), activation."""

    def __init__(
        self,
        conv: nn.Conv1d,
        norm: MaskedGroupNorm | ChannelLayerNorm | None,
        activation: nn.Module,
    ):
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Turn x (B, C, T) with `lengths` (B,) real steps into fewer frames, and their lengths."""
        x = self.conv(x)  # (B, C', T')
        lengths = conv_output_lengths(lengths, self.conv)  # (B,)
        if self.norm is not None:
            x = self.norm(x, lengths)
        return self.activation(x), lengths


class FeatureEncoder(nn.Module):
    """Strided convolutions from samples to frames (wav2vec 2.0, section 2)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.min_samples = config.min_samples
        self.conv_layers = nn.ModuleList()
        in_channels = 1
        sizes = zip(config.conv_channels, config.conv_kernels, config.conv_strides)
        for i, (channels, kernel, stride) in enumerate(sizes):
            conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=config.conv_bias)
            norm = None
            if config.conv_norm == "layer":
                norm = ChannelLayerNorm(channels)
            elif i == 0:
                norm = MaskedGroupNorm(channels, channels)
            activation = ACTIVATIONS[config.conv_activation]()
            self.conv_layers.append(ConvLayer(conv, norm, activation))
            in_channels = channels

    def forward(
        self, x: Tensor, sample_lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:  # (B, L), (B,)
        """Turn waveforms (B, L) into frames (B, T, C) and their lengths (B,)."""
        x = zero_padding(x[:, :, None], sample_lengths)  # (B, L, 1)
        x = x.transpose(1, 2)  # (B, 1, L)

        # A clip shorter than one frame counts as one frame, with zeros at its end.
        missing = self.min_samples - x.shape[2]
        if missing > 0:
            x = F.pad(x, (0, missing))
        lengths = sample_lengths
        if lengths is not None:
            lengths = lengths.clamp(min=self.min_samples)

        for layer in self.conv_layers:
            x, lengths = layer(x, lengths)  # (B, C, T), (B,)
        return x.transpose(1, 2), lengths  # (B, T, C), (B,)


class FeatureProjection(nn.Module):
    """From the width of the convolutions to that of the Transformer."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        channels = config.conv_channels[-1]
        self.norm = nn.Identity()
        if config.feat_proj_norm:
            self.norm = nn.LayerNorm(channels, config.norm_eps)
        self.proj = nn.Linear(channels, config.hidden_size)
        self.dropout = nn.Dropout(config.training.feat_proj_dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C)
        return self.dropout(self.proj(self.norm(x)))  # (B, T, H)


class PositionalConv(nn.Module):
    """Relative positions from a convolution instead of a table. Its weight is kept as gain and direction."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        size = config.hidden_size
        self.groups = config.position_groups
        self.gain = nn.Parameter(torch.empty(1, 1, config.position_kernel))
        self.direction = nn.Parameter(
            torch.empty(size, size // config.position_groups, config.position_kernel)
        )
        self.bias = nn.Parameter(torch.empty(size))
        self.activation = ACTIVATIONS[config.conv_activation]()

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        y = position_conv(x, self.gain, self.direction, self.bias, self.groups)  # (B, T, H)
        return self.activation(y)


class AdapterLayer(nn.Module):
    """A strided convolution to twice the channels, of which a GLU keeps half (Dauphin et al. 2017)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        size = config.output_size
        self.conv = nn.Conv1d(
            size, 2 * size, config.adapter_kernel, config.adapter_stride, padding=1
        )
        self.activation = nn.GLU(dim=1)

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Turn x (B, T, H) with `lengths` (B,) real frames into T / stride frames, and their lengths."""
        x = zero_padding(x, lengths)
        x = self.conv(x.transpose(1, 2))  # (B, 2 * H, T / stride)
        x = self.activation(x)  # (B, H, T / stride)
        return x.transpose(1, 2), conv_output_lengths(lengths, self.conv)


class Adapter(nn.Module):
    """Shortens the frames towards the length of text: each layer by `adapter_stride`. It may have no layers."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.proj = nn.Identity()
        self.norm = nn.Identity()
        if config.output_size != config.hidden_size:
            self.proj = nn.Linear(config.hidden_size, config.output_size)
            self.norm = nn.LayerNorm(config.output_size)
        self.layers = nn.ModuleList(AdapterLayer(config) for _ in range(config.adapter_layers))

    def forward(
        self, x: Tensor, frame_lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:  # (B, T, H), (B,)
        x = self.norm(self.proj(x))
        for layer in self.layers:
            x, frame_lengths = layer(x, frame_lengths)
        return x, frame_lengths


class Encoder(nn.Module):
    """Waveforms to frames: convolutions, projection, positions, Transformer blocks, adapter."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.feature_encoder = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = None
        if config.training.mask_time_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.positions = PositionalConv(config)
        self.dropout = nn.Dropout(config.training.hidden_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.adapter = Adapter(config)

    def forward(
        self,
        input_values: Tensor,
        sample_lengths: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encode waveforms (B, L) as frames (B, T, H), and return the frame lengths (B,).

        sample_lengths: (B,), the real samples of each item; None: nothing is padded, and the frame lengths
        are None, too. mask_time_indices: (B, T) bool, frames to replace by `masked_spec_embed` (SpecAugment;
        wav2vec 2.0, section 3.1).
        """
        x, frame_lengths = self.feature_encoder(input_values, sample_lengths)  # (B, T, C), (B,)
        x = self.feature_projection(x)  # (B, T, H)

        # SpecAugment.
        if mask_time_indices is not None:
            x = torch.where(mask_time_indices[:, :, None], self.masked_spec_embed, x)  # (B, T, H)

        # Add positions: the convolution must not see padding.
        x = zero_padding(x, frame_lengths)
        x = x + self.positions(x)
        if not self.config.pre_norm:
            x = self.norm(x)
        x = self.dropout(x)

        # No frame attends to padding.
        mask = None
        if frame_lengths is not None:
            mask = valid_frames(frame_lengths, x.shape[1])[:, None, None]  # (B, 1, 1, T)

        for block in self.blocks:
            is_dropped = self.training and torch.rand(()) < self.config.training.layerdrop
            if not is_dropped:
                x = block(x, mask)  # (B, T, H)
        if self.config.pre_norm:
            x = self.norm(x)
        return self.adapter(x, frame_lengths)
