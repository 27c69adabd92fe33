"""Speech encoder of the Wav2Vec2 family: waveform in, one vector for every 20 ms out.

    waveform (B, L)
        -> FeatureEncoder: strided convolutions, 320 samples to one frame (B, T, C)
        -> FeatureProjection: to the width of the Transformer (B, T, H)
        -> PositionalConv: its output is added to its input (B, T, H); a stack in data2vec
        -> Blocks: self-attention and MLP (B, T, H)
        -> Adapter: fewer frames, in speech translation models only

The file begins with the smallest parts. `Encoder`, at its end, shows how they work together. What
only WavLM and data2vec have comes before it: skip it at first.

Papers: wav2vec 2.0 (Baevski et al. 2020, section 2), HuBERT (Hsu et al. 2021), XLS-R (Babu et al.
2021), WavLM (Chen et al. 2021), data2vec (Baevski et al. 2022). Official code:
fairseq/models/wav2vec/wav2vec2.py, and in transformers models/wav2vec2/modeling_wav2vec2.py.

Padding never influences real frames: an utterance gives the same frames alone and in a batch. Every
operation that mixes time steps is masked, in one of these ways:

    zero_padding        before the feature encoder, each positional convolution, each adapter layer
    masked_group_norm   in the first layer of the feature encoder, if its norm is over time
    mask_padding        in self-attention, and in the decoder's cross-attention to the frames

All of them get the number of real samples or frames of each item, `sample_lengths` or
`frame_lengths` (B,). None means that nothing is padded: then no mask is built.

Shapes: B batch, L samples, T frames, S frames attended to, C channels of the convolutions,
H hidden_size, N num_heads, D head_size, K taps (the width of a convolution).
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# What a config calls an activation, and the module for it.
ACTIVATIONS = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
}


@dataclass(frozen=True)
class EncoderTraining:
    """Settings that only training uses. The dropouts and layerdrop are probabilities."""

    feat_proj_dropout: float = 0.0  # FeatureProjection
    hidden_dropout: float = 0.1  # Encoder, Attention, MLP
    attention_dropout: float = 0.1  # Attention
    activation_dropout: float = 0.1  # MLP
    layerdrop: float = 0.1  # Encoder: how often a block is skipped

    # SpecAugment. training/losses.py draws the spans; the encoder is told which frames to mask.
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and variants of the encoder. The defaults are those of facebook/wav2vec2-base.

    Those of `training` are the defaults of transformers' Wav2Vec2Config.
    The comment above a field names the class that reads it, and the models with another value.
    """

    # Attention, MLP, Block: the sizes of the Transformer.
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    norm_eps: float = 1e-5
    activation: str = "gelu"

    # FeatureEncoder, PositionalConv: the activation after a convolution.
    conv_activation: str = "gelu"

    # FeatureEncoder: one entry for each convolution.
    conv_channels: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)

    # PositionalConv, PositionalConvStack.
    position_kernel: int = 128
    position_groups: int = 16

    # PositionalConvStack: the number of its layers. 5 in data2vec-audio; 0 is a PositionalConv.
    position_layers: int = 0

    # RelativePositions: how many distances between frames are told apart, and from which distance
    # on all are the same. 320 and 800 in WavLM; with 0, self-attention knows no distances.
    distance_buckets: int = 0
    max_distance: int = 800

    # initialize.py: the standard deviation of new matrices.
    init_std: float = 0.02

    # All modules with a dropout, and Encoder.
    training: EncoderTraining = EncoderTraining()

    # Block, Encoder: norms before attention and MLP instead of after them. True in
    # wav2vec2-large-lv60, wav2vec2-large-xlsr-53, wav2vec2-xls-r-*, hubert-large-*, wavlm-large.
    pre_norm: bool = False

    # FeatureEncoder: "group" is one norm over time, after the first convolution; "layer" is a norm
    # over the channels of each frame, after every convolution. "layer" in the models with pre_norm
    # and in data2vec-audio.
    conv_norm: str = "group"

    # FeatureEncoder: whether its convolutions have a bias. True in the models with pre_norm, except
    # wavlm-large.
    conv_bias: bool = False

    # FeatureProjection: whether it begins with a norm. False in some models of HuBERT.
    feat_proj_norm: bool = True

    # Adapter: the number of its layers. 3 in the XLS-R models for speech translation.
    adapter_layers: int = 0
    adapter_kernel: int = 3
    adapter_stride: int = 2

    # Adapter: the width that it projects the frames to. None means hidden_size, no projection.
    adapter_size: int | None = None

    @classmethod
    def large(cls, **changes) -> "EncoderConfig":
        """Return facebook/wav2vec2-large-lv60, with `changes` to any fields.

        wav2vec2-large-xlsr-53 and wav2vec2-xls-r-300m have the same sizes.
        """
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
            position_layers=0,
            distance_buckets=0,
            max_distance=800,
            init_std=0.02,
            pre_norm=True,
            conv_norm="layer",
            conv_bias=True,
            feat_proj_norm=True,
            adapter_layers=0,
            adapter_kernel=3,
            adapter_stride=2,
            adapter_size=None,
        )
        return replace(config, **changes)

    @property
    def output_size(self) -> int:
        """The width of the frames that the encoder returns."""
        if self.adapter_layers and self.adapter_size:
            return self.adapter_size
        return self.hidden_size

    @property
    def min_samples(self) -> int:
        """The number of samples that make one frame: 400 in all official models."""
        return self.count_samples(1)

    def count_samples(self, num_frames: int) -> int:
        """Return the number of samples that make `num_frames` frames before the adapter."""
        # Go from the frames back to the samples, from the last convolution to the first.
        samples = num_frames
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides)):
            samples = (samples - 1) * stride + kernel
        return samples


def conv_output_lengths(lengths: Tensor | None, conv: nn.Conv1d) -> Tensor | None:
    """Return the lengths (B,) of a convolution's outputs for inputs with lengths (B,), or None.

    As in transformers, the number for an input much shorter than the kernel may be negative. That
    is no frame, as 0 is.
    """
    if lengths is None:
        return None
    return (lengths + 2 * conv.padding[0] - conv.kernel_size[0]) // conv.stride[0] + 1


def valid_frames(lengths: Tensor, total: int) -> Tensor:
    """Return a mask (B, total) for lengths (B,): True for real frames, False for padding."""
    return torch.arange(total, device=lengths.device) < lengths[:, None]


def mask_padding(lengths: Tensor | None, total: int) -> Tensor | None:
    """Return a mask (B, 1, 1, total) for attention to items with lengths (B,).

    True for real frames, False for padding, the same for each head and query. None for None.
    """
    if lengths is None:
        return None
    return valid_frames(lengths, total)[:, None, None]  # (B, 1, 1, total)


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (B, T, H) with its padding set to zero, given the lengths (B,) of its items.

    A convolution then sees what it would see if each item were alone.
    """
    if lengths is None:
        return x
    padding = ~valid_frames(lengths, x.shape[1])  # (B, T)
    return x.masked_fill(padding[:, :, None], 0.0)  # (B, T, H)


def masked_group_norm(
    x: Tensor, lengths: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Normalise each channel of x (B, C, T) over time, given the lengths (B,) of the items.

    This is group norm (Wu and He 2018) with a group for each channel. Its mean and variance are
    those of the real frames. weight and bias: (C,).
    """
    if lengths is None:
        return F.group_norm(x, x.shape[1], weight, bias, eps)
    is_real = valid_frames(lengths, x.shape[2])[:, None]  # (B, 1, T)
    count = lengths[:, None, None]  # (B, 1, 1)

    # Sums over so many frames do not fit in float16: compute in float32 at least, as torch does.
    dtype = torch.promote_types(x.dtype, torch.float32)

    # Padding counts neither in the sums nor in what they are divided by.
    mean = torch.where(is_real, x, 0.0).sum(2, keepdim=True, dtype=dtype) / count  # (B, C, 1)
    centred = x - mean  # (B, C, T)
    squares = torch.where(is_real, centred.square(), 0.0)  # (B, C, T)
    variance = squares.sum(2, keepdim=True) / count  # (B, C, 1)

    # As in every norm: a mean of 0 and a variance of 1, then weight and bias.
    scale = weight[:, None] / (variance + eps).sqrt()  # (B, C, 1)
    return (centred * scale + bias[:, None]).to(x.dtype)  # (B, C, T)


def position_conv(x: Tensor, gain: Tensor, direction: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Apply a grouped convolution over time to x (B, T, H), with as many frames out as in.

    Its weight is in weight norm (Salimans and Kingma 2016): direction (H, H / groups, K), and a
    gain (1, 1, K) for each tap. bias: (H,).
    """
    # Each tap of the direction is a matrix, whose norm becomes the gain.
    norm = direction.square().sum(dim=(0, 1), keepdim=True).sqrt()  # (1, 1, K)
    weight = direction * (gain / norm)  # (H, H / groups, K)
    y = F.conv1d(x.transpose(1, 2), weight, bias, padding=weight.shape[2] // 2, groups=groups)

    # An even K gives T + 1 frames: drop the last.
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

    queries: (B, N, T, D); keys and values: (B, N, S, D). The result is (B, N, T, D).
    mask: bool, True where a query may look at a key; or numbers that are added to the scores. Its
    shape broadcasts to (B, N, T, S).
    is_causal, without a mask: query t looks at keys 0 ... t.

    A debugger cannot step into PyTorch's function. To see the scores, switch to the same
    computation in steps, for both encoder and decoder, with the line
    `wav2vec2.attend = wav2vec2.attend_step_by_step`.
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
    """Compute what `attend` computes, from the same arguments, one step at a time.

    One thing differs: a query whose keys are all masked gets NaN here, and 0 there.
    """
    if is_causal:
        sizes = (queries.shape[2], keys.shape[2])
        mask = torch.ones(sizes, dtype=torch.bool, device=queries.device).tril()  # (T, S)
    weights = attention_weights(queries, keys, mask)  # (B, N, T, S)
    weights = F.dropout(weights, dropout)
    return weights @ values  # (B, N, T, D)


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the attention probabilities (B, N, T, S), which `attend` does not return.

    Each row sums to 1. queries: (B, N, T, D); keys: (B, N, S, D); mask: see `attend`.
    """
    scores = queries @ keys.transpose(2, 3)  # (B, N, T, S)
    scores = scores / math.sqrt(queries.shape[3])

    # exp(-inf) is 0: a key that is masked gets the probability 0.
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(dim=3)  # (B, N, T, S)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2).

    The caller provides keys and values, so that self-attention, cross-attention and attention to
    cached tokens are the same code. config: an EncoderConfig or a DecoderConfig.
    """

    def __init__(self, config):
        super().__init__()
        if config.hidden_size % config.num_heads:
            raise ValueError(
                f"hidden_size is {config.hidden_size}, expected a multiple of num_heads "
                f"({config.num_heads})"
            )
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        # A number, not a module: `attend` applies it to the attention probabilities.
        self.attention_dropout = config.training.attention_dropout
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.training.hidden_dropout)

    def project_keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (B, N, S, D), of the source (B, S, H)."""
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
        """Return x (B, T, H) after attention to keys and values (B, N, S, D).

        mask and is_causal: as in `attend`.
        """
        queries = self.split_heads(self.q_proj(x))  # (B, N, T, D)
        dropout = self.attention_dropout if self.training else 0.0
        y = attend(queries, keys, values, mask, is_causal, dropout)  # (B, N, T, D)

        # Put the heads side by side again.
        y = y.transpose(1, 2).flatten(2)  # (B, T, H)
        return self.dropout(self.out_proj(y))  # (B, T, H)

    def split_heads(self, x: Tensor) -> Tensor:  # (B, T, H)
        x = x.unflatten(2, (self.num_heads, -1))  # (B, T, N, D)
        return x.transpose(1, 2)  # (B, N, T, D)


class MLP(nn.Module):
    """The feed-forward network of a block, applied to each time step on its own.

    config: an EncoderConfig or a DecoderConfig.
    """

    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.activation]()
        self.activation_dropout = nn.Dropout(config.training.activation_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.training.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        x = self.activation(self.up_proj(x))  # (B, T, intermediate_size)
        x = self.activation_dropout(x)
        return self.dropout(self.down_proj(x))  # (B, T, H)


class Block(nn.Module):
    """A Transformer layer: self-attention and MLP, each with a residual connection and a norm."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = Attention(config)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, H), (B, 1, 1, T)
        if self.pre_norm:  # wav2vec2-large-lv60, XLS-R, hubert-large
            x = x + self.attend_frames(self.self_attn_norm(x), mask)
            x = x + self.mlp(self.mlp_norm(x))
        else:  # wav2vec2-base, hubert-base
            x = self.self_attn_norm(x + self.attend_frames(x, mask))
            x = self.mlp_norm(x + self.mlp(x))
        return x  # (B, T, H)

    def attend_frames(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from each frame of x (B, T, H) to all real frames of its item."""
        keys, values = self.self_attn.project_keys_values(x)  # 2 x (B, N, T, D)
        return self.self_attn(x, keys, values, mask)  # (B, T, H)


class MaskedGroupNorm(nn.GroupNorm):
    """A norm over time: each channel of x (B, C, T) is normalised over its item's real frames."""

    def forward(self, x: Tensor, frame_lengths: Tensor | None) -> Tensor:
        return masked_group_norm(x, frame_lengths, self.weight, self.bias, self.eps)  # (B, C, T)


class ChannelLayerNorm(nn.LayerNorm):
    """A norm over channels: each frame of x (B, C, T) is normalised alone, so no mask is needed."""

    def forward(self, x: Tensor, frame_lengths: Tensor | None) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)  # (B, C, T)


class ConvLayer(nn.Module):
    """A layer of the feature encoder: convolution, norm (None in some layers), activation."""

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
        """Return x (B, C, T) and lengths (B,) after this layer: with fewer time steps."""
        x = self.conv(x)
        lengths = conv_output_lengths(lengths, self.conv)
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

            # A norm in every layer, or only in the first one.
            norm = None
            if config.conv_norm == "layer":
                norm = ChannelLayerNorm(channels)
            elif i == 0:
                norm = MaskedGroupNorm(channels, channels)

            activation = ACTIVATIONS[config.conv_activation]()
            self.conv_layers.append(ConvLayer(conv, norm, activation))
            in_channels = channels

    def forward(self, x: Tensor, sample_lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, C) and frame_lengths (B,) of x (B, L) and sample_lengths (B,)."""
        # A clip that is shorter than one frame is filled up with zeros, and counts as one frame.
        # The convolutions are not padded, so any other real frame sees only real samples.
        x = zero_padding(x[:, :, None], sample_lengths)  # (B, L, 1)

        # One channel. Indexing gives (B, 1, L) with other strides than `transpose`, whose
        # convolutions are slower.
        x = x[:, None, :, 0]  # (B, 1, L)
        missing = self.min_samples - x.shape[2]
        if missing > 0:
            x = F.pad(x, (0, missing))  # (B, 1, min_samples)
        lengths = sample_lengths
        if lengths is not None:
            lengths = lengths.clamp(min=self.min_samples)

        # From samples to frames.
        for layer in self.conv_layers:
            x, lengths = layer(x, lengths)  # (B, C, T), (B,)
        return x.transpose(1, 2), lengths  # (B, T, C), (B,)


class FeatureProjection(nn.Module):
    """A norm and a linear layer, from the width of the convolutions to that of the Transformer."""

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


def check_groups(config: EncoderConfig) -> None:
    """Raise ValueError if the width cannot be split into the groups of positional convolutions."""
    size = config.hidden_size
    groups = config.position_groups
    if groups < 1 or size % groups:
        raise ValueError(
            f"hidden_size is {size}, expected a multiple of position_groups ({groups})"
        )


class PositionalConv(nn.Module):
    """Positions by a wide convolution instead of a table (wav2vec 2.0, section 2).

    Its weight stays in weight norm, as gain and direction, as it is in official checkpoints.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        check_groups(config)
        size = config.hidden_size
        kernel = config.position_kernel
        self.groups = config.position_groups
        self.gain = nn.Parameter(torch.empty(1, 1, kernel))
        self.direction = nn.Parameter(torch.empty(size, size // self.groups, kernel))
        self.bias = nn.Parameter(torch.empty(size))
        self.activation = ACTIVATIONS[config.conv_activation]()

    def forward(self, x: Tensor, frame_lengths: Tensor | None = None) -> Tensor:  # (B, T, H)
        # The lengths (B,) are for a PositionalConvStack, which has padding between its layers.
        y = position_conv(x, self.gain, self.direction, self.bias, self.groups)  # (B, T, H)
        return self.activation(y)


class AdapterLayer(nn.Module):
    """A strided convolution and a gated linear unit (GLU, Dauphin et al. 2017).

    The convolution doubles the width. In the GLU, one half gates the other.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        size = config.output_size
        self.conv = nn.Conv1d(
            size, 2 * size, config.adapter_kernel, config.adapter_stride, padding=1
        )
        self.activation = nn.GLU(dim=1)

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return x (B, T, H) and lengths (B,) after this layer: with T / stride frames."""
        x = zero_padding(x, lengths)
        x = self.conv(x.transpose(1, 2))  # (B, 2 * H, T / stride)
        x = self.activation(x)  # (B, H, T / stride)
        lengths = conv_output_lengths(lengths, self.conv)
        return x.transpose(1, 2), lengths


class Adapter(nn.Module):
    """Layers that reduce the number of frames towards that of the tokens: 8 times in XLS-R.

    With adapter_layers = 0, it does nothing.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        # A projection and a norm, if the adapter has a width of its own.
        self.proj = nn.Identity()
        self.norm = nn.Identity()
        if config.output_size != config.hidden_size:
            self.proj = nn.Linear(config.hidden_size, config.output_size)
            self.norm = nn.LayerNorm(config.output_size)
        self.layers = nn.ModuleList(AdapterLayer(config) for _ in range(config.adapter_layers))

    def forward(self, x: Tensor, frame_lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return x (B, T, H) and frame_lengths (B,) after the adapter: with fewer frames."""
        x = self.norm(self.proj(x))
        for layer in self.layers:
            x, frame_lengths = layer(x, frame_lengths)  # (B, T / stride, H), (B,)
        return x, frame_lengths


# WavLM: self-attention adds a bias for the distance of two frames to their score


def find_distance_buckets(times: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return the bucket (T, T) of the distance from each frame to each other; times: (T,).

    Raffel et al. 2020 (T5), section 2.1: half of the buckets are for frames that come later. Short
    distances have a bucket each. Longer ones share buckets, which get wider with the logarithm of
    the distance; from max_distance on there is only the last.
    """
    distances = times - times[:, None]  # (T, T), from the row's frame to the column's
    num_buckets = num_buckets // 2
    num_exact = num_buckets // 2

    # In float32, as transformers: at the edge of a bucket, the last bit decides.
    steps = (distances.abs().float() / num_exact).log()
    steps = steps / math.log(max_distance / num_exact) * (num_buckets - num_exact)
    shared = (num_exact + steps).clamp(max=num_buckets - 1)  # (T, T)

    buckets = torch.where(distances.abs() < num_exact, distances.abs(), shared.long())
    return torch.where(distances > 0, buckets + num_buckets, buckets)  # (T, T)


def hide_padding(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return scores (B, N, T, S) with -inf where the mask of `mask_padding` is False."""
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf)


class PositionMask(NamedTuple):
    """What a RelativeBlock is given in place of a mask."""

    padding: Tensor | None  # (B, 1, 1, T), see mask_padding
    biases: Tensor  # (N, T, T), see RelativePositions


class RelativePositions(nn.Module):
    """A learned bias for each distance between two frames and each head, shared by all blocks."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        num_buckets = config.distance_buckets
        if num_buckets < 4 or config.max_distance <= num_buckets // 4:
            raise ValueError(
                f"distance_buckets is {num_buckets} and max_distance {config.max_distance}, "
                "expected at least 4, and more than a quarter of that"
            )
        self.max_distance = config.max_distance
        self.biases = nn.Embedding(num_buckets, config.num_heads)

    def forward(self, frame_lengths: Tensor | None, total: int) -> PositionMask:
        """Return what each block makes its mask of, for `total` frames and frame_lengths (B,)."""
        times = torch.arange(total, device=self.biases.weight.device)  # (T,)
        num_buckets = self.biases.num_embeddings
        buckets = find_distance_buckets(times, num_buckets, self.max_distance)  # (T, T)
        biases = self.biases(buckets)  # (T, T, N)
        return PositionMask(mask_padding(frame_lengths, total), biases.permute(2, 0, 1))


class PositionGate(nn.Module):
    """How much each frame cares about distances, in each head: the factor of its biases.

    The gated relative position bias of WavLM: (1 + g + (1 - g) * s * r) * bias, where the gates g
    and r depend on the frame, and the scale s is learned.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.proj = nn.Linear(config.hidden_size // config.num_heads, 8)
        self.scale = nn.Parameter(torch.empty(1, config.num_heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # (B, N, T, D)
        # A gate is made of the sum of four numbers. The first is 1 - g.
        gates = self.proj(x).unflatten(3, (2, 4)).sum(4).sigmoid()  # (B, N, T, 2)
        mix, reset = gates.split(1, dim=3)  # (B, N, T, 1) both
        return 1 + (1 - mix) + mix * self.scale * reset  # (B, N, T, 1)


class RelativeBlock(Block):
    """A block whose self-attention knows how far apart two frames are."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        self.position_gate = PositionGate(config)

    def attend_frames(self, x: Tensor, mask: PositionMask) -> Tensor:
        """Attend from each frame of x (B, T, H) to all real frames of its item."""
        gate = self.position_gate(self.self_attn.split_heads(x))  # (B, N, T, 1)
        scores = hide_padding(gate * mask.biases, mask.padding)  # (B, N, T, T)
        return super().attend_frames(x, scores)  # (B, T, H)


# data2vec-audio: positions by several convolutions


class PositionalConvLayer(nn.Module):
    """A layer of a PositionalConvStack: convolution, norm without weights, activation."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        size = config.hidden_size
        kernel = config.position_kernel
        groups = config.position_groups
        self.conv = nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=groups)
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.activation = ACTIVATIONS[config.conv_activation]()

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        y = self.conv(x.transpose(1, 2))

        # An even kernel gives T + 1 frames: drop the last.
        y = y[:, :, : x.shape[1]]  # (B, H, T)
        return self.activation(self.norm(y.transpose(1, 2)))  # (B, T, H)


class PositionalConvStack(nn.Module):
    """Positions by several narrower convolutions, one after the other (data2vec-audio)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        check_groups(config)
        layers = [PositionalConvLayer(config) for _ in range(config.position_layers)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, frame_lengths: Tensor | None = None) -> Tensor:  # (B, T, H)
        for layer in self.layers:
            x = zero_padding(layer(x), frame_lengths)  # (B, T, H)
        return x


# The whole encoder


def run_block(block: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """Return what a block makes of its inputs.

    With recompute, only the inputs are kept for the backward pass, which computes the rest again
    (Chen et al. 2016).
    """
    if recompute:
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class PaddingMask(nn.Module):
    """The mask of self-attention, the same in all blocks: no frame may attend to padding."""

    def forward(self, frame_lengths: Tensor | None, total: int) -> Tensor | None:
        return mask_padding(frame_lengths, total)  # (B, 1, 1, T)


class Encoder(nn.Module):
    """The speech encoder: waveforms (B, L) in, frames (B, T, H) out."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.recomputes_blocks = False  # see SpeechEncoderDecoder.gradient_checkpointing_enable
        self.feature_encoder = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)

        # SpecAugment puts this vector in the place of a masked frame.
        self.masked_spec_embed = None
        if config.training.mask_time_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))

        self.positions = PositionalConv(config)
        if config.position_layers:  # data2vec-audio
            self.positions = PositionalConvStack(config)
        self.dropout = nn.Dropout(config.training.hidden_dropout)

        # What blocks make of the mask depends on whether their attention knows distances.
        self.block_mask = PaddingMask()
        block_class = Block
        if config.distance_buckets:  # WavLM
            self.block_mask = RelativePositions(config)
            block_class = RelativeBlock
        self.blocks = nn.ModuleList(block_class(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.adapter = Adapter(config)

    def forward(
        self,
        input_values: Tensor,
        sample_lengths: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the frames (B, T, H) of waveforms (B, L), and the frame_lengths (B,).

        sample_lengths: (B,), how many samples of each item are real. With None, nothing is padded,
        and frame_lengths are None, too.
        mask_time_indices: (B, T) bool, frames that SpecAugment masks (wav2vec 2.0, section 3.1).
        """
        x, frame_lengths = self.feature_encoder(input_values, sample_lengths)  # (B, T, C), (B,)
        x = self.feature_projection(x)  # (B, T, H)

        # SpecAugment, in training: the model must guess masked frames from those around them.
        if mask_time_indices is not None:
            x = torch.where(mask_time_indices[:, :, None], self.masked_spec_embed, x)  # (B, T, H)

        # Add positions. Their convolution reaches over position_kernel frames: it must not see
        # padding.
        x = zero_padding(x, frame_lengths)
        x = x + self.positions(x, frame_lengths)
        if not self.config.pre_norm:
            x = self.norm(x)
        x = self.dropout(x)

        # No frame may attend to padding.
        mask = self.block_mask(frame_lengths, x.shape[1])  # (B, 1, 1, T), None or PositionMask

        # Layerdrop (Fan et al. 2020): in training, blocks are skipped at random.
        rate = self.config.training.layerdrop
        recompute = self.training and self.recomputes_blocks
        for block in self.blocks:
            is_dropped = self.training and rate > 0 and torch.rand(()) < rate
            if not is_dropped:
                x = run_block(block, x, mask, recompute=recompute)  # (B, T, H)

        # This norm is after the blocks if theirs are before attention and MLP.
        if self.config.pre_norm:
            x = self.norm(x)
        return self.adapter(x, frame_lengths)
