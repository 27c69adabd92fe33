"""Damaged files for fuzz.py: mutations, by number, of the whole files of fuzz_seeds.py.

`Mutants(folder, seed)[index]` is the same bytes whoever asks, and does not depend on the inputs
before it. Some mutations know the format and leave its header whole, others are blind.

A function `mutate_...` gets a random generator, the content of a file, and the contents of other
files with the same suffix.
"""

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors
import soundfile
import torch

from tests.benchmarks.mutate_bytes import mutate_bytes
from tests.benchmarks.mutate_models import (
    KEYS,
    lie_about_sizes,
    mutate_fields,
    mutate_index,
    replace_whole,
)
from tests.benchmarks.mutate_text import change_value, mutate_json, mutate_lines

# Of 100 inputs.
SHARES = {"audio": 35, "config": 22, "weights": 15, "tokenizer": 20, "table": 8}

# The types of tensors in safetensors, and the bytes of a number.
TENSOR_TYPES = {
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "U8": 1,
    "BOOL": 1,
    "I32": 4,
    "F64": 8,
    "I64": 8,
    "F8_E4M3": 1,
}

# What a hostile pickle would call.
HOSTILE_CALLS = [
    (os.system, "touch ran"),
    (eval, "open('ran', 'w')"),
    (os.mkdir, "ran"),
    (exec, "1/0"),
]

Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]


@dataclass(frozen=True)
class Mutant:
    """A damaged file: `content` takes the place of the file `file` in the seed folder `base`."""

    kind: str
    base: str
    file: str
    content: bytes


class Mutants:
    """`self[index]` is the mutant of that number. The folder is what `build_seeds` has written."""

    def __init__(self, folder: Path, seed: int):
        self.seed = seed
        self.files = {kind: [] for kind in SHARES}
        for path in sorted(folder.glob("*/*")):
            kind = find_kind(path.parent.name, path.name)
            self.files[kind].append((path.parent.name, path.name, path.read_bytes()))

    def __getitem__(self, index: int) -> Mutant:
        draw = random.Random(f"{self.seed} {index}")
        [kind] = draw.choices(list(SHARES), list(SHARES.values()))
        base, name, content = draw.choice(self.files[kind])
        suffix = Path(name).suffix
        others = [other for _, file, other in self.files[kind] if Path(file).suffix == suffix]
        mutate = find_mutation(kind, name)

        # Of the files of models, some are something else altogether.
        if kind not in ("audio", "table") and draw.random() < 0.03:
            return Mutant(kind, base, name, replace_whole(draw))
        return Mutant(kind, base, name, mutate(draw, content, others))


def find_kind(base: str, name: str) -> str:
    """Return the kind, one of SHARES, of a file of a seed folder."""
    if base in ("audio", "tables"):
        return base.removesuffix("s")
    if name.endswith((".safetensors", ".bin", ".index.json")):
        return "weights"
    if name.startswith(("tok", "vocab", "merges", "sentence", "special")):
        return "tokenizer"
    return "config"


def find_mutation(kind: str, name: str) -> Mutation:
    """Return the function that damages a file of this kind and name."""
    if kind == "audio":
        return mutate_audio
    if kind == "table":
        return mutate_lines
    if name in KEYS:
        return partial(mutate_fields, keys=KEYS[name])
    if name.endswith(".index.json"):
        return mutate_index
    mutations = {
        ".json": mutate_json,
        ".txt": mutate_lines,
        ".model": mutate_sentencepiece,
        ".safetensors": mutate_safetensors,
    }
    return mutations.get(Path(name).suffix, mutate_pickle)


def mutate_audio(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    header_size = draw.choice([0, 12, 64, min(4096, len(data) // 2)])
    return mutate_bytes(draw, data, others, header_size)


def mutate_sentencepiece(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    header_size = draw.choice([0, 3, 100, len(data) // 2])
    return mutate_bytes(draw, data, others, header_size)


def mutate_safetensors(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Damage the header (half of the time), the tensors, or anything."""
    if draw.random() < 0.2:
        return lie_about_sizes(draw, data)
    size = int.from_bytes(data[:8], "little")
    kind = draw.random()
    if kind >= 0.5:
        header_size = 8 + size if kind < 0.85 else 0
        return mutate_bytes(draw, data, others, header_size)

    # The header is JSON, after its size in 8 bytes.
    header = json.loads(data[8 : 8 + size])
    if kind < 0.15:
        relabel_tensor(draw, header)
    else:
        header = change_value(draw, header)
    content = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(content).to_bytes(8, "little") + content + data[8 + size :]


def relabel_tensor(draw: random.Random, header: dict) -> None:
    """Change type, shape and name of a tensor: the file is still valid."""
    name = draw.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    entry["dtype"] = draw.choice(list(TENSOR_TYPES))
    start, end = entry["data_offsets"]
    if draw.random() < 0.5:
        entry["shape"] = [(end - start) // TENSOR_TYPES[entry["dtype"]]]
    else:
        entry["shape"] = entry["shape"][::-1]
    new_name = draw.choice([name, f"{name}.x", ""])
    header[new_name] = header.pop(name)


class Hostile:
    """Its pickle calls a function when it is loaded, unless that is prevented."""

    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


def mutate_pickle(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Damage a pickle as a whole, or one of the files in its archive; or make a hostile one."""
    if draw.random() < 0.1:
        return make_hostile_pickle(draw)
    if not zipfile.is_zipfile(io.BytesIO(data)) or draw.random() < 0.25:
        header_size = draw.choice([0, 60, len(data) // 2])
        return mutate_bytes(draw, data, others, header_size)

    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    pickle_name = next(name for name in names if name.endswith("data.pkl"))
    damaged_name = draw.choice([pickle_name, draw.choice(names)])
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as damaged_archive:
        for name in names:
            content = archive.read(name)
            if name == damaged_name and content:
                content = mutate_bytes(draw, content)
            damaged_archive.writestr(name, content)
    return written.getvalue()


def make_hostile_pickle(draw: random.Random) -> bytes:
    tensors = {"a": torch.ones(2), "b": Hostile(*draw.choice(HOSTILE_CALLS))}
    written = io.BytesIO()
    torch.save(tensors, written, _use_new_zipfile_serialization=draw.random() < 0.5)
    return written.getvalue()


def is_past_header(mutant: Mutant) -> bool:
    """Return whether the outermost format is whole, so that the damage is inside, if any."""
    suffix = Path(mutant.file).suffix
    try:
        if mutant.kind == "audio":
            soundfile.SoundFile(io.BytesIO(mutant.content)).close()
        elif suffix == ".json":
            return isinstance(json.loads(mutant.content), dict)
        elif suffix == ".safetensors":
            safetensors.deserialize(mutant.content)
        elif suffix == ".bin":
            return is_pickle(mutant.content)
        elif suffix == ".model":
            from sentencepiece import SentencePieceProcessor

            SentencePieceProcessor(model_proto=mutant.content)
        else:
            mutant.content.decode()
    except Exception:  # readers raise whatever the bytes lead to
        return False
    return True


def is_pickle(content: bytes) -> bool:
    """Return whether this begins as a pickle, or is an archive with one."""
    if content[:1] == b"\x80":
        return True
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    return any("data.pkl" in name for name in names)
