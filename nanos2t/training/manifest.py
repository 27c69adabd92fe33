"""Manifests: lists of recordings and their texts, one JSON object a line.

    {"audio": "a.wav", "text": "two hundred", "language": "en", "start": 1.5, "end": 3.25}

`audio` is a path, relative to the manifest's folder. `language`, `start` and `end`, in seconds, may
be left out.
"""

import json
import logging
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nanos2t.audio import load_audio

log = logging.getLogger("nanos2t")

MAX_SECONDS = 1e9  # a later time is a mistake


@dataclass(frozen=True)
class Item:
    """A text and its recording, or the part of it from `start` to `end` seconds (None: its end)."""

    audio: str
    text: str
    language: str | None = None
    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        name = self.audio
        if self.start > 0:
            name += f" from {self.start:g} s"
        if self.end is not None:
            name += f" to {self.end} s"
        return name


KEYS = [field.name for field in fields(Item)]


def read_manifest(path: str | os.PathLike) -> list[Item]:
    """Read the items of a manifest. The recordings are not opened: see `load_item`.

    Keys that an item does not have are ignored, and listed on the logger "nanos2t".

    Raises ValueError that names the line that is not an item, or if there are no lines.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: {reason}, expected a manifest") from None

    # Parse all lines first: what is ignored is listed once, for the whole manifest.
    rows = []
    ignored = set()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path}, line {number}"
            row = parse_line(line, place)
            rows.append((row, place))
            ignored |= row.keys() - KEYS
    if ignored:
        log.warning("%s: not read: %s", path, ", ".join(sorted(ignored)))
    if not rows:
        raise ValueError(f"{path}: no lines, expected one for each recording")
    return [make_item(row, Path(path).parent, place) for row, place in rows]


def parse_line(line: str, place: str) -> dict:
    """Parse a line of a manifest; `place` names it in errors."""
    try:
        row = json.loads(line, object_pairs_hook=collect_pairs)
    except KeyError as error:
        raise ValueError(f"{place}: the key {error} is there twice, expected once") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: no JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: {line[:40]}, expected an object with audio and text")
    return row


def collect_pairs(pairs: list[tuple[str, object]]) -> dict:
    """Make an object of JSON of its pairs. Raises KeyError for a key that is there twice."""
    row = {}
    for key, value in pairs:
        if key in row:
            raise KeyError(key)
        row[key] = value
    return row


def make_item(row: dict, folder: Path, place: str) -> Item:
    """Make an item of a parsed line; a ValueError begins with `place`."""
    # A key with null is one that was left out.
    row = {key: row[key] for key in KEYS if row.get(key) is not None}
    for key in ("audio", "text"):
        check_string(row.get(key), key, place)
    if "language" in row:
        check_string(row["language"], "language", place)

    # `type` instead of isinstance: true and false are numbers in Python. NaN fails the comparison.
    start = row.get("start", 0.0)
    end = row.get("end", MAX_SECONDS)
    is_number = type(start) in (int, float) and type(end) in (int, float)
    if not is_number or not 0 <= start < end <= MAX_SECONDS:
        end = row.get("end", "its end")
        raise ValueError(
            f"{place}: from {start!r:.40} to {end!r:.40}, expected 0 <= start < end, in seconds"
        )

    row["audio"] = os.path.join(folder, row["audio"])
    return Item(**row)


def check_string(value: object, key: str, place: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{place}: {key} is {value!r}, expected a string")

    # JSON can escape half of a character, a lone surrogate. It has no UTF-8.
    if re.search("[\ud800-\udfff]", value):
        raise ValueError(f"{place}: {key} is {value!r}, expected whole characters")


def load_item(item: Item, sample_rate: int) -> np.ndarray:
    """Load an item's recording, or its part, as a waveform (L,): see nanos2t.audio.load_audio."""
    return load_audio(item.audio, sample_rate, item.start, item.end)
