"""A folder or hub id in the layout of transformers.SpeechEncoderDecoderModel (HF) -> our model, and back.
    config.json -> configs -> empty model; model.safetensors -> remap.load -> its weights, still memory-mapped
What HF's names and values mean stands in the tables of weights_map, one for each model_type."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.overrides import TorchFunctionMode

from nanos2t import remap, remap_config
from nanos2t.checkpoint import WEIGHTS, Device, Name, find_folder, read_tensors
from nanos2t.decoder import DecoderConfig
from nanos2t.files import first_line, read_json
from nanos2t.generation_config import GenerationConfig
from nanos2t.initialize import initialize_weights
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

MODEL_TYPE = "speech-encoder-decoder"
log = logging.getLogger("nanos2t")


def from_pretrained(
    name_or_path: Name,
    *,
    dtype: torch.dtype = torch.float32,
    device: Device = "cpu",
    revision: str | None = None,
    local_files_only: bool = False,
) -> SpeechEncoderDecoder:
    """The model in a folder or hub repository in transformers' layout, in eval mode. ValueError, naming file
    and tensor or key, if missing, broken or not implemented; optional ones are drawn, and in the log."""
    folder = find_folder(name_or_path, revision, local_files_only)
    model = empty_model(folder)
    path, theirs = read_tensors(folder)
    state = remap.import_state(table_rows(model.families), theirs, model.state_dict(), str(path))
    return fill(model, state, dtype, device, str(path))


def from_encoder_decoder_pretrained(
    encoder: Name,
    decoder: Name,
    *,
    dtype: torch.dtype = torch.float32,
    device: Device = "cpu",
    decoder_start_token_id: int | None = None,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
) -> SpeechEncoderDecoder:
    """A model of two folders or hub repositories: a speech encoder and a text decoder, bare or with any head.
    What neither has (cross-attention, bridge, the head of a decoder without one) is initialised, and listed
    on the logger "nanos2t". The ids given go before the decoder's own. ValueError as above."""
    ids = {
        "decoder_start_token_id": decoder_start_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
    }
    folders = {"encoder": find_folder(encoder), "decoder": find_folder(decoder)}
    config = {part: read_json(folder / "config.json") for part, folder in folders.items()}
    model = build(config, folders["encoder"], folders["decoder"], ids)
    state = {}
    for part, family in zip(folders, model.families):
        table, (path, theirs) = remap.read_table(family), read_tensors(folders[part])
        bare = not any(name.startswith(table.prefix + ".") for name in theirs)
        new = [".cross_attn", "head."] if bare else [".cross_attn"]  # no half needs them: optional
        rows = [
            (ours, right, words | {"optional"} if any(name in ours for name in new) else words)
            for ours, right, words in table.tensors
        ]
        ours = getattr(model, part).state_dict()
        found = remap.import_state(rows, remap.inside_pair(theirs, table), ours, str(path))
        lost = [name for name in ours if ".cross_attn" in name and name not in found]
        if lost and any(".cross_attn" in name for name in found):
            raise ValueError(
                f"{path}: cross-attention is there, but without {remap_config.shorten(lost)}"
            )
        state |= {f"{part}.{name}": value for name, value in found.items()}
    return fill(model, state, dtype, device, f"{encoder}, {decoder}")


def fill(
    model: nn.Module, state: dict, dtype: torch.dtype, device: Device, where: str
) -> nn.Module:
    """An empty model with the tensors of `state`, in eval mode; those that it lacks are drawn, and listed."""
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f"dtype is {dtype!r}, expected a floating point type such as torch.float32"
        )
    absent = {
        name: torch.empty(part.shape)
        for name, part in model.state_dict().items()
        if name not in state
    }
    model.load_state_dict(state | absent, assign=True)
    initialize_weights(model, absent)
    if absent:
        log.warning("%s: initialised, not in the file: %s", where, ", ".join(absent))
    return model.to(device, dtype).eval()


def save_pretrained(
    model: SpeechEncoderDecoder, folder: Name, max_shard_size: int | str = "5GB"
) -> None:
    """Write config.json, generation_config.json and model.safetensors so that transformers loads them, first
    elsewhere, then moved: none is ever half there. ValueError if no family's config can say what ours is."""
    folder, rows = Path(folder), remap.read_table(MODEL_TYPE).config
    parts = {part: write_part(model, part) for part in ("encoder", "decoder")}
    if (
        isinstance(model.bridge, nn.Linear)
        and model.bridge.in_features != model.encoder.config.hidden_size
    ):
        log.warning(
            "transformers can not load this model: its bridge takes hidden_size, not adapter_size"
        )
    families, untied = (
        [part["model_type"] for part in parts.values()],
        not model.decoder.config.tied,
    )
    tensors = remap.export_state(table_rows(families), model.state_dict(), aliases=untied)
    tensors = {name: value.cpu() for name, value in tensors.items()}
    options = remap_config.write_config(rows, vars(model.generation))
    defaults = vars(GenerationConfig())
    options = {key: value for key, value in options.items() if value != defaults[key]}
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["SpeechEncoderDecoderModel"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "dtype": str(model.encoder.norm.weight.dtype)[6:],
        **parts,
        **{key: value for key, value in options.items() if key.endswith("_token_id")},
    }
    from huggingface_hub import save_torch_state_dict

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial:
            save_torch_state_dict(tensors, partial, max_shard_size=max_shard_size)
            for name, content in ("generation_config.json", options), ("config.json", config):
                (Path(partial) / name).write_text(
                    json.dumps(content, indent=2, sort_keys=True) + "\n"
                )
            new = [folder / file.name for file in sorted(Path(partial).iterdir(), reverse=True)]
            for file in new:  # config.json is the last
                shutil.copymode(
                    Path(partial) / "config.json", Path(partial) / file.name
                )  # others may read
                os.replace(Path(partial) / file.name, file)
        for old in {
            *folder.glob("model-*-of-*.safetensors"),
            *map(folder.joinpath, WEIGHTS[:2]),
        } - {*new}:
            old.unlink(missing_ok=True)  # of a model in other shards
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: can not write there ({first_line(error)})") from None


class Undrawn(
    TorchFunctionMode
):  # nothing to draw on the meta device, where normal_ imports all of sympy
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (
            None
            if getattr(func, "__module__", "") == "torch.nn.init"
            else func(*args, **(kwargs or {}))
        )


def empty_model(folder: Path) -> SpeechEncoderDecoder:
    """The model that a pair's config.json describes, on the meta device: shapes without weights."""
    config = read_json(path := folder / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{path}: model_type is {config.get('model_type')!r}, expected {MODEL_TYPE!r}"
        )
    return build(config, folder, folder, {})


def build(config: dict, encoder_folder: Path, folder: Path, ids: dict) -> SpeechEncoderDecoder:
    """The same from the two configs; the ids are those given, or come from the (decoder's) folder."""
    encoder_family, encoder = read_part(
        config, "encoder", EncoderConfig, encoder_folder / "config.json"
    )
    decoder_family, decoder = read_part(config, "decoder", DecoderConfig, folder / "config.json")
    sources = remap.read_table(decoder_family).ids
    generation = read_generation(folder, config, ids, decoder.pad_token_id, sources)
    try:
        layers = max(encoder.num_layers, encoder.adapter_layers, decoder.num_layers)
        if layers > 999 or encoder.adapter_stride == 0:
            raise ValueError(f"{layers} layers, adapter_stride {encoder.adapter_stride}")
        with torch.device("meta"), Undrawn():
            model = SpeechEncoderDecoder(encoder, decoder, generation)
    except (
        ArithmeticError,
        AssertionError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        where = encoder_folder if encoder_folder == folder else f"{encoder_folder}, {folder}"
        raise ValueError(
            f"{where}: expected sizes of which a model can be built ({first_line(error)})"
        ) from None
    model.families = encoder_family, decoder_family
    return model


def read_part(config: dict, part: str, kind: type, path: Path) -> tuple[str, Any]:
    """The family of the encoder or decoder in config.json, and what is said of it as our config."""
    theirs, where = config.get(part), f"{path}: {part}." if "model_type" in config else f"{path}: "
    family = theirs.get("model_type") if isinstance(theirs, dict) else None
    if family not in (known := families_of(part)):
        raise ValueError(f"{where}model_type is {family!r}, expected one of {known}")
    found = remap_config.read_config(remap.read_table(family).config, theirs, where)
    nested = {name.removeprefix("training."): found.pop(name) for name in [*found] if "." in name}
    return family, kind(**found, training=type(kind.training)(**nested))


def families_of(part: str) -> list[str]:
    """The tables for encoders, or for decoders; one that includes another stands behind it."""
    found = {name: remap.read_table(name) for name in sorted(remap.find_tables())}
    return sorted(
        (name for name in found if found[name].part == part), key=lambda name: found[name].base
    )


def table_rows(families: Iterable[str]) -> list[remap.Row]:
    parts = zip(("encoder.", "decoder."), families)
    rows = [
        row
        for part, family in parts
        for row in remap.prefix_rows(remap.read_table(family).tensors, part)
    ]
    return rows + remap.read_table(MODEL_TYPE).tensors


def read_generation(
    folder: Path, config: dict, given: dict, pad: int | None, ids: Mapping[str, list]
) -> GenerationConfig:
    """Generation options from generation_config.json or, in older folders, config.json; `given` goes first.
    An id in none may be that of a token, or equal another, as the decoder's table says, or None."""
    path, rows, found = folder / "generation_config.json", remap.read_table(MODEL_TYPE).config, {}
    own = read_json(path) if path.exists() else {}
    places = own, config, {"pad_token_id": pad} | config["decoder"]
    for key in rows:
        valid = (given, *places) if not own or key.endswith("_token_id") else places[:1]
        found[key] = next((place[key] for place in valid if place.get(key) is not None), None)
    for key, source in ((key, source) for key, sources in ids.items() for source in sources):
        if found[key] is None:
            found[key] = (
                int(source)
                if source.isdecimal()
                else found[source]
                if source in found
                else token_id(folder, source)
            )
    eos = found["eos_token_id"]
    if found["pad_token_id"] is None and eos != []:
        found["pad_token_id"] = eos[0] if isinstance(eos, list) else eos
    if not own:
        path = folder / "config.json"
    options = remap_config.read_config(rows, found, f"{path}: ")
    # What the file does not say has the default of GenerationConfig.
    options = {name: value for name, value in options.items() if value is not None}
    try:
        generation = GenerationConfig(**options)
        generation.validate()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return generation


def token_id(folder: Path, token: str) -> int | None:
    """The id that the tokenizer files give a special token; None if they do not."""
    ids = {}
    if (path := folder / "vocab.txt").exists():
        ids = {
            line: number for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"))
        }
    if (path := folder / "tokenizer.json").exists():
        ids |= {added["content"]: added["id"] for added in read_json(path).get("added_tokens", [])}
    return ids.get(token)


def write_part(model: SpeechEncoderDecoder, part: str) -> dict[str, Any]:
    """What our config says, in the words of the model's own family, or else of the first that can say it."""
    config, lost = getattr(model, part).config, {}
    fields = {
        **vars(config),
        **{f"training.{name}": value for name, value in vars(config.training).items()},
    }
    del fields["training"]
    for family in sorted(families_of(part), key=lambda name: name not in model.families):
        rows = remap.read_table(family).config
        theirs = remap_config.write_config(rows, fields)
        try:
            again = remap_config.read_config(rows, theirs)
        except ValueError:  # it has no word for a value
            again = {}
        lost[family] = [
            f"{name}={value}" for name, value in fields.items() if again.get(name) != value
        ]
        if all(field.startswith("training.") for field in lost[family]):
            for field in lost[family]:
                log.warning("config.json has no key for the %s's %s", part, field)
            return {"model_type": family, **theirs}
    raise ValueError(f"no family's config.json can say what the {part}'s config says: {lost}")
