"""Read what is handed in: folders, zips and tars, and archives in those.

Nothing is unpacked: the files are read into memory, so that a path such as ../../grades.csv in a
zip leads nowhere. What cannot be read is told in a note.
"""

import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

MAX_BYTES = 1_000_000  # of one file; the longest answer has 5,000
MAX_FILES = 500  # that are read of one submission
MAX_ARCHIVE = 100_000_000  # bytes of an archive that is in another one
MAX_UNPACKED = 10_000_000_000  # bytes of a tar, all of which is decompressed to read its end
MAX_DEPTH = 3  # archives in archives
# Folders of systems and of installed packages.
SYSTEM = {"__MACOSX", "__pycache__", "site-packages", "dist-packages", "node_modules", ".git"}
ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError),
    *(RuntimeError, ValueError, OSError),
)


@dataclass
class Entry:
    """A file in a folder or an archive; `problem` says why it is not to be read, or is ""."""

    place: PurePosixPath
    problem: str
    open: Callable[[], BinaryIO]


@dataclass
class Reading:
    """What is read of a submission: the files that `is_wanted`, and what is told about others."""

    is_wanted: Callable[[PurePosixPath], bool]
    files: list[tuple[PurePosixPath, bytes]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unread: list[PurePosixPath] = field(default_factory=list)


def is_archive(name: str) -> bool:
    return bool(ARCHIVE.search(name))


def strip_suffix(name: str) -> str:
    """Return "petrov" for petrov.tar.gz, petrov.zip and petrov.pdf."""
    if is_archive(name):
        return ARCHIVE.sub("", name)
    return Path(name).stem


def describe_error(error: Exception) -> str:
    if str(error) == "File is not a zip file":
        return "it is none, or was not uploaded whole"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def read_path(path: Path, reading: Reading) -> None:
    """Read a folder, an archive or a file."""
    if path.is_symlink():
        reading.notes.append(f"{path.name} is a link, which is not followed")
    elif path.is_dir():
        read_entries(list_folder(path, reading.notes), reading)
    elif is_archive(path.name):
        read_archive(file_entry(path, path.parent), PurePosixPath(), reading)
    else:
        read_entries(iter([file_entry(path, path.parent)]), reading)


def read_entries(entries: Iterator[Entry], reading: Reading, depth: int = 0) -> None:
    """Read the files that are wanted, and look into archives."""
    for entry in entries:
        if SYSTEM & set(entry.place.parts):
            continue
        name = entry.place.name
        can_hold_files = is_archive(name) and depth < MAX_DEPTH
        if not can_hold_files and not reading.is_wanted(entry.place):
            reading.unread.append(entry.place)
        elif entry.problem:
            reading.notes.append(f"{entry.place} {entry.problem}, and is not read")
        elif can_hold_files:
            read_archive(entry, entry.place, reading, depth)
        else:
            read_file(entry, reading)


def read_file(entry: Entry, reading: Reading) -> None:
    """Read one file. The others are read even if this one is damaged."""
    try:
        with entry.open() as file:
            data = file.read(MAX_BYTES + 1)
    except BROKEN as error:
        reading.notes.append(f"{entry.place} cannot be read: {describe_error(error)}")
        return
    if len(data) > MAX_BYTES:
        reading.notes.append(f"{entry.place} is too large, and is not read")
    elif len(reading.files) >= MAX_FILES:
        reading.notes.append(f"{entry.place} is file {MAX_FILES + 1} or later, and is not read")
    else:
        reading.files.append((entry.place, data))


def read_archive(entry: Entry, folder: PurePosixPath, reading: Reading, depth: int = 0) -> None:
    """Read the files of a zip or a tar, which is told by its content, whatever its name says.

    Their places begin with `folder`, which tells apart the archives of one submission.
    """
    kind = "zip" if entry.place.suffix.lower() == ".zip" else "tar"
    try:
        with entry.open() as opened:
            file = opened
            if depth:
                # A file in an archive is decompressed as it is read: to jump in it is slow.
                file = io.BytesIO(opened.read(MAX_ARCHIVE + 1))
                if file.getbuffer().nbytes > MAX_ARCHIVE:
                    raise ValueError(f"it has more than {MAX_ARCHIVE:,} bytes")
            if is_tar(file, kind):
                read_entries(list_tar(file, folder), reading, depth + 1)
            else:
                read_entries(list_zip(file, folder), reading, depth + 1)
    except BROKEN as error:
        reason = describe_error(error)
        reading.notes.append(f"{entry.place} cannot be read as a {kind}: {reason}")


def is_tar(file: BinaryIO, kind: str) -> bool:
    """Return whether an archive is a tar; what is neither that nor a zip is what its name says."""
    is_zip = zipfile.is_zipfile(file)
    file.seek(0)
    is_tar_inside = not is_zip and tarfile.is_tarfile(file)
    file.seek(0)
    return is_tar_inside or (kind == "tar" and not is_zip)


def file_entry(path: Path, root: Path) -> Entry:
    problem = ""
    if path.is_symlink() or not path.is_file():
        problem = "is a link or no file"
    place = PurePosixPath(path.relative_to(root).as_posix())
    return Entry(place, problem, partial(open, path, "rb"))


def list_folder(root: Path, notes: list[str]) -> Iterator[Entry]:
    """Yield the files of a folder and of those in it."""

    def note_error(error: OSError) -> None:
        name = Path(error.filename).relative_to(root)
        notes.append(f"{name} cannot be read: {describe_error(error)}")

    for folder, subfolders, names in os.walk(root, onerror=note_error):
        # What is not visited, sorted: the notes are the same on all systems.
        subfolders[:] = sorted(set(subfolders) - SYSTEM)
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        for name in links:
            place = Path(folder, name).relative_to(root).as_posix()
            notes.append(f"{place} is a link, which is not followed")
        for name in sorted(names):
            yield file_entry(Path(folder, name), root)


def list_zip(file: BinaryIO, folder: PurePosixPath) -> Iterator[Entry]:
    with zipfile.ZipFile(file) as archive:
        for item in archive.infolist():
            place = PurePosixPath(item.filename.replace("\\", "/"))
            if item.is_dir() or not place.parts:
                continue
            problem = find_way_out(place)
            if stat.S_ISLNK(item.external_attr >> 16):
                problem = problem or "is a link"
            yield Entry(join_place(folder, place), problem, partial(archive.open, item))


def list_tar(file: BinaryIO, folder: PurePosixPath) -> Iterator[Entry]:
    num_bytes = 0
    with tarfile.open(fileobj=file) as archive:
        for item in archive:
            num_bytes += item.size
            if num_bytes > MAX_UNPACKED:
                raise ValueError(f"it has more than {MAX_UNPACKED:,} bytes: the rest is not read")
            place = PurePosixPath(item.name.replace("\\", "/"))
            if item.isdir() or not place.parts:
                continue
            problem = find_way_out(place)
            if not item.isfile():
                problem = problem or "is a link"
            yield Entry(join_place(folder, place), problem, partial(archive.extractfile, item))


def join_place(folder: PurePosixPath, place: PurePosixPath) -> PurePosixPath:
    """Return the place of an entry in an archive that lies in a folder."""
    if not folder.parts:
        return place
    return folder / str(place).lstrip("/")


def find_way_out(place: PurePosixPath) -> str:
    """Return why the path of an entry is not to be trusted, or ""."""
    if place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
        return "leads out of the archive"
    return ""
