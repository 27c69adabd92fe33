"""Import the grader. In a hand-out the package is the student's, and may have any slip in it."""

import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def import_part(name: str) -> ModuleType:
    """Import a module of the grader. ValueError: it cannot be imported; one line says where."""
    try:
        return import_module(f"exercises.{name}")
    except Exception as error:
        raise ValueError(explain_import(error)) from None


def explain_import(error: Exception) -> str:
    """Return what is wrong with a module, with the last line of the package that was reached."""
    if isinstance(error, SyntaxError) and error.filename:
        place = format_place(error.filename, error.lineno)
        return f"{place} is not valid Python: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if ROOT / "nanos2t" in Path(frame.filename).parents]
    place = f"{format_place(own[-1].filename, own[-1].lineno)}: " if own else ""
    return f"{place}{type(error).__name__}: {error}"


def format_place(file: str, line: int | None) -> str:
    path = Path(file)
    if path.is_relative_to(ROOT):
        path = path.relative_to(ROOT)
    return f"{path}, line {line}"


def run_child() -> None:
    """Grade exercises in this process, or print why that cannot be."""
    try:
        processes = import_part("processes")
    except ValueError as error:
        print(error)
        return
    processes.run_child()
