"""What the hardware allows: what a row has to multiply and read, and how fast this machine can.

Multiplications are those of matrix products and convolutions; an addition comes with each of them.
Bytes are weights, and the keys and values of the attention: each is read once, from memory that is
faster if the bytes fit into a cache. The least time of a stage is the longer of the two.

Shapes: L samples, S frames, T frames of a convolution, H hidden_size, V vocab_size.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from nanos2t.decoder import Decoder
from nanos2t.wav2vec2 import Encoder, EncoderConfig, conv_output_lengths

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
DTYPES = {name: getattr(torch, name) for name in BYTES}


@dataclass(frozen=True)
class Work:
    """What a stage needs; `keys_values` are numbers that int8 models keep in float32."""

    multiplications: float
    weights: float
    keys_values: float = 0

    def bytes(self, dtype: str) -> float:
        """Return the bytes that are read if the model is of `dtype`."""
        size = 4 if dtype == "int8" else BYTES[dtype]
        return self.weights * BYTES[dtype] + self.keys_values * size


def count_frames(encoder: Encoder, samples: int) -> list[int]:
    """Return how many frames each convolution makes of a waveform of `samples`."""
    lengths = torch.tensor([samples])
    frames = []
    for layer in encoder.feature_encoder.conv_layers:
        lengths = conv_output_lengths(lengths, layer.conv)
        frames.append(lengths.item())
    return frames


def count_encoding(encoder: Encoder, samples: int) -> Work:
    """Count the encoding of one waveform by an encoder without adapter, in the Transformer's way.

    Relative positions and stacks of positional convolutions are not counted.
    """
    config: EncoderConfig = encoder.config
    frames = count_frames(encoder, samples)
    T = frames[-1]
    H = config.hidden_size

    # Each output of a convolution is a product with a kernel (C, K).
    products = 0
    for layer, length in zip(encoder.feature_encoder.conv_layers, frames):
        products += length * layer.conv.weight.numel()
    products += T * encoder.feature_projection.proj.weight.numel()
    products += T * encoder.positions.direction.numel()

    # Queries, keys, values and outputs; scores and weighted sums; the two layers of the MLP.
    block = 4 * T * H * H + 2 * T * T * H + 2 * T * H * config.intermediate_size
    products += config.num_layers * block
    return Work(products, sum(weight.numel() for weight in encoder.parameters()))


def count_token_weights(decoder: Decoder) -> int:
    """Count the weights that one step of a search reads, with one row.

    All but the tables of embeddings, of which a row is read, and what projects the memory, which is
    done before. A tied head reads the whole table of tokens for its product.
    """
    numbers = 0
    for name, weight in decoder.named_parameters():
        is_table = name.startswith("embed.") and "norm" not in name
        is_memory = ".cross_attn.k_proj" in name or ".cross_attn.v_proj" in name
        if is_table:
            numbers += weight.shape[1]
        elif not is_memory:
            numbers += weight.numel()
    if decoder.head.weight is None:
        numbers += decoder.embed.tokens.weight.numel()
    return numbers


def count_token(decoder: Decoder, frames: int, rows: int, past: float, utterances: int = 1) -> Work:
    """Count one step: a token of each of `rows` rows, of which each utterance has as many.

    past: tokens that each row has before the new one. The rows of an utterance share its keys and
    values over the memory.
    """
    config = decoder.config
    H = config.hidden_size
    block = 6 * H * H + 2 * H * config.intermediate_size + 2 * H * (frames + past + 1)
    products = config.num_layers * block + config.vocab_size * H
    if config.mlm_head:
        products += H * H
    keys_values = 2 * H * config.num_layers * (utterances * frames + rows * past)
    return Work(rows * products, count_token_weights(decoder), keys_values)


def count_memory(decoder: Decoder, frames: int) -> Work:
    """Count the keys and values of a memory of `frames`, for all blocks."""
    weights = 2 * decoder.config.hidden_size**2 * decoder.config.num_layers
    return Work(weights * frames, weights)


@dataclass(frozen=True)
class Machine:
    """Multiplications a second in each dtype, and how fast so many bytes are read."""

    multiplications: dict[str, float]
    read: dict[int, float]  # bytes to bytes a second

    def least_seconds(self, stages: list[Work], dtype: str) -> float:
        """Return the time below which no program can do the stages, one after the other."""
        return sum(self.stage_seconds(work, dtype) for work in stages)

    def stage_seconds(self, work: Work, dtype: str) -> float:
        # The speed of the next larger size, or of the largest one that was measured.
        size = work.bytes(dtype)
        speed = self.read[min([s for s in self.read if s >= size], default=max(self.read))]
        return max(work.multiplications / self.multiplications[dtype], size / speed)


def best_seconds(run: Callable[[], object], device: str, turns: int) -> float:
    """Return the shortest time of some turns."""
    shortest = float("inf")
    for _ in range(turns):
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def measure_products(dtype: str, size: int, device: str, turns: int) -> float:
    """Return the multiplications a second of a large matrix product: a linear layer's."""
    x = torch.randn(size, size, device=device)
    multiply = nn.Linear(size, size, bias=False, device=device).requires_grad_(False)
    if dtype == "int8":
        x = x.to(torch.int8)
        weight = torch.ones(size, size, dtype=torch.int8, device=device)
        seconds = best_seconds(lambda: torch._int_mm(x, weight), device, turns)
        return size**3 / seconds
    x = x.to(DTYPES[dtype])
    multiply = multiply.to(DTYPES[dtype])
    ways = [multiply]
    if dtype == "float32" and device == "cpu" and torch.backends.mkldnn.is_available():
        linear = torch.ops.mkldnn._linear_pointwise
        ways.append(lambda x: linear(x, multiply.weight, None, "none", [], ""))
    seconds = min(best_seconds(lambda way=way: way(x), device, turns) for way in ways)
    return size**3 / seconds


def measure_read(size: int, device: str, turns: int) -> float:
    """Return the bytes a second at which a sum reads `size` bytes, again and again."""
    numbers = torch.ones(size // 4, device=device)
    return size / best_seconds(numbers.sum, device, turns)


def measure_machine(device: str, dtypes: list[str], small: bool = False) -> Machine:
    """Measure products of each dtype, and reads of the sizes of a model in each of them."""
    megabytes = (1, 2) if small else (32, 128, 256, 512)
    size = 128 if small else 3072
    turns = 2 if small else 6
    with torch.inference_mode():
        return Machine(
            {dtype: measure_products(dtype, size, device, turns) for dtype in dtypes},
            {count * 2**20: measure_read(count * 2**20, device, turns) for count in megabytes},
        )
