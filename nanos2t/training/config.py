"""The options of `nanos2t train`: one dataclass, whose fields are flags and keys of a config file.

This module imports no torch, so that `nanos2t train --help` is quick.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

# The most that a number may be, unless its option says less: a greater one is a mistake.
MAX_NUMBER = 10**9


def option(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    least: float = 0,
    most: float = MAX_NUMBER,
) -> Any:
    """Return a dataclass field with its help text, and the values that it may have."""
    metadata = {"help": text, "choices": choices, "least": least, "most": most}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run does. Numbers are from `least` to `most`.

    Without these, they are from 0 to MAX_NUMBER. Where a large number would fill the memory, or
    cannot be meant, `most` is lower.
    """

    # The model to start from: two halves, or a pair
    encoder: str | None = option(
        None, "folder or hub id of a speech encoder, or of a pair that contains one"
    )
    decoder: str | None = option(
        None, "folder or hub id of a text decoder, or of a pair that contains one"
    )
    model: str | None = option(
        None, "folder or hub id of a pair to start from, instead of --encoder and --decoder"
    )
    random: str = option(
        "none",
        "halves whose weights are drawn at random: of them only config.json is read",
        choices=("none", "encoder", "decoder", "both"),
    )
    config_changes: dict | None = option(
        None,
        "fields of the halves' config.json: the flags --encoder-KEY VALUE and --decoder-KEY VALUE",
    )
    vocabulary: str = option(
        "decoder",
        "the decoder's own, or a new one built from the texts of --train",
        choices=("decoder", "characters", "bpe"),
    )
    vocab_size: int = option(1000, "tokens of a bpe vocabulary", least=1, most=10**6)

    # Data: manifests, the folder of the run, and which clips are used
    train: str = option(
        "", "manifest to train on: lines of JSON with audio, text and perhaps language, start, end"
    )
    dev: str | None = option(None, "manifest to validate on")
    output: str = option("", "folder of the run: best/ and last/ in it are models")
    keep_empty: bool = option(False, "train on items with an empty text, too: they are silent")
    max_seconds: float = option(30.0, "longer clips are skipped")

    # Batches
    batch_seconds: float = option(60.0, "audio in a batch, padding included")
    accumulate: int = option(
        1,
        "batches of a step, shared among the processes (gradient accumulation)",
        least=1,
        most=100_000,
    )
    targets: int = option(
        1,
        "texts of a clip, drawn at random, that are trained on one encoding of it",
        least=1,
        most=1000,
    )
    curriculum: int = option(
        0, "steps until all clips take part; the run starts with the shortest tenth"
    )
    workers: int = option(
        0, "processes that decode audio ahead, for each training process; at most one for each CPU"
    )

    # Augmentation of the waveforms
    speed: float = option(
        0.0, "clips play exp(u) times as fast, u uniform in -speed .. speed; changes pitch", most=1
    )
    noise: float = option(
        0.0, "share of clips with noise, from white to brown, 3 to 35 dB below the clip", most=1
    )

    # Updates: the optimizer (AdamW with betas 0.9 and 0.98) and its learning rate
    steps: int = option(1000, "updates of the weights", least=1)
    learning_rate: float = option(1e-4, "the peak", most=1000)
    schedule: str = option(
        "linear",
        "how the learning rate falls after the warm-up",
        choices=("linear", "cosine", "constant"),
    )
    warmup_steps: int = option(100, "steps in which the learning rate rises linearly")
    decay_steps: int = option(100, "last steps of a constant schedule, which fall linearly to 0")
    weight_decay: float = option(0.01, "AdamW's, of matrices alone", most=1000)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0: never")

    # The loss
    label_smoothing: float = option(
        0.0, "share of a label's probability that is spread over the vocabulary", most=1
    )
    ctc: float = option(
        0.0,
        "weight of a CTC loss on the encoder, for texts in the order of the spoken words",
        most=1000,
    )
    freeze_feature_encoder: bool = option(False, "do not train the convolutions")

    # Regularisation; None keeps what the model's own config says
    hidden_dropout: float | None = option(
        None, "of both halves; this and the next options default to the model's own", most=1
    )
    attention_dropout: float | None = option(None, "of both halves", most=1)
    activation_dropout: float | None = option(None, "of the encoder", most=1)
    feat_proj_dropout: float | None = option(None, "of the encoder", most=1)
    layerdrop: float | None = option(
        None, "share of the encoder's blocks that are skipped, adapter excepted", most=1
    )
    mask_time_prob: float | None = option(
        None, "SpecAugment: approximate share of frames that are masked", most=1
    )
    mask_time_length: int | None = option(None, "SpecAugment: frames of a span", least=1)
    mask_time_min_masks: int | None = option(
        None, "SpecAugment: least number of spans in a clip that has room for them"
    )

    # Computation
    bfloat16: bool = option(False, "compute in bfloat16 where that is safe (autocast)")
    dtype: str = option("float32", "of the weights", choices=("float32", "float64"))
    checkpoint_activations: bool = option(
        False, "compute the blocks again in the backward pass, to save memory"
    )
    shard: bool = option(
        False, "with torchrun: split weights and optimizer among the processes (fully_shard)"
    )
    device: str = option("cpu", "cpu, cuda, cuda:1 ..., or auto")
    seed: int = option(
        1, "all random numbers follow from it: see training/randomness.py", most=2**32
    )

    # Checkpoints and validation
    save_every: int = option(100, "steps between checkpoints", least=1)
    validate_every: int = option(100, "steps between validations", least=1)
    best: str = option(
        "dev_loss",
        "metric that selects best/: the loss, or the share of texts that are exactly right",
        choices=("dev_loss", "exact"),
    )
    average: int = option(
        1, "number of last checkpoints whose mean is written to average/", least=1, most=1000
    )


# Flags that begin so change a field of a half's config.json.
CHANGE_FLAGS = ("--encoder-", "--decoder-")

# A resumed run keeps the values that it started with.
FIXED_OPTIONS = frozenset(
    (
        "encoder",
        "decoder",
        "model",
        "random",
        "config_changes",
        "vocabulary",
        "vocab_size",
        "dtype",
        "ctc",
        "shard",
        "freeze_feature_encoder",
        "output",
    )
)


def option_type(option: Field) -> type:
    """The type of an option's values: float for `float` and for `float | None`."""
    alternatives = get_args(option.type)
    return alternatives[0] if alternatives else option.type


def parse_int(text: str) -> int:
    """Return a whole number, as argparse wants a type to do."""
    try:
        return int(text)
    except ValueError:
        message = f"{text[:40]!r}, expected a whole number"
        raise argparse.ArgumentTypeError(message) from None


def parse_float(text: str) -> float:
    """Return a number, as argparse wants a type to do."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a number") from None


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of TrainConfig. Unused flags stay out of the namespace."""
    parsers = {int: parse_int, float: parse_float, str: str}
    for option in fields(TrainConfig):
        value_type = option_type(option)
        if value_type is dict:
            continue  # see parse_config_changes
        if value_type is bool:
            action = {"action": argparse.BooleanOptionalAction}
        else:
            choices = option.metadata["choices"] or None
            action = {"type": parsers[value_type], "choices": choices}

        text = option.metadata["help"]
        if value_type is not bool and option.default not in (None, ""):
            text += f"; default: {option.default}"
        parser.add_argument(flag_name(option.name), default=argparse.SUPPRESS, help=text, **action)


def parse_config_changes(words: list[str]) -> dict[str, Any]:
    """Parse flags such as --encoder-add-adapter and --decoder-num-hidden-layers 6.

    A value is written as in JSON, or is a word; a flag without one is true. Raises ValueError for
    a word that belongs to no such flag.
    """
    changes: dict[str, Any] = {}
    name = ""
    for word in words:
        flag, has_value, value = word.partition("=")
        if flag.startswith(CHANGE_FLAGS):
            name = flag.removeprefix("--").replace("-", "_")
            changes[name] = parse_value(value) if has_value else True
        elif name and not word.startswith("--") and changes[name] is True:
            changes[name] = parse_value(word)
        else:
            raise ValueError(f"unrecognized arguments: {' '.join(words)}")
    return changes


def parse_value(text: str) -> Any:
    """Parse a value as JSON writes it; a word may lack its quotes."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def gather_config_changes(options: dict[str, Any]) -> dict[str, Any]:
    """Move the options encoder_* and decoder_* into the one option `config_changes`."""
    gathered: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for name, value in options.items():
        if name.startswith(("encoder_", "decoder_")):
            changes[name] = value
        else:
            gathered[name] = value
    if changes:
        gathered["config_changes"] = (gathered.get("config_changes") or {}) | changes
    return gathered


def read_config_file(path: str | Path) -> dict:
    """Read the object in a JSON or TOML file, whose keys may be written like flags.

    Raises ValueError if there is none, or if a key is there twice.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".toml":
            options = collect_options(parse_toml(text).items())
        else:
            options = json.loads(text, object_pairs_hook=collect_options)
    except (OSError, ImportError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: {reason}, expected a config") from None
    if not isinstance(options, dict):
        raise ValueError(f"{path}: {type(options).__name__}, expected an object")
    return options


def collect_options(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, with the names of fields. ValueError for one that is twice."""
    options = {}
    for key, value in pairs:
        name = key.replace("-", "_")
        if name in options:
            raise ValueError(f"{name} is there twice")
        options[name] = value
    return options


def parse_toml(text: str) -> dict:
    """Parse TOML, with the standard library from Python 3.11 on."""
    try:
        import tomllib
    except ImportError:
        import tomli as tomllib
    return tomllib.loads(text)


def resolve_config(flags: dict, file: str | None = None, resume: str | None = None) -> TrainConfig:
    """Return the config of a run.

    Flags override the config file, the config file overrides the config of the run to resume (a
    folder), and that overrides the defaults. ValueError names the option, its value and what was
    expected.
    """
    # The run to resume
    saved = {}
    if resume:
        saved = read_config_file(Path(resume) / "train.json")
        saved["output"] = resume

    # The config file and the flags
    requested = {}
    if file:
        requested = read_config_file(file)
    requested = gather_config_changes(requested | flags)

    check_options(saved | requested, file or resume)
    check_fixed_options(saved, requested, resume)
    config = TrainConfig(**(saved | requested))

    # Options without which nothing can start
    if not config.train or not config.output:
        raise ValueError("expected --train and --output")
    has_pair = bool(config.model)
    if bool(config.encoder) == has_pair or bool(config.decoder) == has_pair:
        raise ValueError("expected --encoder and --decoder, or --model")
    if config.config_changes and has_pair and config.random == "none":
        flags_of_changes = ", ".join(flag_name(name) for name in config.config_changes)
        raise ValueError(
            f"{flags_of_changes}: expected --encoder and --decoder in place of --model"
        )
    return config


def check_options(values: dict, source: str | None) -> None:
    """Raise ValueError for an unknown option, or a value that an option cannot have."""
    options = {option.name: option for option in fields(TrainConfig)}
    for name, value in values.items():
        if name not in options:
            raise ValueError(
                f"{source}: {name} is no option of train, expected one of nanos2t train --help"
            )
        check_option(options[name], value)


def check_option(option: Field, value: object) -> None:
    """Raise ValueError unless `value` is the option's default, or of its type and in its range."""
    if value is option.default:
        return
    value_type = option_type(option)
    choices = option.metadata["choices"]
    least = option.metadata["least"]
    most = option.metadata["most"]

    # bool is a subclass of int, but True is no number here; an int may stand for a float.
    is_valid = type(value) is value_type or (value_type is float and type(value) is int)
    if is_valid and choices:
        is_valid = value in choices
    elif is_valid and value_type in (int, float):
        is_valid = least <= value <= most
    if is_valid:
        return

    expected = value_type.__name__
    if choices:
        expected = f"one of {', '.join(choices)}"
    elif value_type in (int, float):
        expected += f", {least} to {most}"
    raise ValueError(f"{flag_name(option.name)} is {describe_value(value)}, expected {expected}")


def describe_value(value: object) -> str:
    """Return a value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:
        # Python writes no integer of more than 4300 digits; a config file may have one in hex.
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_fixed_options(saved: dict, requested: dict, resume: str | None) -> None:
    """Raise ValueError for an option that a resumed run cannot change."""
    for name in FIXED_OPTIONS & saved.keys() & requested.keys():
        is_same = requested[name] == saved[name]
        if name == "output":
            is_same = Path(requested[name]) == Path(saved[name])
        if not is_same:
            raise ValueError(
                f"{flag_name(name)} is {requested[name]!r}, expected {saved[name]!r}, "
                f"with which {resume} began"
            )


def render_config(config: TrainConfig) -> str:
    """Return the config as the text of a config file."""
    return json.dumps(asdict(config), indent=2) + "\n"
