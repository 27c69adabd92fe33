# python -m tests.benchmarks.tricks
"""What each trick of nanos2t/fast is worth alone: a part of the core and the part in its place.

Both get the same input and take turns. The sizes are those of tests/benchmarks/speed/, weights are
random; of many linear layers one after the other, so that their weights do not stay in a cache.
Ratios are the core's time over the trick's: the median, and the lowest and highest of a turn.
"""

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from nanos2t.fast.feature_encoder import make_fast_layer
from nanos2t.fast.int8 import Int8Linear, quantise_many
from nanos2t.fast.packed import FastConv, FastLinear
from nanos2t.fast.positional_conv import FastPositionalConv
from nanos2t.wav2vec2 import Encoder, EncoderConfig
from tests.benchmarks.speed.bench import time_turns
from tests.benchmarks.speed.pair import RATE

SECONDS = 11
FRAMES = 549  # of so many seconds
LAYERS = 24  # of an MLP: 57 M weights

Pair = tuple[str, Callable[[], object], Callable[[], object]]


def run_layers(layers: list[nn.Module], x: Tensor) -> None:
    """Multiply x (R, 768) by each of the layers."""
    for layer in layers:
        layer(x)


def convolution_pairs(small: bool) -> Iterator[Pair]:
    """Yield the parts of the encoder that are convolutions."""
    sizes = {"conv_channels": (32,) * 7, "hidden_size": 32, "num_heads": 2} if small else {}
    encoder = Encoder(EncoderConfig(**sizes, num_layers=0)).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.05)
    x = torch.randn(1, 1, (1 if small else SECONDS) * RATE)  # (B, 1, L)

    first, second, *_ = encoder.feature_encoder.conv_layers
    folded = make_fast_layer(copy.deepcopy(first), FastConv)
    yield "the norm over time folded into the first convolution", *runs(first, folded, x, None)
    # Each gets frames as the layer before it leaves them in memory: the trick has channels last.
    frames = (first(x, None)[0], None)  # (B, C, T)
    channels_last = (folded(x, None)[0], None)  # (B, C, T), a view
    linear = make_fast_layer(copy.deepcopy(second), partial(FastConv, min_rows=None))
    yield "the second convolution as a linear layer", *runs(second, linear, frames, channels_last)
    hidden = torch.randn(1, FRAMES, encoder.config.hidden_size)
    positions = encoder.positions
    image = FastPositionalConv(positions)
    yield "the positional convolution over an image", *runs(positions, image, hidden)


def linear_pairs(small: bool) -> Iterator[Pair]:
    """Yield linear layers in each of their forms, for rows of a token, of beams, of frames."""
    size = 32 if small else 768
    core = [nn.Linear(size, 4 * size) for _ in range(LAYERS)]
    packed = [FastLinear(copy.deepcopy(layer)) for layer in core]
    halves = [FastLinear(copy.deepcopy(layer).bfloat16()) for layer in core]
    integers = [Int8Linear(layer.weight, layer.bias) for layer in core]
    wide_integers = [quantise_many(layer.weight, layer.bias) for layer in core]
    for rows in 1, 5, FRAMES:
        x = torch.randn(rows, size)
        plain = (core, x)
        yield f"packed weights, {rows} rows", *runs(run_layers, run_layers, plain, (packed, x))
        other = (halves, x.bfloat16())
        yield f"packed bfloat16, {rows} rows", *runs(run_layers, run_layers, plain, other)
        yield f"int8, {rows} rows", *runs(run_layers, run_layers, plain, (integers, x))
        other = (wide_integers, x)
        yield f"int8 for many rows, {rows} rows", *runs(run_layers, run_layers, plain, other)


def runs(core: Callable, trick: Callable, *inputs) -> tuple[Callable, Callable]:
    """Return two functions without arguments. Two tuples as inputs are one for each of them."""
    if isinstance(inputs[0], tuple):
        return (lambda: core(*inputs[0])), (lambda: trick(*inputs[1]))
    return (lambda: core(*inputs)), (lambda: trick(*inputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="turns")
    parser.add_argument("--small", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        for pairs in convolution_pairs(options.small), linear_pairs(options.small):
            for name, core, trick in pairs:
                times = time_turns({"core": core, "trick": trick}, options.repeat)
                ratios = [a / b for a, b in zip(times["core"], times["trick"])]
                milliseconds = 1e3 * statistics.median(times["core"])
                print(
                    f"{name:55} {milliseconds:8.1f} ms  {statistics.median(ratios):5.2f}"
                    f" ({min(ratios):.2f} to {max(ratios):.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
