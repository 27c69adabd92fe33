# pytest tests/peer/test_table.py
"""The table of what transformers' tests check: it names tests that are there, and nothing twice."""

import ast
import inspect
import subprocess
import sys

import pytest
from helpers.paths import ROOT
from peer.table import KINDS, ROWS, make_page, parse_row, read_rows

from nanos2t.model import SpeechEncoderDecoder

TEXT = ROWS.read_text(encoding="utf-8")
SECTIONS = read_rows(TEXT)
ALL_ROWS = [row for rows in SECTIONS.values() for row in rows]


def functions_of(path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_is_what_the_command_makes():
    made = subprocess.run(
        [sys.executable, "-m", "tests.peer.table"],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True,
    ).stdout  # fmt: skip
    assert made == (ROOT / "tests/peer/README.md").read_text(encoding="utf-8")
    assert made == make_page(TEXT)


def test_every_test_that_is_named_is_there():
    for row in ALL_ROWS:
        assert row.kind not in ("same", "differs") or row.tests, row.name
        for test in row.tests:
            path, _, function = test.partition("::")
            assert function in functions_of(ROOT / "tests" / path), f"{row.name}: {test}"


def test_no_test_here_is_left_out():
    """Whoever adds a test to this folder adds a row, or names it in one."""
    named = {test for row in ALL_ROWS for test in row.tests}
    for path in (ROOT / "tests/peer").glob("test_*.py"):
        if path.name != "test_table.py":
            functions = {name for name in functions_of(path) if name.startswith("test_")}
            found = {f"peer/{path.name}::{function}" for function in functions}
            assert found <= named, found - named


def test_what_is_said_to_be_missing_is():
    """Whoever adds a method or an argument has to change its row."""
    accepted = set()
    for method in ("forward", "generate", "from_pretrained", "encode"):
        accepted |= set(inspect.signature(getattr(SpeechEncoderDecoder, method)).parameters)
    missing = [row for row in ALL_ROWS if row.kind == "missing"]
    assert missing
    for row in missing:
        kind, name = row.absent.split()
        if kind == "method":
            assert not hasattr(SpeechEncoderDecoder, name), row.name
        else:
            assert kind == "argument"
            assert name not in accepted, row.name


def test_rows_are_of_one_kind_and_once():
    assert {row.kind for row in ALL_ROWS} == set(KINDS)
    for title, rows in SECTIONS.items():
        names = [row.name for row in rows]
        assert len(names) == len(set(names)), title


@pytest.mark.parametrize(
    "line", ["test_a  equal  a.py::b", "test_a  differs  a.py::b", "test_a  missing  method a"]
)
def test_a_row_that_says_too_little(line):
    with pytest.raises(ValueError, match="test_a: "):
        parse_row(line)
