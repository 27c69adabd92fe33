"""A weights_map table, read both ways: their state dict and config -> ours, and ours -> theirs.

A tensor row is (ours, theirs, words), a config row (ours, theirs, default, rule); weights_map/README.md says what
each word does. Both directions go through the same rows: what `load` understands, `export` can write.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WORDS = {"copy", "transpose", "alias", "optional", "legacy", "drop"}
Row = tuple[str, str, frozenset[str]]
ConfigRow = tuple[str, str, Any, str]


@dataclass(frozen=True)
class Table:
    """`part`: what the config rows are about: encoder, decoder or generation."""

    tensors: list[Row]
    config: list[ConfigRow]
    part: str


def tables() -> dict[str, Path]:
    """The tables there are, by name: beside the package in the repository, inside it once installed."""
    here = Path(__file__).parent
    return {path.stem: path for folder in (here.parent, here) for path in folder.glob("weights_map/*.txt")}


def read_table(name: str) -> Table:
    """weights_map/<name>.txt. ValueError, with file and line, for a row that is none."""
    if name not in tables():
        raise ValueError(f"weights_map has no table {name!r}, expected one of {sorted(tables())}")
    return parse_table(tables()[name].read_text(), str(tables()[name]))


def parse_table(text: str, where: str = "table") -> Table:
    tensors, config, part = [], {}, ""
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.partition("#")[0].split()
        try:
            if columns[:1] == ["include"]:
                base = read_table(columns[1])
                tensors, config = base.tensors[:], {replaces(row): row for row in base.config}
            elif columns and columns[0].startswith("["):
                part = columns[0].strip("[]")
            elif columns and part:
                ours, theirs, default, *rule = columns
                row = (ours, theirs, literal(default), *rule, "")[:4]
                config[replaces(row)] = row
            elif columns:
                tensors += tensor_rows(*columns)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{where}, line {number}: {line.strip()!r} is no row ({error})") from None
    return Table(tensors, [*config.values()], part)


def tensor_rows(ours: str, theirs: str, *words: str) -> list[Row]:
    """One row, or one for each pair if both sides list alternatives: {q,k}_proj and {query,key}."""
    if not WORDS.issuperset(words) or (ours == "-") != ("drop" in words):
        raise ValueError(f"expected words of {sorted(WORDS)}, and - for ours with drop only")
    if ours != "-" and ("{i}" in ours) != ("{i}" in theirs):
        raise ValueError("expected {i} on both sides")
    pairs = [(ours, theirs)]
    if len(alternatives(theirs)) > 1:
        pairs = zip(alternatives(ours), alternatives(theirs), strict=True)
    return [(*pair, frozenset(words)) for pair in pairs]


def alternatives(name: str) -> list[str]:
    """'x.{q,k}_proj' -> ['x.q_proj', 'x.k_proj']; 'x.{i}.y' -> ['x.{i}.y']"""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", name)
    return [name.replace(match[0], part) for part in match[1].split(",")] if match else [name]


def prefix(rows: Iterable[Row], ours: str, theirs: str) -> list[Row]:
    """The same rows one level up, for a model that is a part of a larger one."""
    return [(left if left == "-" else ours + left, theirs + right, how) for left, right, how in rows]


def pattern(name: str) -> re.Pattern:
    """'h.{i}.norm' -> a regular expression with groups i and tail: a name, and all names below it."""
    return re.compile(re.escape(name).replace(r"\{i\}", r"(?P<i>\d+)") + r"(?P<tail>(\.\w+)*)")


def expand(rows: Iterable[Row], ours: Iterable[str]) -> Iterator[tuple[list[str], str, frozenset[str]]]:
    """Each row once per tensor of ours it covers: (our names, several if they keep them fused; theirs; words).

    Aliases come last; one gives way to another row for the same tensor of theirs (an untied head).
    """
    ours, writer = list(ours), {}
    for left, right, how in sorted(rows, key=lambda row: "alias" in row[2]):
        for match in filter(None, map(pattern(alternatives(left)[0]).fullmatch, ours)):
            layer = match["i"] if "{i}" in left else ""
            *names, theirs = [name.replace("{i}", layer) + match["tail"] for name in (*alternatives(left), right)]
            if theirs in writer and "alias" not in how:
                raise ValueError(f"two rows of the table write {theirs}, of {writer[theirs]} and of {names}")
            if theirs not in writer:
                writer[theirs] = names
                yield names, theirs, how


def load(rows: list[Row], theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor],
         where: str = "state dict") -> dict[str, Tensor]:
    """Their state dict -> ours, as views: no tensor is copied. Only optional tensors may be missing from it.

    `ours` is the state dict to fill; its names and shapes are read, so a model on the meta device will do.
    ValueError, naming `where` and the tensor, if one is missing, misshapen, unknown, or given twice.
    """
    filled, unread, missing = {}, dict(theirs), {}
    for names, right, how in expand(rows, ours):
        if right in unread:
            parts = split(unread.pop(right), [ours[name] for name in names], how, f"{where}: {right}")
            for name, part in zip(names, parts, strict=True):
                if "alias" not in how and name in filled:
                    raise ValueError(f"{where}: {right} is a second tensor for our {name}, expected one")
                if name in filled and not torch.equal(filled[name], part):
                    raise ValueError(f"{where}: {right} differs from the tensor it is a second name of, {name}")
                filled.setdefault(name, part)
        for name in names if not how & {"legacy", "alias"} else ():
            missing[name] = None if "optional" in how else right
    missing = {right: ours[name] for name, right in missing.items() if right and name not in filled}
    known = [pattern(right) for _, right, how in rows if how & {"drop", "optional"}]
    unread = {name: part for name, part in unread.items() if not any(row.fullmatch(name) for row in known)}
    for found, problem in ((missing, "missing"), (unread, "not expected: no row of the table, or no such layer")):
        if found:
            ...
    return filled
