"""What a model is, for `nanos2t info`: each function yields lines of text.
Only a trace computes, else the model stands on the meta device, and the file of its weights is mapped."""

import math
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nanos2t import checkpoint, pretrained, remap
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection import parity
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import from_folder
from nanos2t.transcription.transcriber import SpeechToText


def describe_model(folder: Path) -> Iterator[str]:
    """Families, sizes, languages, ids, files. ValueError, one line, if the model cannot be loaded."""
    model = SpeechEncoderDecoder.build_empty(pretrained.read_configs(folder))
    path, tensors = checkpoint.read_tensors(folder)
    remap.import_state(
        pretrained.table_rows(model.families), tensors, model.state_dict(), str(path)
    )
    stt = from_folder(model, folder)
    for part, family in zip(("encoder", "decoder"), model.families, strict=True):
        fields = vars(getattr(model, part).config)
        yield wrap_line(
            part,
            f"{family}: "
            + format_fields({key: fields[key] for key in fields if key != "training"}),
        )
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts["bridge" if name.startswith("bridge.") else ".".join(name.split(".")[:2])] += (
            parameter.numel()
        )
    yield wrap_line("parameters", f"{counts.total():,}")
    yield from (f"  {name:<28}{count:>15,}" for name, count in counts.items())
    yield wrap_line(
        "audio", f"{stt.sample_rate} Hz, {'normalised' if stt.normalise else 'as it is'}"
    )
    yield wrap_line("frames", frame_rate(stt))
    backend = getattr(stt.tokenizer, "backend", None)
    kind = backend and f"{type(backend.model).__name__}, {backend.get_vocab_size():,} tokens"
    yield wrap_line("tokenizer", kind or "none: ids instead of text")
    yield wrap_line("languages", ", ".join(stt.languages) or "one, nothing to choose")
    yield from generation(stt)
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    yield wrap_line("weights", f"{path.name}: {len(tensors)} tensors, {', '.join(dtypes)}")
    yield f"{'files':<11} {folder}"
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        yield f"  {file.name:<28}{file.stat().st_size:>15,} bytes"


def wrap_line(name: str, text: str) -> str:
    """A name, and a text in as many lines as it takes."""
    return textwrap.fill(
        f"{name:<11} {text}", 110, subsequent_indent=" " * 12, break_on_hyphens=False
    )


def format_fields(fields: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name}={'none' if value is None else value}" for name, value in fields.items()
    )


def frame_rate(stt: SpeechToText) -> str:
    """Frames per second before and behind the adapter, and how much sound one of them is made of."""
    config = stt.model.encoder.config
    rate, sight = (
        stt.sample_rate / math.prod(config.conv_strides),
        config.min_samples / stt.sample_rate,
    )
    text = f"{rate:.4g} per second, each from {1000 * sight:.4g} ms of sound"
    behind = rate / config.adapter_stride**config.adapter_layers
    return f"{text}; {behind:.4g} per second behind the adapter" if config.adapter_layers else text


def generation(stt: SpeechToText) -> Iterator[str]:
    """The ids, with their tokens, and the options that are not the neutral ones."""
    options = vars(stt.model.generation)
    ids = {name: value for name, value in options.items() if name.endswith("_token_id")}
    neutral = vars(GenerationConfig()) | ids | {"lang_to_id": options["lang_to_id"]}
    changed = {name: value for name, value in options.items() if value != neutral[name]}
    for name, value in ids.items():
        if stt.tokenizer is not None and isinstance(value, int) and 0 <= value < 2**31:
            ids[name] = (
                f"{value} {stt.tokenizer.decode([value], skip_special_tokens=False)}".strip()
            )
    yield wrap_line("ids", format_fields(ids))
    yield wrap_line(
        "generation", format_fields(changed) or "neutral: greedy search, 20 new tokens at most"
    )


def tensor_map(folder: Path) -> Iterator[str]:
    """Every tensor: its name at HF and here, its shape at HF, the rule, and its dtype in the file, if it is
    there. ValueError, after all lines, if the weights cannot be loaded."""
    model = SpeechEncoderDecoder.build_empty(pretrained.read_configs(folder))
    tensors = {}
    problem = None
    ours, rows = model.state_dict(), pretrained.table_rows(model.families)
    try:
        path, tensors = checkpoint.read_tensors(folder)
        remap.import_state(rows, tensors, ours, str(path))
    except ValueError as error:
        problem = error
    order, table = list(ours), []
    for names, theirs, row in sorted(
        remap.match_rows(rows, ours), key=lambda match: order.index(match.ours[0])
    ):
        words = row.flags
        shape = sum(len(ours[name]) for name in names), *ours[names[0]].shape[1:]
        shape = shape[::-1] if "transpose" in words and len(shape) == 2 else shape
        table.append((theirs, ", ".join(names), shape, " ".join(sorted(words)) or "copy"))
    spare = [(right, words) for _, right, words in rows if words & {"drop", "optional"}]
    for name in sorted(tensors.keys() - {row[0] for row in table}):
        words = next(
            (words for right, words in spare if remap.compile_pattern(right).fullmatch(name)),
            {"no row"},
        )
        table.append((name, "-", tensors[name].shape, " ".join(sorted(words))))
    table += [(right, "-", (), "drop") for right, words in spare if "drop" in words and not tensors]
    lines = [("# theirs", "ours", "shape", "rule", "file")]
    for name, names, shape, rule in table:
        dtype = str(tensors[name].dtype).removeprefix("torch.") if name in tensors else "-"
        lines.append((name, names, " x ".join(map(str, shape)) or "-", rule, dtype))
    widths = [max(map(len, column)) for column in zip(*lines)]
    yield from ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    if problem:
        raise problem


def parameters(model: SpeechEncoderDecoder) -> dict[str, int]:
    """How many each of parity's stages has; a tied output matrix counts at the embedding."""
    encoder, decoder, front = model.encoder, model.decoder, model.encoder.feature_encoder
    parts = {
        "projection": [encoder.feature_projection],
        "positions": [encoder.positions],
        "bridge": [model.bridge],
        "encoder norm": [encoder.norm],
        "embedding": [decoder.embed],
        "adapter norm": [encoder.adapter.proj, encoder.adapter.norm],
        "decoder norm": [decoder.norm],
        "logits": [decoder.head],
    }
    parts |= {f"conv {i}": [layer] for i, layer in enumerate(front.conv_layers)}
    for name, modules in (
        ("encoder block", encoder.blocks),
        ("adapter", encoder.adapter.layers),
        ("decoder block", decoder.blocks),
    ):
        parts |= {f"{name} {i}": [module] for i, module in enumerate(modules)}
    return {
        name: sum(x.numel() for x in nn.ModuleList(part).parameters())
        for name, part in parts.items()
    }


def describe_tensor(name: str, x: Tensor, start: float, parameters: int = 0) -> dict:
    """A tensor that was begun at `start` with so many parameters; ids have neither mean nor deviation."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    ms, y, real = 1000 * (time.perf_counter() - start), x.float(), x.is_floating_point()
    return {
        "stage": name,
        "shape": [*x.shape],
        "dtype": str(x.dtype).removeprefix("torch."),
        "ms": ms,
        "parameters": parameters,
        "mean": y.mean().item() if real else None,
        "deviation": y.std(correction=0).item() if real else None,
    }


def observed_tensors(
    stt: SpeechToText, waveform: np.ndarray, tokens: Tensor
) -> Iterator[tuple[dict, Tensor]]:
    """Every tensor from a waveform (L,) to the tokens chosen behind each of a decoder input (1, T), in order,
    with its facts. What is done between two of them is not counted."""
    counts, samples = parameters(stt.model), torch.as_tensor(waveform)
    yield describe_tensor("waveform", samples, start := time.perf_counter()), samples
    input_values, _ = stt.prepare([waveform])  # (1, L)
    yield describe_tensor("input", input_values, start), input_values
    start = time.perf_counter()
    for name, x in parity.stages(stt.model, input_values, tokens):
        found = describe_tensor(name, x, start, counts[name])
        if name == "embedding":
            yield describe_tensor("tokens", tokens, time.perf_counter()), tokens
        yield found, x
        start = time.perf_counter()
    chosen = x.argmax(2)  # (1, T)
    yield describe_tensor("next tokens", chosen, start), chosen


def trace_tensors(stt: SpeechToText, waveform: np.ndarray) -> Iterator[str]:
    """Every tensor for a waveform (L,), the decoder reading what greedy search writes."""
    written = parity.greedy_tokens(stt.model, stt.model, stt.prepare([waveform])[0])
    line = "{:<17} {:<18} {:<9} {:>7} {:>12} {:>10} {:>10}".format
    yield line("# stage", "shape", "dtype", "ms", "parameters", "mean", "deviation")
    for row, _ in observed_tensors(stt, waveform, parity.decoder_input(stt.model, written)):
        shape, ms, count = (
            " x ".join(map(str, row["shape"])),
            f"{row['ms']:.1f}",
            f"{row['parameters']:,}",
        )
        values = [
            "-" if row[name] is None else f"{row[name]:.4f}" for name in ("mean", "deviation")
        ]
        yield line(row["stage"], shape, row["dtype"], ms, count, *values)
