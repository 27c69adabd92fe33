# pytest tests/training/test_distributed.py
"""Two processes, started by torchrun, end in the weights of one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import command_line, distance, read_weights, tiny_run

from nanos2t.training.config import TrainConfig
from nanos2t.training.run import run_training


def torchrun(
    config: TrainConfig, *more: str, program: tuple = ("-m", "nanos2t"), code: int = 0
) -> str:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [*command, *program, *command_line(config), *more]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def test_two_processes_end_in_the_weights_of_one(tmp_path: Path):
    """With dropout, layerdrop and masks, too: they follow from the batch, not the process."""
    config = tiny_run(tmp_path, dtype="float64", accumulate=4, steps=6, average=2)
    with open(config.train, "a") as file:
        file.write('{"audio": "none.wav", "text": "one"}\n')
    run_training(config)
    messages = torchrun(replace(config, output=str(tmp_path / "two")))
    assert messages.count("8 of 9 lines are used") == 2  # of train and dev, not of both processes
    for name in "last", "average":
        assert (
            distance(read_weights(tmp_path / "run", name), read_weights(tmp_path / "two", name))
            < 1e-6
        )
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("run", "two")]
    for first, second in zip(*([json.loads(line) for line in log] for log in logs), strict=True):
        for name in ("step", "loss", "dev_loss", "exact"):
            assert first.get(name) == pytest.approx(second.get(name), abs=1e-4)


@pytest.mark.slow
def test_two_processes_that_share_the_weights_end_in_those_of_one(tmp_path: Path):
    constant = {"schedule": "constant", "decay_steps": 1}
    config = tiny_run(
        tmp_path, dtype="float64", steps=7, layerdrop=0.0, best="dev_loss", **constant
    )
    run_training(replace(config, steps=9))
    config = replace(config, output=str(tmp_path / "two"), shard=True, checkpoint_activations=True)
    (tmp_path / "dies.py").write_text(
        "import sys\nfrom nanos2t.cli import main as cli\nfrom nanos2t.training import loop\n"
        "loop.train_step = None\ncli.main(sys.argv[1:])\n"
    )
    torchrun(config, program=(str(tmp_path / "dies.py"),), code=1)
    assert torch.load(tmp_path / "two" / "state.pt", weights_only=True)["step"] == 0
    torchrun(TrainConfig(), "--resume", config.output)
    torchrun(TrainConfig(), "--resume", config.output, "--steps", "9")
    assert distance(read_weights(tmp_path / "run"), read_weights(tmp_path / "two")) < 1e-6


def test_ctc_and_several_targets_train_the_encoder_and_are_not_kept(tmp_path: Path):
    """On two processes as on one; of the texts of a clip, the first alone is aligned."""
    config = tiny_run(
        tmp_path, dtype="float64", accumulate=4, steps=6, ctc=0.5, targets=2, curriculum=3
    )
    path = Path(config.train)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(row | {"language": a}) + "\n" for row in rows for a in ("en", "de"))
    )
    run_training(config)
    torchrun(replace(config, output=str(tmp_path / "two")))
    assert distance(read_weights(tmp_path / "run"), read_weights(tmp_path / "two")) < 1e-6
    assert not any("ctc" in name for name in read_weights(tmp_path / "run"))
    run_training(replace(config, output=str(tmp_path / "without"), ctc=0.0))
    states = [
        torch.load(tmp_path / name / "state.pt", weights_only=True)["module"]
        for name in ("run", "without")
    ]
    assert states[0].keys() - states[1].keys() == {"ctc.weight", "ctc.bias"}
    assert distance(read_weights(tmp_path / "run"), read_weights(tmp_path / "without")) > 1e-4
