"""What makes a model fast on a CPU, apart from the core, which `nanos2t.load` switches on.
float32: oneDNN multiplies, whose kernels for few rows read the weights once, and applies the activation on
the way. The parameters stay those of the model: it can be trained and saved, as the core does it.
int8: weights have a scale for each row, inputs one a call; the model cannot be trained or saved any more.
    y = W x + b,  W ~ scale * int8,  x ~ scale * (uint8 - zero): products and sums are those of integers"""

import ctypes
import logging
import mmap
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import wav2vec2
from nanos2t.decoder import Head
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import ACTIVATIONS, MLP, FeatureEncoder, PositionalConv

ENGINES = {"x86", "fbgemm", "onednn", "qnnpack"}  # torch's kernels for int8
FUSED = {
    None: ("none", [], ""),
    ACTIVATIONS["gelu"]: ("gelu", [], "none"),
    ACTIVATIONS["gelu_tanh"]: ("gelu", [], "tanh"),
    ACTIVATIONS["relu"]: ("relu", [], ""),
}
PIECE = 4096  # windows at a time: they overlap, and are copied
log = logging.getLogger("nanos2t")


def is_supported(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product can be used: it has no gradient, and here no other dtype or device."""
    return (
        not torch.is_grad_enabled()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() > 0
    )


def linear_onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation=None) -> Tensor:
    """activation(x W^T + b) of x (..., I), weight (O, I): (..., O)."""
    fused = activation in FUSED  # else it is a copy of ours
    y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, *FUSED[activation if fused else None])
    return y if fused else activation(y)


class FastLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:  # (..., I)
        return (
            linear_onednn(x, self.weight, self.bias)
            if is_supported(x, self.weight)
            else super().forward(x)
        )


class FastMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        if self.training or not is_supported(x, self.up_proj.weight):
            return super().forward(x)
        x = linear_onednn(
            x, self.up_proj.weight, self.up_proj.bias, self.activation
        )  # (B, T, intermediate_size)
        return self.down_proj(x)  # (B, T, H)


class FastHead(Head):
    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:  # (B, T, H), (V, H)
        if not is_supported(x, embeddings):
            return super().forward(x, embeddings)
        x = self.norm(self.activation(self.dense(x)))  # (B, T, H)
        return linear_onednn(
            x, embeddings if self.weight is None else self.weight, self.bias
        )  # (B, T, V)


class FastFeatureEncoder(FeatureEncoder):
    """Channels stand last: a convolution is a linear layer of the K frames under each step of its window."""

    def forward(
        self, x: Tensor, samples: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:  # (B, L), (B,)
        if not is_supported(x, self.convs[0].weight):
            return super().forward(x, samples)
        x = wav2vec2.zero_padding(x[..., None], samples)  # (B, L, 1)
        x = F.pad(x, (0, 0, 0, max(0, self.min_samples - x.shape[1])))
        frames = None if samples is None else samples.clamp(min=self.min_samples)
        for i, conv in enumerate(self.convs):
            normed, frames = i < len(self.norms), wav2vec2.conv_output_lengths(frames, conv)
            x = convolve(x, conv, None if normed else self.activation)  # (B, fewer, C)
            x = norm(x, frames, self.norms[i]) if normed else x
            for part in x.split(PIECE, 1) if normed else ():
                part.copy_(self.activation(part))
        return x, frames  # (B, T, C), (B,)


class FastPositions(PositionalConv):
    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        narrow = half and x.device.type == "cpu" and self.direction.shape[1] < 16
        if not (narrow or is_supported(x, self.direction)):
            return super().forward(x)
        weight = (
            self.gain * self.direction / self.direction.norm(dim=(0, 1), keepdim=True)
        )  # (H, _, K)
        if narrow:
            return self.activation(self.fill_groups(x, weight))
        image, weight = (
            x.transpose(1, 2)[:, :, None],
            weight[:, :, None],
        )  # (B, H, 1, T), channels last
        padding = 0, weight.shape[3] // 2
        y = F.conv2d(image, weight, self.bias, padding=padding, groups=self.groups)[
            :, :, 0, : x.shape[1]
        ]
        return self.activation(y.transpose(1, 2))  # (B, T, H)

    def fill_groups(self, x: Tensor, weight: Tensor) -> Tensor:
        """Groups of fewer than 16 channels get zeros beside them: in bfloat16 oneDNN's kernels for AMX (torch
        2.13) return other numbers for these, and raise nothing."""
        channels, taps = weight.shape[1:]
        more, groups = 16 - channels, (self.groups, channels)
        image = F.pad(x.transpose(1, 2).unflatten(1, groups), (0, 0, 0, more)).flatten(
            1, 2
        )  # (B, _, T)
        weight = F.pad(weight.unflatten(0, groups), (0, 0, 0, more, 0, more)).flatten(0, 1)
        y = F.conv1d(image, weight, padding=taps // 2, groups=self.groups)[..., : x.shape[1]]
        y = y.unflatten(1, (self.groups, -1))[:, :, :channels].flatten(1, 2)
        return (y + self.bias.to(y.dtype)[:, None]).transpose(1, 2)  # (B, T, H)


def convolve(x: Tensor, conv: "nn.Conv1d | Int8Conv", activation=None) -> Tensor:  # (B, T, I)
    windows = x.unfold(1, conv.kernel_size[0], conv.stride[0]).transpose(
        2, 3
    )  # (B, fewer, K, I), a view
    if isinstance(conv, Int8Conv):
        parts = [conv.linear(part.flatten(2)) for part in windows.split(PIECE, 1)]
        parts = [activation(part) for part in parts] if activation else parts
    else:
        weight = conv.weight.transpose(1, 2).flatten(1)  # (O, K * I)
        parts = [
            linear_onednn(part.flatten(2), weight, conv.bias, activation)
            for part in windows.split(PIECE, 1)
        ]
    return torch.cat(parts, 1)  # (B, fewer, O)


def norm(x: Tensor, frames: Tensor | None, norm: nn.Module) -> Tensor:
    """`norm` of the feature encoder, in place if it is a clip's: over its real frames, of x (B, T, C)."""
    if isinstance(norm, wav2vec2.ChannelLayerNorm):
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    for item, count in zip(x, [x.shape[1]] * len(x) if frames is None else frames.tolist()):
        real = item[:count]  # (frames, C)
        variance, mean = torch.var_mean(real, 0, correction=0)  # 2 x (C,)
        real.sub_(mean).mul_(norm.weight / (variance + norm.eps).sqrt()).add_(norm.bias)
    return x


KINDS = {
    nn.Linear: FastLinear,
    MLP: FastMLP,
    Head: FastHead,
    PositionalConv: FastPositions,
    FeatureEncoder: FastFeatureEncoder,
}


def optimise_(model: SpeechEncoderDecoder) -> SpeechEncoderDecoder:
    """The same model, its products by oneDNN if this build of torch has it."""
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        for part in model.modules():
            part.__class__ = KINDS.get(type(part), type(part))
    return model


class Int8Linear(nn.Module):
    """What nn.Linear with weight (O, I) and bias (O,) does, in a quarter of the memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        scale = torch.maximum(weight.amax(1), -weight.amin(1)).clamp(min=1e-12) / 127  # (O,)
        rows = (weight / scale[:, None]).round_().to(torch.int8)  # (O, I)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to move these kernels to another package
            zero = torch.zeros_like(scale, dtype=torch.long)
            whole = torch._make_per_channel_quantized_tensor(rows, scale, zero, 0)
        self.packed = torch.ops.quantized.linear_prepack(whole, bias)

    def forward(self, x: Tensor) -> Tensor:  # (..., I)
        return torch.ops.quantized.linear_dynamic(x, self.packed)  # (..., O)


def release_pages(weight: Tensor) -> None:
    """Give back memory that nobody reads any more: all pages of a file that were read count as ours."""
    first, last = (
        -(-weight.data_ptr() // mmap.PAGESIZE),
        (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE,
    )
    if (
        weight.is_contiguous() and hasattr(mmap, "MADV_DONTNEED") and first < last
    ):  # else others lie between
        size = ctypes.c_size_t((last - first) * mmap.PAGESIZE)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first * mmap.PAGESIZE), size, mmap.MADV_DONTNEED)


class Int8Conv(nn.Module):
    """A convolution without padding: a linear layer of the K frames under each step of it."""

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.linear = Int8Linear(conv.weight.transpose(1, 2).flatten(1), conv.bias)  # (O, K * I)

    def forward(self, x: Tensor) -> Tensor:  # (B, I, T)
        return convolve(x.transpose(1, 2), self).transpose(1, 2)  # (B, O, fewer)


class Int8Head(nn.Module):
    def __init__(self, head: Head, embeddings: Tensor):
        super().__init__()
        self.dense, self.activation, self.norm = head.dense, head.activation, head.norm
        self.output = Int8Linear(embeddings if head.weight is None else head.weight, head.bias)

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:  # (B, T, H)
        return self.output(self.norm(self.activation(self.dense(x))))  # (B, T, V)


@torch.no_grad()
def quantise_(model: SpeechEncoderDecoder) -> SpeechEncoderDecoder:
    """A float32 model on a CPU with its linear layers, output matrix and convolutions in int8, but not the
    first of them, which hears samples, nor the positional one."""
    convs = model.encoder.feature_encoder.convs
    for i in range(1, len(convs)):
        convs[i] = Int8Conv(convs[i])
    for module in [*model.modules()]:
        for name, part in module.named_children():
            if isinstance(part, nn.Linear):
                setattr(module, name, Int8Linear(part.weight, part.bias))
                release_pages(part.weight)
    encoder = model.encoder
    encoder.feature_encoder.__class__, encoder.positions.__class__ = (
        FastFeatureEncoder,
        FastPositions,
    )
    model.decoder.head = Int8Head(model.decoder.head, model.decoder.embed.tokens.weight)
    return model


def choose_fast_dtype(device: str) -> torch.dtype:
    """The fastest dtype of a device, which the logger "nanos2t" is told."""
    dtype = torch.float16 if device == "mps" else torch.int8 if has_int8() else torch.float32
    if device.startswith("cuda"):
        dtype = (
            torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
        )
    log.info("dtype auto: %s on %s", str(dtype).removeprefix("torch."), device)
    return dtype


def has_int8() -> bool:
    return bool(ENGINES & {*torch.backends.quantized.supported_engines})


def check_fast_dtype(dtype: torch.dtype, device: str) -> None:
    """ValueError for int8 where it cannot be."""
    if dtype == torch.int8 and device != "cpu":
        raise ValueError(
            f"dtype int8 is for the device cpu, found {device}: expected bfloat16 or float16"
        )
    if dtype == torch.int8 and not has_int8():
        raise ValueError("dtype int8: this build of torch has no kernels for it, expected float32")
