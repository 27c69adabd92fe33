"""A checkpoint: a folder on disk or a repository of the hub, and the tensors in it.

Weights are read from safetensors or pickles, in one file or in shards, and written as safetensors.
"""

import logging
import os
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from nanos2t.files import check_downloaded, first_line, format_json, read_json, write_group

# The files of weights, in the order in which they are looked for. An index names the shards.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
WEIGHTS = SAFETENSORS + PICKLES
MAX_TENSORS = 100_000  # in a file: a longer header is damaged, and would take minutes to read

log = logging.getLogger("nanos2t")


# From a name to a folder


def find_folder(
    name_or_path: str | Path, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """Find the folder on disk or, for a hub id, download what is read of the repository.

    Raises ValueError, in one line, if there is neither.
    """
    name = str(name_or_path)
    # Path.expanduser raises RuntimeError for the home of a user who does not exist.
    folder = Path(os.path.expanduser(name_or_path))
    if folder.is_dir():
        return folder

    # "model" or "owner/model" may be on the hub; other names can only be paths.
    is_hub_id = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None
    if folder.exists() or not is_hub_id:
        raise ValueError(f"{name}: no such folder, expected one with a config.json, or a hub id")

    # "run/best", where there is a folder called run, is a path and not a repository of an owner.
    owner = folder.parent
    if owner != Path() and owner.is_dir():
        beside = ", ".join(sorted(path.name for path in owner.iterdir() if path.is_dir())[:5])
        raise ValueError(f"{name}: no such folder, {owner} has {beside or 'none'}")

    # Imported here: nobody waits for the hub's client who loads a folder.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    # Where the hub is not reached, its client tries for half a minute: name a misspelt path now.
    is_cached = try_to_load_from_cache(name, "config.json", revision=revision) is not None
    if not is_cached and not local_files_only:
        log.warning("%s: no such folder here, asking the hub: is it meant to be a path?", name)
    try:
        return download(name, revision, local_files_only)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = explain_hub_error(error, revision)
        raise ValueError(f"{name}: no such folder, and not from the hub: {reason}") from None


def download(name: str, revision: str | None, local_files_only: bool) -> Path:
    """Download configs, vocabularies and weights; pickles only if there are no safetensors."""
    from huggingface_hub import snapshot_download

    def fetch(weights: str) -> Path:
        patterns = ["*.json", "*.txt", "*.model", weights]
        folder = snapshot_download(
            name,
            allow_patterns=patterns,
            revision=revision,
            local_files_only=local_files_only,
        )
        return Path(folder)

    folder = fetch("model*.safetensors")
    if not any((folder / file).exists() for file in SAFETENSORS):
        folder = fetch("pytorch_model*.bin")
    return folder


def explain_hub_error(error: Exception, revision: str | None) -> str:
    """Explain in one line why the hub did not give a repository."""
    from huggingface_hub import errors

    # A gated repository is a kind of missing repository: the special cases come first.
    if isinstance(error, errors.GatedRepoError):
        return "access to it must be granted, and a token given (hf auth login)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such public repository, or a token is needed"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "not in the cache, and the hub is not asked or not reached"
    return first_line(error)


# From a folder to tensors


def read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Map all tensors of a checkpoint into memory. Returns the file that was read, and the tensors.

    The file is the first of WEIGHTS that is there; an index leads to the shards that it names.
    Raises ValueError, naming the file, if it is missing or damaged.
    """
    path = find_weights(folder)
    names = [path.name]
    if path.suffix == ".json":
        names = read_shard_names(path)

    tensors = {}
    for name in names:
        shard = read_tensor_file(folder / name)
        if repeated := shard.keys() & tensors.keys():
            raise ValueError(
                f"{folder / name}: has {repeated.pop()}, as another file of {path.name}"
            )
        tensors |= shard
    return path, tensors


def find_weights(folder: Path) -> Path:
    """Find the first of WEIGHTS in a folder; the ValueError names weights of other kinds."""
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    others = [*folder.glob("*.h5"), *folder.glob("*.msgpack")]
    names = ", ".join(sorted(path.name for path in others)) or "none"
    raise ValueError(f"{folder}: expected one of {', '.join(WEIGHTS)}, found {names}")


def read_shard_names(index: Path) -> list[str]:
    """Read the names of the shards from the index of a checkpoint."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index}: no weight_map, expected one from each tensor to its file")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        # A damaged or malicious index could lead out of the folder.
        is_tensor_file = Path(name).suffix in (".safetensors", ".bin")
        if Path(name).name != name or not is_tensor_file:
            raise ValueError(f"{index}: names the file {name!r}, expected one beside it")
    return names


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a .safetensors or .bin file.

    A pickle that holds anything but tensors is refused, and nothing of it is run.
    """
    check_downloaded(path)
    try:
        if path.suffix == ".safetensors":
            check_count(path)
            return load_file(path)
        # torch would unpack such an archive, its format before 2017, into a temporary folder.
        if tarfile.is_tarfile(path):
            raise ValueError("a tar archive")
        # Only the zip format, since torch 1.6, can be mapped.
        content = torch.load(
            path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True
        )
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds more than tensors or is damaged, nothing of it was run"
        ) from None
    except Exception as error:  # torch.load raises whatever the bytes lead to
        raise ValueError(f"{path}: {first_line(error)}, expected a file of tensors") from None
    if not is_state_dict(content):
        raise ValueError(
            f"{path}: {type(content).__name__}, expected a dict of tensors, none sparse"
        )
    return content


def check_count(path: Path) -> None:
    """Raise ValueError if a .safetensors file lists more tensors than any model has."""
    with safe_open(path, "pt") as file:
        count = len(file.keys())
    if count > MAX_TENSORS:
        raise ValueError(f"{count} tensors, more than the {MAX_TENSORS} that are read")


def is_state_dict(content: Any) -> bool:
    """Whether this is a dict of names with at least one tensor, and nothing but dense tensors."""
    if not isinstance(content, dict) or not content:
        return False
    for name, value in content.items():
        is_dense = isinstance(value, Tensor) and value.layout == torch.strided
        if not is_dense or not isinstance(name, str):
            return False
    return True


# From tensors to a folder


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    configs: Mapping[str, dict[str, Any]],
    max_shard_size: int | str,
) -> None:
    """Write tensors as model.safetensors, or shards of it, and `configs` as JSON: name to content.

    All is written elsewhere first, then moved, config.json at the end. Raises ValueError if the
    folder cannot be written.
    """
    from huggingface_hub import save_torch_state_dict

    tensors_on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}

    def write_parts(partial: Path) -> None:
        for name, content in configs.items():
            (partial / name).write_text(format_json(content))
        try:
            save_torch_state_dict(tensors_on_cpu, partial, max_shard_size=max_shard_size)
        except SafetensorError as error:
            raise OSError(first_line(error)) from None
        # safetensors' writer makes files that only their owner may read.
        for path in partial.iterdir():
            shutil.copymode(partial / "config.json", path)

    written = write_group(folder, write_parts, last="config.json")

    # Weights of an older model, which had other shards, would be read in place of the new ones.
    older = [folder / name for name in SAFETENSORS]
    older += folder.glob("model-*-of-*.safetensors")
    for path in older:
        if path not in written:
            remove_file(path)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be removed ({first_line(error)})") from None
