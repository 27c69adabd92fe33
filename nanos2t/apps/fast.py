"""The fast mode: matrix products in int8 on a CPU. Weights have a scale for each row, inputs one a call.

    y = W x + b,  W ~ scale * int8,  x ~ scale * (uint8 - zero): products and sums are those of integers

All else stays float32. The model cannot be trained or saved any more.
"""

import logging
import warnings

import torch
from torch import Tensor, nn

from nanos2t.decoder import Head
from nanos2t.model import SpeechEncoderDecoder

ENGINES = {"x86", "fbgemm", "onednn", "qnnpack"}  # torch's kernels for int8
log = logging.getLogger("nanos2t")

class Int8Linear(nn.Module):
    """What nn.Linear with weight (O, I) and bias (O,) does, in a quarter of the memory."""
    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127  # (O,)
        zero = torch.zeros_like(scale, dtype=torch.long)  # (O,)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to move these kernels to another package
            whole = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(whole, bias)
    def forward(self, x: Tensor) -> Tensor:  # (..., I)
        return torch.ops.quantized.linear_dynamic(x, self.packed)  # (..., O)

class Int8Conv(nn.Module):
    """A convolution without padding: a linear layer of the K frames under each step of it."""
    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.linear = Int8Linear(conv.weight.transpose(1, 2).flatten(1), conv.bias)  # (O, K * I)
    def forward(self, x: Tensor) -> Tensor:  # (B, I, T)
        windows = x.transpose(1, 2).unfold(1, self.kernel_size[0], self.stride[0])  # (B, fewer, I, K)
        return self.linear(windows.transpose(2, 3).flatten(2)).transpose(1, 2)  # (B, O, fewer)

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
    model.decoder.head = Int8Head(model.decoder.head, model.decoder.embed.tokens.weight)
    return model

def choose(device: str) -> torch.dtype:
    """The fastest dtype of a device, which the logger "nanos2t" is told."""
    dtype = torch.float16 if device == "mps" else torch.int8 if has_int8() else torch.float32
    if device.startswith("cuda"):
        dtype = torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    log.info("dtype auto: %s on %s", str(dtype).removeprefix("torch."), device)
    return dtype

def has_int8() -> bool:
    return bool(ENGINES & {*torch.backends.quantized.supported_engines})

def check(dtype: torch.dtype, device: str) -> None:
    """ValueError for int8 where it cannot be."""
    if dtype == torch.int8 and device != "cpu":
        raise ValueError(f"dtype int8 is for the device cpu, found {device}: expected bfloat16 or float16")
    if dtype == torch.int8 and not has_int8():
        raise ValueError(
            "dtype int8: this build of torch has no kernels for it, expected float32"
        )
