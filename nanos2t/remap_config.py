"""The config rows of weights_map, read both ways: their config.json to our fields, and back."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_INT = 2**31 - 1  # larger sizes are a damaged file


@dataclass(frozen=True)
class ConfigRow:
    """A row about a config: our field, their key, the default of the key, and a rule."""

    ours: str  # "-" if we have no such field
    theirs: str  # "-" if they have no such key
    default: Any
    rule: str = ""  # "only", "if", "write", "harmless", or one of RULES
    argument: str = ""  # what follows the rule: "gelu,relu" in only:gelu,relu
    second_name: str = ""  # another key of theirs for the same: it counts if both are there

    @property
    def name(self) -> str:
        """What the row is about: two rows of one name replace each other."""
        if self.ours == "-":
            return self.theirs
        return self.ours

    @property
    def choices(self) -> list[tuple[Any, Any]]:
        """The values that are allowed, as (ours, theirs); an empty list allows all of a type."""
        if self.rule == "only":
            return parse_choices(self.argument)
        if self.ours == "-":
            # A key without a field of ours: we have only what the default says.
            return [(self.default, self.default)]
        return []

    @property
    def switch(self) -> tuple[str, bool]:
        """Of "if:add_adapter=false": the key that switches the field on, and the key's default."""
        key, _, default = self.argument.partition("=")
        return key, parse_literal(default)


def parse_config_row(columns: list[str]) -> ConfigRow:
    """Parse the columns of a line: ours, theirs, default and, if there is one, the rule."""
    if len(columns) not in (3, 4):
        raise ValueError(f"found {len(columns)} columns, expected ours, theirs, default, rule")
    ours, theirs, default = columns[:3]
    theirs, _, second_name = theirs.partition("|")
    rule, _, argument = "".join(columns[3:]).partition(":")
    return ConfigRow(ours, theirs, parse_literal(default), rule, argument, second_name)


def parse_literal(text: str) -> Any:
    """Parse a value as JSON writes it; a word may lack its quotes."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_choices(text: str) -> list[tuple[Any, Any]]:
    """Parse 'relu,gelu_tanh=gelu_new' to pairs of ours and theirs.

    These are [('relu', 'relu'), ('gelu_tanh', 'gelu_new')].
    """
    choices = []
    for choice in text.split(","):
        ours, _, theirs = choice.partition("=")
        choices.append((parse_literal(ours), parse_literal(theirs or ours)))
    return choices


# Rules that compute: each has a function for reading, and one for writing


def sqrt_if_true(value: bool, fields: Mapping[str, Any], name: str) -> float:
    """Read `sqrt:name`: the root of our field if theirs is true, else 1."""
    if not value:
        return 1.0
    return get_field(fields, name) ** 0.5


def is_not_one(value: float, argument: str) -> bool:
    """Write `sqrt:name`: true if our value is a factor other than 1."""
    return value != 1


def fourfold_if_null(value: int | None, fields: Mapping[str, Any], name: str) -> int:
    """Read `fourfold:name`: four times our field if theirs is null."""
    return value or 4 * get_field(fields, name)


def same_value(value: int, argument: str) -> int:
    """Write `fourfold:name`: the value itself, which is never null."""
    return value


def subtract(value: int, fields: Mapping[str, Any], number: str) -> int:
    """Read `less:number`: theirs counts so many more."""
    return value - int(number)


def add(value: int, number: str) -> int:
    """Write `less:number`."""
    return value + int(number)


class Rule(NamedTuple):
    """A rule in both directions."""

    read: Callable[[Any, Mapping[str, Any], str], Any]  # (theirs, our fields so far, argument)
    write: Callable[[Any, str], Any]  # (ours, argument)


RULES = {
    "sqrt": Rule(sqrt_if_true, is_not_one),
    "fourfold": Rule(fourfold_if_null, same_value),
    "less": Rule(subtract, add),
}


def get_field(fields: Mapping[str, Any], name: str) -> Any:
    """Look up a field of ours that a row names. Raises ValueError if there is none."""
    if name not in fields:
        raise ValueError(
            f"the table has our field {name!r}, expected one of {shorten(list(fields))}"
        )
    return fields[name]


# Reading


def read_config(
    rows: Mapping[str, ConfigRow], theirs: Mapping[str, Any], where: str = ""
) -> dict[str, Any]:
    """Translate their config to our fields. Null is the default; keys without a row are ignored.

    Raises ValueError, naming `where`, key and value, for a value that changes the computation and
    is not implemented, or that is of another type.
    """
    theirs = use_first_names(rows, theirs)
    fields = {}
    for row in rows.values():
        value = theirs.get(row.theirs)
        if value is None:
            value = row.default
        # A row that is only written is not looked at when it is read, nor one of no effect.
        if row.rule not in ("write", "harmless"):
            check_value(row, value, where)
        if row.ours != "-":
            fields[row.ours] = convert_to_ours(row, value, theirs, fields)
    return fields


def use_first_names(rows: Mapping[str, ConfigRow], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return their config with first names instead of second ones, which count if both are there.

    So does transformers: num_attention_heads is n_head in a GPT-2.
    """
    renamed = dict(theirs)
    for row in rows.values():
        value = renamed.pop(row.second_name, None)
        if value is not None:
            renamed[row.theirs] = value
    return renamed


def check_value(row: ConfigRow, value: Any, where: str) -> None:
    """Raise ValueError unless a value of theirs is one of a row's choices or of its type."""
    # A list of values, or else any value of the default's type.
    choices = row.choices
    if choices:
        is_valid = any(value == theirs for _, theirs in choices)
        expected = " or ".join(json.dumps(theirs) for _, theirs in choices)
    else:
        is_valid = row.default is None or is_of_type(value, type(row.default))
        expected = describe_type(type(row.default))
    if not is_valid:
        raise ValueError(
            f"{where}{row.theirs} is {json.dumps(value, default=str)}, expected {expected}"
        )


def is_of_type(value: Any, kind: type) -> bool:
    """Whether a value has the type of a default, and is in the range of sizes if it is one."""
    # JSON writes 1.0 as 1, too.
    if kind is float:
        return type(value) in (float, int) and abs(value) < math.inf
    # Not isinstance: true is no number.
    if type(value) is not kind:
        return False
    if kind is int:
        return 0 <= value <= MAX_INT
    if kind is list:
        return all(type(size) is int and 1 <= size <= MAX_INT for size in value)
    return True


def describe_type(kind: type) -> str:
    """Say in words what `is_of_type` expects."""
    names = {int: "int of 0 to 2**31", float: "float, finite", list: "list of int above 0"}
    return names.get(kind, kind.__name__)


def convert_to_ours(
    row: ConfigRow, value: Any, theirs: Mapping[str, Any], fields: Mapping[str, Any]
) -> Any:
    """Convert a value of theirs to our field. `fields` are those of the rows above."""
    if row.rule == "only":
        value = next(ours for ours, choice in row.choices if choice == value)
    elif row.rule == "if":
        key, default = row.switch
        # Off is the zero of the type: 0, 0.0, false.
        if not theirs.get(key, default):
            value = type(row.default)()
    elif row.rule in RULES:
        value = RULES[row.rule].read(value, fields, row.argument)
    # Our configs are frozen: what is a list in JSON is a tuple here.
    if isinstance(value, list):
        return tuple(value)
    return value


# Writing


def write_config(rows: Mapping[str, ConfigRow], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Translate our fields to their config.

    A value that their keys cannot express is left out: whether one was shows when the result is
    read again.
    """
    theirs = {}
    for row in rows.values():
        # Of the keys without a field of ours only some are written: is_decoder, for example.
        if row.ours == "-":
            if row.rule == "write":
                theirs[row.theirs] = row.default
            continue
        value = get_field(fields, row.ours)
        # A field that is not zero is switched on.
        if row.rule == "if":
            key, _ = row.switch
            theirs[key] = bool(value)
        if row.theirs != "-":
            theirs[row.theirs] = convert_to_theirs(row, value)
    return theirs


def convert_to_theirs(row: ConfigRow, value: Any) -> Any:
    """Convert a value of our field to theirs."""
    # Of several names of theirs for one of ours, the first is written.
    if row.rule == "only":
        for ours, choice in row.choices:
            if ours == value:
                return choice
    if row.rule in RULES:
        value = RULES[row.rule].write(value, row.argument)
    return list(value) if isinstance(value, tuple) else value


def shorten(names: list[str]) -> str:
    """List the first three names, and say how many more there are."""
    text = ", ".join(names[:3])
    if len(names) > 3:
        text += f" and {len(names) - 3} more"
    return text
