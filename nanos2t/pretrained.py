"""Checkpoints in the layout of transformers' SpeechEncoderDecoderModel: their configs and weights.

    config.json        read_configs    configs of an encoder, a decoder and a search
    model.safetensors  read_weights    tensors by our names, still memory-mapped
    our configs        describe_model  config.json, which checkpoint.py writes

`SpeechEncoderDecoder` in model.py builds the model from them. What the names and values of
transformers ("theirs") mean is in the tables of weights_map, one for each model_type, or "family".
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nanos2t import remap, remap_config
from nanos2t.checkpoint import read_tensors
from nanos2t.decoder import DecoderConfig, DecoderTraining
from nanos2t.files import check_downloaded, first_line, read_json
from nanos2t.generation_config import GenerationConfig
from nanos2t.halves import MODEL_TYPE, Half
from nanos2t.initialize import initialize_weights
from nanos2t.remap import TensorRow
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

MAX_LAYERS = 999  # more are a damaged file, and would take minutes to build
log = logging.getLogger("nanos2t")


@dataclass(frozen=True)
class ModelConfigs:
    """What a model is built from, except its weights."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    generation: GenerationConfig | None = None
    families: tuple[str, ...] = ()  # model_type of encoder and decoder
    source: str = "the configs"  # where they come from, for messages


# Reading configs


def read_configs(folder: Path) -> ModelConfigs:
    """Read the configs of a pair. Raises ValueError naming the file, key and value of an error."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{path}: model_type is {config.get('model_type')!r}, expected {MODEL_TYPE!r}"
        )
    return parse_configs(config, folder)


def parse_configs(config: dict[str, Any], folder: Path) -> ModelConfigs:
    """Translate the content of a pair's config.json. `folder` has ids and the tokenizer."""
    encoder = Half("encoder", folder, config.get("encoder"), config)
    decoder = Half("decoder", folder, config.get("decoder"), config)
    return join_configs(encoder, decoder)


def join_configs(
    encoder: Half, decoder: Half, options: Mapping[str, Any] | None = None
) -> ModelConfigs:
    """Translate the configs of two halves to ours.

    `options` of generation, ids among them, override those of the decoder's folder.
    Raises ValueError naming the file, key and value for one that is not implemented.
    """
    # An id may be an option or a changed value of the decoder's config.
    options = dict(options or {})
    ids = {}
    for name, value in [*decoder.changes.items(), *options.items()]:
        if name.endswith("_token_id"):
            ids[name] = value

    encoder_family, encoder_config = read_part(encoder.config, "encoder", encoder.where)
    decoder_family, decoder_config = read_part(decoder.config, "decoder", decoder.where)
    id_rules = dict(remap.read_table(decoder_family).ids)
    # Computed positions are numbered without the pads, too, in any family.
    if decoder_config.sinusoidal:
        start_rules = id_rules["decoder_start_token_id"]
        id_rules["decoder_start_token_id"] = [*start_rules, "!pad_token_id"]
    generation = read_generation(decoder, ids, decoder_config, id_rules)
    generation = generation.override(options, decoder_config.vocab_size)

    # Both halves of a pair come from one folder: name it once.
    paths = dict.fromkeys(str(half.folder / "config.json") for half in (encoder, decoder))
    return ModelConfigs(
        encoder_config,
        decoder_config,
        generation,
        (encoder_family, decoder_family),
        source=", ".join(paths),
    )


def read_part(config: Any, part: str, where: str) -> tuple[str, EncoderConfig | DecoderConfig]:
    """Translate the config of an encoder or decoder. Returns its family and our config.

    `where` begins the messages of errors: "config.json: encoder.".
    """
    table = remap.read_family_table(config, part, where)
    fields = remap_config.read_config(table.config, config, where)

    # "training.layerdrop" is the field `layerdrop` of the nested config.
    training = {}
    for name in list(fields):
        if name.startswith("training."):
            training[name.removeprefix("training.")] = fields.pop(name)
    if part == "encoder":
        return table.name, EncoderConfig(**fields, training=EncoderTraining(**training))
    return table.name, DecoderConfig(**fields, training=DecoderTraining(**training))


def read_generation(
    decoder: Half,
    ids: Mapping[str, Any],
    decoder_config: DecoderConfig,
    id_rules: Mapping[str, list[str]],
) -> GenerationConfig:
    """Read generation options, and resolve ids, from the files in the decoder's folder.

    Options come from generation_config.json or, in older folders, from config.json. Ids come from
    the first of `ids`, these files and the decoder's config that has them; an id that none has
    may follow from `id_rules`, the [ids] of the family's table, or is None. In a pair all but EOS
    and BOS must be in the vocabulary.
    """
    path = decoder.folder / "generation_config.json"
    generation_config = {}
    if path.exists():
        generation_config = read_json(path)
    if not generation_config:
        path = decoder.folder / "config.json"

    # Where to look, in this order. A pad that the config leaves out has the family's default.
    part_config = {"pad_token_id": decoder_config.pad_token_id} | decoder.config
    id_sources = [ids, generation_config, decoder.pair_config or {}, part_config]
    option_sources = [generation_config] if generation_config else id_sources

    rows = remap.read_table(MODEL_TYPE).config
    options = {}
    for key in rows:
        sources = id_sources if key.endswith("_token_id") else option_sources
        options[key] = first_value(sources, key)
    # A pair without a start begins with BOS, as in transformers. The rules are for lone halves, and
    # for pairs that have no BOS either.
    if decoder.pair_config is not None and options["decoder_start_token_id"] is None:
        options["decoder_start_token_id"] = options["bos_token_id"]
    resolve_ids(options, id_rules, decoder.folder)

    # A half alone may have the ids of its family's vocabulary, not its own: callers pass others.
    vocab_size = None
    if decoder.pair_config is not None:
        vocab_size = decoder_config.vocab_size

    # What no file says has the default of GenerationConfig.
    fields = remap_config.read_config(rows, options, f"{path}: ")
    fields = {name: value for name, value in fields.items() if value is not None}
    try:
        generation = GenerationConfig(**fields)
        generation.validate(vocab_size)
        check_distinct_ids(generation, id_rules)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return generation


def resolve_ids(options: dict[str, Any], id_rules: Mapping[str, list[str]], folder: Path) -> None:
    """Fill in the ids that no config file gives, by the rules of [ids], then the pad by the EOS."""
    for key, rules in id_rules.items():
        for rule in rules:
            if options[key] is None and not rule.startswith("!"):
                options[key] = resolve_id(rule, options, folder)

    # As in transformers: without a pad the first EOS pads.
    if options["pad_token_id"] is None:
        options["pad_token_id"] = first_id(options["eos_token_id"])


def check_distinct_ids(generation: GenerationConfig, id_rules: Mapping[str, list[str]]) -> None:
    """Raise ValueError if two ids are equal that the rules of [ids] forbid to be: "!pad_token_id".

    RoBERTa numbers its positions without the pads, and so does transformers where positions are
    computed. Where the start is a pad, transformers counts in one way in training, and in another
    one in a search.
    """
    for key, rules in id_rules.items():
        for rule in rules:
            token_id = getattr(generation, key)
            other = rule.removeprefix("!")
            if (
                rule.startswith("!")
                and token_id is not None
                and token_id == getattr(generation, other)
            ):
                raise ValueError(
                    f"{key} is {token_id}, the {other}, which gets no position of its own in this "
                    f"decoder, expected another token, such as bos_token_id"
                )


def first_value(sources: Iterable[Mapping[str, Any]], key: str) -> Any:
    """Return the value of `key` in the first source that has one, or None."""
    for source in sources:
        if source.get(key) is not None:
            return source[key]
    return None


def first_id(ids: int | list[int] | None) -> int | None:
    """Return the id, or the first of a list of ids; None if there is none."""
    if not isinstance(ids, list):
        return ids
    return ids[0] if ids else None


def resolve_id(rule: str, options: Mapping[str, Any], folder: Path) -> int | None:
    """Follow a rule of [ids]: a number, the name of another id, or a token of the tokenizer."""
    if rule.isdecimal():
        return int(rule)
    if rule in options:
        return options[rule]
    return find_token_id(folder, rule)


def find_token_id(folder: Path, token: str) -> int | None:
    """Look up the id of a special token in the tokenizer's files; None if they lack it."""
    # BERT's vocab.txt has a token on each line: the number of the line is the id.
    token_ids = {}
    vocab_path = folder / "vocab.txt"
    if vocab_path.exists():
        check_downloaded(vocab_path)
        tokens = vocab_path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
        token_ids = {token: number for number, token in enumerate(tokens)}

    # tokenizer.json lists special tokens with their ids; it overrides the older file.
    tokenizer_path = folder / "tokenizer.json"
    if tokenizer_path.exists():
        token_ids |= read_added_tokens(tokenizer_path)
    return token_ids.get(token)


def read_added_tokens(path: Path) -> dict[str, int]:
    """Read the ids of the added tokens in tokenizer.json. Raises ValueError for another type."""
    added_tokens = read_json(path).get("added_tokens") or []
    token_ids = {}
    try:
        for added in added_tokens:
            token_ids[added["content"]] = int(added["id"])
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: added_tokens is no list of objects with content and id ({error!r})"
        ) from None
    return token_ids


# An empty model, and the weights in it


class SkipInit(TorchFunctionMode):
    """Skip torch.nn.init while a model is built on the meta device.

    The modules of torch draw random weights when they are built. On the meta device there is
    nothing to draw, and `normal_` would import sympy there, which takes longer than all the rest.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def check_device(device: str | torch.device | None) -> None:
    """Raise ValueError unless `device` is one that torch can use here."""
    # torch raises errors of many kinds for others, after the weights were read.
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r:.40}: {first_line(error)}") from None


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ValueError unless `dtype` is a floating point type."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"dtype is {dtype!r}, expected a floating point type such as torch.float32"
        )


def check_sizes(configs: ModelConfigs) -> None:
    """Raise ValueError for sizes that torch accepts when it builds a model, but we do not."""
    encoder = configs.encoder
    num_layers = max(
        encoder.num_layers,
        encoder.adapter_layers,
        encoder.position_layers,
        configs.decoder.num_layers,
    )
    if num_layers > MAX_LAYERS or encoder.adapter_stride == 0:
        raise ValueError(f"{num_layers} layers, adapter_stride {encoder.adapter_stride}")
    if encoder.hidden_size == 0 or configs.decoder.hidden_size == 0:
        raise ValueError("hidden_size is 0")
    if encoder.training.mask_time_prob > 0 and encoder.training.mask_time_length == 0:
        raise ValueError("mask_time_length is 0, but mask_time_prob is not")


def table_rows(families: Iterable[str]) -> list[TensorRow]:
    """List the rows for the tensors of a pair. families: of its encoder and its decoder."""
    rows = []
    for part, family in zip(("encoder.", "decoder."), families, strict=False):
        rows += remap.prefix_rows(remap.read_table(family).tensors, part)
    return rows + remap.read_table(MODEL_TYPE).tensors


def read_weights(
    folder: Path, families: Iterable[str], ours: Mapping[str, Tensor]
) -> tuple[Path, dict[str, Tensor]]:
    """Read the tensors of a pair by our names. Of `ours` only names and shapes are used.

    Returns the file that was read (the index of shards), and the tensors, still memory-mapped.
    Raises ValueError, naming the file and tensor, if one is missing, misshapen or unknown.
    """
    path, theirs = read_tensors(folder)
    return path, remap.import_state(table_rows(families), theirs, ours, str(path))


def fill_model(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put the tensors of `state` into an empty model; initialise and list those that it lacks."""
    # Missing weights need memory of their own.
    missing = {}
    for name, tensor in model.state_dict().items():
        if name not in state:
            missing[name] = torch.empty(tensor.shape)

    # assign: the model takes the tensors themselves, mapped from the file, without a copy.
    model.load_state_dict({**state, **missing}, assign=True)
    if missing:
        initialize_weights(model, missing)
        log.warning("%s: initialised, not in the file: %s", source, ", ".join(missing))


# Writing configs


def describe_model(
    encoder: dict[str, Any],
    decoder: dict[str, Any],
    generation: dict[str, Any],
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Compose the config.json of a pair from those of its parts."""
    # Programs that do not read generation_config.json look for the ids here.
    ids = {key: value for key, value in generation.items() if key.endswith("_token_id")}
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["SpeechEncoderDecoderModel"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "dtype": str(dtype).removeprefix("torch."),
        "encoder": encoder,
        "decoder": decoder,
        **ids,
    }


def describe_generation(generation: GenerationConfig) -> dict[str, Any]:
    """Compose generation_config.json: the options that differ from the defaults."""
    rows = remap.read_table(MODEL_TYPE).config
    options = remap_config.write_config(rows, vars(generation))
    # Ids without a value are among the defaults, too: they are None.
    defaults = vars(GenerationConfig())
    return {key: value for key, value in options.items() if value != defaults[key]}


def describe_part(
    config: EncoderConfig | DecoderConfig, part: str, own_families: Iterable[str]
) -> dict[str, Any]:
    """Express the config of an encoder or decoder in the keys of a family.

    The first family that can express it is taken, those of `own_families` before others. Raises
    ValueError, with the fields that each family lacks, if none can.
    """
    # The tables call a field of the nested config "training.<field>".
    fields = dict(vars(config))
    for name, value in vars(fields.pop("training")).items():
        fields[f"training.{name}"] = value

    families = sorted(remap.find_families(part), key=lambda family: family not in own_families)
    lost_fields = {}
    for family in families:
        rows = remap.read_table(family).config
        theirs = remap_config.write_config(rows, fields)

        # Whether the family can express all of it shows when it is read again.
        try:
            again = remap_config.read_config(rows, theirs)
        except ValueError:
            again = {}
        lost = {name: value for name, value in fields.items() if again.get(name) != value}
        lost_fields[family] = [f"{name}={value}" for name, value in lost.items()]

        # What only training reads may be lost, with a warning.
        if all(name.startswith("training.") for name in lost):
            for field in lost_fields[family]:
                log.warning("config.json has no key for the %s's %s", part, field)
            return {"model_type": family, **theirs}
    raise ValueError(
        f"no family's config.json can say what the {part}'s config says: {lost_fields}"
    )


def warn_about_bridge(encoder: EncoderConfig, decoder: DecoderConfig) -> None:
    """Warn if transformers would build another bridge: its input always has size hidden_size."""
    has_bridge = encoder.output_size != decoder.hidden_size
    if has_bridge and encoder.output_size != encoder.hidden_size:
        log.warning(
            "transformers cannot load this model: its bridge takes hidden_size, not adapter_size"
        )
