"""Load a student's functions, and refuse files that take the answer from the package."""

import ast
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from exercises.course import EXERCISES
from exercises.diagnosis import explain_exception
from exercises.exercise import RAISED, Exercise, ExerciseError, make_readable
from exercises.state import keep_functions, keep_settings, list_owners
from exercises.targets import is_written, package_function, short_name

# What computes the same as the function of an exercise.
TWINS = {"wav2vec2:attend": "nanos2t.wav2vec2.attend_step_by_step"}
# With these, a file could reach the package's functions without naming them.
BACK_DOORS = {"importlib", "runpy", "inspect", "gc", "__import__", "exec", "eval", "sys.modules"}
# The grader itself.
GRADER = "exercises"


class Work:
    """A student's functions for an exercise, by target.

    `in_place` are those that run in the place of the package's. `missing` has a sentence for each
    function that the file lacks. ExerciseError: the file cannot be read or run, lacks all
    functions, or takes one from the package.
    """

    def __init__(self, exercise: Exercise, path: Path):
        self.module = load_module(exercise, path)
        self.functions = {}
        self.missing = {}
        for target in exercise.checks:
            function = find_function(self.module, target, exercise)
            if function:
                self.functions[target] = function
            else:
                reset = f"nanos2t exercises reset {exercise.number}"
                self.missing[target] = f"{short_name(target)} is missing in the file ({reset})"
        if not self.functions:
            raise ExerciseError(next(iter(self.missing.values())))

        self.in_place = dict(self.functions)
        for target in exercise.checks:
            if target in self.missing or not is_written(self.functions[target]):
                self.take_out(target)

    def take_out(self, target: str) -> None:
        """Put the package's function in the place of one that is not right or not there.

        The other functions are then judged alone. They may call it by the name that it has in the
        student's file, so that changes, too.
        """
        self.in_place.pop(target, None)
        owner = self.module
        *classes, name = short_name(target).split(".")
        for class_name in classes:
            owner = getattr(owner, class_name, None)
        # A class may be missing as well.
        if owner:
            setattr(owner, name, package_function(target))


def load_functions(exercise: Exercise, path: Path) -> dict[str, Callable]:
    """Return the functions of a student's file by target.

    ExerciseError: as Work raises; or one of the functions is missing.
    """
    work = Work(exercise, path)
    if work.missing:
        raise ExerciseError(next(iter(work.missing.values())))
    return work.functions


def load_module(exercise: Exercise, path: Path) -> ModuleType:
    """Run a student's file. ExerciseError: it cannot be read or run, or has the means to cheat."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ExerciseError("the file is not UTF-8: save it with this encoding") from None
    except OSError as error:
        raise ExerciseError(f"the file cannot be read: {error}") from None
    try:
        tree = ast.parse(text, str(path))
        refuse_imported_answer(tree, exercise)
        spec = importlib.util.spec_from_file_location(f"work_{exercise.id}", path)
        module = importlib.util.module_from_spec(spec)
        # What the file sets, such as torch's default dtype, holds for the package as well, and the
        # functions that it replaces in numpy are those of the grader.
        with keep_settings(), keep_functions(list_owners()):
            spec.loader.exec_module(module)
    except ExerciseError:
        raise
    except SyntaxError as error:
        place = f"line {error.lineno}" if error.lineno else "the file"
        raise ExerciseError(f"{place} is not valid Python: {error.msg}") from None
    except RAISED as error:
        error = make_readable(error)
        raise ExerciseError(*explain_exception(error, "the file cannot be imported")) from None
    return module


def find_function(module: object, target: str, exercise: Exercise) -> Callable | None:
    """Return one function of a student's module, or None if it is missing.

    ExerciseError: the module holds the package's own function.
    """
    name = short_name(target)
    function = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        return None

    # Code objects identify the package's functions under any name, and inside functools.partial.
    answers = {package_function(other).__code__ for other in exercise.checks}
    for value in (function, *vars(module).values()):
        if callable(value):
            value = inspect.unwrap(getattr(value, "func", value))
        if getattr(value, "__code__", None) in answers:
            raise ExerciseError(f"{name} is the package's own function: write it here")
    return function


def refuse_imported_answer(tree: ast.Module, exercise: Exercise) -> None:
    """ExerciseError: the file takes an answer from the package, or has the means to read one."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        is_star = isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        if is_star and str(node.module).startswith("nanos2t"):
            raise ExerciseError(
                f"the file takes everything from the package ({node.module}.*): import what you "
                "need by name"
            )

    answers = {"nanos2t." + target.replace(":", ".") for target in exercise.checks}
    answers |= {TWINS[target] for target in exercise.checks if target in TWINS}
    used = [used_name(node, names) for node in ast.walk(tree)]
    for name in [*used, *names.values()]:
        if name in answers:
            short = name.removeprefix("nanos2t.")
            raise ExerciseError(f"the file takes {short} from the package: write it here")
        top = name.partition(".")[0]
        doors = BACK_DOORS & {name, top}
        if name in names.values() and top == GRADER:
            doors.add(GRADER)
        for door in doors:
            raise ExerciseError(
                f"the file uses {door}, with which answers could be taken from the package: "
                "it is not needed here"
            )


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Return {name in the file: dotted name of what was imported under it}."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                # `import a.b` binds a, `import a.b as c` binds a.b.
                top = name.name.partition(".")[0]
                names[name.asname or top] = name.name if name.asname else top
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                names[name.asname or name.name] = f"{node.module}.{name.name}"
    return names


def used_name(node: ast.AST, names: dict[str, str]) -> str:
    """Return the dotted name that an expression reads, getattr included, or "" for all others."""
    if isinstance(node, (ast.Name, ast.Attribute)):
        return dotted_name(node, names)
    if not isinstance(node, ast.Call) or dotted_name(node.func, names) != "getattr":
        return ""
    if len(node.args) < 2 or not isinstance(node.args[1], ast.Constant):
        return ""
    return f"{dotted_name(node.args[0], names)}.{node.args[1].value}"


def dotted_name(node: ast.AST, names: dict[str, str]) -> str:
    """Return "nanos2t.audio.normalise" for a.normalise if the file imports nanos2t.audio as a."""
    if isinstance(node, ast.Attribute):
        return f"{dotted_name(node.value, names)}.{node.attr}"
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    return "?"


def load_folder(folder: Path, report: Callable[[str], None]) -> dict[str, Callable]:
    """Return what is written of the exercises in a folder, by target, and report the names.

    ValueError: the folder has no file of an exercise, or one of them cannot be loaded.
    """
    exercises = [exercise for exercise in EXERCISES if exercise.path(folder).exists()]
    if not exercises:
        example = f"{EXERCISES[0].name}.py"
        raise ValueError(f"{folder}: expected files of exercises such as {example}, found none")

    written = {}
    for exercise in exercises:
        try:
            functions = load_functions(exercise, exercise.path(folder))
        except ExerciseError as error:
            raise ValueError(f"{exercise.path(folder)}: {error.sentence}") from None
        for target, function in functions.items():
            if is_written(function):
                written[target] = function

    if written:
        report(f"with your {', '.join(map(short_name, written))}")
    else:
        report("nothing is written yet")
    return written
