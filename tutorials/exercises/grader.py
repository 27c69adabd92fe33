"""Grades the exercises: runs a student's functions, and says in one sentence what is wrong with them.

    grade: a child process for the student's code -> worker -> grade_one -> collect -> diagnose -> Result

What a function returned is compared with keys/, in which make.py has stored what the package returns and what
known wrong answers return. A child process runs the code: if it crashes, or takes longer than SECONDS for one
exercise, that exercise fails, and a new child goes on with the next. The student's functions stand in the
place of the package's meanwhile, so that one which calls the package for help only calls itself.
"""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import queue
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
import torch

from exercises.course import EXERCISES, Exercise

HERE = Path(__file__).parent
WORK, STUBS, KEYS = HERE / "work", HERE / "stubs", HERE / "keys"
TOLERANCE = 1e-5  # of 1 + the size of the number; wrong answers are at least 100 times as far away
SECONDS = 30  # that one exercise may take; an honest one takes less than one
OK, TODO, FAIL = "ok", "todo", "FAIL"
BACK_DOORS = {"importlib", "runpy", "inspect", "__import__", "sys.modules"}


class Problem(Exception):
    """What is wrong, in a sentence, and more lines for who wants to know."""

    def __init__(self, sentence: str, detail: str = ""):
        super().__init__(sentence)
        self.sentence, self.detail = sentence, detail


@dataclass
class Result:
    id: str
    title: str
    status: str  # ok, todo or FAIL
    sentence: str
    detail: str = ""  # the student's own traceback, what the functions printed


@dataclass
class Raised:
    """An exception that a function raised, as an answer."""

    error: Exception


# The package's functions, and the student's in their place


def resolve(target: str) -> tuple[object, str]:
    """ "wav2vec2:Attention.split_heads" -> the class, "split"; "audio:normalise" -> the module, "normalise" """
    module, _, path = target.partition(":")
    owner = importlib.import_module(f"nanos2t.{module}")
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    return owner, name


def reference(target: str) -> Callable:
    owner, name = resolve(target)
    return vars(owner)[name]


def file_of(exercise: Exercise, folder: Path) -> Path:
    return folder / f"{exercise.name}.py"


def short(target: str) -> str:
    return target.partition(":")[2]


def load_file(exercise: Exercise, path: Path) -> dict[str, Callable]:
    """The functions of a student's file by target. Problem if it cannot be read, or imports the answer."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        if answer := imported_answer(tree, exercise):
            raise Problem(f"the file takes {answer} from the package: write it here")
        spec = importlib.util.spec_from_file_location(f"work_{exercise.id}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise Problem(f"line {error.lineno} is no Python: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"the file cannot be read: {error}") from None
    except (Exception, SystemExit) as error:
        raise Problem(*explained(error, "the file cannot be imported")) from None
    return {target: find_function(module, target, exercise) for target in exercise.checks}


def find_function(module: object, target: str, exercise: Exercise) -> Callable:
    """A function of a student's module; Problem if it is not there, or the package's own."""
    found = module
    for part in short(target).split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise Problem(
            f"{short(target)} is gone from the file (nanos2t exercises reset {exercise.number})"
        )
    codes = {reference(other).__code__ for other in exercise.checks}
    for value in (found, *vars(module).values()):
        value = inspect.unwrap(getattr(value, "func", value)) if callable(value) else value
        if getattr(value, "__code__", None) in codes:
            raise Problem(f"{short(target)} is the package's own function: write it here")
    return found


def imported_answer(tree: ast.Module, exercise: Exercise) -> str:
    """The name under which a file takes what it should write from the package, "" if it does not."""
    answers = {"nanos2t." + target.replace(":", ".") for target in exercise.checks}
    names = {}  # in this file -> in the package

    def full(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                names[name.asname or name.name.partition(".")[0]] = (
                    name.name if name.asname else name.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                names[name.asname or name.name] = f"{node.module}.{name.name}"
                if name.name == "*" and str(node.module).startswith("nanos2t"):
                    return f"everything ({node.module}.*)"
    for node in ast.walk(tree):
        used = full(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        if (
            isinstance(node, ast.Call)
            and full(node.func) == "getattr"
            and isinstance(node.args[-1], ast.Constant)
        ):
            used = (
                f"{full(node.args[0])}.{node.args[1].value}"
                if isinstance(node.args[1], ast.Constant)
                else ""
            )
        if used in answers | BACK_DOORS or used.partition(".")[0] in BACK_DOORS:
            return used.removeprefix("nanos2t.")
    found = [
        name for name in names.values() if name in answers or name.partition(".")[0] in BACK_DOORS
    ]
    return found[0].removeprefix("nanos2t.") if found else ""


def written(function: Callable) -> bool:
    return "NotImplementedError" not in function.__code__.co_names


@contextlib.contextmanager
def in_place(functions: dict[str, Callable]) -> Iterator[None]:
    """Inside, the package runs with these functions, by target, wherever it has imported its own."""
    undo = []
    try:
        for target, function in functions.items():
            owner, name = resolve(target)
            original = vars(owner)[name]
            places = [owner]
            if inspect.ismodule(owner):
                modules = [
                    sys.modules[key] for key in list(sys.modules) if key.split(".")[0] == "nanos2t"
                ]
                places = [module for module in modules if vars(module).get(name) is original]
            for place in places:
                undo.append((place, name, original))
                setattr(place, name, function)
        yield
    finally:
        for place, name, original in reversed(undo):
            setattr(place, name, original)


def load_folder(folder: Path, say: Callable[[str], None]) -> dict[str, Callable]:
    """What is written of the exercises in a folder, by target; `say` is told the names.

    ValueError, one line, if there are no files of exercises, or one is broken.
    """
    exercises = [exercise for exercise in EXERCISES if file_of(exercise, folder).exists()]
    if not exercises:
        raise ValueError(
            f"{folder}: expected files of exercises, as {EXERCISES[0].name}.py, found none"
        )
    functions = {}
    for exercise in exercises:
        try:
            found = load_file(exercise, file_of(exercise, folder))
        except Problem as problem:
            raise ValueError(f"{file_of(exercise, folder)}: {problem.sentence}") from None
        functions |= {target: function for target, function in found.items() if written(function)}
    say(f"with your {', '.join(map(short, functions))}" if functions else "nothing is written yet")
    return functions


@contextlib.contextmanager
def student(functions: dict[str, Callable]) -> Iterator[None]:
    """The package with these functions in place. What they raise becomes a ValueError that says where."""
    files = {function.__code__.co_filename for function in functions.values()}
    with in_place(functions):
        try:
            yield
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
            if not frames:
                raise
            where = f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}"
            raise ValueError(f"{where}: {type(error).__name__}: {error}") from None


# What functions return, made comparable


def as_array(value: object) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def flatten(value: object, name: str = "") -> dict[str, np.ndarray]:
    """Any answer as arrays by name: [0], [1] in a tuple, .tokens in a dataclass, ['key'] in a dict."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic, bool, int, float)):
        array = as_array(value)
        return {name: array} if array.size else {f"{name} is empty, {array.shape}": np.zeros(0)}
    if isinstance(value, Raised):
        return {f"{name} raises {type(value.error).__name__}": np.zeros(0)}
    if is_dataclass(value):
        parts = {f".{field.name}": getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, dict):
        parts = {f"[{key!r}]": value[key] for key in sorted(value, key=str)}
    elif isinstance(value, (tuple, list)):
        parts = {f"[{i}]": part for i, part in enumerate(value)}
    else:
        return {f"{name} is {value if value is None else type(value).__name__}": np.zeros(0)}
    return {
        key: array for part in parts for key, array in flatten(parts[part], name + part).items()
    }


def kind(array: np.ndarray) -> str:
    return {"b": "bool", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}.get(
        array.dtype.kind, "other"
    )


def errors(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far each number is from the wanted one, infinite where one of them is not finite, as NaN."""
    found, wanted = found.astype(float), wanted.astype(float)
    with np.errstate(invalid="ignore"):
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        away = np.abs(found - wanted) / (1 + np.abs(wanted))
    return np.where(same, 0.0, np.where(np.isfinite(away), away, np.inf))


def distance(found: dict, wanted: dict) -> float:
    """The largest error between two flattened answers, infinite for another structure, shape or kind."""
    if list(found) != list(wanted):
        return np.inf
    pairs = [(found[name], wanted[name]) for name in wanted]
    if any(a.shape != b.shape or kind(a) != kind(b) for a, b in pairs):
        return np.inf
    return max((errors(a, b).max(initial=0.0) for a, b in pairs), default=0.0)


# One exercise


class Probe:
    """Calls a student's function. An exception is an answer, too; a change of the arguments is noticed."""

    def __init__(self, function: Callable):
        self.function, self.changed, self.error = function, False, None

    def __call__(self, *arguments, **named):
        tensors = [part for part in arguments if isinstance(part, (torch.Tensor, np.ndarray))]
        before = [as_array(part).copy() for part in tensors]
        try:
            with torch.no_grad():
                result = self.function(*arguments, **named)
        except (Exception, SystemExit) as error:
            if isinstance(error, NotImplementedError) and re.fullmatch(r"(ex\d\d)?", str(error)):
                raise
            self.error = self.error or error
            return Raised(error)
        self.changed |= any(errors(as_array(new), old).any() for new, old in zip(tensors, before))
        return result


def collect(exercise: Exercise, target: str, function: Callable) -> tuple[dict[str, dict], Probe]:
    """{case: flattened answer}, and the probe that saw the calls. NotImplementedError if it is raised."""
    probe = Probe(function)
    with np.errstate(all="ignore"):
        return {case: flatten(answer) for case, answer in exercise.checks[target](probe)}, probe


def read_key(exercise: Exercise, target: str) -> tuple[dict[str, dict], dict[str, dict[str, dict]]]:
    """{case: the right answer}, {sentence: {case: the wrong answer that it describes}}

    A case that a wrong answer lacks is one where it gives the right answer, too.
    """
    key = json.loads((KEYS / f"{exercise.id}.json").read_text(encoding="utf-8"))[target]
    arrays = {
        sentence: {
            case: {n: np.asarray(a) for n, a in parts.items()} for case, parts in cases.items()
        }
        for sentence, cases in key.items()
    }
    right = arrays.pop("")
    return right, {sentence: right | cases for sentence, cases in arrays.items()}


def check_function(exercise: Exercise, target: str, function: Callable) -> None:
    """Problem if a function is wrong."""
    found, probe = collect(exercise, target, function)
    right, wrong = read_key(exercise, target)
    bad = [case for case in right if distance(found.get(case, {}), right[case]) > TOLERANCE]
    if bad:
        case = bad[0]
        sentence = known_mistake(found, bad, right, wrong)
        sentence = sentence or unlike(found[case], right[case], probe, f"{short(target)}, {case}")
        if not sentence and probe.changed:
            sentence = "it changes its arguments in place: work on a copy"
        if not sentence:
            with contextlib.redirect_stdout(io.StringIO()):
                sentence = broken_law(exercise, target, function, found)
        if not sentence:
            sentence = worst(found[case], right[case], f"{short(target)}, {case}")
        sentence = (
            sentence if sentence.startswith(short(target)) else f"{short(target)}: {sentence}"
        )
        raise Problem(sentence, own_traceback(probe.error) if probe.error else "")
    if probe.changed:
        raise Problem(
            f"{short(target)}: the values are right, but it changes its arguments in place"
        )


def known_mistake(found: dict, bad: list[str], right: dict, wrong: dict) -> str:
    """The sentence of the wrong answer that this is: in all cases, or else in the first bad case alone."""

    def same(answers: dict, case: str) -> bool:
        return distance(found[case], answers[case]) <= TOLERANCE

    whole = [
        sentence
        for sentence, answers in wrong.items()
        if all(same(answers, case) for case in right)
    ]
    alone = [
        s
        for s, answers in wrong.items()
        if same(answers, bad[0]) and distance(answers[bad[0]], right[bad[0]])
    ]
    raises = any(" raises " in name for name in found[bad[0]])
    return whole[0] if whole else alone[0] if len(alone) == 1 and not raises else ""


def unlike(found: dict, wanted: dict, probe: Probe, where: str) -> str:
    """What is wrong with type, shape or finiteness, "" if nothing is."""
    if raised := [name for name in found if " raises " in name]:
        if raised[0] in wanted or not probe.error:
            return ""
        return explained(probe.error, where)[0]
    if missing := [name for name in wanted if " raises " in name]:
        return f"{where}: it should {missing[0].strip().replace('raises', 'raise')}"
    if list(found) != list(wanted):
        is_none = any(name.endswith("is None") for name in found)
        hint = ", is there a return?" if is_none else ""
        return f"{where}: it returned {described(found)}, expected {described(wanted)}{hint}"
    for name, array in found.items():
        if array.shape != wanted[name].shape:
            return f"{where}: result{name} has shape {array.shape}, expected {wanted[name].shape}"
        if kind(array) != kind(wanted[name]):
            return f"{where}: result{name} has {kind(array)} ({array.dtype}), expected {kind(wanted[name])}"
        if kind(array) == "numbers" and not np.isfinite(array[np.isfinite(wanted[name])]).all():
            at = np.argwhere(~np.isfinite(array))[0].tolist()
            return f"{where}: result{name} has NaN or infinity, first at {at}"
    return ""


def described(answer: dict) -> str:
    parts = [name.strip() or "one array" for name in answer]
    return ", ".join(parts[:4]) + (" ..." if len(parts) > 4 else "") or "nothing"


def broken_law(exercise: Exercise, target: str, function: Callable, found: dict) -> str:
    """What holds for any right answer and not for this one, "" if nothing is found."""
    again, _ = collect(exercise, target, function)
    if any(distance(again[case], found[case]) > TOLERANCE for case in found):
        return "the same call gives another result each time"
    test, sentence = exercise.laws.get(target, (None, ""))
    try:
        with torch.no_grad():
            return "" if test is None or test(function) else sentence
    except Exception:
        return ""  # said elsewhere


def worst(found: dict, wanted: dict, where: str) -> str:
    """Where the values are wrong by most."""
    away = {name: errors(found[name], wanted[name]) for name in wanted}
    name = max(away, key=lambda name: away[name].max(initial=0.0))
    at = np.unravel_index(away[name].argmax(), away[name].shape)
    share = 100 * float((away[name] > TOLERANCE).mean())
    place = f" at {list(map(int, at))}" if at else ""
    values = f"{found[name][at].item():.6g}, expected {wanted[name][at].item():.6g}"
    return f"{where}: {share:.0f} % of result{name} is wrong, worst{place}: {values}"


def explained(error: BaseException, where: str) -> tuple[str, str]:
    """A sentence about an exception of the student's, and its traceback as far as it is theirs."""
    if isinstance(error, RecursionError):
        return (
            f"{where}: it calls itself without end; it stands in the place of the package's function",
            "",
        )
    detail = own_traceback(error)
    line = re.findall(r"line (\d+)", detail)
    message = " ".join(str(error).split())[:200]
    return f"{where}: {type(error).__name__}: {message}" + (
        f" (line {line[-1]})" if line else ""
    ), detail


def own_traceback(error: BaseException) -> str:
    """The lines of a traceback that are the student's, or the package's that called them."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [
        f for f in frames if Path(f.filename).parent != HERE and "site-packages" not in f.filename
    ]
    lines = [f"{Path(f.filename).name}, line {f.lineno}, in {f.name}: {f.line}" for f in frames]
    return "\n".join([*lines[-6:], f"{type(error).__name__}: {error}"])


def grade_one(exercise: Exercise, folder: Path | None) -> Result:
    """The result of an exercise in `folder`, or of the package itself."""
    printed, result = io.StringIO(), Result(exercise.id, exercise.title, OK, "")
    try:
        with contextlib.redirect_stdout(printed):
            check(exercise, folder, result)
    except Problem as problem:
        result.status, result.sentence, result.detail = FAIL, problem.sentence, problem.detail
    if text := printed.getvalue()[:2000].rstrip():
        result.detail = "\n".join([*filter(None, [result.detail]), "printed:", text])
    return result


def check(exercise: Exercise, folder: Path | None, result: Result) -> None:
    """Fill in the result; Problem for the first function that is wrong."""
    if folder is None:
        functions = {target: reference(target) for target in exercise.checks}
    else:
        functions = load_file(exercise, file_of(exercise, folder))
    todo = []
    with in_place(functions if folder else {}):
        for target, function in functions.items():
            try:
                check_function(exercise, target, function)
            except NotImplementedError as error:
                other = re.fullmatch(r"ex(\d\d)", str(error))
                needs = (
                    f" (it needs exercise {int(other[1])})"
                    if other and str(error) != exercise.id
                    else ""
                )
                todo.append(short(target) + needs)
    done = len(functions) - len(todo)
    if todo:
        result.status = TODO
        result.sentence = (
            f"write {' and '.join([', '.join(todo[:-1])] * (len(todo) > 1) + todo[-1:])}"
        )
        result.sentence += f"; {done} of {len(functions)} are right" if done else ""
    else:
        result.sentence = f"compare with {location(next(iter(functions)))}"


def location(target: str) -> str:
    function = reference(target)
    path = Path(function.__code__.co_filename)
    return f"{path.parent.name}/{path.name}, line {function.__code__.co_firstlineno}"


# All exercises, in a child process


def worker(folder: str, ids: list[str]) -> None:
    """Grade `ids`, in a process of their own: a line of JSON for each on stdout, after a first, empty one."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    print(file=out, flush=True)
    for exercise in select(ids):
        result = grade_one(exercise, Path(folder) if folder else None)
        print(json.dumps(vars(result)), file=out, flush=True)


def grade(
    exercises: list[Exercise], folder: Path | None, seconds: float = SECONDS
) -> Iterator[Result]:
    """Results in order. The code of `folder`, None: the package, runs in child processes."""
    waiting = list(exercises)
    while waiting:
        child, lines = start(folder, waiting)
        try:
            ready = receive(lines, 300)
            while waiting and ready is not None:
                limit = f"it took longer than {seconds:g} s: is there a loop without end?"
                line = receive(lines, seconds)
                failed = (
                    limit if line is None else "" if line else "it ended Python (exit, or a crash)"
                )
                first = waiting.pop(0)
                if failed:
                    yield Result(first.id, first.title, FAIL, failed)
                    break
                yield Result(**json.loads(line))
            if ready is None:
                raise RuntimeError("the grader's child process does not start")
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def start(folder: Path | None, exercises: list[Exercise]) -> tuple[subprocess.Popen, queue.Queue]:
    """A child that grades, and the lines that it writes as they come, "" at its end."""
    code = "import sys; from exercises import grader; grader.worker(sys.argv[1], sys.argv[2:])"
    command = [
        sys.executable,
        "-c",
        code,
        str(folder or ""),
        *(exercise.id for exercise in exercises),
    ]
    path = os.pathsep.join(
        filter(None, [str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH")])
    )
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    lines = queue.Queue()

    def read() -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in child.stdout:
                lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return child, lines


def receive(lines: queue.Queue, seconds: float) -> str | None:
    """The next line, None if none comes in time."""
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return None


def select(words: list[str]) -> list[Exercise]:
    """Exercises by number, id, or a part of the name; all for none. ValueError for what is none."""
    found = []
    for word in words:
        number = re.fullmatch(r"(?:ex)?0*(\d+)", word)
        name = re.sub(r"[\s-]+", "_", word.lower())
        match = [e for e in EXERCISES if (e.number == int(number[1]) if number else name in e.name)]
        match = [e for e in match if e.name[5:] == name] or match
        if len(match) != 1:
            which = f", of which {' and '.join(e.name for e in match)} fit" if match else ""
            raise ValueError(
                f"{word!r}: expected an exercise, 1 to {len(EXERCISES)}, or its name{which}"
            )
        found += match
    return found or list(EXERCISES)


def prepare(folder: Path | None = None) -> bool:
    """Copy the stubs that are not in the work folder; False if there are none: the package is the work."""
    folder = folder or WORK
    if not STUBS.is_dir():
        return False
    folder.mkdir(exist_ok=True)
    for exercise in EXERCISES:
        if not (path := file_of(exercise, folder)).exists():
            path.write_text(file_of(exercise, STUBS).read_text(encoding="utf-8"), encoding="utf-8")
    return True


# What is told


def line(result: Result) -> str:
    return f"{result.id[2:]}  {result.title:<42} {result.status:<4}  {result.sentence}"


def summary(results: list[Result], folder: Path | None) -> str:
    """The progress bar, and the next step."""
    done, total = sum(result.status == OK for result in results), len(results)
    bar = "#" * round(30 * done / total)
    text = f"\n[{bar:.<30}] {done} of {total}\n"
    left = [result for result in results if result.status != OK]
    if not left and total < len(EXERCISES):
        return text + "Now all of them: nanos2t exercises\n"
    if not left:
        return text + (
            f"All done: nanos2t transcribe FILE --with {relative(folder)}\n" if folder else ""
        )
    first = ([result for result in left if result.status == FAIL] or left)[0]
    [exercise] = select([first.id])
    for detail in first.detail.splitlines():
        text += f"  | {detail}\n"
    places = (
        [relative(file_of(exercise, folder))]
        if folder
        else sorted({*map(location, exercise.checks)})
    )
    text += f"Next: {' and '.join(places)}, then: nanos2t exercises {exercise.number}\n"
    return text + f"Stuck? nanos2t exercises hint {exercise.number}\n"


def relative(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def run(
    words: list[str],
    tell: Callable[[str], None],
    as_json: bool = False,
    package: bool = False,
    yes: bool = False,
) -> int:
    """The command `nanos2t exercises`: 0 if all that was asked for passes, else 1. ValueError for usage."""
    actions = {"hint": hint, "solution": solution, "reset": reset, "export": export, "make": make}
    if words[:1] in (["export"], ["make"], ["reset"]) and not STUBS.is_dir():
        raise ValueError(
            f"this copy of the package is an exercise itself: it has nothing to {words[0]}"
        )
    if words and words[0] in actions:
        return actions[words[0]](words[1:], tell, yes)
    results, exercises, first = [], select(words), not WORK.exists()
    folder = WORK if not package and prepare() else None
    if folder and first and not as_json:
        tell(f"Made {relative(folder)}, with a file for each exercise.\n\n")
    for result in grade(exercises, folder):
        results.append(result)
        if not as_json:
            tell(line(result) + "\n")
    passed = sum(result.status == OK for result in results)
    if as_json:
        found = {
            "passed": passed,
            "total": len(results),
            "exercises": [vars(result) for result in results],
        }
        tell(json.dumps(found, indent=2) + "\n")
    else:
        tell(summary(results, folder))
    return 0 if passed == len(results) else 1


def one(words: list[str], action: str) -> Exercise:
    if len(words) != 1:
        raise ValueError(f"expected: nanos2t exercises {action} NUMBER")
    return select(words)[0]


def hint(words: list[str], tell: Callable[[str], None], yes: bool) -> int:
    """Each time one hint more, up to three; work/hints.json counts."""
    exercise, path = one(words, "hint"), WORK / "hints.json"
    with contextlib.suppress(OSError, ValueError):
        counts = json.loads(path.read_text(encoding="utf-8"))
    counts = dict(counts) if "counts" in locals() and isinstance(counts, dict) else {}
    shown = counts[exercise.id] = min(3, int(counts.get(exercise.id, 0)) + 1)
    WORK.mkdir(exist_ok=True)
    path.write_text(json.dumps(counts), encoding="utf-8")
    for number, text in enumerate(exercise.hints[:shown], 1):
        tell(f"{number} of 3: {text}\n")
    if shown == 3:
        tell(f"No more hints. nanos2t exercises solution {exercise.number} --yes\n")
    return 0


def solution(words: list[str], tell: Callable[[str], None], yes: bool) -> int:
    """The package's own functions, once the exercise passes, or with --yes."""
    exercise = one(words, "solution")
    if not all(map(written, map(reference, exercise.checks))):
        raise ValueError("this copy of the package has no solutions")
    if not yes and (not prepare() or next(grade([exercise], WORK)).status != OK):
        tell(f"Exercise {exercise.number} is not solved yet. To see it: add --yes\n")
        return 1
    for target in exercise.checks:
        tell(f"# {location(target)}\n{inspect.getsource(reference(target))}\n")
    return 0


def reset(words: list[str], tell: Callable[[str], None], yes: bool) -> int:
    """The empty exercise again; what was written is kept as NAME.py.1.bak, .2.bak ..."""
    exercise = one(words, "reset")
    path, number = file_of(exercise, WORK), 1
    if path.exists():
        while (backup := path.with_name(f"{path.name}.{number}.bak")).exists():
            number += 1
        path.rename(backup)
        tell(f"What you had is now {relative(backup)}\n")
    prepare()
    tell(f"{relative(path)} is as it was at the start\n")
    return 0


def export(words: list[str], tell: Callable[[str], None], yes: bool) -> int:
    from exercises import make

    if len(words) != 1:
        raise ValueError("expected: nanos2t exercises export FOLDER")
    make.export(Path(words[0]))
    tell(
        f"{words[0]}: the package without the bodies; nanos2t exercises there grades the package itself\n"
    )
    return 0


def make(words: list[str], tell: Callable[[str], None], yes: bool) -> int:
    """For maintainers: write stubs/ and keys/ again."""
    from exercises import make

    make.write()
    tell(f"written: {relative(STUBS)} and {relative(KEYS)}\n")
    return 0
