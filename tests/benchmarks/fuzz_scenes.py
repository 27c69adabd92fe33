"""What fuzz.py does with a scene: run its command line, and judge what became of each recording.

The oracle knows how many words were said. A recording whose words are not in the answer, and which
no line on stderr names, is a loss in silence.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import warnings
from functools import cache
from pathlib import Path

import nanos2t
from nanos2t.cli import main as cli
from nanos2t.cli.console import escape_controls
from nanos2t.transcription.transcriber import SpeechToText
from tests.benchmarks.fuzz_actions import BrokenPromiseError, replaced_load
from tests.benchmarks.mutants import Mutant
from tests.benchmarks.scenes import Scene, draw_scene

DIGIT = re.compile(r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine)\b")


class Scenes:
    """`self[index]` is the scene of that number, for fuzz.py."""

    def __init__(self, seed: int):
        self.seed = seed

    def __getitem__(self, index: int) -> Mutant:
        content = json.dumps({"scene": f"{self.seed} {index}"}).encode()
        return Mutant("scene", "scene", "scene.json", content)


@cache
def load_bundled() -> SpeechToText:
    return nanos2t.load(fast=True)


def try_scene(mutant: Mutant, seeds: Path, stt: SpeechToText) -> str:
    """Run the command line of a scene. Returns what was refused, or ""."""
    scene = draw_scene(json.loads(mutant.content)["scene"])
    before = read_files()
    code, out, err = run_scene(scene)
    lines = [line for line in err.splitlines() if line.startswith("nanos2t: ")]
    report = f"{scene.arguments} {scene.words} exit {code}: {err[-800:]!r}"
    if "Traceback" in err or len(lines) != len(err.splitlines()):
        raise BrokenPromiseError(f"not lines of nanos2t: {report}")

    # What was there is there still, and unchanged.
    after = read_files()
    changed = [path for path, digest in before.items() if after.get(path) != digest]
    if changed:
        raise BrokenPromiseError(f"changed {changed}: {report}")
    if scene.is_usage:
        if code != 2 or out or after != before:
            raise BrokenPromiseError(f"a usage error was expected: {report}")
        return lines[-1]

    # Every word was written, or its recording is named.
    if code not in (0, 1):
        raise BrokenPromiseError(f"exit 0 or 1 was expected: {report}")
    unnamed = [path for path in scene.words if not is_named(path, lines)]
    expected = sum(scene.words[path] for path in unnamed)
    found = count_words(scene, out)
    hidden = "--quiet" in scene.arguments and scene.doubtful
    if found < expected and not hidden:
        raise BrokenPromiseError(f"{found} of {expected} words of {unnamed}: {report}")
    errors = [line for line in lines if "warning" not in line and "passed over" not in line]
    if (code == 1) != bool(errors):
        raise BrokenPromiseError(f"exit code and errors: {report}")
    check_outputs(scene, len(errors), report)
    return errors[-1] if errors else ""


def run_scene(scene: Scene) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of the command."""
    out = io.StringIO()
    err = io.StringIO()
    former_stdin = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(scene.stdin))
    stt = load_bundled()
    try:
        with (
            replaced_load(stt),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = cli.main(scene.arguments)
    finally:
        sys.stdin = former_stdin
    return code, out.getvalue(), err.getvalue()


def read_files() -> dict[str, str]:
    """Return a digest of each regular file in the current folder and below it, without links."""
    digests = {}
    for folder, _, names in os.walk("."):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def is_named(path: str, lines: list[str]) -> bool:
    """Return whether a line names a recording, as a terminal may show it."""
    name = escape_controls(" ".join(path.split()))
    if name == "-" and any("warning: audio stream: " in line for line in lines):
        return True
    return any(f"nanos2t: {name}: " in line or f"warning: {name}: " in line for line in lines)


def count_words(scene: Scene, out: str) -> int:
    """Return the number of words in what was written to stdout."""
    is_json = "--format=json" in scene.arguments and "--output=out" not in scene.arguments
    texts = [out]
    if is_json:
        texts = []
        while out.strip():
            result, end = json.JSONDecoder().raw_decode(out)
            texts.append(result["text"])
            out = out[end:].lstrip()
    return sum(len(DIGIT.findall(text)) for text in texts)


def check_outputs(scene: Scene, num_errors: int, report: str) -> None:
    """Raise BrokenPromiseError unless each recording without an error has its file."""
    if "--output=out" not in scene.arguments or not scene.words:
        return
    files = [path for path in Path("out").iterdir() if not path.name.startswith(".")]
    if len(files) < len(scene.words) - num_errors or list(Path("out").glob(".nanos2t-*")):
        raise BrokenPromiseError(f"files {files}: {report}")
