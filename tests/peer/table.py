"""Make README.md, the table of what transformers' tests check and what checks it here.

    python -m tests.peer.table > tests/peer/README.md

behaviours.txt has its rows and explains them.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

ROWS = Path(__file__).with_name("behaviours.txt")
KINDS = ("same", "differs", "missing", "outside")

HEAD = """\
# Beside transformers' own tests

What transformers' tests of `speech_encoder_decoder` and `wav2vec2`, and the tests that all its
models share, check: where it is checked here, written anew and run on both models; what differs on
purpose; what is missing. `python -m tests.peer.table > tests/peer/README.md` makes this page of
[behaviours.txt](behaviours.txt); `pytest tests/peer` runs the tests of this folder, and
`pytest tests/peer -m slow` those of Trainer, peft, accelerate and torch.export.
"""


@dataclass
class Row:
    """A behaviour: a test of transformers, and what there is of it here."""

    name: str
    kind: str  # one of KINDS
    tests: list[str]  # "file::function" below tests/, of "same" and "differs"
    absent: str  # of "missing": "method NAME" or "argument NAME"
    reason: str


def parse_row(line: str) -> Row:
    """Read a line of behaviours.txt; raise ValueError for one that says too little."""
    name, kind, rest = line.split(maxsplit=2)
    first, _, reason = rest.partition("; ")
    row = Row(name, kind, tests=[], absent="", reason=reason)
    if kind in ("same", "differs"):
        row.tests = first.split()
    elif kind == "missing":
        row.absent = first
    elif kind == "outside":
        row.reason = rest
    else:
        raise ValueError(f"{name}: the kind is {kind!r}, expected one of {KINDS}")
    if kind != "same" and not row.reason:
        raise ValueError(f"{name}: expected a reason")
    return row


def read_rows(text: str) -> dict[str, list[Row]]:
    """Read behaviours.txt: the rows of each section."""
    sections = {}
    for line in text.splitlines():
        if line.startswith("["):
            rows = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            rows.append(parse_row(line))
    return sections


def describe_row(row: Row) -> str:
    """Write the last column of a row."""
    parts = []
    for test in row.tests:
        path, _, function = test.partition("::")
        parts.append(f"[`{function}`](../{path})")
    if row.absent:
        parts.append(f"no {row.absent}")
    text = ", ".join(parts)
    if row.reason and text:
        return f"{text}: {row.reason}"
    return text or row.reason


def make_page(text: str) -> str:
    """Make README.md of behaviours.txt."""
    sections = read_rows(text)
    counts = dict.fromkeys(KINDS, 0)
    for rows in sections.values():
        for row in rows:
            counts[row.kind] += 1
    total = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
    lines = [HEAD, f"{sum(counts.values())} behaviours: {total}."]
    for title, rows in sections.items():
        lines += ["", f"## {title}", "", "| there | | here |", "|---|---|---|"]
        for row in rows:
            lines.append(f"| `{row.name}` | {row.kind} | {describe_row(row)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(make_page(ROWS.read_text(encoding="utf-8")))
