"""The inputs of a command: which files are meant, and where the text of each goes."""

import glob
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from nanos2t.files import identify_file


@dataclass
class InputSearch:
    """What was found for the names of a command line.

    passed_over: how many files of folders and patterns are no inputs, for each reason.
    """

    files: list[str] = field(default_factory=list)
    errors: list[ValueError] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: "InputSearch") -> "InputSearch":
        self.files += other.files
        self.errors += other.errors
        self.passed_over += other.passed_over
        return self


def find_files(names: Iterable[str]) -> InputSearch:
    """Find the files that the names stand for.

    A folder stands for the audio in it and below it, a pattern for the files it matches, and any
    other name for itself, whether there is such a file or not. Errors name folders without audio,
    patterns without matches, folders that cannot be read and links that lead nowhere.
    """
    search = InputSearch()
    for name in names:
        if os.path.isdir(name):
            search += search_folder(name)
        elif glob.has_magic(name) and not os.path.lexists(name):
            # A file that exists may have a name that looks like a pattern.
            search += search_pattern(name)
        else:
            search.files.append(name)
    return search


def search_folder(folder: str) -> InputSearch:
    """Find the audio in a folder and in those below it, through links, each file once."""
    known_suffixes = list_suffixes()
    search = InputSearch()
    paths = walk_files(str(Path(folder)), search.errors)
    choose_files(paths, search, known_suffixes)
    if not search.files and not search.errors:
        suffixes = " ".join(sorted(known_suffixes))
        error = f"{folder}: no audio in this folder{describe_passed(search)}, expected {suffixes}"
        return InputSearch(errors=[ValueError(error)])
    return search


def search_pattern(pattern: str) -> InputSearch:
    """Find the files that a pattern matches: audio, unless it says which suffix they have."""
    suffix = Path(pattern).suffix
    suffixes = None
    if not suffix or glob.has_magic(suffix):
        suffixes = list_suffixes()

    search = InputSearch()
    choose_files(match_pattern(pattern, search.errors), search, suffixes)
    if not search.files and not search.errors:
        error = f"{pattern}: no file fits this pattern{describe_passed(search)}"
        return InputSearch(errors=[ValueError(error)])
    return search


def list_suffixes() -> frozenset[str]:
    """Return the suffixes of files that are taken for audio.

    Those of phones are among them whether the package that decodes them is there or not: without
    it they are failed inputs, whose message says what to install, and not passed over.
    """
    from nanos2t.recordings.decoding import SUFFIXES
    from nanos2t.recordings.media import MEDIA_SUFFIXES

    return SUFFIXES | MEDIA_SUFFIXES


def match_pattern(pattern: str, errors: list[ValueError]) -> list[str]:
    """Return the paths that match a pattern; `**` stands for any folders, each visited once."""
    parts = pattern.split("/")
    if "**" not in parts:
        return glob.glob(pattern)

    # Not glob's own `**`, which follows a loop of links again and again.
    position = parts.index("**")
    head = "/".join(parts[:position])
    tail = "/".join(parts[position + 1 :])
    if not head:
        head = "/" if pattern.startswith("/") else "."
    matches = []
    for folder in glob.glob(head):
        for path in walk_files(str(Path(folder)), errors):
            if not tail or PurePath(path).match(tail):
                matches.append(path)
    return matches


def walk_files(folder: str, errors: list[ValueError]) -> Iterator[str]:
    """Yield the paths in a folder and below it that are no folders. Each folder is visited once."""
    visited = set()
    waiting = deque([folder])
    while waiting:
        current = waiting.popleft()
        real_folder = os.path.realpath(current)
        if real_folder in visited:
            continue
        visited.add(real_folder)
        try:
            with os.scandir(current) as entries:
                paths = sorted(entry.path for entry in entries)
        except OSError as error:
            errors.append(ValueError(f"{current}: {error.strerror}"))
            continue

        for path in paths:
            if not os.path.isdir(path):
                # As people write it: "a.wav" in the folder ".", not "./a.wav".
                yield str(Path(path))
            elif os.path.islink(path):
                # Last: a folder has its own name if it can be reached by that.
                waiting.append(path)
            else:
                waiting.appendleft(path)


def choose_files(
    paths: Iterable[str], search: InputSearch, suffixes: frozenset[str] | None
) -> None:
    """Add those of the paths that are inputs to the files of a search, sorted by name.

    suffixes: of audio; None: any.
    """
    # Of several names of a file, one that is no link is taken, and the one nearest to the top.
    chosen = {}
    for path in sorted(paths, key=lambda path: (os.path.islink(path), path.count(os.sep), path)):
        reason = reason_to_pass(path, suffixes)
        real_path = os.path.realpath(path)
        if reason is None and real_path in chosen:
            reason = "second names of files"

        if reason is not None:
            search.passed_over[reason] += 1
        elif not os.path.exists(path):
            search.errors.append(ValueError(f"{path}: a link that leads nowhere"))
        else:
            chosen[real_path] = path
    search.files += sorted(chosen.values())


def reason_to_pass(path: str, suffixes: frozenset[str] | None) -> str | None:
    """Say why a path in a folder or pattern is no input. None: it is one."""
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if os.path.isdir(path):
        return "folders"
    # macOS keeps what belongs to a.wav in ._a.wav where the file system has no place for it.
    if name.startswith("._"):
        return "._ files"
    # A link without a suffix that leads nowhere may have been one to a folder of recordings.
    is_lost_folder = suffix == "" and not os.path.exists(path)
    if suffixes is not None and suffix not in suffixes and not is_lost_folder:
        return suffix or "files without a suffix"
    if os.path.exists(path) and not os.path.isfile(path):
        return "pipes or devices"
    return None


def describe_passed(search: InputSearch) -> str:
    """Return a clause that counts what a search passed over, or "" if that is nothing."""
    if not search.passed_over:
        return ""
    counts = [f"{count} {reason}" for reason, count in search.passed_over.most_common(5)]
    others = search.passed_over.total() - sum(
        count for _, count in search.passed_over.most_common(5)
    )
    if others:
        counts.append(f"{others} others")
    return f" (passed over: {', '.join(counts)})"


def read_list(name: str) -> list[str]:
    """Return the non-empty lines of a text file, or of stdin for "-".

    ValueError: the file cannot be read, or is not a text file.
    """
    # File descriptor 0 is stdin, which stays open.
    is_stdin = name == "-"
    if is_stdin and sys.stdin is None:
        raise ValueError("--files-from -: stdin is closed")
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
        # Whoever reads a pipe takes its content away.
        if not os.path.isfile(name):
            continue
        with suppress(OSError, ValueError, soundfile.LibsndfileError):
            total += soundfile.info(name).duration
    return round(total)
