# pytest tests/test_readme.py
"""The README and the guides: code runs, commands print what is shown, links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from nanos2t.cli import main as cli

README = ROOT / "README.md"
GUIDES = sorted((ROOT / "tutorials").glob("*.md"))
EXERCISES = ROOT / "tutorials" / "exercises" / "README.md"
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "weights_map" / "README.md", EXERCISES]
each_page = pytest.mark.parametrize(
    "page", [README, *GUIDES, *OTHERS], ids=lambda page: page.relative_to(ROOT).as_posix()
)


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def runnable_blocks() -> list:
    """Every Python block but those that need the hub: tests/test_halves.py runs these."""
    blocks = []
    for page in [README, *GUIDES]:
        for number, block in enumerate(python_blocks(page)):
            if "facebook/" not in block:
                blocks.append(pytest.param(block, id=f"{page.stem}-{number}"))
    return blocks


def command_lines(page: Path) -> list[str]:
    """The arguments of each `nanos2t` command in a code block, without pipes and comments."""
    text = page.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```(?:console|bash)?\n(.*?)```", text, re.DOTALL))
    code += "\n" + "\n".join(re.findall(r"^ {4}(.*)$", text, re.MULTILINE))
    code = code.replace("\\\n", " ")
    lines = re.findall(r"^\s*(?:\$ )?nanos2t (.+?)(?:\s+#.*)?$", code, re.MULTILINE)
    return [re.split(r" [>|&]", line)[0] for line in lines]


def arguments_of(line: str) -> list[str]:
    """Return the words of a command.

    A variable of the shell becomes a valid choice after an option, else nothing.
    """
    words = []
    for word in shlex.split(line):
        if not word.startswith("$"):
            words.append(word)
        elif words[-1].startswith("--"):
            words.append("none")
    return words


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("block", runnable_blocks())
def test_code_runs_and_prints_what_it_says(block: str):
    done = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = [line.partition("# -> ")[2] for line in block.splitlines() if "# -> " in line]
    assert done.stdout.splitlines() == expected


@each_page
def test_commands_exist(page: Path):
    for line in command_lines(page):
        cli.build_parser().parse_args(arguments_of(line))


def test_commands_print_what_is_shown(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    pattern = re.compile(r"^\$ nanos2t (.*?)$(.*?)(?=^\$|^```)", re.MULTILINE | re.DOTALL)
    shown = [
        example for page in GUIDES for example in pattern.findall(page.read_text(encoding="utf-8"))
    ]
    assert shown
    for line, expected in shown:
        assert cli.main(shlex.split(line)) == 0
        assert capsys.readouterr().out.strip() == expected.strip()


@each_page
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    lost = [link for link in links if not (page.parent / link).exists()]
    assert not lost


def test_readme_lists_every_file_of_the_core_and_every_guide():
    text = README.read_text(encoding="utf-8")
    core = {path.name for path in (ROOT / "nanos2t").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert not {name for name in core if f"`{name}`" not in text}
    folders = {path.parent.name for path in (ROOT / "nanos2t").glob("*/__init__.py")}
    assert not {name for name in folders if f"`{name}/`" not in text}
    lessons = sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py"))
    assert not [path.name for path in lessons if f"(tutorials/{path.name})" not in text]

    # A guide is listed here, or with the recipe that it belongs to.
    text += (ROOT / "tutorials" / "recipes" / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in GUIDES if f"/{path.name})" not in text]
