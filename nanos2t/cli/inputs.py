"""The inputs of a command: which files are meant, and where the text of each goes."""

import glob
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from nanos2t.files import identify_file


def find_files(names: Iterable[str]) -> tuple[list[str], list[ValueError]]:
    """Return the files that the names stand for, and an error for each name that has none."""
    files = []
    errors = []
    for name in names:
        try:
            files += expand_name(name)
        except ValueError as error:
            errors.append(error)
    return files, errors


def expand_name(name: str) -> list[str]:
    """Return the files that a name stands for, sorted by name.

    A folder stands for the audio in it and below it, a pattern for the files it matches, and any
    other name for itself, whether there is such a file or not.

    ValueError: a folder without audio, a pattern without matches.
    """
    if os.path.isdir(name):
        return list_folder(name)

    # A file may have a name that looks like a pattern.
    if glob.has_magic(name) and not os.path.lexists(name):
        matches = [path for path in glob.glob(name, recursive=True) if os.path.isfile(path)]
        if not matches:
            raise ValueError(f"{name}: no file fits this pattern")
        return sorted(matches)

    return [name]


def list_folder(folder: str) -> list[str]:
    """Return the audio files in a folder and in those below it. ValueError: there are none."""
    from nanos2t.audio_files import SUFFIXES

    matches = []
    for path in Path(folder).rglob("*"):
        if path.suffix.lower() in SUFFIXES and os.path.isfile(path):
            matches.append(str(path))
    if not matches:
        suffixes = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{folder}: no audio in this folder, expected {suffixes}")
    return sorted(matches)


def read_list(name: str) -> list[str]:
    """Return the non-empty lines of a text file, or of stdin for "-".

    ValueError: the file cannot be read, or is not a text file.
    """
    # File descriptor 0 is stdin, which stays open.
    is_stdin = name == "-"
    file = 0 if is_stdin else name

    # Names may have bytes that are not UTF-8: surrogateescape keeps them.
    decoding = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
    try:
        with open(file, closefd=not is_stdin, **decoding) as lines:
            names = [line.rstrip("\n") for line in lines if line.strip()]
    except OSError as error:
        raise ValueError(f"--files-from {name}: {error.strerror}") from None

    if any("\0" in line for line in names):
        raise ValueError(
            f"--files-from {name}: not a text file, expected one with an input on each line"
        )
    return names


def pair_outputs(names: list[str], folder: Path, format: str) -> list[tuple[str, str]]:
    """Return each input with the path of its output. A file that is named twice is one input.

    ValueError: two inputs would have the same path, or the folder cannot be written to.
    """
    input_of: dict[Path, str] = {}
    for name in names:
        stem = Path(name).stem
        if name == "-":
            stem = "stdin"
        path = folder / f"{stem}.{format}"
        other = input_of.setdefault(path, name)
        if not is_same_file(name, other):
            raise ValueError(f"--output: {other} and {name} would both be written to {path}")

    # The folder need not exist yet, but it must be possible to create it.
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not (os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)):
        raise ValueError(f"--output {folder}: {nearest} is not a folder that can be written to")
    return [(name, str(path)) for path, name in input_of.items()]


def is_same_file(name: str, other: str) -> bool:
    """Whether two names are of the same input."""
    if name == other:
        return True
    identity = identify_file(name)
    return identity is not None and identity == identify_file(other)


def count_seconds(names: Iterable[str]) -> int:
    """Return the seconds of audio that the headers of the files announce; others count as none."""
    import soundfile

    total = 0.0
    for name in names:
        with suppress(OSError, ValueError, soundfile.LibsndfileError):
            total += soundfile.info(name).duration
    return round(total)
