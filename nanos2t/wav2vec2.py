"""Speech encoder of the Wav2Vec2 family: waveform in, one vector per 20 ms out. Read from the bottom up.
wav2vec 2.0 (Baevski et al. 2020, section 2), HuBERT (Hsu et al. 2021), XLS-R (Babu et al. 2021). Official:
fairseq/models/wav2vec/wav2vec2.py; the same in transformers/models/wav2vec2/modeling_wav2vec2.py.
Batching never changes a result: nothing that looks across time sees the padding behind an item's end.
Shapes: B batch, L samples, T frames (L / 320), C channels, H hidden_size, N heads, D head_size, K taps."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh"), "relu": F.relu}


@dataclass(frozen=True)
class EncoderTraining:
    """Read in training mode only. The trainer draws the spans of SpecAugment (the last three)."""

    feat_proj_dropout: float = 0.0
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    layerdrop: float = 0.1
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and variants; the defaults are facebook/wav2vec2-base."""

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    norm_eps: float = 1e-5
    activation: str = "gelu"
    conv_activation: str = "gelu"
    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_kernel: int = 128
    position_groups: int = 16
    init_std: float = 0.02
    training: EncoderTraining = EncoderTraining()
    pre_norm: bool = False  # Block, Encoder     large-lv60, xls-r, hubert-large
    conv_norm: str = (
        "group"  # FeatureEncoder     "group": first, over time; "layer": all, per frame
    )
    conv_bias: bool = False  # FeatureEncoder
    feat_proj_norm: bool = True  # FeatureProjection  absent in some HuBERTs
    adapter_layers: int = 0  # Adapter            xls-r speech translation: 3
    adapter_kernel: int = 3  # Adapter
    adapter_stride: int = 2  # Adapter
    adapter_size: int | None = (
        None  # Adapter            projects to this width; None: no projection
    )

    @classmethod
    def large(cls, **fields) -> "EncoderConfig":
        sizes = {"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "intermediate_size": 4096}
        return cls(**{**sizes, "pre_norm": True, "conv_norm": "layer", "conv_bias": True, **fields})

    @property
    def output_size(self) -> int:
        """Width of what the encoder returns."""
        return self.adapter_size if self.adapter_layers and self.adapter_size else self.hidden_size

    @property
    def min_samples(self) -> int:
        """How many samples one frame sees, 400 in every official model; a shorter clip is padded to it."""
        samples = 1
        for kernel, stride in zip(self.conv_kernels[::-1], self.conv_strides[::-1]):
            samples = (samples - 1) * stride + kernel
        return samples


def conv_output_lengths(frames: Tensor | None, conv: nn.Conv1d) -> Tensor | None:
    """Frames (B,) that a convolution makes of frames, or samples, (B,); None, all are real, stays None."""
    padding, kernel, stride = conv.padding[0], conv.kernel_size[0], conv.stride[0]
    return None if frames is None else (frames + 2 * padding - kernel) // stride + 1


def valid_frames(frames: Tensor, total: int) -> Tensor:
    """(B,) -> (B, T) bool: True while item b has frames, False in the padding behind them."""
    return torch.arange(total, device=frames.device) < frames[:, None]


def zero_padding(x: Tensor, frames: Tensor | None) -> Tensor:
    """x (B, T, H) with zeros behind each item's end, as a convolution over the item alone would see it."""
    return x if frames is None else x.masked_fill(~valid_frames(frames, x.shape[1])[..., None], 0.0)


def masked_group_norm(
    x: Tensor, frames: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Each channel of x (B, C, T) normalised over its item's real frames: group norm, C groups, masked."""
    if frames is None:
        return F.group_norm(x, x.shape[1], weight, bias, eps)
    valid = valid_frames(frames, x.shape[2])[:, None]  # (B, 1, T)
    count = frames[:, None, None]  # (B, 1, 1)
    mean = (x * valid).sum(2, keepdim=True) / count  # (B, C, 1)
    variance = ((x - mean).square() * valid).sum(2, keepdim=True) / count  # (B, C, 1)
    return (x - mean) / (variance + eps).sqrt() * weight[:, None] + bias[:, None]


def position_conv(x: Tensor, gain: Tensor, direction: Tensor, bias: Tensor, groups: int) -> Tensor:
    """A wide grouped convolution over x (B, T, H) with weight norm: one gain (1, 1, K) a tap."""
    weight = gain * direction / direction.norm(dim=(0, 1), keepdim=True)  # (H, H / groups, K)
    y = F.conv1d(x.transpose(1, 2), weight, bias, padding=weight.shape[2] // 2, groups=groups)
    return y[..., : x.shape[1]].transpose(1, 2)  # (B, T, H); even K: T + 1


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, eq. 1) of (B, N, T, D) and twice (B, N, S, D)."""
    return F.scaled_dot_product_attention(
        queries, keys, values, mask, dropout, is_causal
    )  # (B, N, T, D)


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """The softmax that `attend` applies and never shows, for pictures and alignments; rows sum to 1."""
    scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])  # (B, N, T, S)
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=3)  # (B, N, T, S)


class Attention(nn.Module):
    """Multi-head attention. Queries come from x; whoever calls decides where keys and values come from."""

    def __init__(self, config):
        super().__init__()
        if config.hidden_size % config.num_heads:
            raise ValueError(
                f"hidden_size {config.hidden_size} is no multiple of {config.num_heads} heads"
            )
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_dropout = config.training.attention_dropout
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.training.hidden_dropout)

    def project_keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:  # (B, S, H)
        return self.split_heads(self.k_proj(source)), self.split_heads(
            self.v_proj(source)
        )  # 2 x (B, N, S, D)

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:  # (B, T, H)
        queries = self.split_heads(self.q_proj(x))  # (B, N, T, D)
        dropout = self.attention_dropout if self.training else 0.0
        y = attend(queries, keys, values, mask, is_causal, dropout)  # (B, N, T, D)
        return self.dropout(self.out_proj(y.transpose(1, 2).flatten(2)))  # (B, T, H)

    def split_heads(self, x: Tensor) -> Tensor:  # (B, T, H)
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, N, T, D)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.activation]
        self.activation_dropout = nn.Dropout(config.training.activation_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.training.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        x = self.activation_dropout(self.activation(self.up_proj(x)))  # (B, T, intermediate_size)
        return self.dropout(self.down_proj(x))  # (B, T, H)


class Block(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = Attention(config)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, H), (B, 1, 1, T)
        if self.pre_norm:
            y = self.self_attn_norm(x)
            x = x + self.self_attn(y, *self.self_attn.project_keys_values(y), mask)
            x = x + self.mlp(self.mlp_norm(x))
        else:
            x = self.self_attn_norm(
                x + self.self_attn(x, *self.self_attn.project_keys_values(x), mask)
            )
            x = self.mlp_norm(x + self.mlp(x))
        return x  # (B, T, H)


class MaskedGroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor, frames: Tensor | None) -> Tensor:  # (B, C, T)
        return masked_group_norm(x, frames, self.weight, self.bias, self.eps)


class ChannelLayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor, frames: Tensor | None) -> Tensor:  # (B, C, T)
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class FeatureEncoder(nn.Module):
    """Strided convolutions from samples to frames (wav2vec 2.0, section 2)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.min_samples = config.min_samples
        channels = config.conv_channels
        sizes = zip((1, *channels), channels, config.conv_kernels, config.conv_strides)
        self.convs = nn.ModuleList(nn.Conv1d(*size, bias=config.conv_bias) for size in sizes)
        clip, each = (
            [MaskedGroupNorm(channels[0], channels[0])],
            [ChannelLayerNorm(size) for size in channels],
        )
        self.norms = nn.ModuleList(each if config.conv_norm == "layer" else clip)
        self.activation = ACTIVATIONS[config.conv_activation]

    def forward(
        self, x: Tensor, samples: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:  # (B, L), (B,)
        x = zero_padding(x[..., None], samples).flatten(1)[:, None]  # (B, 1, L)
        x = F.pad(x, (0, max(0, self.min_samples - x.shape[2])))
        frames = None if samples is None else samples.clamp(min=self.min_samples)
        for i, conv in enumerate(self.convs):
            x, frames = conv(x), conv_output_lengths(frames, conv)  # (B, C, fewer), (B,)
            x = self.activation(self.norms[i](x, frames) if i < len(self.norms) else x)
        return x.transpose(1, 2), frames  # (B, T, C), (B,)


class FeatureProjection(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        size = config.conv_channels[-1]
        self.norm = nn.LayerNorm(size, config.norm_eps) if config.feat_proj_norm else nn.Identity()
        self.proj = nn.Linear(size, config.hidden_size)
        self.dropout = nn.Dropout(config.training.feat_proj_dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C)
        return self.dropout(self.proj(self.norm(x)))  # (B, T, H)


class PositionalConv(nn.Module):
    """Relative positions from a convolution instead of a table; its weight is kept as gain and direction."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        size, taps, self.groups = config.hidden_size, config.position_kernel, config.position_groups
        self.gain = nn.Parameter(torch.empty(1, 1, taps))
        self.direction = nn.Parameter(torch.empty(size, size // self.groups, taps))
        self.bias = nn.Parameter(torch.empty(size))
        self.activation = ACTIVATIONS[config.conv_activation]

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        return self.activation(position_conv(x, self.gain, self.direction, self.bias, self.groups))


class Adapter(nn.Module):
    """Shortens the frames towards the length of text: `adapter_stride` times in each layer."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        size, taps, stride = config.output_size, config.adapter_kernel, config.adapter_stride
        self.proj, self.norm = nn.Identity(), nn.Identity()
        if size != config.hidden_size:
            self.proj, self.norm = nn.Linear(config.hidden_size, size), nn.LayerNorm(size)
        layers = range(config.adapter_layers)
        self.convs = nn.ModuleList(
            nn.Conv1d(size, 2 * size, taps, stride, padding=1) for _ in layers
        )

    def forward(
        self, x: Tensor, frames: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:  # (B, T, H), (B,)
        x = self.norm(self.proj(x))
        for conv in self.convs:
            x, frames = (
                conv(zero_padding(x, frames).transpose(1, 2)),
                conv_output_lengths(frames, conv),
            )
            x = F.glu(x, dim=1).transpose(1, 2)  # (B, T / stride, H)
        return x, frames


class Encoder(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.feature_encoder = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        masks = config.training.mask_time_prob > 0
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size)) if masks else None
        self.positions = PositionalConv(config)
        self.dropout = nn.Dropout(config.training.hidden_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.adapter = Adapter(config)

    def forward(
        self, input_values: Tensor, samples: Tensor | None = None, masked: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Waveforms (B, L), lengths (B,) or None, all -> frames (B, T, H), how many are real (B,) or None.
        `masked` (B, T) bool: frames to replace by the learned vector (SpecAugment; wav2vec 2.0, 3.1)."""
        x, frames = self.feature_encoder(input_values, samples)  # (B, T, C), (B,)
        x = self.feature_projection(x)  # (B, T, H)
        if masked is not None:
            x = torch.where(masked[..., None], self.masked_spec_embed, x)  # (B, T, H)
        x = zero_padding(x, frames)
        x = x + self.positions(x)
        x = self.dropout(x if self.config.pre_norm else self.norm(x))
        mask = (
            None if frames is None else valid_frames(frames, x.shape[1])[:, None, None]
        )  # (B, 1, 1, T)
        for block in self.blocks:
            if not (self.training and torch.rand(()) < self.config.training.layerdrop):
                x = block(x, mask)  # (B, T, H)
        return self.adapter(self.norm(x) if self.config.pre_norm else x, frames)
