"""Shared by tests."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from nanos2t.files import first_line, read_json

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


Name, Device = str | os.PathLike, str | torch.device


def find_folder(
    name_or_path: Name, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """A folder on disk, else that of a hub id, of which what is read is downloaded; ValueError if neither."""
    folder, name = Path(name_or_path).expanduser(), str(name_or_path)
    if folder.is_dir():
        return folder
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ValueError(f"{name}: no such folder, expected one with a config.json, or a hub id")
    from huggingface_hub import errors, snapshot_download

    options = {"revision": revision, "local_files_only": local_files_only}
    reasons = {
        errors.GatedRepoError: "access to it must be granted, and a token given (hf auth login)",
        errors.RevisionNotFoundError: f"it has no revision {revision!r}",
        errors.RepositoryNotFoundError: "no such public repository, or a token is needed",
        errors.LocalEntryNotFoundError: "not in the cache, and the hub is not asked or not reached",
    }
    try:
        for weights in ("model*.safetensors", "pytorch_model*.bin"):
            files = ["*.json", "*.txt", "*.model", weights]
            folder = Path(snapshot_download(name, allow_patterns=files, **options))
            if any((folder / file).exists() for file in WEIGHTS[:2]):
                break
        return folder
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        reason = next(
            (text for kind, text in reasons.items() if isinstance(error, kind)), first_line(error)
        )
        raise ValueError(f"{name}: no such folder, and not from the hub: {reason}") from None


def read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """All tensors of the first of WEIGHTS that is there, or of the files that it names: memory-mapped."""
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if path is None:
        other = ", ".join(
            sorted(file.name for kind in ("*.h5", "*.msgpack") for file in folder.glob(kind))
        )
        raise ValueError(f"{folder}: expected one of {', '.join(WEIGHTS)}, found {other or 'none'}")
    files, tensors = {path.name: path.name}, {}
    if path.suffix == ".json" and not isinstance(files := read_json(path).get("weight_map"), dict):
        raise ValueError(f"{path}: no weight_map, expected one from each tensor to its file")
    for name in sorted({*map(str, files.values())}):
        if Path(name).name != name:
            raise ValueError(f"{path}: names the file {name!r}, expected one beside it")
        part = read_tensor_file(folder / name)
        if again := part.keys() & tensors.keys():
            raise ValueError(f"{folder / name}: has {again.pop()}, as another file of {path.name}")
        tensors |= part
    return path, tensors


def read_tensor_file(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .bin file. A pickle that holds anything else is refused, not run."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(
            file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True
        )
    except pickle.UnpicklingError:
        raise ValueError(
            f"{file}: holds more than tensors or is damaged, nothing of it was run"
        ) from None
    except Exception as error:  # torch.load raises whatever the bytes lead to
        raise ValueError(f"{file}: {first_line(error)}, expected a file of tensors") from None
    if not isinstance(found, dict) or {getattr(x, "layout", 0) for x in found.values()} != {
        torch.strided
    }:
        raise ValueError(f"{file}: {type(found).__name__}, expected a dict of tensors, none sparse")
    return found
