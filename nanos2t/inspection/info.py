"""Describe the model in a folder (`nanos2t info`): each public function yields lines of text.

The model is built on the meta device and the file of weights is mapped into memory: no weight is
read.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from nanos2t import checkpoint, pretrained, remap
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import from_folder
from nanos2t.transcription.transcriber import SpeechToText

# Of the output, in characters
LINE_WIDTH = 110
NAME_WIDTH = 12

# The tokenizer cannot be asked for larger ids, which a broken file may contain.
MAX_ID = 2**31 - 1


def describe_model(folder: Path) -> Iterator[str]:
    """Describe sizes, languages, ids and files. Raises ValueError if the model cannot be loaded."""
    model = SpeechEncoderDecoder.build_empty(pretrained.read_configs(folder))

    # Only the names and shapes of the tensors are compared with those of the model.
    path, tensors = checkpoint.read_tensors(folder)
    rows = pretrained.table_rows(model.families)
    remap.import_state(rows, tensors, model.state_dict(), str(path))
    stt = from_folder(model, folder)

    yield from describe_configs(model)
    yield from describe_parameters(model)
    yield from describe_audio(stt)
    yield wrap_line("tokenizer", describe_tokenizer(stt))
    yield wrap_line("languages", ", ".join(stt.languages) or "one, nothing to choose")
    yield from describe_generation(stt)
    yield from describe_files(folder, path, tensors)


def describe_configs(model: SpeechEncoderDecoder) -> Iterator[str]:
    """Yield the family and the config of both parts, without what only training reads."""
    parts = {"encoder": model.encoder.config, "decoder": model.decoder.config}
    for (part, config), family in zip(parts.items(), model.families, strict=True):
        fields = {name: value for name, value in vars(config).items() if name != "training"}
        yield wrap_line(part, f"{family}: {format_fields(fields)}")


def describe_parameters(model: SpeechEncoderDecoder) -> Iterator[str]:
    """Yield how many parameters the model and each part of it have."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        # "encoder.blocks.0.mlp..." belongs to encoder.blocks; the bridge has no parts.
        levels = name.split(".")
        part = levels[0] if levels[0] == "bridge" else ".".join(levels[:2])
        counts[part] += parameter.numel()

    yield wrap_line("parameters", f"{counts.total():,}")
    for part, count in counts.items():
        yield f"  {part:<28}{count:>15,}"


def describe_audio(stt: SpeechToText) -> Iterator[str]:
    """Yield what audio the model expects, and how much of it a frame covers."""
    scale = "normalised" if stt.normalise else "as it is"
    yield wrap_line("audio", f"{stt.sample_rate} Hz, {scale}")

    config = stt.model.encoder.config
    frame_rate = stt.sample_rate / math.prod(config.conv_strides)
    milliseconds = 1000 * config.min_samples / stt.sample_rate
    text = f"{frame_rate:.4g} per second, each from {milliseconds:.4g} ms of sound"
    if config.adapter_layers:
        memory_rate = frame_rate / config.adapter_stride**config.adapter_layers
        text += f"; {memory_rate:.4g} per second after the adapter"
    yield wrap_line("frames", text)


def describe_tokenizer(stt: SpeechToText) -> str:
    backend = getattr(stt.tokenizer, "backend", None)
    if backend is None:
        return "none: ids instead of text"
    return f"{type(backend.model).__name__}, {backend.get_vocab_size():,} tokens"


def describe_generation(stt: SpeechToText) -> Iterator[str]:
    """Yield the ids with their tokens, and the options that differ from plain greedy search."""
    options = vars(stt.model.generation)

    # Ids are shown even if they are the default: none.
    ids = {name: value for name, value in options.items() if name.endswith("_token_id")}
    yield wrap_line("ids", format_fields({name: spell_id(stt, ids[name]) for name in ids}))

    changed = {}
    for name, default in vars(GenerationConfig()).items():
        if name not in ids and name != "lang_to_id" and options[name] != default:
            changed[name] = options[name]
    neutral = "neutral: greedy search, 20 new tokens at most"
    yield wrap_line("generation", format_fields(changed) or neutral)


def spell_id(stt: SpeechToText, value: object) -> object:
    """Return an id with the text of its token, if the tokenizer has one."""
    if stt.tokenizer is None or not isinstance(value, int) or not 0 <= value <= MAX_ID:
        return value
    text = stt.tokenizer.decode([value], skip_special_tokens=False)
    return f"{value} {text}".strip()


def describe_files(folder: Path, path: Path, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield what is in the file of weights `path`, and the sizes of all files of the folder."""
    dtypes = ", ".join(sorted({format_dtype(tensor) for tensor in tensors.values()}))
    yield wrap_line("weights", f"{path.name}: {len(tensors)} tensors, {dtypes}")
    yield f"{'files':<{NAME_WIDTH}}{folder}"
    for file in sorted(folder.iterdir()):
        if file.is_file():
            yield f"  {file.name:<28}{file.stat().st_size:>15,} bytes"


def wrap_line(name: str, text: str) -> str:
    """Return a name and a text, wrapped and indented."""
    return textwrap.fill(
        f"{name:<{NAME_WIDTH - 1}} {text}",
        LINE_WIDTH,
        subsequent_indent=" " * NAME_WIDTH,
        break_on_hyphens=False,
    )


def format_fields(fields: Mapping[str, object]) -> str:
    parts = [f"{name}={'none' if value is None else value}" for name, value in fields.items()]
    return ", ".join(parts)


def format_dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def tensor_map(folder: Path) -> Iterator[str]:
    """Yield a table of all tensors: their name, ours, their shape, the rule, the dtype in the file.

    ValueError, after all lines, if the weights cannot be loaded.
    """
    model = SpeechEncoderDecoder.build_empty(pretrained.read_configs(folder))
    ours = model.state_dict()
    rows = pretrained.table_rows(model.families)

    # The table of a model whose weights are missing or wrong is shown, too.
    tensors = {}
    problem = None
    try:
        path, tensors = checkpoint.read_tensors(folder)
        remap.import_state(rows, tensors, ours, str(path))
    except ValueError as error:
        problem = error

    # Every tensor of the model, then what else is in the file
    lines = map_our_tensors(rows, ours)
    mapped = {theirs for theirs, *_ in lines}
    lines += map_other_tensors(rows, {name: tensors[name] for name in tensors.keys() - mapped})
    if not tensors:
        # Without a file, list all tensors of theirs that would be skipped.
        lines += [(row.theirs, "-", (), "drop") for row in rows if row.is_dropped]

    table = [("# theirs", "ours", "shape", "rule", "file")]
    for theirs, names, shape, rule in lines:
        dtype = format_dtype(tensors[theirs]) if theirs in tensors else "-"
        table.append((theirs, names, " x ".join(map(str, shape)) or "-", rule, dtype))
    yield from align_columns(table)
    if problem:
        raise problem


def map_our_tensors(rows: list[remap.TensorRow], ours: Mapping[str, Tensor]) -> list[tuple]:
    """Return (their name, our names, their shape, rule) of all tensors that we read, in order."""
    order = {name: place for place, name in enumerate(ours)}
    matches = sorted(remap.match_rows(rows, ours), key=lambda match: order[match.ours[0]])
    lines = []
    for names, theirs, row in matches:
        shape = remap.fuse([ours[name] for name in names], row).shape
        lines.append((theirs, ", ".join(names), shape, format_rule(row)))
    return lines


def map_other_tensors(rows: list[remap.TensorRow], tensors: Mapping[str, Tensor]) -> list[tuple]:
    """Return the same of those tensors of a file that the model has no place for."""
    skipped = [row for row in rows if row.is_dropped or row.is_optional]
    lines = []
    for name in sorted(tensors):
        rule = "no row"
        for row in skipped:
            if remap.compile_pattern(row.theirs).fullmatch(name):
                rule = format_rule(row)
                break
        lines.append((name, "-", tensors[name].shape, rule))
    return lines


def format_rule(row: remap.TensorRow) -> str:
    return " ".join(sorted(row.flags)) or "copy"


def align_columns(table: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows of a table as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
