# python -m tests.benchmarks.fuzz
"""Damaged audio, configs, weights, tokenizers and tables, by the thousand: what does nanos2t do
with them?

Allowed is a result, a ValueError of one line, a documented exit code. Not allowed: any other
exception, a crash, more than --seconds or --megabytes, a traceback on stderr, a process or a
socket, a file elsewhere.

A worker process does one after the other; where it dies or hangs, another goes on behind. Counts
are printed as they come, in the end as JSON. What failed is kept in the output folder, in
`failures/`; `results.jsonl` says there which inputs are done: the same command goes on where it was
interrupted.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nanos2t import remap_config
from tests.benchmarks.forbidden import Forbidden
from tests.benchmarks.mutants import ROOT, SHARES, Mutant, Mutants, build, is_past_header

SOUND = (0.2 * np.sin(np.arange(5000) ** 1.3 / 90)).astype(np.float32)


class Wrong(Exception):
    """The contract is broken in a way that is no exception of itself."""


def refused(call: Callable, *arguments: object, **more: object) -> str:
    """The ValueError of a call, "" for none; it must be one line."""
    try:
        call(*arguments, **more)
    except ValueError as error:
        if (
            "\n" in str(error).strip()
            or not str(error).strip()
            or type(error).__module__ not in ("builtins", "json.decoder")
        ):
            raise Wrong(f"not one line: {type(error)} {str(error)[:300]!r}") from error
        return str(error)
    return ""


def command(*arguments: object, codes: tuple[int, ...]) -> None:
    """A command line, in this process: its exit code must be one of these, what it says must fit.
    """
    from nanos2t.cli import main as cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([*map(str, arguments)])
    said = [
        line
        for line in err.getvalue().splitlines()
        if line.startswith("nanos2t: ") and "warning" not in line
    ]
    if code not in codes or len(said) != (code != 0) or "Traceback" in err.getvalue():
        raise Wrong(f"exit {code}, expected {codes}: {arguments[0]} said {err.getvalue()[-400:]!r}")


def do_audio(mutant: Mutant, seeds: Path, stt) -> str:

    path = Path(f"in{Path(mutant.file).suffix}")
    path.write_bytes(mutant.content)
    problem = refused(stt.transcribe, path, words=True)
    if problem and not problem.startswith(str(path)):
        raise Wrong(f"does not name the file: {problem}")
    if bool(problem) != bool(refused(stt.transcribe, mutant.content)):
        raise Wrong("from memory it is another thing")
    import nanos2t

    nanos2t.load, load = lambda *_, **__: stt, nanos2t.load
    try:
        command("transcribe", path, "--output", "out", "--format", "json", codes=(bool(problem),))
    finally:
        nanos2t.load = load
    if not problem:
        json.loads(Path("out/in.json").read_text())
    return problem


def do_model(mutant: Mutant, seeds: Path, stt) -> str:
    """Load it, let it hear and align, then the command line."""
    import nanos2t
    from nanos2t.transcription import forced_alignment

    for path in (seeds / mutant.base).iterdir():
        os.symlink(path, path.name)
    os.unlink(mutant.file)
    Path(mutant.file).write_bytes(mutant.content)
    found = []
    problem = refused(lambda: found.append(nanos2t.load(os.getcwd())))
    if not problem:
        [stt] = found
        language = stt.languages[0] if stt.languages else None
        problem = refused(stt.transcribe, SOUND, sample_rate=8000, words=True)
        problem = problem or refused(
            stt.transcribe, SOUND, sample_rate=8000, num_beams=2, language=language
        )
        text = "w7 the <s> größer"
        refused(forced_alignment.align_text, stt, np.tile(SOUND, 2), text, language)
    audio = seeds / "audio/00-pcm_16.wav"
    failed = bool(found) and bool(refused(found[0].transcribe, audio))
    if len(mutant.content) % 4 == 1:
        command("info", os.getcwd(), "--map", codes=(0, 3))  # reads the weights only
    elif len(mutant.content) % 4 == 3:
        command("info", os.getcwd(), codes=(0 if found else 3,))
    else:
        codes = (3,) if not found else (1, 3) if failed else (0,)
        command("transcribe", audio, "--model", os.getcwd(), "--quiet", codes=codes)
    return problem


def do_table(mutant: Mutant, seeds: Path, stt) -> str:
    """Read it, then use it both ways on what the real table fits."""
    from nanos2t import remap

    if problem := refused(remap.parse_table, mutant.content.decode("utf-8", "replace")):
        return problem
    table, real = (
        remap.parse_table(mutant.content.decode("utf-8", "replace")),
        remap.read_table(mutant.file[:-4]),
    )
    problem = refused(
        remap_config.read_config,
        table.config,
        remap_config.write_config(real.config, remap_config.read_config(real.config, {})),
    )
    problem = problem or refused(
        remap_config.write_config, table.config, remap_config.read_config(real.config, {})
    )
    part = "encoder" if real.part == "encoder" else "decoder"
    ours = {
        name.removeprefix(f"{part}."): value
        for name, value in stt.model.state_dict().items()
        if name.startswith(part)
    }
    problem = problem or refused(remap.export_state, table.tensors, ours)
    return problem or refused(remap.import_state, table.tensors, dict(list(ours.items())[:5]), ours)


DO = {
    "audio": do_audio,
    "config": do_model,
    "weights": do_model,
    "tokenizer": do_model,
    "table": do_table,
}


# the worker


def peak_megabytes() -> float:
    """The most memory of this process since the last call, then counted anew."""
    status = Path("/proc/self/status").read_text().split()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status[status.index("VmHWM:") + 1]) / 1024


def attempt(mutant: Mutant, seeds: Path, stt, forbidden: Forbidden) -> dict:
    """What became of it: ok, refused or failed, why, how long, how much memory."""
    forbidden.clear()
    started, outcome, why = time.process_time(), "ok", ""
    try:
        why = DO[mutant.kind](mutant, seeds, stt)
        outcome = "refused" if why else "ok"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of Rust is no Exception
        outcome, why = "failed", traceback.format_exc()
    seconds = time.process_time() - started
    if forbidden:
        outcome, why = "failed", f"{list(forbidden)[:5]} {why}"
    return {"outcome": outcome, "why": why[-4000:], "seconds": round(seconds, 2)}


def work(seeds: Path, seed: int) -> None:
    """Indices on stdin -> a line of JSON for each on the former stdout. Runs in a folder of its
    own.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, 8 << 30),
        (resource.RLIMIT_FSIZE, 1 << 28),
    ):
        resource.setrlimit(limit, (most, most))
    import torch

    import nanos2t
    from nanos2t.fast import optimise  # noqa: F401
    from nanos2t.inspection import info, parity  # noqa: F401
    from nanos2t.transcription import alignment, forced_alignment  # noqa: F401

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    here, mutants, stt = Path.cwd(), Mutants(seeds, seed), nanos2t.load(seeds / "json")
    for base in ("bert", "gpt2", "mbart", "s2t"):
        nanos2t.load(seeds / base).transcribe(SOUND, sample_rate=8000)
    do_audio(
        Mutant("audio", "audio", "a.wav", (seeds / "audio/01-float.wav").read_bytes()), seeds, stt
    )
    forbidden = Forbidden(here)
    for line in sys.stdin:
        os.chdir(here)
        shutil.rmtree(here / "one", ignore_errors=True)
        (here / "one").mkdir()
        os.chdir(here / "one")
        sys.stderr.flush()
        os.ftruncate(2, 0)
        peak_megabytes()
        mutant = mutants[int(line)]
        found = attempt(mutant, seeds, stt, forbidden) if int(line) >= 0 else {}
        found |= {"megabytes": round(peak_megabytes())}
        said = Path("/proc/self/fd/2").read_text(errors="replace")
        if "Traceback" in said:
            found |= {"outcome": "failed", "why": f"a traceback on stderr: {said[-2000:]}"}
        print(json.dumps(found | {"past": is_past_header(mutant)}), file=answers, flush=True)


# the parent


class Worker:
    """The process, and how to ask it, with an eye on its clock."""

    def __init__(self, output: Path, seed: int):
        self.folder = output / "work"
        self.folder.mkdir(exist_ok=True)
        self.errors = open(output / "stderr", "a+")
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.fuzz",
            "--worker",
            str(output / "seeds"),
            "--seed",
            str(seed),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, **pipes
        )

    def ask(self, index: int, seconds: float) -> dict:
        self.process.stdin.write(f"{index}\n")
        self.process.stdin.flush()
        first, started = None, time.monotonic()
        while not select.select([self.process.stdout], [], [], 0.5)[0]:
            first = self.cpu_seconds() if first is None else first
            if self.cpu_seconds() - first > seconds or time.monotonic() - started > 20 * seconds:
                self.close()
                return {
                    "outcome": "failed",
                    "why": "hangs",
                    "seconds": seconds,
                    "megabytes": 0,
                    "past": True,
                }
        if answer := self.process.stdout.readline():
            return json.loads(answer)
        code = self.process.wait()
        self.errors.seek(0)
        why = f"the process died with {code}: {self.errors.read()[-3000:]}"
        return {"outcome": "failed", "why": why, "seconds": 0, "megabytes": 0, "past": True}

    def cpu_seconds(self) -> float:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def fuzz(
    output: Path, indices: list[int], seed: int, seconds: float, megabytes: float
) -> Iterator[dict]:
    """The inputs that are not done, one by one; failures are kept."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "seeds").exists():
        build(output / "half")
        (output / "half").rename(output / "seeds")
    log, worker, mutants = output / "results.jsonl", None, Mutants(output / "seeds", seed)
    done = (
        {found["index"]: found for found in map(json.loads, log.read_text().splitlines())}
        if log.exists()
        else {}
    )
    with open(log, "a") as results:
        for index in indices:
            if index in done:
                yield done[index]
                continue
            if worker is None or worker.process.poll() is not None:
                worker = Worker(output, seed)
                worker.ask(-1, 600)  # what it imports does not count
            mutant, found = mutants[index], worker.ask(index, seconds)
            if found["outcome"] != "failed" and (
                found["seconds"] > seconds or found["megabytes"] > megabytes
            ):
                found |= {"outcome": "failed", "why": f"too long or too large: {found['why']}"}
            found = {
                "index": index,
                "kind": mutant.kind,
                "file": f"{mutant.base}/{mutant.file}",
                **found,
            }
            if found["outcome"] == "failed":
                keep(output / "failures" / str(index), mutant, found)
            print(json.dumps(found), file=results, flush=True)
            yield found
    if worker:
        worker.close()


def keep(folder: Path, mutant: Mutant, found: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mutant.file).write_bytes(mutant.content)
    (folder / "why.txt").write_text(f"{mutant.kind} {mutant.base}\n{found['why']}\n")


def summary(found: list[dict]) -> dict:
    """Counts, of all and by kind."""
    rows = {}
    for kind in [*SHARES, "all"]:
        some = [one for one in found if kind in (one["kind"], "all")]
        counts = Counter(one["outcome"] for one in some)
        past = sum(one["past"] for one in some)
        rows[kind] = {
            "inputs": len(some),
            "past_header": past,
            **{name: counts[name] for name in ("ok", "refused", "failed")},
        }
    most = {key: max((one[key] for one in found), default=0) for key in ("seconds", "megabytes")}
    return {
        **rows,
        "most": most,
        "failures": [one["index"] for one in found if one["outcome"] == "failed"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        help="of processor time, for one; default: %(default)s",
    )
    parser.add_argument(
        "--megabytes", type=float, default=2000.0, help="of the process; default: %(default)s"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/fuzz"), help="default: %(default)s"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.seed)
        return 0
    found, indices = [], list(range(options.first, options.first + options.inputs))
    for one in fuzz(
        options.output.absolute(), indices, options.seed, options.seconds, options.megabytes
    ):
        found.append(one)
        if one["outcome"] == "failed":
            print(
                f"{one['index']} {one['file']}: {one['why'].strip().splitlines()[-1][:200]}",
                flush=True,
            )
        if len(found) % 100 == 0:
            counts = summary(found)["all"]
            print(" ".join(f"{name} {count}" for name, count in counts.items()), flush=True)
    counts = summary(found)
    print(json.dumps(counts))
    return 1 if counts["failures"] or counts["all"]["past_header"] < len(found) / 2 else 0


if __name__ == "__main__":
    sys.exit(main())
