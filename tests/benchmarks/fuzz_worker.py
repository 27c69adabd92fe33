# Started by fuzz.py: python -m tests.benchmarks.fuzz_worker SEEDS SEED [scenes]
"""The worker of fuzz.py: reads numbers of inputs, and answers each with a line of JSON.

It runs in a folder of its own, where each input has a new folder. The answer to -1 tells that the
worker is ready: nothing is tried.
"""

import faulthandler
import json
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TextIO

import torch

import nanos2t
from nanos2t.transcription.transcriber import SpeechToText
from tests.benchmarks.forbidden import Forbidden
from tests.benchmarks.fuzz_actions import ACTIONS, SOUND, try_audio
from tests.benchmarks.fuzz_scenes import Scenes, load_bundled, try_scene
from tests.benchmarks.mutants import Mutant, Mutants, is_past_header

LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_DATA: 8 << 30,
    resource.RLIMIT_FSIZE: 1 << 28,
    resource.RLIMIT_NPROC: 1000,
}


def main() -> None:
    seeds = Path(sys.argv[1])
    seed = int(sys.argv[2])
    answers = redirect_stdout()
    faulthandler.enable()
    for limit, value in LIMITS.items():
        resource.setrlimit(limit, (value, value))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    stt = warm_up(seeds)
    mutants = Mutants(seeds, seed)
    if sys.argv[3:] == ["scenes"]:
        mutants = Scenes(seed)
        load_bundled()
    own_folder = Path.cwd()
    forbidden = Forbidden(own_folder)
    for line in sys.stdin:
        enter_new_folder(own_folder)
        sys.stderr.flush()
        os.ftruncate(2, 0)
        reset_peak_megabytes()

        index = int(line)
        mutant = mutants[index]
        result = {}
        if index >= 0:
            result = try_mutant(mutant, seeds, stt, forbidden)
        result["megabytes"] = round(reset_peak_megabytes())

        # Also libraries that are not Python's may write to stderr.
        errors = Path("/proc/self/fd/2").read_text(errors="replace")
        if "Traceback" in errors:
            result["outcome"] = "failed"
            result["why"] = f"a traceback on stderr: {errors[-2000:]}"
        result["past"] = is_past_header(mutant)
        print(json.dumps(result), file=answers, flush=True)


def redirect_stdout() -> TextIO:
    """Send what is printed to stderr, and return the former stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def warm_up(seeds: Path) -> SpeechToText:
    """Import, before anything is forbidden, what is imported where it is used."""
    from nanos2t.fast import optimise  # noqa: F401
    from nanos2t.inspection import info, parity  # noqa: F401

    stt = nanos2t.load(seeds / "json")
    for base in ("bert", "gpt2", "mbart", "s2t"):
        nanos2t.load(seeds / base).transcribe(SOUND, sample_rate=8000)
    content = (seeds / "audio/01-float.wav").read_bytes()
    try_audio(Mutant("audio", "audio", "a.wav", content), seeds, stt)
    return stt


def enter_new_folder(own_folder: Path) -> None:
    folder = own_folder / "one"
    os.chdir(own_folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)


def reset_peak_megabytes() -> float:
    """Return the most memory of this process since the last call, and count anew."""
    status = Path("/proc/self/status").read_text().split()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status[status.index("VmHWM:") + 1]) / 1024


def try_mutant(mutant: Mutant, seeds: Path, stt: SpeechToText, forbidden: Forbidden) -> dict:
    """Return what became of an input: ok, refused or failed, why, and in how many seconds."""
    forbidden.clear()
    started = time.process_time()
    try:
        action = ACTIONS.get(mutant.kind, try_scene)
        why = action(mutant, seeds, stt)
        outcome = "refused" if why else "ok"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of Rust is no Exception
        outcome = "failed"
        why = traceback.format_exc()
    seconds = time.process_time() - started

    if forbidden:
        outcome = "failed"
        why = f"{list(forbidden)[:5]} {why}"
    return {"outcome": outcome, "why": why[-4000:], "seconds": round(seconds, 2)}


if __name__ == "__main__":
    main()
