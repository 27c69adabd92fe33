# pytest tests/tutorials/test_handout.py
"""Copies for a class: complete, without answers, gradable; the solutions for the teacher."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from exercises import folders, handout, processes, watch
from exercises.comparison import read_key
from exercises.course import EXERCISES
from exercises.grade_class import Order, grade_class
from exercises.grading import OK
from exercises.processes import CHILD, grade_exercises, name_place
from exercises.submissions import join_modules, read_submission
from exercises.targets import package_function
from helpers.answers import exercise_number

from nanos2t.cli import main as cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A hand-out, which no test changes."""
    folder = tmp_path_factory.mktemp("handout") / "copy"
    handout.export_package(folder)
    return folder


def test_there_is_no_answer_in_it(copy):
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    for word in (
        "answers",
        "clauses",
        "mistakes",
        "stubs",
        "tests/",
        "work/",
        ".pyc",
        "keys/ex01.json",
    ):
        assert not [name for name in names if word in name], word

    # No line of a body that is its own occurs in any file.
    paths = (copy / "nanos2t").rglob("*.py")
    texts = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    for line in (
        "scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])",
        "waveform.var()",
        "def attend_step_by_step(",
    ):
        assert (line in texts) == line.startswith("def "), line
    for path in (copy / "tutorials" / "exercises" / "keys").iterdir():
        assert "wrong" not in path.read_text(encoding="ascii")


def test_each_function_is_left_to_the_student(copy):
    for path in (ROOT / "nanos2t").rglob("*.py"):
        text = (copy / path.relative_to(ROOT)).read_text(encoding="utf-8")
        compile(text, str(path), "exec")
        targets = [target for exercise in EXERCISES for target in exercise.checks]
        targets += [target for near in handout.NEAR_ANSWERS.values() for target in near]
        here = [t for t in targets if package_function(t).__code__.co_filename == str(path)]
        assert text.count("raise NotImplementedError") == len(here), path


def test_its_readme_names_only_what_is_in_it(copy):
    text = (copy / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    paths = [word for word in re.findall(r"[\w./-]+", text) if "/" in word and "." in word]
    for name in [*links, *paths]:
        assert (copy / name.rstrip(".")).exists(), name
    for exercise in EXERCISES:
        assert f"| {exercise.number} | {exercise.title} |" in text
    for folder in "tutorials/exercises", "nanos2t", "weights_map":
        assert (copy / folder).is_dir()
    assert not (copy / "tutorials" / "exercises" / "README.md").exists()
    for word in re.findall(r"nanos2t ([a-z]+) ?[^a-z, ]", text):
        assert word in ("exercises", "report", "transcribe"), word


def test_its_pages_link_only_to_what_is_in_it(copy):
    pages = list(copy.rglob("*.md"))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            is_there = link.startswith("http") or (page.parent / link).exists()
            assert is_there, (page.name, link)


def test_the_tasks_are_in_it(copy):
    """All that the stubs say, and in the place of each body a line that leads there."""
    tasks = (copy / handout.TASKS_NAME).read_text(encoding="utf-8")
    modules = "".join(p.read_text(encoding="utf-8") for p in (copy / "nanos2t").rglob("*.py"))
    for exercise in EXERCISES:
        assert "".join(exercise.task.split()) in "".join(tasks.split()), exercise.name
        line = f"# Exercise {exercise.number}: {handout.TASKS_NAME} says what to do."
        near = handout.NEAR_ANSWERS.get(exercise.id, [])
        assert modules.count(line) == len(exercise.checks) + len(near)
    assert "\n\nSTEP 2" in tasks and "under the root" in tasks


def test_a_hand_out_of_some_exercises(tmp_path, monkeypatch, capsys):
    """The functions of all others stay in it, and no command offers them."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["exercises", "export", "week", "--exercises", "1, attention,ex08"]) == 0
    for words in ("export", "x", "--exercises", "1,99"), ("1", "--exercises", "1"):
        assert cli.main(["exercises", *words]) == 2
    capsys.readouterr()

    left = {1, 5, 8}
    modules = "".join(p.read_text(encoding="utf-8") for p in Path("week/nanos2t").rglob("*.py"))
    for name in "README.md", handout.TASKS_NAME:
        text = Path("week", name).read_text(encoding="utf-8")
        for exercise in EXERCISES:
            assert (exercise.title in text) == (exercise.number in left), exercise.name
    for exercise in EXERCISES:
        error = f'raise NotImplementedError("{exercise.id}")'
        assert (error in modules) == (exercise.number in left), exercise.name

    exercises = Path("week", "tutorials", "exercises")
    text = Path("week", "README.md").read_text(encoding="utf-8")
    assert "3 exercises" in text and "hint 1" in text
    for word in "1 to 11", "num-beams", "words`":
        assert word not in text
    pages = (exercises / ".." / "rendered").glob("*.md")
    texts = {page.stem: page.read_text(encoding="utf-8") for page in pages}
    named = {int(n) for text in texts.values() for n in re.findall(r"exercises (\d+) ", text)}
    assert named == left
    assert "Now write it" in texts["10_training"]
    assert "Now write it" not in texts["07_greedy_to_beam"]
    monkeypatch.setattr(folders, "KEYS", exercises / "keys")
    monkeypatch.setattr(folders, "STUBS", exercises / "stubs")
    assert {exercise.number for exercise in folders.select_offered([])} == left
    with pytest.raises(ValueError, match="exercise 2 is not part of this hand-out"):
        folders.select_offered(["2"])


def test_packed_keys_are_the_keys(copy, monkeypatch):
    first = EXERCISES[0]
    target = next(iter(first.checks))
    right, wrong = read_key(first, target)
    monkeypatch.setattr(folders, "KEYS", copy / "tutorials" / "exercises" / "keys")
    packed_right, packed_wrong = read_key(first, target)
    assert list(right) == list(packed_right) and list(wrong) == list(packed_wrong)


def grade_copy(copy: Path, *words: str) -> tuple[int, dict]:
    command = [sys.executable, "-m", "nanos2t", "exercises", "--json", *words]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


@pytest.mark.slow
def test_a_hand_out_is_complete_in_itself(copy, tmp_path):
    """All is todo at first; with the bodies back all is right, there and for the teacher."""
    work = tmp_path / "Ada"
    shutil.copytree(copy, work)
    code, found = grade_copy(work)
    assert code == 1 and {entry["status"] for entry in found["exercises"]} == {"todo"}
    for number, words in (1, "under the root"), (12, "STEP 3: those of the first K"):
        command = [sys.executable, "-m", "nanos2t", "exercises", str(number)]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        assert words in done.stdout and "\n\n" in done.stdout, done
    for words in ("reset", "3"), ("export", "x"), ("grade", "x"):
        assert grade_copy(work, *words)[0] == 2

    for path in (ROOT / "nanos2t").rglob("*.py"):
        shutil.copy(path, work / path.relative_to(ROOT))
    assert grade_copy(work)[0] == 0
    printed = []
    assert grade_class(Order(work, as_json=True), printed.append) == 0
    [student] = json.loads("".join(printed))["students"]
    assert student["points"] == student["possible"] == 10 * len(EXERCISES), student


@pytest.mark.parametrize(
    "old, new, sentence, command",
    [
        (
            'raise NotImplementedError("ex08")',
            "return torch.ones(T,",
            "nanos2t: nanos2t/decoder.py, line {line} is not valid Python: '(' was never closed\n",
            ["-m", "nanos2t", "exercises", "1"],
        ),
        # The child process of --watch
        (
            "def causal_mask(",
            "import nowhere\n\n\ndef causal_mask(",
            "nanos2t/decoder.py, line {line}: ModuleNotFoundError: No module named 'nowhere'\n",
            ["-c", CHILD],
        ),
        (
            "def causal_mask(",
            "def causal_masks(",
            "AttributeError: causal_mask is missing in nanos2t.decoder\n",
            ["-c", CHILD],
        ),
    ],
)
def test_a_slip_in_the_package_is_one_line(copy, tmp_path, old, new, sentence, command):
    """Students write the package itself: it cannot be imported, and the grader needs it."""
    work = tmp_path / "Ada"
    shutil.copytree(copy, work)
    path = work / "nanos2t" / "decoder.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    line = 1 + text[: text.index(old)].count("\n")

    paths = os.pathsep.join([str(work / "tutorials"), str(work)])
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout + done.stderr == sentence.format(line=line)


def test_the_place_of_a_loop_without_end_is_in_the_package():
    places = []

    class Lengths:
        @property
        def device(self):
            places.append(name_place(exercise, None, sys._getframe()))
            raise StopIteration

    exercise = exercise_number(2)
    function = package_function("wav2vec2:valid_frames")
    with pytest.raises(StopIteration):
        function(Lengths(), 3)
    [place] = places
    first = function.__code__.co_firstlineno
    assert re.fullmatch(
        rf", and was in valid_frames, line ({first + 1}|{first + 2}|{first + 3})", place
    )
    assert name_place(exercise, Path("work"), sys._getframe()) == ""


def test_watch_goes_on_after_a_slip_in_the_package(monkeypatch):
    """The child process says why it does not start, and the next save may mend it."""
    exercise = exercise_number(8)
    texts = []
    stamps = iter([1, 2])

    def save_again(seconds):
        monkeypatch.setattr(processes, "CHILD", CHILD)
        if len([text for text in texts if "Watching" in text]) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch, "read_stamp", lambda *arguments: next(stamps))
    monkeypatch.setattr(watch.time, "sleep", save_again)
    monkeypatch.setattr(processes, "CHILD", "print('decoder.py, line 3: a slip')")
    with pytest.raises(KeyboardInterrupt):
        watch.watch_exercises([exercise], None, texts.append)
    assert texts[:2] == ["decoder.py, line 3: a slip\n", "\nWatching; Ctrl-C ends it.\n"]
    assert " ok " in texts[2]

    monkeypatch.setattr(processes, "CHILD", "")
    with pytest.raises(RuntimeError, match="child process does not start"):
        list(grade_exercises([exercise], None))


def test_a_package_that_is_handed_in(copy, tmp_path):
    """Its modules are the files of the exercises for which there is no other file."""
    exercises = list(EXERCISES)
    work = tmp_path / "Ada" / "homework" / "nanos2t"
    shutil.copytree(copy / "nanos2t", work)
    definition = work.parent / "tutorials" / "exercises" / "ex03_conv_block.py"
    definition.parent.mkdir(parents=True)
    definition.write_text("EXERCISE = 3", encoding="utf-8")
    submission = read_submission("Ada", [tmp_path / "Ada"], exercises)
    ids = [exercise.id for exercise in exercises]
    assert list(submission.files) == ids and submission.from_modules == set(ids)
    text = submission.files["ex12"].decode("utf-8")
    for exercise in exercises:
        body = submission.files[exercise.id].decode("utf-8")
        assert f'raise NotImplementedError("{exercise.id}")' in body
    assert text.index("# nanos2t/decoder.py") < text.index("# nanos2t/generate.py")

    exercise_number(3).path(tmp_path / "Ada").write_text("mine", encoding="utf-8")
    submission = read_submission("Ada", [tmp_path / "Ada"], exercises)
    assert submission.from_modules == set(ids) - {"ex03"} and submission.files["ex03"] == b"mine"


def test_what_the_package_says_is_no_answer_of_a_student(folder):
    """A module of the package in the place of a file, with one function that is wrong."""
    exercise = exercise_number(8)
    source = (ROOT / "nanos2t" / "decoder.py").read_text(encoding="utf-8")
    files = {"nanos2t/decoder.py": source.encode("utf-8")}
    text = join_modules(files, [exercise])["ex08"].decode("utf-8")
    exercise.path(folder).write_text(text, encoding="utf-8")
    [result] = grade_exercises([exercise], folder)
    assert result.status == OK
    exercise.path(folder).write_text(source, encoding="utf-8")
    [result] = grade_exercises([exercise], folder)
    assert "is the package's own function" in result.sentence


def test_the_solutions(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["exercises", "export", "--solutions", "solutions"]) == 0
    assert cli.main(["exercises", "export", "--solutions", "solutions"]) == 2  # there is something
    assert cli.main(["exercises", "export", "solutions"]) == 2
    capsys.readouterr()
    for exercise in EXERCISES:
        text = exercise.path(tmp_path / "solutions" / "package").read_text(encoding="utf-8")
        for target in exercise.checks:
            assert f"def {target.rpartition('.')[2].rpartition(':')[2]}(" in text
        assert "NotImplementedError" not in text
        answer = exercise.path(tmp_path / "solutions" / "answers").read_text(encoding="utf-8")
        assert answer == exercise.path(folders.ANSWERS).read_text(encoding="utf-8")
    readme = (tmp_path / "solutions" / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n## ") == len(EXERCISES) and "not subtracted" in readme


# A fifteenth exercise


def write_fifteenth(root: Path) -> None:
    """Do what tutorials/teaching.md says, in a copy of the checkout."""
    guide = (ROOT / "tutorials" / "teaching.md").read_text(encoding="utf-8")
    section = guide.partition("## How to add an exercise")[2]
    blocks = [
        textwrap.dedent(block) for block in re.findall(r" +```\w+\n(.*?) +```\n", section, re.S)
    ]
    exercises = root / "tutorials" / "exercises"
    names = ["ex15_ngrams.py", "answers/ex15_ngrams.py", "mistakes/ex15_ngrams.txt"]
    names.append("clauses/ex15_ngrams.txt")
    for name, text in zip(names, blocks, strict=True):
        assert f"`{name}`" in section or f"`tutorials/exercises/{name}`" in section
        (exercises / name).write_text(text, encoding="utf-8")

    course = exercises / "course.py"
    text = course.read_text(encoding="utf-8")
    [line] = re.findall(r"`(OWN_FILES.*?)`", section)
    assert text.count("OWN_FILES: tuple[str, ...] = ()\n") == 1
    course.write_text(text.replace("OWN_FILES: tuple[str, ...] = ()", line), encoding="utf-8")


@pytest.mark.slow
def test_a_fifteenth_exercise_needs_its_own_files_and_one_line(tmp_path):
    """As the guide for teachers shows: nothing else changes, and the tests count it."""
    for name in "nanos2t", "weights_map", "tutorials", "tests":
        skip = shutil.ignore_patterns("work", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    for name in "pyproject.toml", "constraints.txt", "LICENSE", "README.md":
        shutil.copy(ROOT / name, tmp_path)
    write_fifteenth(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("nanos2t", "exercises", "make")
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - set(before)
    assert {path.name for path in new} == {"ex15_ngrams.py", "ex15.json"}
    assert not [path for path, content in before.items() if path.read_bytes() != content]
    assert " ok " in run("nanos2t", "exercises", "15", "--reference")
    assert "1 of 3: With n = 3" in run("nanos2t", "exercises", "hint", "15")
    tests = ["tests/tutorials/test_exercises.py", "tests/tutorials/test_clauses.py"]
    run("pytest", "-q", *tests, "-k", "ex15 or order or stubs")
