"""Wrong answers of readers who have not seen the list of known mistakes, and what the grader says.

    python -m tests.helpers.outside_answers [exercise, such as ex08, ...]    grade those stored
    python -m tests.helpers.outside_answers --add reader3 FOLDER             store those of another

It prints each sentence of the grader beside the reader's, and a table for each reader.
tests/tutorials/outside/ has a folder for each. For each exercise it has the reader's right answer,
NAME.right.txt, and NAME.txt with a block for each wrong one: "#" and the reader's sentence, "=" and
a piece of the sentence of the grader that is true of it ("= ?" if the grader has none), and edits
of the right answer, as in mistakes/.

FOLDER has a folder for each exercise, such as ex08: right.py, 001.py, 002.py ... and truth.json,
{"001": sentence, ...}. What is stored of the same reader is replaced; true pieces of the same
sentences are kept.

These answers have taught the grader new names, so a table of today tells little about the next
reader. The share that got their true name at first contact, before anything was changed:

    first trial, not stored    64 % of 279
    reader1                    60 % of 560
    reader2                    73 % of 210 (3 % "looks like" it, 20 % without a name, 3 % passed)
    reader3                    88 % of 210 (4 % "looks like" it, 7 % without a name, 1 % passed)

In reader2's trial one right answer was refused, and with it the names of 13 wrong ones lost. In
reader3's one name was wrong: padding="same" was taken for a first frame that is dropped.
"""

import ast
import contextlib
import difflib
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tutorials")]

from exercises.comparison import mistake_name, read_key  # noqa: E402
from exercises.course import EXERCISES, select_exercises  # noqa: E402
from exercises.diagnosis import LIKELY  # noqa: E402
from exercises.exercise import Exercise  # noqa: E402
from exercises.grading import OK, grade_exercise  # noqa: E402
from exercises.inputs import Draw  # noqa: E402
from exercises.make import read_edits  # noqa: E402

FOLDER = TESTS / "tutorials" / "outside"
SEED = 4711  # of the numbers with which the answers are checked again
SECONDS = 3  # of the processor, for an answer
ENDLESS = "is there a loop without end?"
UNNAMED = "?"

RIGHTLY = "named rightly"
LIKE_TRUE = "looks like it"
LIKE_OTHER = "looks like another"
WRONGLY = "named wrongly"
CAUGHT = "caught, no name"
PASSED = "passed"
VERDICTS = (RIGHTLY, LIKE_TRUE, LIKE_OTHER, WRONGLY, CAUGHT, PASSED)


@dataclass
class OutsideAnswer:
    """A wrong answer, the reader's sentence about it, and the piece of the grader's that is true.

    `piece` is UNNAMED if nothing that the grader can say names the mistake.
    """

    sentence: str
    piece: str
    text: str


class EndlessError(BaseException):
    """An answer takes too long. It is no Exception: the grader must not take it for a result."""


# Stored answers


def list_readers() -> list[str]:
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def read_right_answer(exercise: Exercise, reader: str) -> str:
    return (FOLDER / reader / f"{exercise.name}.right.txt").read_text(encoding="utf-8")


def read_outside_answers(exercise: Exercise, reader: str) -> list[OutsideAnswer]:
    """Return a reader's wrong answers to an exercise, [] if there are none."""
    path = FOLDER / reader / f"{exercise.name}.txt"
    if not path.exists():
        return []
    right = read_right_answer(exercise, reader)
    answers = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        sentence, piece, *lines = block.splitlines()
        try:
            text = apply_edits(right, read_edits(lines))
        except ValueError as error:
            raise ValueError(f"{path}: {sentence}: {error}") from None
        answers.append(OutsideAnswer(sentence[2:], piece[2:], text))
    return answers


def apply_edits(text: str, edits: list[tuple[str, str]]) -> str:
    """Return a text in which each `old`, which occurs once in it, is replaced by its `new`.

    The places are looked for before anything is replaced: a new line may be like another old one.
    """
    places = []
    for old, new in edits:
        if text.count(old) != 1:
            raise ValueError(f"{old!r} occurs {text.count(old)} times, expected once")
        places.append((text.index(old), old, new))
    for start, old, new in sorted(places, reverse=True):
        text = text[:start] + new + text[start + len(old) :]
    return text


def store_answers(exercise: Exercise, reader: str, folder: Path) -> None:
    """Replace what is stored of a reader's answers to an exercise by the files of a folder."""
    stored = read_outside_answers(exercise, reader)
    pieces = {answer.sentence: answer.piece for answer in stored}
    right = strip_docstrings((folder / "right.py").read_text(encoding="utf-8"))
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    blocks = []
    for name, sentence in truth.items():
        text = strip_docstrings((folder / f"{name}.py").read_text(encoding="utf-8"))
        edits = find_edits(right.splitlines(), text.splitlines())
        blocks.append("\n".join([f"# {sentence}", f"= {pieces.get(sentence, UNNAMED)}", *edits]))
    place = FOLDER / reader
    place.mkdir(exist_ok=True)
    (place / f"{exercise.name}.right.txt").write_text(right, encoding="utf-8")
    (place / f"{exercise.name}.txt").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def strip_docstrings(source: str) -> str:
    """Return an answer without the text of the stub, which may change."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            first = node.body[0]
            for i in range(first.lineno - 1, first.end_lineno):
                lines[i] = None
    return "\n".join(line for line in lines if line is not None).strip() + "\n"


def find_edits(old: list[str], new: list[str]) -> list[str]:
    """Return the lines of edits: each replaces a run of lines that occurs once."""
    hunks = []
    for tag, *place in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            hunks.append(place)

    # More lines before or after a run, until it occurs once. Runs that meet become one.
    runs = []
    for start, end, new_start, new_end in hunks:
        while not occurs_once(old, start, end):
            if start:
                start -= 1
                new_start -= 1
            else:
                end += 1
                new_end += 1
        while runs and start <= runs[-1][1]:
            start, _, new_start, _ = runs.pop()
        runs.append([start, end, new_start, new_end])

    edits = []
    for start, end, new_start, new_end in runs:
        edits += [f"- {line}" for line in old[start:end]]
        edits += [f"+ {line}" for line in new[new_start:new_end]] or ["+"]
    return [edit.rstrip() for edit in edits]


def occurs_once(lines: list[str], start: int, end: int) -> bool:
    run = "\n".join(lines[start:end])
    return bool(run.strip()) and "\n".join(lines).count(run) == 1


# Grading


@contextlib.contextmanager
def limit_seconds(seconds: float) -> Iterator[None]:
    """Raise EndlessError in a `with` block that takes longer; what counts is processor time."""

    def stop(*_) -> None:
        raise EndlessError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def grade_text(exercise: Exercise, text: str, folder: Path, seed: int = SEED) -> tuple[str, str]:
    """Return status and sentence of an answer, graded as `nanos2t exercises` does."""
    exercise.path(folder).write_text(text, encoding="utf-8")
    try:
        with limit_seconds(SECONDS):
            result = grade_exercise(exercise, folder, draw=Draw(seed))
    except EndlessError:
        return "FAIL", f"it took longer than {SECONDS} s: {ENDLESS}"
    return result.status, result.sentence


def list_names(exercise: Exercise) -> list[str]:
    """Return the names of all known mistakes of an exercise."""
    names = []
    for target in exercise.checks:
        names += [mistake_name(key) for key in read_key(exercise, target)[1]]
    return names


def judge(status: str, sentence: str, piece: str, names: list[str]) -> str:
    """Return how the grader has done with a wrong answer."""
    if status == OK:
        return PASSED
    is_likely = LIKELY in sentence
    if piece != UNNAMED and piece in sentence:
        return LIKE_TRUE if is_likely else RIGHTLY
    if any(sentence.endswith(name) for name in names):
        return LIKE_OTHER if is_likely else WRONGLY
    return CAUGHT


def grade_stored(exercise: Exercise, reader: str, show=print) -> Counter:
    """Grade a reader's answers to an exercise, print sentences beside the reader's, and count."""
    names = list_names(exercise)
    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        right = read_right_answer(exercise, reader)
        status, sentence = grade_text(exercise, right, Path(folder))
        show(f"{exercise.id} right answer: {status}, {sentence}")
        for i, answer in enumerate(read_outside_answers(exercise, reader), 1):
            status, sentence = grade_text(exercise, answer.text, Path(folder))
            verdict = judge(status, sentence, answer.piece, names)
            counts[verdict] += 1
            show(f"{exercise.id} {i:03d} {verdict}\n    {answer.sentence}\n    {sentence}")
    return counts


def format_row(title: str, counts: Counter) -> str:
    return f"{title:8}" + "".join(f"{counts[verdict]:>20}" for verdict in VERDICTS)


def main(words: list[str]) -> None:
    if words[:1] == ["--add"]:
        for exercise in EXERCISES:
            folder = Path(words[2]) / exercise.id
            if folder.exists():
                store_answers(exercise, words[1], folder)
        return

    tables = [table_of_reader(reader, select_exercises(words)) for reader in list_readers()]
    print("\n\n".join(tables))


def table_of_reader(reader: str, exercises: list[Exercise]) -> str:
    """Grade a reader's answers, and return a table of the verdicts by exercise."""
    rows = [f"{reader:8}" + "".join(f"{verdict:>20}" for verdict in VERDICTS)]
    total = Counter()
    for exercise in exercises:
        counts = grade_stored(exercise, reader)
        total += counts
        rows.append(format_row(exercise.id, counts))
    return "\n".join([*rows, format_row("all", total)])


if __name__ == "__main__":
    main(sys.argv[1:])
