"""Grade exercises in a child process, which may crash or hang without harm to the others.

The child reads one line of JSON, its job. It prints an empty line when it has started, a line for
each function that it has checked, and a line for each exercise, each after a secret word.
"""

import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch

from exercises.assignment import read_assignment
from exercises.course import select_exercises
from exercises.drawn_cases import new_seed
from exercises.exercise import Exercise
from exercises.folders import HERE
from exercises.grading import FAIL, OK, RUNNING, Part, Result, grade_exercise
from exercises.guard import explain_memory, guard_process, limit_resources
from exercises.inputs import Draw
from exercises.private_cases import check_private_cases
from exercises.state import keep_process
from exercises.targets import source_file

SECONDS = 30  # that one function may take; a correct one takes less than one
IDLE_FACTOR = 5  # how much longer it may wait, or sleep
# How much longer to wait for a child process, which itself says where it was after SECONDS
GRACE_SECONDS = 1
POLL_SECONDS = 0.1  # between two looks at whether to stop
START_SECONDS = 300  # for a child process to import torch and the package
CHILD = "from exercises.start import run_child; run_child()"


@dataclass(frozen=True)
class Limits:
    """What a student's code may do.

    `megabytes` is the memory that it may ask for, None for any amount. With `private`, a list of
    folders that it may not read, it may not start programs or change files either, and all its
    functions are checked, those after a wrong one as well, with the cases of `assignment`, and
    with inputs of `seed`.
    """

    seconds: float = SECONDS
    megabytes: int | None = None
    private: tuple[str, ...] | None = None
    assignment: str = ""
    seed: int = 0  # 0: only with the numbers of the keys


class StoppedError(Exception):
    """Somebody has asked to stop."""


def grade_exercises(
    exercises: list[Exercise],
    folder: Path | None,
    limits: Limits | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Result]:
    """Yield the results in order; if `folder` is None, the package itself is graded.

    An exercise that ends the child process, or takes longer than it may, fails; a new child
    process grades the exercises after it, and for a teacher the functions after the one that
    failed. StoppedError: `stop` was set. RuntimeError: the child process does not start, because
    the package that is graded, in a hand-out the student's, cannot be imported, for one.
    """
    limits = limits or Limits(seed=new_seed())
    waiting = list(exercises)
    # Of the first exercise that waits: the verdicts of processes that have ended in it.
    parts = []
    while waiting:
        child = Child(folder, waiting, limits, stop, parts)
        try:
            # Any other line than an empty one says why it does not start.
            line = child.receive_line(START_SECONDS)
            if line != "\n":
                reason = (line or "").strip()
                raise RuntimeError(reason or "the grader's child process does not start")
            while waiting and not child.has_failed:
                result = receive_result(child, waiting[0], parts, limits.seconds)
                if result:
                    waiting.pop(0)
                    parts = []
                    yield result
        finally:
            child.end()


def receive_result(
    child: "Child", exercise: Exercise, parts: list[Part], seconds: float
) -> Result | None:
    """Return the result of an exercise, and add the verdicts on its functions to `parts`.

    If one of its functions has ended the process, or takes too long, return None: its verdict is
    the last of `parts`.
    """
    running = None
    while True:
        line = child.receive_line(seconds + GRACE_SECONDS)
        message = child.decode(line) if line else {}
        if "result" in message:
            return read_result(message["result"])
        if "part" not in message:
            break
        part = Part(**message["part"])
        running = part if part.status == RUNNING else None
        if not running:
            parts.append(part)

    child.has_failed = True
    if line is None or "delay" in message:
        place = message.get("delay", "")
        sentence = f"it took longer than {seconds:g} s{place}: is there a loop without end?"
    elif line:
        sentence = "it wrote into the grader's own output"
    else:
        sentence = child.describe_end()
    if not running:
        return interrupted_result(exercise, parts, sentence)
    parts.append(Part(running.name, FAIL, f"{running.name}: {sentence}"))
    return None


def read_result(values: dict) -> Result:
    parts = [Part(**part) for part in values.pop("parts")]
    return Result(**values, parts=parts)


def add_part(result: Result, part: Part) -> None:
    """Add a verdict to those on an exercise; the first that is wrong is that on all of it."""
    result.parts.append(part)
    if part.status == FAIL and result.status == OK:
        result.status = FAIL
        result.sentence = part.sentence


def add_parts(
    result: Result, known: Sequence[Part], parts: Iterator[Part], report: Callable[[Part], None]
) -> None:
    """Add verdicts that are known, and those that are to come, which are reported."""
    for part in known:
        add_part(result, part)
    for part in parts:
        report(part)
        if part.status != RUNNING:
            add_part(result, part)


def interrupted_result(exercise: Exercise, parts: list[Part], sentence: str) -> Result:
    """Return the result of an exercise that ended the process, in no function or after all."""
    wrong = [part.sentence for part in parts if part.status == FAIL]
    return Result(exercise.id, exercise.title, FAIL, (wrong or [sentence])[0], parts=parts)


class Child:
    """A child process that grades exercises, and the lines that it prints."""

    def __init__(
        self,
        folder: Path | None,
        exercises: list[Exercise],
        limits: Limits,
        stop: threading.Event | None = None,
        parts: Sequence[Part] = (),
    ):
        self.stop = stop
        self.has_failed = False
        self.word = secrets.token_hex(8)
        self.lines: queue.Queue = queue.Queue()
        job = asdict(limits) | {
            "folder": str(folder) if folder else "",
            "ids": [exercise.id for exercise in exercises],
            "parts": [asdict(part) for part in parts],
            "word": self.word,
        }

        paths = [str(HERE.parent), str(HERE.parents[1])]
        if os.environ.get("PYTHONPATH"):
            paths.append(os.environ["PYTHONPATH"])
        variables = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}

        # In a session of its own, which ends together with the programs that it has started.
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=os.environ | variables,
            start_new_session=True,
        )
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.close()
        threading.Thread(target=self.read_lines, daemon=True).start()

    def read_lines(self) -> None:
        """Put the lines into the queue, "" at the end."""
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout:
                self.lines.put(line)
        self.lines.put("")

    def receive_line(self, seconds: float) -> str | None:
        """Return the next line, "" if the process has ended, None if there is none in time.

        What counts is the time of the processor: another program may be busy, too.
        """
        used = self.cpu_seconds()
        start = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                return self.lines.get(timeout=POLL_SECONDS)
            if self.stop and self.stop.is_set():
                raise StoppedError
            waited = time.monotonic() - start
            now_used = self.cpu_seconds()
            is_busy = used is None or now_used is None or now_used - used > seconds
            if waited > seconds and (is_busy or waited > IDLE_FACTOR * seconds):
                return None

    def cpu_seconds(self) -> float | None:
        """Return how long the process has run on a processor, None where this is not known."""
        try:
            text = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
            # The name before the last bracket may have spaces in it.
            fields = text.rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None

    def decode(self, line: str) -> dict:
        """Return what a line says, or {} if it is not the grader's."""
        word, _, text = line.partition(" ")
        if word != self.word:
            return {}
        return json.loads(text)

    def describe_end(self) -> str:
        """Return how the process ended that had not graded all exercises."""
        code = self.process.wait()
        if code >= 0:
            return f"it ended Python (exit code {code}): an exercise needs no exit"
        name = signal.Signals(-code).name
        if name == "SIGKILL":
            return "it ended Python, killed from outside: did it need more memory than there is?"
        return f"it ended Python by a crash ({name}): see what it calls outside Python"

    def end(self) -> None:
        """End the process, and those that it has started."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def run_child() -> None:
    """Grade exercises in this process, as the line of JSON on stdin says."""
    job = json.loads(sys.stdin.readline())
    is_guarded = job["private"] is not None

    # What the student's code prints must not mix with the results: it goes to the null device.
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2) if is_guarded else (0, 1):
        os.dup2(null, number)
    torch.set_num_threads(1)

    def send(**message) -> None:
        print(job["word"], json.dumps(message), file=results, flush=True)

    print(file=results, flush=True)
    if is_guarded:
        grade_guarded(job, send)
        return
    folder = Path(job["folder"]) if job["folder"] else None
    watch = Watch(folder, job["seconds"], send)
    for exercise in select_exercises(job["ids"]):
        watch.start(exercise)
        result = try_grading(exercise, partial(grade_public, exercise, folder, job["seed"]))
        watch.stop()
        send(result=asdict(result))


def grade_public(exercise: Exercise, folder: Path | None, seed: int) -> Result:
    """Grade a student's work with the numbers of the keys, and with those of a seed."""
    draw = Draw(seed) if seed else None
    return grade_exercise(exercise, folder, draw=draw)


class Watch:
    """Tells in which line a student's file is if it takes too long, and ends the process."""

    def __init__(self, folder: Path | None, seconds: float, send: Callable):
        self.folder = folder
        self.seconds = seconds
        self.send = send
        self.is_done = threading.Event()

    def start(self, exercise: Exercise) -> None:
        """Count the seconds anew."""
        self.stop()
        self.is_done = threading.Event()
        arguments = (exercise, self.folder, self.seconds, self.is_done, self.send)
        threading.Thread(target=report_delay, args=arguments, daemon=True).start()

    def stop(self) -> None:
        self.is_done.set()


def report_delay(
    exercise: Exercise,
    folder: Path | None,
    seconds: float,
    is_done: threading.Event,
    send: Callable,
) -> None:
    """Wait for a result. If it takes too long, send the line that a student's file is in, and end.

    The seconds are those of the processor, as in Child.receive_line.
    """
    used = time.process_time()
    start = time.monotonic()
    while time.process_time() - used < seconds:
        if is_done.wait(POLL_SECONDS):
            return
        if time.monotonic() - start > IDLE_FACTOR * seconds:
            break

    if is_done.is_set():
        return
    frame = sys._current_frames()[threading.main_thread().ident]
    send(delay=name_place(exercise, folder, frame))
    os._exit(1)


def name_place(exercise: Exercise, folder: Path | None, frame: FrameType | None) -> str:
    """Return where a student's code is that has led to a frame, or "" if none has."""
    # In a hand-out the package itself is what students write.
    files = {str(source_file(target)) for target in exercise.checks}
    if folder:
        files = {str(exercise.path(folder))}
    while frame:
        if frame.f_code.co_filename in files:
            return f", and was in {frame.f_code.co_name}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""


def grade_guarded(job: dict, send: Callable) -> None:
    """Grade a student's work for a teacher: within limits, all functions, with private cases."""
    folder = Path(job["folder"])
    path = Path(job["assignment"]) if job["assignment"] else None
    assignment = read_assignment(path)
    exercises = select_exercises(job["ids"])
    draw = Draw(job["seed"])
    limit_resources(job["megabytes"], job["seconds"])
    guard_process(job["private"], job["folder"])

    def explain(verdict: Part | Result) -> dict:
        verdict.sentence = explain_memory(verdict.sentence, job["megabytes"])
        return asdict(verdict)

    def grade(exercise: Exercise, known: list[Part]) -> Result:
        def report(part: Part) -> None:
            watch.start(exercise)
            send(part=explain(part))

        num_public = len(exercise.checks)
        result = grade_exercise(exercise, folder, report, known[:num_public], draw)
        # Without parts the file could not be loaded.
        if result.parts:
            known = known[num_public:]
            more = check_private_cases(exercise, folder, assignment, draw, len(known))
            add_parts(result, known, more, report)
        return result

    watch = Watch(folder, job["seconds"], send)
    known = [Part(**part) for part in job["parts"]]
    for exercise in exercises:
        watch.start(exercise)
        result = try_grading(exercise, partial(grade, exercise, known))
        watch.stop()
        known = []
        send(result=explain(result))


def try_grading(exercise: Exercise, grade: Callable[[], Result]) -> Result:
    """Return a result. If the grader fails, the student is not to blame, and it says so."""
    try:
        with keep_process():
            return grade()
    except Exception as error:
        sentence = f"the grader itself failed, {type(error).__name__}: {error}: please report it"
        return Result(exercise.id, exercise.title, FAIL, " ".join(sentence.split()))
