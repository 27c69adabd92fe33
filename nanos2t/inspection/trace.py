"""Trace a recording through the model, from waveform to tokens (`nanos2t info --trace`).

Shapes: B batch, L samples, T tokens.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nanos2t.fast.frozen import FrozenLayer
from nanos2t.inspection.observer import find_stages, observe_stages, time_stages
from nanos2t.inspection.parity import make_decoder_input, write_greedily
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.transcriber import SpeechToText

# The folder that the names of our source files are relative to.
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class TensorFacts:
    """A tensor between waveform and tokens. Ids have neither mean nor deviation: None.

    ms: milliseconds that it took to compute. parameters: how many numbers its module has learned.
    """

    stage: str
    shape: list[int]
    dtype: str
    ms: float
    parameters: int
    mean: float | None
    deviation: float | None


def describe_tensor(stage: str, x: Tensor, ms: float = 0.0) -> TensorFacts:
    """Return the facts of a tensor, without the parameters of its module."""
    mean = None
    deviation = None
    if x.is_floating_point():
        mean = x.float().mean().item()
        deviation = x.float().std(correction=0).item()
    dtype = str(x.dtype).removeprefix("torch.")
    return TensorFacts(stage, list(x.shape), dtype, ms, 0, mean, deviation)


@torch.no_grad()
def trace_tensors(stt: SpeechToText, waveform: np.ndarray, tokens: Tensor) -> list[TensorFacts]:
    """Run the model on a waveform (L,) and a decoder input (1, T), and describe every tensor.

    The first are the waveform and what `prepare` makes of it. The last are the likeliest next
    tokens. The times are those of a second call: the first one for a length allocates and compiles.
    """
    input_values, _ = stt.prepare([waveform])  # (1, L)
    stt.model(input_values, decoder_input_ids=tokens)

    # From the waveform to the input of the model
    started = time.perf_counter()
    input_values, _ = stt.prepare([waveform])  # (1, L)
    input_ms = 1000 * (time.perf_counter() - started)

    # Through the model. The time of a stage does not include that of its description.
    with time_stages(stt.model) as seconds, observe_stages(stt.model, describe_tensor) as stages:
        logits = stt.model(input_values, decoder_input_ids=tokens).logits  # (1, T, V)

    facts = [
        describe_tensor("waveform", torch.as_tensor(waveform)),
        describe_tensor("input", input_values, input_ms),
    ]
    counts = count_parameters(stt.model)
    for name, stage in stages.items():
        if name == "embedding":
            facts.append(describe_tensor("tokens", tokens))
        facts.append(replace(stage, ms=1000 * seconds[name], parameters=counts[name]))

    # From the logits to tokens
    started = time.perf_counter()
    next_tokens = logits.argmax(2)  # (1, T)
    argmax_ms = 1000 * (time.perf_counter() - started)
    facts.append(describe_tensor("next tokens", next_tokens, argmax_ms))
    return facts


def count_parameters(model: SpeechEncoderDecoder) -> dict[str, int]:
    """Count the parameters of each stage; those of a tied output matrix belong to the embedding."""
    counts = {name: count_numbers(module) for name, module in find_stages(model).items()}
    # The matrix that goes with this norm is no stage of its own.
    if "adapter norm" in counts:
        counts["adapter norm"] += count_numbers(model.encoder.adapter.proj)
    return counts


def count_numbers(module: nn.Module) -> int:
    """Count the parameters of a module, and what the layers of a fast model have packed."""
    count = sum(parameter.numel() for parameter in module.parameters())
    for part in module.modules():
        if isinstance(part, FrozenLayer):
            count += part.num_packed
    return count


def find_sources(stt: SpeechToText) -> dict[str, str]:
    """Return for each stage the file and line where its computation begins, to set a breakpoint at.

    A stage that is one of torch's own modules, such as a norm, has the line of the module that
    calls it.
    """
    modules = dict(stt.model.named_modules())
    paths = {module: path for path, module in modules.items()}
    sources = {
        "waveform": locate_body(type(stt).load_audio),
        "input": locate_body(type(stt).prepare),
    }
    for name, module in find_stages(stt.model).items():
        # A path without its last part is that of the module that contains it.
        path = paths[module]
        while type(modules[path]).__module__.startswith("torch."):
            path = path.rpartition(".")[0]
        sources[name] = locate_body(type(modules[path]).forward)

    # The model calls the bridge in `encode`, which its `forward` and a transcription both enter.
    if "bridge" in sources:
        sources["bridge"] = locate_body(type(stt.model).encode)
    return sources


def locate_body(function: Callable) -> str:
    """Return file and line of the first statement of a function, as `nanos2t/wav2vec2.py:212`."""
    code = inspect.unwrap(function).__code__
    # The first line of the code is its `def`, or its decorator: a debugger does not stop there.
    lines = [line for _, _, line in code.co_lines() if line and line > code.co_firstlineno]
    path = Path(code.co_filename)
    if path.is_relative_to(ROOT):
        path = path.relative_to(ROOT)
    return f"{path.as_posix()}:{min(lines, default=code.co_firstlineno)}"


def render_trace(stt: SpeechToText, waveform: np.ndarray) -> Iterator[str]:
    """Yield the lines of a table of all tensors for a waveform (L,).

    The decoder reads what greedy search writes.
    """
    input_values, _ = stt.prepare([waveform])  # (1, L)
    written = write_greedily(stt.model, stt.model, input_values)
    tokens = make_decoder_input(stt.model, written)  # (1, T)

    columns = "shape", "dtype", "ms", "parameters", "mean", "deviation", "source"
    yield format_row("# stage", *columns)
    sources = find_sources(stt)
    for facts in trace_tensors(stt, waveform, tokens):
        yield format_row(
            facts.stage,
            " x ".join(map(str, facts.shape)),
            facts.dtype,
            f"{facts.ms:.1f}",
            f"{facts.parameters:,}",
            format_number(facts.mean),
            format_number(facts.deviation),
            sources.get(facts.stage, "-"),
        )


def format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def format_row(*cells: str) -> str:
    return "{:<17} {:<18} {:<9} {:>7} {:>12} {:>10} {:>10}  {}".format(*cells)
