"""The tables of weights_map, read both ways: state dicts and configs of theirs -> ours, and ours -> theirs.
A tensor row is (ours, theirs, words), a config row (ours, theirs, default, rule): weights_map/README.md."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, cat, equal

from nanos2t.remap_config import literal, shorten

WORDS = {"copy", "transpose", "alias", "optional", "legacy", "drop"}
Words, Row = frozenset[str], tuple[str, str, frozenset[str]]


@dataclass
class Table:
    tensors: list[Row] = field(default_factory=list)
    config: dict[str, tuple[str, str, Any, str]] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)
    part: str = ""  # what `config` is about: encoder, decoder or generation
    base: str = ""  # the table that is included
    prefix: str = (
        ""  # stands before the names of a model with a head (bert.), and not of a bare one
    )


def find_tables() -> dict[str, Path]:
    """The tables there are, by name: beside the package in the repository, inside it once installed."""
    here = Path(__file__).parent
    return {
        path.stem: path
        for folder in (here.parent, here)
        for path in folder.glob("weights_map/*.txt")
    }


def read_table(name: str) -> Table:
    """weights_map/<name>.txt. ValueError if there is none, or, with file and line, for a row that is none."""
    if (path := find_tables().get(name)) is None:
        raise ValueError(
            f"weights_map has no table {name!r}, expected one of {sorted(find_tables())}"
        )
    return parse_table(path.read_text(encoding="utf-8"), str(path))


def parse_table(text: str, where: str = "table") -> Table:
    table, section = Table(), "tensors"
    for number, line in enumerate(text.splitlines(), start=1):
        first, *rest = line.partition("#")[0].split() or [""]
        try:
            if first == "include":
                table, table.base = read_table(*rest), rest[0]
            elif first == "prefix":
                (table.prefix,) = rest
            elif first.startswith("["):
                section = first.strip("[]")
            elif first and section == "tensors":
                table.tensors += tensor_rows(first, *rest)
            elif first and section == "ids":
                table.ids[first] = rest
            elif first:
                theirs, default, rule = (*rest, "") if len(rest) == 2 else rest
                table.config[theirs if first == "-" else first] = (
                    first,
                    theirs,
                    literal(default),
                    rule,
                )
                table.part = section
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{where}, line {number}: {line.strip()!r} is no row ({error})"
            ) from None
    return table


def tensor_rows(ours: str, theirs: str, *words: str) -> list[Row]:
    """One row, or one for each pair if both sides list alternatives: {q,k}_proj and {query,key}."""
    if not WORDS.issuperset(words) or (ours == "-") != ("drop" in words):
        raise ValueError(f"expected words of {sorted(WORDS)}, and - for ours with drop only")
    pairs = (
        zip(alternatives(ours), alternatives(theirs), strict=True)
        if "," in theirs
        else [(ours, theirs)]
    )
    return [(*pair, Words(words)) for pair in pairs]


def alternatives(name: str) -> list[str]:
    """'x.{q,k}_proj' -> ['x.q_proj', 'x.k_proj']; 'x.{i}.y' -> ['x.{i}.y']"""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", name)
    return [name.replace(match[0], part) for part in match[1].split(",")] if match else [name]


def prefix_rows(rows: Iterable[Row], part: str) -> list[Row]:
    """The same rows one level up, for a model that is a part of a larger one."""
    return [
        (left if left == "-" else part + left, part + right, words) for left, right, words in rows
    ]


def inside_pair(theirs: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """A file of one half alone, named as inside a pair: an encoder without its prefix, a decoder with it."""
    prefix = table.prefix + "."
    if table.part == "encoder":
        return {name.removeprefix(prefix): value for name, value in theirs.items()}
    bare = not any(name.startswith(prefix) for name in theirs)
    return {prefix * bare + name: value for name, value in theirs.items()}


def pattern(name: str) -> re.Pattern:
    """'h.{i}.norm' -> a regular expression with groups i and tail: a name, and all names below it."""
    return re.compile(re.escape(name).replace(r"\{i\}", r"(?P<i>\d+)") + r"(?P<tail>(\.\w+)*)")


def match_rows(rows: Iterable[Row], ours: Iterable[str]) -> Iterator[tuple[list[str], str, Words]]:
    """Each row once per tensor of ours it covers: (our names, several if theirs is fused; their name; words).
    Aliases come last, and give way to another row for the same tensor of theirs (the head, when untied)."""
    ours, taken = list(ours), set()
    for left, right, words in sorted(rows, key=lambda row: "alias" in row[2]):
        for match in filter(None, map(pattern(alternatives(left)[0]).fullmatch, ours)):
            layer, tail = match["i"] if "{i}" in left else "", match["tail"]
            *names, theirs = (
                name.replace("{i}", layer) + tail for name in (*alternatives(left), right)
            )
            claims = {(1, theirs)} | {
                (0, name) for name in names if not words & {"alias", "legacy"}
            }
            if not claims & taken:
                yield names, theirs, words
            elif "alias" not in words:
                raise ValueError(f"the table has a second row for {theirs} or our {shorten(names)}")
            taken |= claims


def import_state(
    rows: list[Row],
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    where: str = "state dict",
) -> dict[str, Tensor]:
    """Their state dict -> ours, as views, optional ones if there. Of `ours` only names and shapes are read.
    ValueError, naming `where` and the tensor, if one is missing, misshapen, unknown, or given twice."""
    filled, unread, needed = {}, dict(theirs), dict.fromkeys(ours, "any row of the table")
    for names, right, words in match_rows(rows, ours):
        if not words & {"alias", "legacy"}:
            needed |= dict.fromkeys(names, "" if "optional" in words else right)
        if right in unread:
            parts = unfuse(
                unread.pop(right), [ours[name] for name in names], words, f"{where}: {right}"
            )
            for name, part in zip(names, parts, strict=True):
                if name in filled and not ("alias" in words and equal(filled[name], part)):
                    raise ValueError(
                        f"{where}: {right} is a second tensor for our {name}, expected one"
                    )
                filled.setdefault(name, part)
    missing = [
        f"{right} (our {name})" for name, right in needed.items() if right and name not in filled
    ]
    spare = [pattern(right) for _, right, words in rows if words & {"drop", "optional"}]
    unread = [name for name in unread if not any(row.fullmatch(name) for row in spare)]
    if missing or unread:
        problem = (
            f"missing {shorten(missing)}"
            if missing
            else f"no place in the model for {shorten(unread)}"
        )
        raise ValueError(f"{where}: {problem}")
    return filled


def export_state(
    rows: list[Row], ours: Mapping[str, Tensor], aliases: bool = True
) -> dict[str, Tensor]:
    """Our state dict -> theirs, with its second names or without. ValueError for a tensor without a row."""
    theirs, written = {}, set()
    for names, right, words in match_rows(rows, ours):
        if "legacy" not in words and (aliases or "alias" not in words):
            value = fuse([ours[name] for name in names], words)
            theirs[right] = value.clone() if "alias" in words else value
            written.update(names)
    if unwritten := [name for name in ours if name not in written]:
        raise ValueError(f"no row of the table for our {shorten(unwritten)}")
    return theirs


def unfuse(value: Tensor, ours: list[Tensor], words: Words, where: str) -> tuple[Tensor, ...]:
    """A tensor of theirs as the tensors of ours that it holds; ValueError if it has not their shape."""
    expected = fuse([part.to("meta") for part in ours], words).shape
    if value.shape != expected:
        raise ValueError(f"{where} has shape {tuple(value.shape)}, expected {tuple(expected)}")
    if not value.is_floating_point():
        raise ValueError(f"{where} is {value.dtype}, not float")
    value = value.T if "transpose" in words and value.ndim == 2 else value
    return value.split([len(part) for part in ours]) if len(ours) > 1 else (value,)


def fuse(parts: list[Tensor], words: Words) -> Tensor:
    """Tensors of ours as the one tensor of theirs."""
    value = cat(parts) if len(parts) > 1 else parts[0]
    return value.T.contiguous() if "transpose" in words and value.ndim == 2 else value
