"""A folder or hub id in the layout of transformers.SpeechEncoderDecoderModel (HF) -> our model, and back.

    config.json -> configs -> empty model; model.safetensors -> remap.load -> its weights, still memory-mapped

What HF's names and values mean stands in the tables of weights_map, one for each model_type.
"""

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nanos2t import remap
from nanos2t.decoder import DecoderConfig
from nanos2t.generate import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

PAIR = "speech-encoder-decoder"
FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"]
log = logging.getLogger("nanos2t")

def from_pretrained(name_or_path: str | os.PathLike, *, dtype: torch.dtype = torch.float32,
                    device: str | torch.device = "cpu", revision: str | None = None,
                    local_files_only: bool = False) -> SpeechEncoderDecoder:
    """The model in a folder or hub repository of transformers' SpeechEncoderDecoderModel, in eval mode.
    ValueError, one line naming file and tensor or key, for what is missing, broken or not implemented.
    Optional tensors that the file lacks are initialised, and listed on the logger "nanos2t"."""
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}, expected a floating point type such as torch.float32")
    folder = find_folder(name_or_path, revision, local_files_only)
    model = empty_model(folder)
    path, theirs = read_tensors(folder)
    state = remap.load(rows_of(model.families), theirs, model.state_dict(), str(path))
    absent = {name: torch.rand(part.shape) for name, part in model.state_dict().items() if name not in state}
    if absent:                                                                  # masked_embed
        log.warning("%s: initialised, not in the file: %s", path, ", ".join(absent))
    state = {name: part.to(device, dtype) for name, part in (state | absent).items()}
    model.load_state_dict(state, assign=True)
    return model.eval()

def save_pretrained(model: SpeechEncoderDecoder, folder: str | os.PathLike) -> None:
    """Write config.json, generation_config.json and model.safetensors so that transformers loads them.
    Files are written under another name and then renamed: none is ever half there, even if `model` maps it.
    ValueError if no family's config can say what the model's say, or the folder can not be written."""
    folder, rows = Path(folder), remap.read_table(PAIR).config
    parts = {part: write_part(model, part) for part in ("encoder", "decoder")}
    if isinstance(model.bridge, nn.Linear) and model.bridge.in_features != model.encoder.config.hidden_size:
        log.warning("transformers can not load this model: its bridge takes hidden_size, not adapter_size")
    families, untied = [part["model_type"] for part in parts.values()], not model.decoder.config.tied
    tensors = remap.export(rows_of(families), model.state_dict(), aliases=untied)
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    options = write_config(rows, vars(model.generation))
    options = {key: value for key, value in options.items() if value != rows[key][2]}
    config = {"model_type": PAIR, "architectures": ["SpeechEncoderDecoderModel"], "is_encoder_decoder": True,
              "tie_word_embeddings": False, "dtype": str(model.encoder.norm.weight.dtype)[6:], **parts,
              **{key: value for key, value in options.items() if key.endswith("_token_id")}}
    texts = {"generation_config.json": options, "config.json": config}
    partial = folder / "model.safetensors.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, {"format": "pt"})
        os.replace(partial, folder / "model.safetensors")
        for name, content in texts.items():
            partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
            os.replace(partial, folder / name)
    except (OSError, SafetensorError) as error:
        if partial.exists():
            partial.unlink()
        raise ValueError(f"{folder}: can not write there ({brief(error)})") from None

def find_folder(name_or_path: str | os.PathLike, revision: str | None = None,
                local_files_only: bool = False) -> Path:
    """A folder on disk, else that of a hub id, downloaded if need be; ValueError if it is neither."""
    folder, name = Path(name_or_path).expanduser(), str(name_or_path)
    if folder.is_dir():
        return folder
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ValueError(f"{name}: no such folder, expected one with a config.json, or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES,
                                      local_files_only=local_files_only))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: no such folder, and none from the hub ({brief(error)})") from None

class Undrawn(TorchFunctionMode):  # nothing to draw on the meta device, where normal_ imports all of sympy
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return None if getattr(func, "__module__", "") == "torch.nn.init" else func(*args, **(kwargs or {}))

def empty_model(folder: Path) -> SpeechEncoderDecoder:
    """The model that config.json describes, on the meta device: shapes without weights."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != PAIR:
        raise ValueError(f"{path}: model_type is {config.get('model_type')!r}, expected {PAIR!r}")
    encoder_family, encoder = read_part(config, "encoder", EncoderConfig, path)
    decoder_family, decoder = read_part(config, "decoder", DecoderConfig, path)
    generation = read_generation(folder, config, decoder.pad_token_id, remap.read_table(decoder_family).ids)
    try:
        with torch.device("meta"), Undrawn():
            model = SpeechEncoderDecoder(encoder, decoder, generation)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected sizes of which a model can be built ({brief(error)})") from None
    model.families = encoder_family, decoder_family
    return model

def read_part(config: dict, part: str, kind: type, path: Path) -> tuple[str, Any]:
    """The family of the encoder or decoder in config.json, and what is said of it as our config."""
    theirs = config.get(part)
    family = theirs.get("model_type") if isinstance(theirs, dict) else None
    if family not in (known := families_of(part)):
        raise ValueError(f"{path}: {part}.model_type is {family!r}, expected one of {known}")
    found = read_config(remap.read_table(family).config, theirs, f"{path}: {part}.")
    nested = {name.removeprefix("training."): found.pop(name) for name in [*found] if "." in name}
    return family, kind(**found, training=type(kind.training)(**nested))

def families_of(part: str) -> list[str]:
    """The tables for encoders, or for decoders; one that includes another stands behind it."""
    found = {name: remap.read_table(name) for name in sorted(remap.tables())}
    return sorted((name for name in found if found[name].part == part), key=lambda name: found[name].base)

def rows_of(families: Iterable[str]) -> list[remap.Row]:
    encoder, decoder = (remap.read_table(family).tensors for family in families)
    rows = remap.prefix(encoder, "encoder.", "encoder.") + remap.prefix(decoder, "decoder.", "decoder.")
    return rows + remap.read_table(PAIR).tensors

def read_generation(folder: Path, config: dict, pad: int | None, ids: Mapping[str, list]) -> GenerationConfig:
    """Generation options from generation_config.json or, in folders older than this file, config.json.
    An id in neither may be that of a token, or equal another, as the decoder's table says, or stays None."""
    path, rows, found = folder / "generation_config.json", remap.read_table(PAIR).config, {}
    own = read_json(path) if path.exists() else {}
    places = own, config, {"pad_token_id": pad} | config["decoder"]
    for key in rows:
        valid = places if not own or key.endswith("_token_id") else places[:1]
        found[key] = next((place[key] for place in valid if place.get(key) is not None), None)
    for key, source in ((key, source) for key, sources in ids.items() for source in sources):
        if found[key] is None:
            found[key] = found[source] if source in found else token_id(folder, source)
    eos = found["eos_token_id"]
    if found["pad_token_id"] is None and eos != []:
        found["pad_token_id"] = eos[0] if isinstance(eos, list) else eos
    return GenerationConfig(**read_config(rows, found, f"{path if own else folder / 'config.json'}: "))

def token_id(folder: Path, token: str) -> int | None:
    """The id that the tokenizer files give a special token; None if they do not."""
    ids = {}
    if (path := folder / "vocab.txt").exists():
        ids = {line: number for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"))}
    if (path := folder / "tokenizer.json").exists():
        ids |= {added["content"]: added["id"] for added in read_json(path).get("added_tokens", [])}
    return ids.get(token)

def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}, expected JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {type(found).__name__}, expected a JSON object")
    return found

def read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """model.safetensors or, of a model in several files, their index: its path, and all tensors, mapped."""
    path, files, tensors = folder / "model.safetensors", {"all": "model.safetensors"}, {}
    if not path.exists() and (index := folder / "model.safetensors.index.json").exists():
        path, files = index, read_json(index).get("weight_map")
        if not isinstance(files, dict):
            raise ValueError(f"{path}: no weight_map, expected one from each tensor to its file")
    elif not path.exists():
        other = ", ".join(file.name for file in sorted(folder.glob("*.bin")))
        raise ValueError(f"{path}: no such file" + (f"; {other} is not read yet" if other else ""))
    for file in sorted({folder / str(name) for name in files.values()}):
        try:
            tensors |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file}: {brief(error)}, expected a safetensors file") from None
    return path, tensors

def write_part(model: SpeechEncoderDecoder, part: str) -> dict[str, Any]:
    """What our config says, in the words of the model's own family, or else of the first that can say it."""
    config, own, lost = getattr(model, part).config, getattr(model, "families", ()), {}
    fields = {**vars(config), **{f"training.{name}": value for name, value in vars(config.training).items()}}
    del fields["training"]
    for family in sorted(families_of(part), key=lambda name: name not in own):
        rows = remap.read_table(family).config
        theirs = write_config(rows, fields)
        again = read_config(rows, theirs)
        lost[family] = [f"{name}={value}" for name, value in fields.items() if again.get(name) != value]
        if all(field.startswith("training.") for field in lost[family]):
            for field in lost[family]:
                log.warning("config.json has no key for the %s's %s", part, field)
            return {"model_type": family, **theirs}
    raise ValueError(f"no family's config.json can say what the {part}'s config says: {lost}")

def read_config(rows: Mapping[str, tuple], theirs: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Their config -> our fields. Null is the default, and a key without a row is not looked at.
    ValueError naming `where`, key and value for one that we do not implement, or of another type."""
    fields = {}
    for ours, key, default, rule in rows.values():
        rule, _, argument = rule.partition(":")
        value = default if theirs.get(key) is None else theirs[key]
        known = choices(argument) if rule == "only" else [(default, default)] if ours == "-" else []
        match = [left for left, right in known if right == value]
        kinds = (type(default), int) if isinstance(default, float) else (type(default),)
        if rule != "write" and not (match if known else default is None or type(value) in kinds):
            expected = " or ".join(json.dumps(right) for _, right in known) or type(default).__name__
            raise ValueError(f"{where}{key} is {json.dumps(value)}, expected {expected}")
        if rule == "only":
            value = match[0]
        elif rule == "if":
            switch, _, preset = argument.partition("=")
            value = value if theirs.get(switch, remap.literal(preset)) else type(default)()
        elif rule == "sqrt":
            value = math.sqrt(fields[argument]) if value else 1.0
        if ours != "-":
            fields[ours] = tuple(value) if isinstance(value, list) else value
    return fields

def write_config(rows: Mapping[str, tuple], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields -> their config. A value without a key is left out: `read_config` shows if one was lost."""
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

def brief(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
