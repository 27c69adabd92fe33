"""Shared by tests."""

import json
from collections.abc import Mapping
from typing import Any


def literal(text: str) -> Any:
    """A value as JSON writes it; a word may lack its quotes."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def find_field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"the table has our field {name!r}, expected one of {shorten([*fields])}")
    return fields[name]


RULES = {  # (theirs, our fields so far, argument) -> ours; (ours, argument) -> theirs
    "sqrt": (
        lambda value, ours, name: find_field(ours, name) ** 0.5 if value else 1.0,
        lambda value, _: value != 1,
    ),
    "fourfold": (
        lambda value, ours, name: value or 4 * find_field(ours, name),
        lambda value, _: value,
    ),
    "less": (
        lambda value, _, number: value - int(number),
        lambda value, number: value + int(number),
    ),
}


def read_config(
    rows: Mapping[str, tuple], theirs: Mapping[str, Any], where: str = ""
) -> dict[str, Any]:
    """Their config -> our fields. Null is the default, and a key without a row is not looked at.
    ValueError naming `where`, key and value for one that we do not implement, or of another type."""
    fields = {}
    for ours, key, default, rule in rows.values():
        rule, _, argument = rule.partition(":")
        value = default if theirs.get(key) is None else theirs[key]
        known = choices(argument) if rule == "only" else [(default, default)] if ours == "-" else []
        match = [left for left, right in known if right == value]
        kinds = (type(default), int) if isinstance(default, float) else (type(default),)
        least, sizes = {int: (0, [value]), list: (1, value)}.get(kinds[0], (0, []))
        fits = type(value) in kinds and all(
            type(size) is int and least <= size < 2**31 for size in sizes
        )
        if rule != "write" and not (match if known else default is None or fits):
            kind = {int: "int of 0 to 2**31", list: "list of int above 0"}.get(
                kinds[0], kinds[0].__name__
            )
            expected = " or ".join(json.dumps(right) for _, right in known) or kind
            raise ValueError(f"{where}{key} is {json.dumps(value)}, expected {expected}")
        if rule == "only":
            value = match[0]
        elif rule == "if":
            switch, _, preset = argument.partition("=")
            value = value if theirs.get(switch, literal(preset)) else type(default)()
        elif rule in RULES:
            value = RULES[rule][0](value, fields, argument)
        if ours != "-":
            fields[ours] = tuple(value) if isinstance(value, list) else value
    return fields


def write_config(rows: Mapping[str, tuple], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields -> their config. A value without a key is left out: `read_config` shows if one was lost."""
    theirs = {}
    for ours, key, default, rule in rows.values():
        rule, _, argument = rule.partition(":")
        value = default if ours == "-" else find_field(fields, ours)
        if rule == "only":
            value = next((right for left, right in choices(argument) if left == value), value)
        elif rule == "if":
            theirs[argument.partition("=")[0]] = bool(value)
        elif rule in RULES:
            value = RULES[rule][1](value, argument)
        if key != "-" and (ours != "-" or rule == "write"):
            theirs[key] = list(value) if isinstance(value, tuple) else value
    return theirs


def choices(text: str) -> list[tuple[Any, Any]]:
    """'relu,gelu_tanh=gelu_new' -> (ours, theirs): [('relu', 'relu'), ('gelu_tanh', 'gelu_new')]"""
    pairs = (choice.partition("=") for choice in text.split(","))
    return [(literal(ours), literal(theirs or ours)) for ours, _, theirs in pairs]


def shorten(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
