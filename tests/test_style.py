# pytest tests/test_style.py
"""The rules of CONTRIBUTING.md: budgets, density, habits, layout, who imports whom."""

import ast
from pathlib import Path

import pytest
from helpers.measures import Measures, function_statements, habits, measure
from helpers.paths import ROOT

PACKAGE = ROOT / "nanos2t"
CORE = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__main__.py")
RECORDINGS = sorted((PACKAGE / "recordings").glob("*.py"))
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """nanos2t/cli/main.py is nanos2t.cli.main; nanos2t/cli/__init__.py is nanos2t.cli."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_name(path): path for path in FILES}


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports anywhere in it, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names if name.name in MODULES}
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                modules.add(inner if inner in MODULES else node.module)
    return modules


def test_modules_form_no_cycle():
    graph = {name: own_imports(path) for name, path in MODULES.items()}
    del graph["nanos2t"]  # its `load` may import what it returns
    while graph:
        leaves = [name for name, needed in graph.items() if not needed & graph.keys()]
        assert leaves, f"modules that import each other: {sorted(graph)}"
        for name in leaves:
            del graph[name]


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_core_imports_the_core_only(path: Path):
    """And audio.py what is in recordings/, which needs nothing else."""
    if path.name != "__init__.py":
        core = {module_name(other) for other in CORE}
        if path.name == "audio.py":
            core |= {module_name(other) for other in RECORDINGS}
        assert own_imports(path) <= core


def test_recordings_import_each_other_only():
    for path in RECORDINGS:
        assert own_imports(path) <= {module_name(other) for other in RECORDINGS}


# Layout


def test_own_imports_are_at_the_top():
    """Outside cli/, whose commands import what is slow when they run, and the entries to both."""
    entries = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
    for path in FILES:
        is_exception = path.parent.name == "cli" or path in entries
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not is_exception:
                inner = [part for part in ast.walk(node) if isinstance(part, ast.ImportFrom)]
                assert not [part.module for part in inner if part.module in MODULES], path


def test_nothing_imports_the_command_line():
    for path in FILES:
        if path.parent.name != "cli" and path.name != "__main__.py":
            assert not [name for name in own_imports(path) if name.startswith("nanos2t.cli")], path


TESTED_WITH_ANOTHER = {
    "nanos2t.beams": "test_beam_search",
    "nanos2t.training.randomness": "test_dataset",
    "nanos2t.training.validation": "test_run",
    "nanos2t.transcription.recordings": "test_transcriber",
}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_each_module_has_its_tests(path: Path):
    if path.name not in ("__init__.py", "__main__.py"):
        folder = ROOT / "tests" / path.parent.relative_to(PACKAGE)
        name = TESTED_WITH_ANOTHER.get(module_name(path), f"test_{path.stem}")
        assert list(folder.glob(f"{name}*.py")), f"expected {folder}/{name}.py"


def test_test_files_are_short_and_do_not_import_each_other():
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 500, path
        assert text.startswith("# pytest "), f"{path}: expected the command that runs it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").rpartition(".")[2].startswith("test_"), path
            if isinstance(node, ast.Import):
                assert not [name.name for name in node.names if name.name.startswith("test_")], path


def test_tutorials_show_lessons_exercises_recipes_and_guides():
    names = {path.name for path in (ROOT / "tutorials").iterdir() if path.name != "__pycache__"}
    others = {name for name in names if not name.endswith(".md") and not name[:2].isdecimal()}
    assert others == {"exercises", "recipes", "rendered"}
    assert sorted(name[:2] for name in names if name[:2].isdecimal()) == [
        f"{i:02}" for i in range(1, 11)
    ]


# Measures


def total(paths: list[Path]) -> Measures:
    return sum((measure(path.read_text(encoding="utf-8")) for path in paths), Measures())


def test_budgets_of_statements():
    # 1,800 were planned. The core took in since then what is the one way to do a thing: checks of
    # inputs and of generation options, files that are whole or not there, the trace, halves that
    # are changed; and the encoders of WavLM and data2vec-audio, gradient checkpointing, searches of
    # a memory. What sound files really hold took as much as a model: it has a folder of its own.
    assert total(CORE).statements <= 2700
    assert total(RECORDINGS).statements <= 970  # with FLACs in a pipe, and every page of an Ogg
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        # The whole encoder is in one file on purpose: a reader needs no other. What only WavLM and
        # data2vec-audio have is at its end, where it can be skipped.
        limit = 390 if path.name == "wav2vec2.py" else 260
        assert measure(text).statements <= limit, path
        assert not {name: n for name, n in function_statements(text).items() if n > 30}, path


@pytest.mark.parametrize(("paths", "limit"), [(CORE, 6.6), (FILES, 6.8)], ids=["core", "package"])
def test_density(paths: list[Path], limit: float):
    assert total(paths).density <= limit
    assert total(paths).conditionals_per_100 <= 3


def test_the_core_is_commented():
    assert total(CORE).comments_per_100 >= 8


# Second right answers to the exercises are written as students write.
TUTORIALS = sorted(
    path for path in (ROOT / "tutorials").rglob("*.py") if not {"work", "answers"} & set(path.parts)
)


@pytest.mark.parametrize(
    "path", FILES + TUTORIALS, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_habits(path: Path):
    assert habits(path.read_text(encoding="utf-8")) == []
