"""The tables of weights_map, read both ways: a state dict of theirs to ours, and ours to theirs.

"Theirs" are the names in checkpoints of transformers, "ours" those of this package. The format of
a table is explained in weights_map/README.md, and the rows for configs are read in remap_config.py.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, cat, equal

from nanos2t.remap_config import ConfigRow, parse_config_row, shorten

FLAGS = {"copy", "transpose", "alias", "optional", "legacy", "drop", "fallback", "override"}


# Tables and their rows


class TensorRow(NamedTuple):
    """A row about tensors: our name, their name, and how one becomes the other."""

    ours: str  # "-" if we have no such tensor
    theirs: str
    flags: frozenset[str] = frozenset()

    @property
    def is_transposed(self) -> bool:
        """They store the matrix as (in, out)."""
        return "transpose" in self.flags

    @property
    def is_alias(self) -> bool:
        """A second name of theirs for a tensor that we hold once."""
        return "alias" in self.flags

    @property
    def is_optional(self) -> bool:
        """Either side may lack the tensor."""
        return "optional" in self.flags

    @property
    def is_legacy(self) -> bool:
        """An older name of theirs: read, never written."""
        return "legacy" in self.flags

    @property
    def is_fallback(self) -> bool:
        """A second name that is read only if the first one is absent."""
        return "fallback" in self.flags

    @property
    def is_override(self) -> bool:
        """A second name whose tensor counts if the first one's differs."""
        return "override" in self.flags

    @property
    def is_dropped(self) -> bool:
        """A tensor of theirs that we have no use for."""
        return "drop" in self.flags

    def as_optional(self) -> "TensorRow":
        """The same row for a tensor that may be absent."""
        return self._replace(flags=self.flags | {"optional"})


class Match(NamedTuple):
    """A row, applied to one tensor of theirs, and to the tensors of ours that it holds."""

    ours: list[str]  # several names if theirs is fused
    theirs: str
    row: TensorRow


@dataclass
class Table:
    """One file of weights_map."""

    tensors: list[TensorRow] = field(default_factory=list)
    config: dict[str, ConfigRow] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)
    name: str = ""  # that of the file: a model_type of theirs, except for the pair's table
    part: str = ""  # what `config` is about: encoder, decoder or generation
    base: str = ""  # the table that is included
    own_fields: set[str] = field(default_factory=set)  # names of `config` that are not included
    prefix: str = ""  # "bert": begins the names of a model with a head, not those of a bare model


def find_tables() -> dict[str, Path]:
    """Find all tables by name: beside the package in the repository, inside it once installed."""
    package = Path(__file__).parent
    paths = [*package.parent.glob("weights_map/*.txt"), *package.glob("weights_map/*.txt")]
    return {path.stem: path for path in paths}


def read_table(name: str) -> Table:
    """Read weights_map/<name>.txt. Raises ValueError for no such table or an invalid row."""
    tables = find_tables()
    if name not in tables:
        raise ValueError(f"weights_map has no table {name!r}, expected one of {sorted(tables)}")
    path = tables[name]
    table = parse_table(path.read_text(encoding="utf-8"), str(path))
    table.name = name
    return table


def read_family_table(config: Any, part: str, where: str) -> Table:
    """Read the table of a config's family: it is all that makes an encoder or decoder known.

    Raises ValueError, beginning with `where`, for another model_type than those of this `part`.
    """
    family = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(family, str) and family in find_tables():
        table = read_table(family)
        if table.part == part:
            return table
    raise ValueError(f"{where}model_type is {family!r}, expected one of {find_families(part)}")


def find_families(part: str) -> list[str]:
    """List the families of encoders, or of decoders; base tables first."""
    tables = {name: read_table(name) for name in sorted(find_tables())}
    families = [name for name, table in tables.items() if table.part == part]
    return sorted(families, key=lambda name: tables[name].base)


def parse_table(text: str, where: str = "table") -> Table:
    """Parse the text of a table. Raises ValueError, naming `where` and line, for an invalid row."""
    table = Table()
    section = "tensors"
    for number, line in enumerate(text.splitlines(), start=1):
        # Spaces separate columns, and # begins a comment.
        columns = line.partition("#")[0].split()
        if not columns:
            continue
        try:
            if columns[0].startswith("["):
                section = columns[0].strip("[]")
            elif columns[0] == "include":
                # An included table comes first; what follows is added, or replaces its fields.
                (_, base) = columns
                table = read_table(base)
                table.base = base
                table.own_fields.clear()
            else:
                add_row(table, section, columns)
        except ValueError as error:
            raise ValueError(
                f"{where}, line {number}: invalid row {line.strip()!r} ({error})"
            ) from None
    return table


def add_row(table: Table, section: str, columns: list[str]) -> None:
    """Add the columns of a line to its section of the table."""
    if columns[0] == "prefix":
        (_, table.prefix) = columns
    elif section == "tensors":
        table.tensors += parse_tensor_rows(columns)
    elif section == "ids":
        key, *rules = columns
        table.ids[key] = rules
    else:
        # [encoder], [decoder] or [generation]: the name of the section says what the table is for.
        row = parse_config_row(columns)
        if row.name in table.own_fields:
            raise ValueError(f"the table has another row for {row.name}, expected one")
        table.own_fields.add(row.name)
        table.config[row.name] = row
        table.part = section


def parse_tensor_rows(columns: list[str]) -> list[TensorRow]:
    """Parse the columns of a line: ours, theirs, flags.

    It is one row, or one for each pair if both sides list alternatives: {q,k} and {query,key}.
    """
    if len(columns) == 1:
        raise ValueError("found one column, expected our name and theirs")
    ours, theirs = columns[:2]
    flags = frozenset(columns[2:])
    if not flags <= FLAGS or (ours == "-") != ("drop" in flags):
        raise ValueError(f"expected flags of {sorted(FLAGS)}, and - for ours with drop only")
    # {q,k,v} on our side only: one fused tensor of theirs.
    if "," not in theirs:
        return [TensorRow(ours, theirs, flags)]
    pairs = zip(list_alternatives(ours), list_alternatives(theirs), strict=True)
    return [TensorRow(left, right, flags) for left, right in pairs]


def list_alternatives(name: str) -> list[str]:
    """'x.{q,k}_proj' stands for ['x.q_proj', 'x.k_proj'], 'x.{i}.y' only for itself."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", name)
    if match is None:
        return [name]
    return [name.replace(match[0], alternative) for alternative in match[1].split(",")]


def prefix_rows(rows: Iterable[TensorRow], prefix: str) -> list[TensorRow]:
    """Put a prefix before both names of each row, for a model that is part of a larger one."""
    prefixed = []
    for row in rows:
        ours = "-" if row.is_dropped else prefix + row.ours
        prefixed.append(TensorRow(ours, prefix + row.theirs, row.flags))
    return prefixed


def inside_pair(theirs: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Rename the tensors of a standalone encoder or decoder to their names inside a pair."""
    prefix = f"{table.prefix}."
    # Inside a pair, an encoder never has the prefix, and a decoder always has it.
    if table.part == "encoder":
        return {name.removeprefix(prefix): value for name, value in theirs.items()}
    if any(name.startswith(prefix) for name in theirs):
        return dict(theirs)
    return {prefix + name: value for name, value in theirs.items()}


# Rows and the names that they cover


def compile_pattern(name: str) -> re.Pattern:
    """Compile 'h.{i}.norm' to a pattern for it and all names below, with the groups i and tail."""
    # The table writes {i} for the number of a layer.
    escaped = re.escape(name).replace(r"\{i\}", r"(?P<i>\d+)")
    return re.compile(escaped + r"(?P<tail>(\.\w+)*)")


def match_rows(rows: Iterable[TensorRow], ours: Iterable[str]) -> Iterator[Match]:
    """Apply the rows to our tensors: yield each row once for each tensor of theirs that it covers.

    Aliases come last. An alias gives way to another row for the same tensor of theirs, as the
    output matrix does when it is not tied. Raises ValueError if two other rows meet.
    """
    names = list(ours)
    claimed_ours = set()
    claimed_theirs = set()
    for row in sorted(rows, key=lambda row: row.is_alias):
        for match in match_names(row, names):
            # Other names of theirs for a tensor of ours are no second claim to it.
            new_ours = set()
            if not row.is_alias and not row.is_legacy:
                new_ours.update(match.ours)

            is_claimed = match.theirs in claimed_theirs or new_ours & claimed_ours
            if is_claimed and not row.is_alias:
                raise ValueError(
                    f"the table has a second row for {match.theirs} or our {shorten(match.ours)}"
                )
            if not is_claimed:
                yield match
            claimed_ours |= new_ours
            claimed_theirs.add(match.theirs)


def match_names(row: TensorRow, names: Iterable[str]) -> Iterator[Match]:
    """Find the tensors of ours that a row covers; of those that are fused, the first counts."""
    alternatives = list_alternatives(row.ours)
    pattern = compile_pattern(alternatives[0])
    for name in names:
        parsed = pattern.fullmatch(name)
        if parsed is None:
            continue
        layer = parsed.groupdict().get("i", "")
        tail = parsed["tail"]

        # The number of the layer and the tail, such as ".weight", are the same on both sides.
        our_names = [part.replace("{i}", layer) + tail for part in alternatives]
        their_name = row.theirs.replace("{i}", layer) + tail
        yield Match(our_names, their_name, row)


# State dicts


def import_state(
    rows: list[TensorRow],
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    where: str = "state dict",
) -> dict[str, Tensor]:
    """Translate their state dict to ours, without copies. Of `ours` only names and shapes are read.

    Optional tensors may be absent on either side. Raises ValueError, naming `where` and the
    tensor, if one is missing, misshapen, unknown, or given twice.
    """
    matches = list(match_rows(rows, ours))
    state = {}
    unread = dict(theirs)
    for names, right, row in matches:
        if right not in unread:
            continue
        shapes = [ours[name] for name in names]
        parts = unfuse(unread.pop(right), shapes, row, f"{where}: {right}")
        for name, part in zip(names, parts, strict=True):
            if name not in state or row.is_override:
                state[name] = part
                continue
            # A second name is allowed to hold the same numbers.
            is_equal_alias = row.is_alias and equal(state[name], part)
            if not is_equal_alias and not row.is_fallback:
                raise ValueError(
                    f"{where}: {right} is a second tensor for our {name}, expected one"
                )

    # Nothing that the table does not allow to skip is skipped, on either side.
    check_complete(state, find_required(matches, ours), where)
    if unknown := find_unknown(rows, unread):
        raise ValueError(f"{where}: no place in the model for {shorten(unknown)}")
    return state


def check_complete(
    state: Mapping[str, Tensor], required: Mapping[str, str | None], where: str
) -> None:
    """Raise ValueError, beginning with `where`, if a tensor of `find_required` is missing."""
    missing = []
    for name, right in required.items():
        if name not in state and right is None:
            raise ValueError(f"{where}: no row of the table fills our {name}")
        if name not in state:
            missing.append(f"{right} (our {name})")
    if missing:
        raise ValueError(f"{where}: missing {shorten(missing)}")


def find_required(matches: Iterable[Match], ours: Iterable[str]) -> dict[str, str | None]:
    """Find the tensors of ours that must be filled, each with the name of theirs that fills it.

    The name is None for a tensor that no row of the table fills.
    """
    required: dict[str, str | None] = dict.fromkeys(ours)
    for names, right, row in matches:
        # Other names of theirs may be there or not.
        if row.is_alias or row.is_legacy:
            continue
        for name in names:
            if row.is_optional:
                required.pop(name, None)
            else:
                required[name] = right
    return required


def find_unknown(rows: Iterable[TensorRow], names: Iterable[str]) -> list[str]:
    """Find the names of theirs that no row lets us skip."""
    return find_uncovered([row for row in rows if row.is_dropped or row.is_optional], names)


def find_uncovered(rows: Iterable[TensorRow], names: Iterable[str]) -> list[str]:
    """Find the names of theirs that no row covers, whatever the sizes of the model."""
    patterns = [compile_pattern(row.theirs) for row in rows]
    return [name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)]


def export_state(
    rows: Iterable[TensorRow], ours: Mapping[str, Tensor], aliases: bool = True
) -> dict[str, Tensor]:
    """Translate our state dict to theirs, with their second names or without.

    Raises ValueError for a tensor without a row.
    """
    state = {}
    unwritten = dict.fromkeys(ours)
    for names, right, row in match_rows(rows, ours):
        # Older names are never written.
        if row.is_legacy or (row.is_alias and not aliases):
            continue
        tensor = fuse([ours[name] for name in names], row)
        if row.is_alias:
            # A file of safetensors cannot hold one tensor under two names.
            tensor = tensor.clone()
        state[right] = tensor
        for name in names:
            unwritten.pop(name, None)
    if unwritten:
        raise ValueError(f"no row of the table for our {shorten(list(unwritten))}")
    return state


def unfuse(value: Tensor, ours: list[Tensor], row: TensorRow, where: str) -> tuple[Tensor, ...]:
    """Split a tensor of theirs into those of ours that it holds. Of `ours` only shapes are read.

    Raises ValueError, beginning with `where`, for another shape, or numbers that are not floats.
    """
    # On the meta device nothing is computed but shapes.
    expected_shape = fuse([tensor.to("meta") for tensor in ours], row).shape
    if value.shape != expected_shape:
        raise ValueError(
            f"{where} has shape {tuple(value.shape)}, expected {tuple(expected_shape)}"
        )
    if not value.is_floating_point():
        raise ValueError(f"{where} is {value.dtype}, not float")

    if row.is_transposed and value.ndim == 2:
        value = value.T  # (out, in)
    if len(ours) == 1:
        return (value,)
    return value.split([len(tensor) for tensor in ours])


def fuse(tensors: list[Tensor], row: TensorRow) -> Tensor:
    """Join tensors of ours to the one tensor of theirs that holds them."""
    value = tensors[0]
    if len(tensors) > 1:
        value = cat(tensors)  # (sum of out, in)
    if row.is_transposed and value.ndim == 2:
        value = value.T.contiguous()  # (in, sum of out)
    return value
