"""Many inputs: which files are meant, where their text goes, and who of several processes takes which.
`torchrun -m nanos2t transcribe ...` starts the processes, and the store of torch.distributed, which they
share, says whose turn it is and brings the texts together."""

import glob
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def find_files(names: Iterable[str]) -> tuple[list[str], list[ValueError]]:
    """The inputs: for a folder the audio in it, for a pattern what fits, by name; or an error for it."""
    files, errors = [], []
    for name in names:
        found = [name]
        if os.path.isdir(name):
            from nanos2t.audio_files import SUFFIXES

            inside = (path for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES)
            found = sorted(str(path) for path in inside if os.path.isfile(path))
            reason = f"no audio in this folder, expected {' '.join(sorted(SUFFIXES))}"
        elif glob.has_magic(name) and not os.path.lexists(name):
            found = sorted(filter(os.path.isfile, glob.glob(name, recursive=True)))
            reason = "no file fits this pattern"
        files += found
        errors += [] if found else [ValueError(f"{name}: {reason}")]
    return files, errors


def read_list(name: str) -> list[str]:
    """The inputs that a text file, or stdin for -, has on its lines; ValueError if it cannot be read."""
    try:
        file = 0 if name == "-" else name
        with open(
            file, encoding="utf-8-sig", errors="surrogateescape", closefd=name != "-"
        ) as lines:
            found = [line.rstrip("\n") for line in lines if line.strip()]
    except OSError as error:
        raise ValueError(f"--files-from {name}: {error.strerror}") from None
    if any("\0" in line for line in found):
        raise ValueError(
            f"--files-from {name}: not a text file, expected one with an input on each line"
        )
    return found


def output_paths(files: list[str], folder: Path, format: str) -> list[Path]:
    """Where each input's file goes. ValueError if two would be the same, or nothing can be written there."""
    paths = [folder / f"{'stdin' if name == '-' else Path(name).stem}.{format}" for name in files]
    seen: dict[Path, str] = {}
    for path, name in zip(paths, files, strict=True):
        if path in seen:
            raise ValueError(f"--output: {seen[path]} and {name} would both be written to {path}")
        seen[path] = name
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not (os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)):
        raise ValueError(f"--output {folder}: {nearest} is not a folder that can be written to")
    return paths


def count_seconds(inputs: Iterable[tuple[str, Path | None]]) -> int:
    """How long the inputs say that they are, together; one that cannot be read says nothing."""
    import soundfile

    total = 0.0
    for name, _ in inputs:
        with suppress(OSError, ValueError, soundfile.LibsndfileError):
            total += soundfile.info(name).duration
    return round(total)


class WorkQueue:
    """The processes that share the inputs, by a store that they all see: torchrun's, or this one alone."""

    def __init__(self) -> None:
        from torch import distributed

        self.size, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        self.store = (
            distributed.HashStore() if self.size == 1 else next(distributed.rendezvous("env://"))[0]
        )

    def wait(self, name: str) -> object:
        while not self.store.check([name]):
            time.sleep(0.02)  # here a signal is heard
        return json.loads(self.store.get(name))

    def agree(self, mine: object) -> object:
        """What rank 0 brings, JSON."""
        if self.rank == 0:
            self.store.set("agreed", json.dumps(mine))
        return self.wait("agreed")

    def turns(self, count: int) -> Iterator[int]:
        """Of 0 .. count - 1 those that are this process's: each takes the next when it is ready for it."""
        while (index := self.store.add("turn", 1) - 1) < count:
            yield index

    def merge(self, texts: Iterable[tuple[int, str]], count: int) -> Iterator[str]:
        """Indices and texts of this process -> at rank 0, all `count` texts in order, as they come."""
        told = 0
        for index, text in texts:
            self.store.set(str(index), json.dumps(text))
            while self.rank == 0 and self.store.check([str(told)]):
                yield self.wait(str(told))
                told += 1
        yield from (self.wait(str(index)) for index in range(told, 0 if self.rank else count))

    def sum(self, failed: int) -> int:
        """The sum over all processes, when all are done: torchrun ends the others when one has failed."""
        self.store.add("failed", failed)
        if self.store.add("done", 1) == self.size:
            self.store.set("total", json.dumps(self.store.add("failed", 0)))
        return self.wait("total")
