"""Manifests: what is said in which recording, a line of JSON each.

    {"audio": "a.wav", "text": "two hundred", "language": "en", "start": 1.5, "end": 3.25}

`audio` is a path, relative to the manifest's folder; `language`, `start` and `end` (seconds) may be left out.
"""

import json
import logging
import math
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nanos2t.audio import load_audio

log = logging.getLogger("nanos2t")


@dataclass(frozen=True)
class Item:
    """A text and its recording, or the part of it from `start` to `end` seconds (None: the end)."""

    audio: str
    text: str
    language: str | None = None
    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        part = f" from {self.start:g} s" * (self.start > 0) + f" to {self.end} s" * (
            self.end is not None
        )
        return self.audio + part


NAMES = [field.name for field in fields(Item)]


def read_manifest(path: str | os.PathLike) -> list[Item]:
    """The items of a manifest, at least one. ValueError names the line that is no item; keys that no item has
    are listed on the logger "nanos2t". Whether the recordings are there is not looked at: see `load`.
    """
    try:
        lines = Path(path).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: {reason}, expected a manifest") from None
    rows = [(f"{path}, line {i}", line) for i, line in enumerate(lines, 1) if line.strip()]
    found = [(where, parse(where, line)) for where, line in rows]
    if other := sorted({key for _, row in found for key in row.keys() - NAMES}):
        log.warning("%s: not read: %s", path, ", ".join(other))
    if not found:
        raise ValueError(f"{path}: no lines, expected one for each recording")
    return [make(where, row, Path(path).parent) for where, row in found]


def parse(where: str, line: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {line[:40]}, expected an object with audio and text")
    return row


def make(where: str, row: dict, folder: Path) -> Item:
    row = {key: row[key] for key in NAMES if row.get(key) is not None}
    for key in ("audio", "text", "language"):
        if not isinstance(row.get(key, "" if key == "language" else None), str):
            raise ValueError(f"{where}: {key} is {row.get(key)!r}, expected a string")
        if re.search("[\ud800-\udfff]", row.get(key, "")):
            raise ValueError(f"{where}: {key} is {row[key]!r}, expected whole characters")
    start, end = (row.get(key, value) for key, value in (("start", 0.0), ("end", math.inf)))
    if not all(type(value) in (int, float) for value in (start, end)) or not 0 <= start < min(
        end, 1e9
    ):
        raise ValueError(
            f"{where}: from {start!r} to {end!r}, expected 0 <= start < end, in seconds"
        )
    return Item(**row | {"audio": os.path.join(folder, row["audio"])})


def load_item(item: Item, sample_rate: int) -> np.ndarray:
    """Load the recording of an item, or its part, as a waveform (L,): see nanos2t.audio.load_audio."""
    return load_audio(item.audio, sample_rate, item.start, item.end)
