# python -m tests.benchmarks.fuzz
"""Use damaged audio, configs, weights, tokenizers and tables, by the thousand.

Allowed is a result, a ValueError of one line, a documented exit code. Not allowed: any other
exception, a crash, more than --seconds or --megabytes, a traceback on stderr, a process or a
socket, a file elsewhere.

A worker process (fuzz_worker.py) tries one after the other; where it dies or hangs, another one
goes on after that input. Counts are printed as they come, in the end as JSON. What failed is kept
in the output folder, in `failures/`; `results.jsonl` lists there which inputs are done: the same
command goes on where it was interrupted.

With --scenes the inputs are folders of recordings, links and other things, with a command line that
reads them and writes somewhere (scenes.py). There, a recording whose words are not in the answer
and which no line names is a failure: a loss in silence (fuzz_scenes.py).
"""

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.fuzz_scenes import Scenes
from tests.benchmarks.fuzz_seeds import ROOT, build_seeds
from tests.benchmarks.mutants import SHARES, Mutant, Mutants


class Worker:
    """The process that tries inputs, and how to ask it, with an eye on its clock."""

    def __init__(self, output: Path, seed: int, scenes: bool):
        folder = output / "work"
        folder.mkdir(exist_ok=True)
        self.errors = open(output / "stderr", "a+")  # noqa: SIM115, open as long as the worker
        command = [sys.executable, "-m", "tests.benchmarks.fuzz_worker"]
        command += [str(output / "seeds"), str(seed)]
        if scenes:
            command.append("scenes")
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=folder,
            env=environment,
            text=True,
        )

    def ask(self, index: int, seconds: float) -> dict:
        """Return what became of an input, which may take some seconds of processor time."""
        self.process.stdin.write(f"{index}\n")
        self.process.stdin.flush()
        if not self.wait_for_answer(seconds):
            self.close()
            return describe_failure("hangs", seconds)
        answer = self.process.stdout.readline()
        if answer:
            return json.loads(answer)

        # Without an answer the process has died.
        code = self.process.wait()
        self.errors.seek(0)
        return describe_failure(f"the process died with {code}: {self.errors.read()[-3000:]}")

    def wait_for_answer(self, seconds: float) -> bool:
        """Return whether there is an answer, or the end of the process, in time."""
        started = time.monotonic()
        cpu_started = None
        while not select.select([self.process.stdout], [], [], 0.5)[0]:
            cpu_now = self.cpu_seconds()
            if cpu_started is None:
                cpu_started = cpu_now
            # On a busy machine the clock on the wall counts for less.
            if cpu_now - cpu_started > seconds or time.monotonic() - started > 20 * seconds:
                return False
        return True

    def cpu_seconds(self) -> float:
        """Return the processor time of the process so far, or 0 if it has ended."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.process.pid}/stat").read_text()
            fields = status.rpartition(") ")[2].split()
            user_ticks, system_ticks = fields[11:13]
            return (int(user_ticks) + int(system_ticks)) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def describe_failure(why: str, seconds: float = 0) -> dict:
    """Return the result of an input for which the worker gave none."""
    return {"outcome": "failed", "why": why, "seconds": seconds, "megabytes": 0, "past": True}


def fuzz(
    output: Path,
    indices: list[int],
    seed: int,
    seconds: float,
    megabytes: float,
    scenes: bool,
) -> Iterator[dict]:
    """Yield the result of each input, tried now or before. Failures are kept."""
    # Seeds that were interrupted while they were written are written again.
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "seeds").exists():
        build_seeds(output / "half")
        (output / "half").rename(output / "seeds")
    mutants = Scenes(seed) if scenes else Mutants(output / "seeds", seed)
    log = output / "results.jsonl"
    results_before = read_results(log)

    worker = None
    with open(log, "a") as results:
        for index in indices:
            if index in results_before:
                yield results_before[index]
                continue
            if worker is None or worker.process.poll() is not None:
                worker = Worker(output, seed, scenes)
                worker.ask(-1, 600)  # what it imports does not count

            # Try the input, and check what it took.
            mutant = mutants[index]
            result = worker.ask(index, seconds)
            is_too_much = result["seconds"] > seconds or result["megabytes"] > megabytes
            if result["outcome"] != "failed" and is_too_much:
                result["outcome"] = "failed"
                result["why"] = f"too long or too large: {result['why']}"

            # Write the result before the next input: the worker may take the machine down.
            file = f"{mutant.base}/{mutant.file}"
            result = {"index": index, "kind": mutant.kind, "file": file, **result}
            if result["outcome"] == "failed":
                keep_failure(output / "failures" / str(index), mutant, result)
            print(json.dumps(result), file=results, flush=True)
            yield result
    if worker:
        worker.close()


def read_results(log: Path) -> dict[int, dict]:
    """Return the results of earlier runs by their index."""
    if not log.exists():
        return {}
    results = [json.loads(line) for line in log.read_text().splitlines()]
    return {result["index"]: result for result in results}


def keep_failure(folder: Path, mutant: Mutant, result: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mutant.file).write_bytes(mutant.content)
    (folder / "why.txt").write_text(f"{mutant.kind} {mutant.base}\n{result['why']}\n")


def summarise(results: list[dict]) -> dict:
    """Return counts, by kind and of all, the most seconds and megabytes, and what failed."""
    summary = {}
    for kind in [*SHARES, "scene", "all"]:
        own_results = [result for result in results if kind in (result["kind"], "all")]
        counts = Counter(result["outcome"] for result in own_results)
        summary[kind] = {
            "inputs": len(own_results),
            "past_header": sum(result["past"] for result in own_results),
            "ok": counts["ok"],
            "refused": counts["refused"],
            "failed": counts["failed"],
        }
    summary["most"] = {
        key: max((result[key] for result in results), default=0) for key in ("seconds", "megabytes")
    }
    summary["failures"] = [r["index"] for r in results if r["outcome"] == "failed"]
    return summary


def parse_options() -> argparse.Namespace:
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
        "--scenes",
        action="store_true",
        help="folders, links, outputs and options, in place of damaged files",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/fuzz"), help="default: %(default)s"
    )
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    output = options.output.absolute()
    indices = list(range(options.first, options.first + options.inputs))
    results = []
    limits = (options.seconds, options.megabytes)
    for result in fuzz(output, indices, options.seed, *limits, options.scenes):
        results.append(result)
        if result["outcome"] == "failed":
            last_line = result["why"].strip().splitlines()[-1][:200]
            print(f"{result['index']} {result['file']}: {last_line}", flush=True)
        if len(results) % 100 == 0:
            counts = summarise(results)["all"]
            print(" ".join(f"{name} {count}" for name, count in counts.items()), flush=True)

    summary = summarise(results)
    print(json.dumps(summary))
    is_shallow = summary["all"]["past_header"] < len(results) / 2
    return 1 if summary["failures"] or is_shallow else 0


if __name__ == "__main__":
    sys.exit(main())
