"""What fuzz.py does with a damaged file: use it in all ways, and check that nanos2t keeps its word.

An action gets a mutant, the folder of the seeds and the transcriber of the seed "json". It runs in
an empty folder, returns the message of the ValueError or "", and raises BrokenPromiseError where
the documented behaviour is not met.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

import nanos2t
from nanos2t import remap, remap_config
from nanos2t.cli import main as cli
from nanos2t.transcription import forced_alignment
from nanos2t.transcription.transcriber import SpeechToText
from tests.benchmarks.mutants import Mutant

SOUND = (0.2 * np.sin(np.arange(5000) ** 1.3 / 90)).astype(np.float32)  # (L,), at 8000 Hz


class BrokenPromiseError(Exception):
    """Behaviour that is documented otherwise, without being an exception itself."""


def catch_refusal(call: Callable, *arguments: object, **options: object) -> str:
    """Return the message of the ValueError that a call raises, which must be one line, or ""."""
    try:
        call(*arguments, **options)
    except ValueError as error:
        message = str(error)
        is_plain = type(error).__module__ in ("builtins", "json.decoder")
        if not is_plain or not message.strip() or "\n" in message.strip():
            raise BrokenPromiseError(f"not one line: {type(error)} {message[:300]!r}") from error
        return message
    return ""


def run_command(*arguments: object, codes: tuple[int, ...]) -> None:
    """Run a command line in this process: its exit code must be one of `codes`.

    It must write one line for an error to stderr, and none without; warnings do not count.
    """
    out = io.StringIO()
    err = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([*map(str, arguments)])

    errors = []
    for line in err.getvalue().splitlines():
        if line.startswith("nanos2t: ") and "warning" not in line:
            errors.append(line)
    num_expected = 0 if code == 0 else 1
    if code not in codes or len(errors) != num_expected or "Traceback" in err.getvalue():
        raise BrokenPromiseError(
            f"exit {code}, expected {codes}: {arguments[0]} wrote {err.getvalue()[-400:]!r}"
        )


def try_audio(mutant: Mutant, seeds: Path, stt: SpeechToText) -> str:
    """Transcribe a file from disk, from memory, and by the command line."""
    path = Path(f"in{Path(mutant.file).suffix}")
    path.write_bytes(mutant.content)
    problem = catch_refusal(stt.transcribe, path, words=True)
    if problem and not problem.startswith(str(path)):
        raise BrokenPromiseError(f"does not name the file: {problem}")
    problem_in_memory = catch_refusal(stt.transcribe, mutant.content)
    if bool(problem) != bool(problem_in_memory):
        raise BrokenPromiseError("from memory it is another thing")

    # The command line would load its model each time.
    with replaced_load(stt):
        code = 1 if problem else 0
        run_command("transcribe", path, "--output", "out", "--format", "json", codes=(code,))
    if not problem:
        json.loads(Path("out/in.json").read_text())
    return problem


@contextlib.contextmanager
def replaced_load(stt: SpeechToText):
    """Let `nanos2t.load` return this transcriber, whatever its arguments."""

    def load(*arguments: object, **options: object) -> SpeechToText:
        return stt

    original = nanos2t.load
    nanos2t.load = load
    try:
        yield
    finally:
        nanos2t.load = original


def try_model(mutant: Mutant, seeds: Path, stt: SpeechToText) -> str:
    """Load a model, transcribe and align with it, then use it in the command line."""
    for path in (seeds / mutant.base).iterdir():
        os.symlink(path, path.name)
    os.unlink(mutant.file)
    Path(mutant.file).write_bytes(mutant.content)

    loaded = []
    problem = catch_refusal(lambda: loaded.append(nanos2t.load(os.getcwd())))
    if loaded:
        problem = use_model(loaded[0])

    # One of three commands, by the size of the file.
    audio = seeds / "audio/00-pcm_16.wav"
    fails = bool(loaded) and bool(catch_refusal(loaded[0].transcribe, audio))
    if len(mutant.content) % 4 == 1:
        run_command("info", os.getcwd(), "--map", codes=(0, 3))  # reads the weights only
    elif len(mutant.content) % 4 == 3:
        run_command("info", os.getcwd(), codes=(0 if loaded else 3,))
    else:
        codes = (3,)
        if loaded:
            codes = (1, 3) if fails else (0,)
        run_command("transcribe", audio, "--model", os.getcwd(), "--quiet", codes=codes)
    return problem


def use_model(stt: SpeechToText) -> str:
    """Transcribe and align with a model. Return the first problem of transcription, or ""."""
    language = stt.languages[0] if stt.languages else None
    problem = catch_refusal(stt.transcribe, SOUND, sample_rate=8000, words=True)
    if not problem:
        problem = catch_refusal(
            stt.transcribe, SOUND, sample_rate=8000, num_beams=2, language=language
        )
    text = "w7 the <s> größer"
    catch_refusal(forced_alignment.align_text, stt, np.tile(SOUND, 2), text, language)
    return problem


def try_table(mutant: Mutant, seeds: Path, stt: SpeechToText) -> str:
    """Read a table, then use it both ways on what the real table fits."""
    text = mutant.content.decode("utf-8", "replace")
    problem = catch_refusal(remap.parse_table, text)
    if problem:
        return problem

    # Configs: theirs to ours, ours to theirs.
    table = remap.parse_table(text)
    real = remap.read_table(mutant.file.removesuffix(".txt"))
    our_config = remap_config.read_config(real.config, {})
    their_config = remap_config.write_config(real.config, our_config)

    # Tensors: ours to theirs, theirs to ours. These are too few, so that most are missing.
    prefix = "encoder." if real.part == "encoder" else "decoder."
    ours = {}
    for name, value in stt.model.state_dict().items():
        if name.startswith(prefix):
            ours[name.removeprefix(prefix)] = value
    few_tensors = dict(list(ours.items())[:5])

    return (
        catch_refusal(remap_config.read_config, table.config, their_config)
        or catch_refusal(remap_config.write_config, table.config, our_config)
        or catch_refusal(remap.export_state, table.tensors, ours)
        or catch_refusal(remap.import_state, table.tensors, few_tensors, ours)
    )


# By the kind of the mutant, one of mutants.SHARES.
ACTIONS = {
    "audio": try_audio,
    "config": try_model,
    "weights": try_model,
    "tokenizer": try_model,
    "table": try_table,
}
