"""A folder or hub id in the layout of Hugging Face (HF: transformers.SpeechEncoderDecoderModel) <-> our model.

    config.json -> configs -> an empty model;  model.safetensors -> remap.load -> its weights, still memory-mapped

What their keys mean stands in weights_map, one table for each model_type; generation_config.json has one too.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nanos2t import remap
from nanos2t.decoder import DecoderConfig
from nanos2t.generate import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

PAIR = "speech-encoder-decoder"
FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"]
log = logging.getLogger("nanos2t")


def from_pretrained(name_or_path: str | os.PathLike, *, dtype: torch.dtype = torch.float32, device: str = "cpu",
                    revision: str | None = None, local_files_only: bool = False) -> SpeechEncoderDecoder:
    """The model in a folder or hub repository of transformers' SpeechEncoderDecoderModel, in eval mode.

    ValueError, in one line naming file and tensor or key, for what is missing, broken or not implemented.
    Optional tensors that the file lacks are initialised, and listed on the logger "nanos2t".
    """
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}, expected torch.float32 or another floating point type")
    folder = find_folder(name_or_path, revision, local_files_only)
    model = empty_model(folder)
    path, theirs = read_tensors(folder)
    state = remap.load(rows_of(model.families), theirs, model.state_dict(), f"{path}")
    absent = {name: torch.rand(part.shape) for name, part in model.state_dict().items() if name not in state}
    if absent:                                                                  # masked_embed
        log.warning("%s: not in the file, initialised: %s", path, ", ".join(absent))
    state = {name: part.to(device, dtype) for name, part in (state | absent).items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def save_pretrained(model: SpeechEncoderDecoder, folder: str | os.PathLike) -> None:
    """Write config.json, generation_config.json and model.safetensors so that transformers loads them.

    Files are written under another name and then renamed: an older one, even if mapped by `model`, stays whole.
    ValueError if no family's config can express the model's, or the folder can not be written.
    """
    folder = Path(folder)
    families, config = write_configs(model)
    tensors, seen = remap.export(rows_of(families), model.state_dict(), not model.decoder.config.tied), set()
    for name, value in tensors.items():
        tensors[name] = value.cpu().clone() if value.data_ptr() in seen else value.cpu().contiguous()
        seen.add(value.data_ptr())
    rows = remap.read_table(PAIR).config
    generation = write_config(rows, vars(model.generation))
    generation = {key: value for key, value in generation.items() if value != rows[key][2]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "model.safetensors", lambda path: save_file(tensors, path, {"format": "pt"}))
        replace_file(folder / "generation_config.json", lambda path: path.write_text(as_json(generation)))
        replace_file(folder / "config.json", lambda path: path.write_text(as_json(config)))
    except OSError as error:
        raise ValueError(f"{folder}: can not save there ({error})") from None


def find_folder(name_or_path: str | os.PathLike, revision: str | None = None,
                local_files_only: bool = False) -> Path:
    """A folder on disk, or else that of a hub id, downloaded if need be. ValueError if it is neither."""
    folder, name = Path(name_or_path).expanduser(), str(name_or_path)
    if folder.is_dir():
        return folder
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ValueError(f"{name}: no such folder, expected one with config.json and model.safetensors, or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES,
                                      local_files_only=local_files_only))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{name}: no such folder, and the hub does not give it ({reason})") from None


def empty_model(folder: Path) -> SpeechEncoderDecoder:
    """The model that config.json describes, without weights (on the meta device)."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != PAIR:
        raise ValueError(f"{path}: model_type is {config.get('model_type')!r}, expected {PAIR!r}")
    encoder_family, encoder = read_part(config, "encoder", EncoderConfig, path)
    decoder_family, decoder = read_part(config, "decoder", DecoderConfig, path)
    generation = read_generation(folder, config, decoder.pad_token_id, remap.read_table(decoder_family).ids)
    try:
        with torch.device("meta"):
            model = SpeechEncoderDecoder(encoder, decoder, generation)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no model can be built from it ({str(error).partition(chr(10))[0]})") from None
    model.families = encoder_family, decoder_family
    return model


def read_part(config: dict, part: str, kind: type, path: Path) -> tuple[str, Any]:
    """The family of the encoder or decoder that config.json describes, and our config of it."""
    theirs = config.get(part)
    family = theirs.get("model_type") if isinstance(theirs, dict) else None
    if family not in (known := families_of(part)):
        raise ValueError(f"{path}: {part}.model_type is {family!r}, expected one of {known}")
    found = read_config(remap.read_table(family).config, theirs, f"{path}: {part}.")
    nested = {name.removeprefix("training."): value for name, value in found.items() if "." in name}
    direct = {name: value for name, value in found.items() if "." not in name}
    return family, kind(**direct, training=type(kind.training)(**nested))


def families_of(part: str) -> list[str]:
    """The tables for encoders or decoders; those that include another stand behind it."""
    found = {name: remap.read_table(name) for name in remap.tables()}
    return sorted((name for name in found if found[name].part == part), key=lambda name: (found[name].base, name))


def rows_of(families: Iterable[str]) -> list[remap.Row]:
    encoder, decoder = (remap.read_table(family).tensors for family in families)
    rows = remap.prefix(encoder, "encoder.", "encoder.") + remap.prefix(decoder, "decoder.", "decoder.")
    return rows + remap.read_table(PAIR).tensors


def read_generation(folder: Path, config: dict, pad: int, ids: dict[str, list[str]]) -> GenerationConfig:
    """Generation options from generation_config.json, or, in folders older than that file, from config.json.

    An id that is in neither may follow from another id or the tokenizer; one that is nowhere stays None.
    """
    path = folder / "generation_config.json"
    own = read_json(path) if path.exists() else None
    places = [own or {}, config, {"pad_token_id": pad} | config["decoder"]]
    rows, found = remap.read_table(PAIR).config, {}
    for _, key, _, _ in rows.values():
        values = (place.get(key) for place in (places if own is None or key.endswith("_token_id") else places[:1]))
        found[key] = next((value for value in values if value is not None), None)
    for key, sources in ids.items():
        for source in sources:
            if found[key] is None:
                found[key] = found[source] if source in found else token_id(folder, source)
    if found["pad_token_id"] is None:
        eos = found["eos_token_id"]
        found["pad_token_id"] = eos[0] if isinstance(eos, list) else eos
    where = path if own is not None else folder / "config.json"
    return GenerationConfig(**read_config(rows, found, f"{where}: "))


def token_id(folder: Path, token: str) -> int | None:
    """The id of a token in the folder's tokenizer files; None if there are none, or not this token in them."""
    if (path := folder / "tokenizer.json").exists():
        found = {item["content"]: item["id"] for item in read_json(path).get("added_tokens", [])}
        if token in found:
            return found[token]
    if (path := folder / "vocab.txt").exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        return lines.index(token) if token in lines else None
    return None


def read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}, expected JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: found {type(found).__name__}, expected a JSON object")
    return found


def read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """model.safetensors, or the files that model.safetensors.index.json lists: its path, their tensors, mapped."""
    path, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    files = [path]
    if not path.exists() and index.exists():
        path, files = index, read_json(index).get("weight_map")
        if not isinstance(files, dict):
            raise ValueError(f"{index}: weight_map is missing, expected the file of each tensor")
        files = [folder / name for name in sorted(set(files.values()))]
    elif not path.exists():
        other = [file.name for file in sorted(folder.glob("*.bin"))]
        raise ValueError(f"{path}: no such file" + (f"; {', '.join(other)}: not read yet" if other else ""))
    tensors = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file}: {error}, expected a safetensors file") from None
    return path, tensors


def write_configs(model: SpeechEncoderDecoder) -> tuple[list[str], dict[str, Any]]:
    """The families that the model's parts are saved as, and config.json."""
    families, config = [], {}
    for part in ("encoder", "decoder"):
        family, config[part] = write_part(part, getattr(model, part).config, getattr(model, "families", ()))
        families.append(family)
    if isinstance(model.bridge, nn.Linear) and model.bridge.in_features != model.encoder.config.hidden_size:
        log.warning("transformers can not load this model: its bridge would take hidden_size, not adapter_size")
    ids = {name: value for name, value in vars(model.generation).items() if name.endswith("_token_id")}
    config |= {name: value for name, value in ids.items() if value is not None}
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return families, config | {"model_type": PAIR, "architectures": ["SpeechEncoderDecoderModel"], "dtype": dtype,
                               "is_encoder_decoder": True, "tie_word_embeddings": False}


def write_part(part: str, config: Any, preferred: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The family and its config that say what ours says: the preferred one, or the first that can."""
    fields = flat(config)
    losses = {}
    for family in sorted(families_of(part), key=lambda name: name not in preferred):
        rows = remap.read_table(family).config
        theirs = write_config(rows, fields)
        back = read_config(rows, theirs)
        losses[family] = [f"{name} {value!r}" for name, value in fields.items() if back.get(name) != value]
        if all(loss.startswith("training.") for loss in losses[family]):
            if losses[family]:
                log.warning("%s config: no key for %s", family, ", ".join(losses[family]))
            return family, {"model_type": family} | theirs
    raise ValueError(f"no family's config can express the {part}'s: {losses}")


def flat(config: Any) -> dict[str, Any]:
    """A config's fields, those of `training` as 'training.layerdrop'."""
    fields = {**vars(config)}
    return fields | {f"training.{name}": value for name, value in vars(fields.pop("training")).items()}


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def as_json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def read_config(rows: Mapping[str, remap.ConfigRow], theirs: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Their config -> our fields. Null is the default, and a key without a row is not looked at.

    ValueError naming `where`, key and value for one that we do not implement, or of another type.
    """
    fields = {}
    for ours, key, default, rule in rows.values():
        rule, _, argument = rule.partition(":")
        value = default if theirs.get(key) is None else theirs[key]
        pairs, closed = choices(argument) if rule == "only" else [(default, default)], rule == "only" or ours == "-"
        fits = [left for left, right in pairs if alike(value, right) and (value == right or not closed)]
        if rule != "write" and not fits:
            expected = " or ".join(json.dumps(right) for _, right in pairs)
            raise ValueError(f"{where}{key} is {json.dumps(value)}, expected {'' if closed else 'like '}{expected}")
        if rule == "only":
            value = fits[0]
        elif rule == "if":
            switch, _, preset = argument.partition("=")
            value = value if theirs.get(switch, remap.literal(preset)) else type(default)()
        elif rule == "sqrt":
            value = math.sqrt(fields[argument]) if value else 1.0
        if ours != "-":
            fields[ours] = tuple(value) if isinstance(value, list) else value
    return fields


def write_config(rows: Mapping[str, remap.ConfigRow], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields -> their config. A value without a key is left out: `read_config` tells whether one was lost."""
    theirs = {}
    for ours, key, default, rule in rows.values():
        rule, _, argument = rule.partition(":")
        value = default if ours == "-" else fields[ours]
        if rule == "only":
            value = next((right for left, right in choices(argument) if left == value), value)
        elif rule == "if":
            theirs[argument.partition("=")[0]] = bool(value)
        elif rule == "sqrt":
            value = value != 1
        if key != "-" and (ours != "-" or rule == "write"):
            theirs[key] = list(value) if isinstance(value, tuple) else value
    return theirs


def choices(text: str) -> list[tuple[Any, Any]]:
    """'relu,gelu_tanh=gelu_new' -> (ours, theirs): [('relu', 'relu'), ('gelu_tanh', 'gelu_new')]"""
    pairs = (choice.partition("=") for choice in text.split(","))
    return [(remap.literal(ours), remap.literal(theirs or ours)) for ours, _, theirs in pairs]


def alike(value: Any, default: Any) -> bool:
    """Whether a value may stand where the default stands: an int will do for a float, anything for null."""
    if isinstance(value, list) and isinstance(default, list):
        return all(alike(item, default[0]) for item in value)
    return default is None or type(value) is type(default) or (type(value), type(default)) == (int, float)
