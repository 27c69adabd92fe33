"""What `nanos2t train` can be told: one dataclass. Flags, and names in a config file, are its fields."""

import argparse
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args


def option(
    default: Any, text: str, choices: str = "", least: float = 0, most: float = math.inf
) -> Any:
    return field(
        default=default, metadata={"help": text, "choices": choices.split(), "range": (least, most)}
    )


@dataclass(frozen=True)
class TrainConfig:
    encoder: str | None = option(
        None, "folder or hub id of a speech encoder, or of a pair that has one"
    )
    decoder: str | None = option(
        None, "folder or hub id of a text decoder, or of a pair that has one"
    )
    model: str | None = option(None, "folder or hub id of a pair to go on with, instead of the two")
    random: str = option(
        "none", "halves to draw: only config.json is read", "none encoder decoder both"
    )
    vocabulary: str = option(
        "decoder", "built from --train, or the decoder's", "decoder characters bpe"
    )
    vocab_size: int = option(1000, "tokens of a bpe vocabulary", least=1)
    train: str = option(
        "", "manifest: lines of JSON with audio, text and perhaps language, start, end"
    )
    dev: str | None = option(None, "manifest for validation")
    output: str = option("", "folder of the run: best/ and last/ are models")
    keep_empty: bool = option(False, "train on lines without text too: in them nothing is said")
    max_seconds: float = option(30.0, "longer clips are skipped")
    batch_seconds: float = option(
        60.0, "audio that goes through the model at a time, padding included"
    )
    accumulate: int = option(1, "batches of a step, shared among the processes", least=1)
    targets: int = option(
        1, "texts that share the encoding of a clip, if it has several: drawn", least=1
    )
    curriculum: int = option(0, "steps until all clips take part, at first the shortest tenth")
    workers: int = option(0, "processes that decode audio ahead, for each that trains")
    speed: float = option(
        0.0, "play clips exp(u) times as fast, u uniform in -speed .. speed; pitch follows", most=1
    )
    noise: float = option(
        0.0, "share of clips that get noise, white to brown, at 3 to 35 dB below them", most=1
    )
    steps: int = option(1000, "updates of the weights", least=1)
    learning_rate: float = option(1e-4, "the highest")
    schedule: str = option(
        "linear", "after the warm-up; constant: until the end", "linear cosine constant"
    )
    warmup_steps: int = option(100, "steps of linear growth")
    decay_steps: int = option(100, "the last steps of a constant schedule, down to 0")
    weight_decay: float = option(0.01, "AdamW's, of matrices; its betas are 0.9 and 0.98")
    max_grad_norm: float = option(1.0, "longer gradients are cut to this length; 0: none is")
    label_smoothing: float = option(
        0.0, "share of a label that is spread over the vocabulary", most=1
    )
    ctc: float = option(
        0.0, "weight of a CTC loss of each clip's first text, in the order of its words"
    )
    freeze_feature_encoder: bool = option(False, "keep the convolutions as they are")
    hidden_dropout: float | None = option(
        None, "of both halves; default, here and below: the model's own", most=1
    )
    attention_dropout: float | None = option(None, "of both halves", most=1)
    activation_dropout: float | None = option(None, "of the encoder", most=1)
    feat_proj_dropout: float | None = option(None, "of the encoder", most=1)
    layerdrop: float | None = option(
        None, "share of the encoder's blocks to skip; never its adapter", most=1
    )
    mask_time_prob: float | None = option(
        None, "SpecAugment: share of frames masked, about", most=1
    )
    mask_time_length: int | None = option(None, "SpecAugment: frames of a span", least=1)
    mask_time_min_masks: int | None = option(
        None, "SpecAugment: least spans of a clip that has room"
    )
    bfloat16: bool = option(False, "compute in bfloat16 where that is safe (autocast)")
    dtype: str = option("float32", "of the weights", "float32 float64")
    checkpoint_activations: bool = option(
        False, "compute blocks again on the way back, to save memory"
    )
    shard: bool = option(
        False, "torchrun: share weights and optimizer among the processes (fully_shard)"
    )
    device: str = option("cpu", "cpu, cuda, cuda:1 ..., or auto")
    seed: int = option(1, "everything is drawn from it and the number of the batch", most=2**32)
    save_every: int = option(100, "steps between checkpoints", least=1)
    validate_every: int = option(100, "steps between validations", least=1)
    best: str = option(
        "dev_loss", "what decides: loss, or share of texts exactly right", "dev_loss exact"
    )
    average: int = option(1, "of so many last checkpoints the mean is written to average/", least=1)


FIXED = {
    "encoder",
    "decoder",
    "model",
    "random",
    "vocabulary",
    "vocab_size",
    "dtype",
    "ctc",
    "shard",
    "freeze_feature_encoder",
    "output",
}  # a run goes on with what it began with


def kind(option) -> type:
    return (get_args(option.type) or (option.type,))[0]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of TrainConfig; one that is not given is not in the namespace."""
    for option in fields(TrainConfig):
        how: dict = {
            "type": kind(option),
            "choices": option.metadata["choices"] or None,
            "metavar": None,
        }
        how = {"action": argparse.BooleanOptionalAction} if how["type"] is bool else how
        known = option.default not in (None, "", False, True)
        text = option.metadata["help"] + (f"; default: {option.default}" if known else "")
        parser.add_argument(flag(option.name), default=argparse.SUPPRESS, help=text, **how)


def read_file(path: str | Path) -> dict:
    """The object in a JSON or TOML file."""
    try:
        text = Path(path).read_text("utf-8")
        if Path(path).suffix != ".toml":
            found = json.loads(text)
        else:
            import tomllib  # Python 3.11

            found = tomllib.loads(text)
    except (OSError, ImportError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: {getattr(error, 'strerror', None) or error}, expected a config"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {type(found).__name__}, expected an object")
    return found


def resolve_config(flags: dict, file: str | None = None, resume: str | None = None) -> TrainConfig:
    """Flags, before the config file, before the config of the run to resume, before the defaults.
    ValueError naming the option, what was found and what was expected.
    """
    began = read_file(Path(resume) / "train.json") | {"output": resume} if resume else {}
    given = (read_file(file) if file else {}) | flags
    given = {name.replace("-", "_"): value for name, value in given.items()}
    options = {option.name: option for option in fields(TrainConfig)}
    for name, value in (began | given).items():
        if name not in options:
            raise ValueError(
                f"{file or resume}: {name} is no option of train: see nanos2t train --help"
            )
        check_config(options[name], value)
    for name in FIXED & began.keys() & given.keys():
        if given[name] != began[name] and not (
            name == "output" and Path(given[name]) == Path(resume)
        ):
            raise ValueError(
                f"{flag(name)} is {given[name]!r}, expected {began[name]!r}, as {resume} began"
            )
    config = TrainConfig(**began | given)
    if not config.train or not config.output:
        raise ValueError("expected --train and --output")
    if (bool(config.encoder), bool(config.decoder)) != 2 * (not config.model,):
        raise ValueError("expected --encoder and --decoder, or --model")
    return config


def check_config(option, value: object) -> None:
    wanted, choices, (least, most) = (
        kind(option),
        option.metadata["choices"],
        option.metadata["range"],
    )
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if choices or wanted is not str:
        fits = fits and (value in choices if choices else least <= value <= most)
    if not fits and value is not option.default:
        limits = f", {least} to {most}" if most < math.inf else f", at least {least}"
        limits = limits if wanted in (int, float) else ""
        expected = f"one of {', '.join(choices)}" if choices else wanted.__name__ + limits
        raise ValueError(f"{flag(option.name)} is {value!r}, expected {expected}")


def render_config(config: TrainConfig) -> str:
    return json.dumps(asdict(config), indent=2) + "\n"
