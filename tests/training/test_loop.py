# pytest tests/test_train.py
"""Training: its laws, transformers' weights after ten steps, the same after a kill and on two processes."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.pairs import DECODERS, ENCODERS, pair_of
from helpers.training import RATE, config_folder, config_of, corpus
from safetensors.torch import load_file
from torch import nn

import nanos2t
from nanos2t import pretrained, remap
from nanos2t.cli import main as cli
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.training import data as train_data
from nanos2t.training import loop as train
from nanos2t.training import manifest
from nanos2t.training import start as train_start
from nanos2t.training import state as train_state
from nanos2t.training.loop import TrainConfig


def test_learning_rate_is_a_trapezoid():
    config = TrainConfig(
        steps=100, learning_rate=2.0, warmup_steps=10, decay_steps=20, schedule="constant"
    )
    rates = [train.learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[50] == rates[80] == 2.0
    assert rates[90] == pytest.approx(1.0) and rates[99] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[80:] == sorted(rates[80:], reverse=True)


def test_learning_rate_is_linear_or_a_cosine_as_in_transformers():
    schedules = pytest.importorskip("transformers.optimization")
    for name, make in (
        ("linear", schedules.get_linear_schedule_with_warmup),
        ("cosine", schedules.get_cosine_schedule_with_warmup),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        theirs = make(optimizer, 10, 100)
        config = TrainConfig(steps=100, learning_rate=2.0, warmup_steps=10, schedule=name)
        for step in range(100):
            if step >= 10:  # in the warm-up, transformers is a step behind, and so begins with 0
                assert train.learning_rate(step, config) == pytest.approx(
                    optimizer.param_groups[0]["lr"]
                )
            optimizer.step()
            theirs.step()
        assert [train.learning_rate(step, config) for step in (0, 4)] == pytest.approx([0.2, 1.0])
        assert train.learning_rate(0, replace(config, warmup_steps=0)) == 2.0


def test_only_matrices_decay():
    module = nn.ModuleDict(
        {"linear": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "frozen": nn.Linear(2, 2)}
    )
    module["frozen"].requires_grad_(False)
    module.gain = nn.Parameter(torch.ones(1, 1, 5))
    decay, rest = train.decay_groups(module, 0.1)
    assert decay["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert [tuple(parameter.shape) for parameter in decay["params"]] == [(4, 3)]
    assert sorted(tuple(parameter.shape) for parameter in rest["params"]) == [
        (1, 1, 5),
        (4,),
        (4,),
        (4,),
    ]


CONFIG = {
    "steps": 12,
    "warmup_steps": 2,
    "decay_steps": 3,
    "save_every": 4,
    "validate_every": 6,
    "bfloat16": False,
    "schedule": "constant",
}


def toy(steps: int, folder: Path, die_at: int = -1) -> torch.Tensor:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Linear(6, 1))

    def losses(step: int):
        if step == die_at:
            os._exit(9)
        generator = torch.Generator().manual_seed(step)
        for _ in range(2):
            yield module(torch.randn(4, 5, generator=generator)).square().mean() / 2

    train.train(
        module, losses, TrainConfig(**(CONFIG | {"steps": steps})), folder, lambda: {"exact": 0.5}
    )
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path):
    whole = toy(12, tmp_path / "whole")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from training import test_loop as test_train; "
    )
    code += f"test_train.toy(12, test_train.Path({str(tmp_path / 'killed')!r}), die_at=10)"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 9
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] == 8
    assert torch.equal(toy(12, tmp_path / "killed"), whole)


def test_the_log_has_a_line_of_metrics(tmp_path: Path):
    toy(12, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 10, 12] and lines[0]["exact"] == 0.5
    assert all(line["loss"] > 0 for line in lines)


def test_a_gradient_that_is_not_finite_stops_with_the_last_state_kept(tmp_path: Path):
    module = nn.Linear(2, 1)

    def losses(step: int):
        yield module(torch.ones(1, 2)).sum() * (torch.nan if step == 5 else 1.0)

    with pytest.raises(ValueError, match="step 6: loss nan"):
        train.train(module, losses, TrainConfig(**CONFIG), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 4 and state["module"]["weight"].isfinite().all()


# From manifests


def tiny(folder: Path, **more) -> TrainConfig:
    """A run of twelve steps, with all that is drawn: dropouts, layerdrop, masks, speed, noise."""
    if not (folder / "data").exists():
        corpus(folder / "data", languages=("en", "de"))
        config_folder(folder / "model")
    options = {
        "steps": 12,
        "accumulate": 2,
        "batch_seconds": 0.8,
        "save_every": 4,
        "validate_every": 4,
    }
    options |= {
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "speed": 0.1,
        "noise": 0.5,
        "best": "exact",
    }
    data = folder / "data" / "a.jsonl"
    return config_of(folder / "model", data, **({"dev": str(data), **options} | more))


def flags(config: TrainConfig) -> list[str]:
    given = {
        name: value for name, value in vars(config).items() if value != getattr(TrainConfig, name)
    }
    words = [
        [f"--{name}", str(value)] if value is not True else [f"--{name}"]
        for name, value in given.items()
    ]
    return [
        "train",
        *(word.replace("_", "-") if word[:2] == "--" else word for pair in words for word in pair),
    ]


def weights(folder: str | Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / name / "model.safetensors")


def of_model(module: dict) -> dict[str, torch.Tensor]:
    """The model's weights among those of a Learner."""
    return {name[6:]: value for name, value in module.items() if name.startswith("model.")}


def distance(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped: its config, its folder."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny(folder, average=2)
    train.run_training(config)
    return config, folder


def test_a_run_leaves_models_and_what_they_were_made_with(whole):
    config, folder = whole
    output = folder / "run"
    assert TrainConfig(**json.loads((output / "train.json").read_text())) == config
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 10, 12]
    assert all(
        "dev_loss" in line and 0 <= line["exact"] <= 1 for line in lines if line["step"] != 10
    )
    assert all(line["loss"] > 0 and line["tokens_per_second"] > 0 for line in lines)
    assert lines[-1]["dev_loss"] < lines[0]["dev_loss"]
    for name in ("best", "last", "average"):
        stt = nanos2t.load(output / name)
        assert stt.languages == ("en", "de") and stt.sample_rate == RATE
        assert isinstance(stt.transcribe(folder / "data" / "0.wav", language="de").text, str)
    state = torch.load(output / "state.pt", weights_only=True)
    assert (
        distance(of_model(state["module"]), nanos2t.load(output / "last").model.state_dict()) == 0
    )
    states = [
        torch.load(output / f"state-{step}.pt", weights_only=True)["module"] for step in (8, 12)
    ]
    mean = of_model({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    assert distance(mean, nanos2t.load(output / "average").model.state_dict()) < 1e-7
    hf = pytest.importorskip("transformers")
    theirs, report = hf.SpeechEncoderDecoderModel.from_pretrained(
        output / "last", output_loading_info=True
    )
    assert (
        not report["missing_keys"]
        and not report["unexpected_keys"]
        and theirs.config.decoder.vocab_size < 41
    )


@pytest.mark.parametrize("step", [1, 7, 10])
def test_a_run_that_is_killed_and_resumed_ends_in_the_same_bits(whole, step, tmp_path: Path):
    config = tiny(tmp_path, average=2, workers=step % 2)
    code = "import os, sys; from nanos2t.cli import main as cli; from nanos2t.training import loop as train; real = train.train_step\n"
    code += f"def update(*a):\n    os.kill(os.getpid(), 9) if a[4] == {step} else 0\n    return real(*a)\n"
    code += "train.train_step = update; cli.main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *flags(config)], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    with open(tmp_path / "run" / "log.jsonl", "a") as log:
        log.write('{"step": 11, "loss": 3}\n{"step": 12, "lo')
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0
    for name in ("last", "best", "average"):
        assert distance(weights(whole[1] / "run", name), weights(tmp_path / "run", name)) == 0
    lines = [
        (folder / "run" / "log.jsonl").read_text().splitlines() for folder in (whole[1], tmp_path)
    ]
    first, second = (
        [(row["step"], row["loss"]) for row in map(json.loads, part)] for part in lines
    )
    assert first == second


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_that_is_asked_to_stop_saves_its_step(whole, name, tmp_path: Path):
    config = tiny(tmp_path, average=2, workers=1)
    code = "import os, signal, sys; from nanos2t.cli import main as cli; from nanos2t.training import loop as train; real = train.train_step\n"
    code += f"def update(*a):\n    os.kill(os.getpid(), signal.{name}) if a[4] == 6 else 0\n    return real(*a)\n"
    code += "train.train_step = update; raise SystemExit(cli.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *flags(config)], capture_output=True, text=True
    )
    assert done.returncode == cli.INTERRUPTED, done.stderr
    assert f"step 7 is saved, go on with --resume {config.output}" in done.stderr
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 7
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0
    for folder in ("last", "best", "average"):
        assert distance(weights(whole[1] / "run", folder), weights(tmp_path / "run", folder)) == 0


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
    words = [*command, *program, *flags(config), *more]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    return done.stderr


def test_two_processes_end_in_the_weights_of_one(tmp_path: Path):
    """With dropout, layerdrop and masks, too: what is drawn belongs to the batch, not to the process."""
    config = tiny(tmp_path, dtype="float64", accumulate=4, steps=6, average=2)
    with open(config.train, "a") as file:
        file.write('{"audio": "none.wav", "text": "one"}\n')
    train.run_training(config)
    said = torchrun(replace(config, output=str(tmp_path / "two")))
    assert said.count("8 of 9 lines are used") == 2  # of train and dev, not of both processes
    for name in "last", "average":
        assert distance(weights(tmp_path / "run", name), weights(tmp_path / "two", name)) < 1e-6
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("run", "two")]
    for first, second in zip(*([json.loads(line) for line in log] for log in logs), strict=True):
        for name in ("step", "loss", "dev_loss", "exact"):
            assert first.get(name) == pytest.approx(second.get(name), abs=1e-4)


@pytest.mark.slow
def test_two_processes_that_share_the_weights_end_in_those_of_one(tmp_path: Path):
    constant = {"schedule": "constant", "decay_steps": 1}
    config = tiny(tmp_path, dtype="float64", steps=7, layerdrop=0.0, best="dev_loss", **constant)
    train.run_training(replace(config, steps=9))
    config = replace(config, output=str(tmp_path / "two"), shard=True)
    (tmp_path / "dies.py").write_text(
        "import sys; from nanos2t.cli import main as cli; from nanos2t.training import loop as train; train.train_step = None; cli.main(sys.argv[1:])"
    )
    torchrun(config, program=(str(tmp_path / "dies.py"),), code=1)
    assert torch.load(tmp_path / "two" / "state.pt", weights_only=True)["step"] == 0
    torchrun(TrainConfig(), "--resume", config.output)
    torchrun(TrainConfig(), "--resume", config.output, "--steps", "9")
    assert distance(weights(tmp_path / "run"), weights(tmp_path / "two")) < 1e-6


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path: Path, monkeypatch):
    config, real = tiny(tmp_path, average=2), torch.save

    def save(state, file):
        if state["step"] == 8:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ValueError, match="state.pt: can not be written .*No space left"):
        train.run_training(config)
    monkeypatch.undo()
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 4
    assert not list((tmp_path / "run").glob("*.part")) and nanos2t.load(tmp_path / "run" / "last")
    assert cli.main(["train", "--resume", config.output]) == 0
    assert distance(weights(whole[1] / "run"), weights(tmp_path / "run")) == 0


def test_a_disk_that_is_full_at_the_first_save_leaves_a_folder_to_begin_in(
    tmp_path: Path, monkeypatch
):
    config = tiny(tmp_path)

    def save(state, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ValueError, match="state.pt: can not be written .No space left"):
        train.run_training(config)
    monkeypatch.undo()
    (tmp_path / "run" / "vocab.txt").write_text("of another decoder")
    train.run_training(config)
    assert (tmp_path / "run" / "state.pt").exists() and not (
        tmp_path / "run" / "vocab.txt"
    ).exists()
    (tmp_path / "run" / "state.pt").unlink()  # a model that is trained is never written over
    with pytest.raises(ValueError, match="there is a run"):
        train.run_training(config)


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path: Path):
    module, kept = torch.nn.Linear(1, 1), []
    config = TrainConfig(steps=4, validate_every=1, save_every=4)
    found = iter([math.nan, 2.0, math.inf, 1.0])

    def losses_of(step: int):
        yield module(torch.ones(1)).sum()

    def keep(name: str, weights: dict) -> None:
        kept.append(name)

    train.train(module, losses_of, config, tmp_path, lambda: {"dev_loss": next(found)}, keep)
    assert kept == ["last", "best", "best", "last"]


def test_numbers_that_are_not_finite_stop_with_the_batch_and_its_files(tmp_path: Path, capsys):
    config = tiny(
        tmp_path,
        learning_rate=1e35,
        warmup_steps=0,
        best="dev_loss",
        validate_every=50,
        save_every=1,
    )
    assert cli.main(flags(config)) == cli.FAILED
    said = capsys.readouterr().err
    assert "gradient norm nan: the last state is kept. batch " in said and ".wav" in said
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert f"step {state['step'] + 1}:" in said


def test_a_recording_that_is_gone_stops_with_its_name(tmp_path: Path, monkeypatch, capsys):
    config, real = tiny(tmp_path), train_data.select_examples

    def examples(*arguments, **more):
        found = real(*arguments, **more)
        with suppress(FileNotFoundError):
            (tmp_path / "data" / "2.wav").unlink()
        return found

    monkeypatch.setattr(train_data, "select_examples", examples)
    config = replace(config, dev=None, workers=1)
    assert cli.main(flags(config)) == cli.FAILED
    assert "2.wav: No such file" in capsys.readouterr().err


def test_what_is_skipped_is_counted_and_listed(tmp_path: Path, caplog):
    config = tiny(tmp_path, steps=1)
    path = Path(config.train)
    path.write_text(path.read_text() + '{"audio": "none.wav", "text": "one"}\n')
    train.run_training(config)
    assert "a.jsonl: 8 of 9 lines are used" in caplog.text
    listed = (tmp_path / "run" / "skipped.txt").read_text()
    assert listed.count("none.wav: No such file") == 1 and "item 9" in listed
    path.write_text('{"audio": "none.wav", "text": "one"}\n')
    with pytest.raises(
        ValueError, match="a.jsonl: no line can be trained on, the first: .*none.wav"
    ):
        train.run_training(replace(config, output=str(tmp_path / "other")))


def test_a_damaged_recording_is_skipped_while_the_run_goes_on(tmp_path: Path, caplog, capsys):
    config = tiny(tmp_path, workers=1)
    path = Path(config.train).parent / "2.wav"
    sound, rate = soundfile.read(path)
    sound[20] = np.inf
    soundfile.write(path, sound, rate, subtype="FLOAT")
    dev = path.with_name("dev.jsonl")
    dev.write_text(Path(config.train).read_text())
    train.run_training(replace(config, dev=str(dev)))
    assert caplog.text.count("skipped: " + str(path)) == 1
    assert f"{dev}: 7 of 8 lines are used" in caplog.text
    listed = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert listed[0].startswith(f"{dev}: skipped: item 3, ")
    reason = "expected finite samples, found NaN or infinity"
    assert listed[1:] == [f"{config.train}: damaged, skipped: {path}: {reason}"]
    assert cli.main(["train", "--resume", config.output]) == 0  # is done: draws nothing
    assert (tmp_path / "run" / "skipped.txt").read_text().splitlines() == listed
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 12


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"shard": True, "ctc": 0.1}, "--shard: expected several processes"),
        ({"device": "cuda:99"}, "device is 'cuda:99'"),
        ({"dev": "none.jsonl"}, "none.jsonl: No such file"),
        ({"model": "./none"}, "none: no such folder"),
        (
            {"average": 5},
            "--average is 5, expected 3 at most: so many states are saved in 12 steps",
        ),
    ],
)
def test_what_a_run_refuses(tmp_path: Path, more, reason):
    with pytest.raises(ValueError, match=reason):
        train.run_training(tiny(tmp_path, **more))


def test_a_run_is_not_begun_twice(whole, tmp_path: Path):
    with pytest.raises(ValueError, match="there is a run, go on with --resume"):
        train.run_training(whole[0])
    assert cli.main(["train", "--resume", str(tmp_path)]) == cli.USAGE


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path):
    config = tiny(tmp_path)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    before = contents(tmp_path)
    for output in (tmp_path / "model", tmp_path / "data"):
        with pytest.raises(
            ValueError, match=f"{output}: not empty, expected a new folder for the run"
        ):
            train.run_training(replace(config, output=str(output)))
    assert contents(tmp_path) == before


def test_a_run_that_died_before_its_first_state_can_begin_again(whole, tmp_path: Path, monkeypatch):
    config, real = tiny(tmp_path, average=2), train_state.save_state
    monkeypatch.setattr(
        train_state, "save_state", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        train.run_training(config)
    with pytest.raises(
        ValueError, match="run: no state.pt to go on from, expected to begin without"
    ):
        train.run_training(config, resumed=True)
    monkeypatch.setattr(train_state, "save_state", real)
    train.run_training(config)
    assert distance(weights(whole[1] / "run"), weights(tmp_path / "run")) == 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"/data/1") + 100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("state.pt", Path.unlink, "no state.pt"),
        ("state.pt", lambda path: path.write_bytes(b""), "state.pt: .*expected the state of a run"),
        (
            "state.pt",
            lambda path: path.write_bytes(b"x" * 999),
            "state.pt: .*expected the state of a run",
        ),
        (
            "state.pt",
            lambda path: path.write_bytes(path.read_bytes()[:-999]),
            "expected the state of a run",
        ),
        ("state.pt", flip, "state.pt: the checksum of .*data/1 is wrong"),
        ("state.pt", lambda path: torch.save({"a": 1}, path), "state.pt: something else was found"),
        ("state.pt", lambda path: torch.save([1], path), "state.pt: something else was found"),
        (
            "log.jsonl",
            lambda path: path.write_text('{"loss": 1}\n'),
            "log.jsonl: KeyError.*with its step",
        ),
        (
            "log.jsonl",
            lambda path: path.write_text("{}}\n"),
            "log.jsonl: JSONDecodeError.*with its step",
        ),
        ("last/config.json", Path.unlink, "last/config.json"),
    ],
)
def test_what_a_run_goes_on_from_is_checked(whole, tmp_path: Path, name, spoil, reason):
    shutil.copytree(whole[1] / "run", tmp_path / "run")
    spoil(tmp_path / "run" / name)
    with pytest.raises(ValueError, match=reason):
        train.run_training(replace(whole[0], output=str(tmp_path / "run"), steps=14), resumed=True)


def test_a_run_does_not_go_on_to_fewer_steps_or_with_other_weights(whole, tmp_path: Path):
    shutil.copytree(whole[1] / "run", tmp_path / "run")
    config, before = (
        replace(whole[0], output=str(tmp_path / "run"), steps=14),
        contents(tmp_path / "run"),
    )
    with pytest.raises(ValueError, match="state.pt: 12 steps are done, expected --steps to be as"):
        train.run_training(replace(config, steps=8), resumed=True)
    with pytest.raises(
        ValueError, match="state.pt: not of this model .*ctc.weight.*the run began with"
    ):
        train.run_training(replace(config, ctc=0.5), resumed=True)
    assert contents(tmp_path / "run") == before


def test_a_resumed_run_has_the_weight_decay_and_the_metric_that_are_asked_for(
    whole, tmp_path: Path
):
    for name in "same", "more":
        shutil.copytree(whole[1] / "run", tmp_path / name)
        config = replace(whole[0], output=str(tmp_path / name), steps=13, average=1)
        more = {"weight_decay": 50.0, "best": "dev_loss"} if name == "more" else {}
        train.run_training(replace(config, **more), resumed=True)
    states = [
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("same", "more")
    ]
    assert [[*state["best"]] for state in states] == [["exact"], ["dev_loss"]]
    found = [group["weight_decay"] for group in states[1]["optimizer"]["param_groups"]]
    assert found == [50.0, 0.0]
    assert distance(weights(tmp_path / "same"), weights(tmp_path / "more")) > 1e-5


def test_gradients_are_cut_or_left_alone():
    module = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(module.parameters(), 0.0)
    for limit, wanted in ((1.0, 1.0), (0.0, 12.0)):
        config = TrainConfig(max_grad_norm=limit)
        train.train_step(
            module, optimizer, lambda step: [module(torch.ones(3)).sum() * 6], config, 1, lambda: ()
        )
        norm = torch.cat([parameter.grad.flatten() for parameter in module.parameters()]).norm()
        assert norm.item() == pytest.approx(wanted, rel=1e-4)


def test_a_run_can_be_made_longer(tmp_path: Path):
    train.run_training(tiny(tmp_path, steps=4))
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--steps", "6"]) == 0
    assert json.loads((tmp_path / "run" / "train.json").read_text())["steps"] == 6
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 6


@pytest.mark.parametrize(
    "more",
    [
        {"checkpoint_activations": True},
        {"bfloat16": True},
        {"label_smoothing": 0.2},
        {"average": 1},
    ],
)
def test_options_of_computing(whole, tmp_path: Path, more):
    """Activations computed again give the same bits; bfloat16 and smoothing do not, but learn."""
    config = tiny(tmp_path, **more)
    train.run_training(config)
    if "checkpoint_activations" in more or "average" in more:
        assert distance(weights(whole[1] / "run"), weights(tmp_path / "run")) < 1e-6
    else:
        assert 1e-5 < distance(weights(whole[1] / "run"), weights(tmp_path / "run")) < 0.1


def test_a_frozen_feature_encoder_stays(tmp_path: Path):
    train.run_training(tiny(tmp_path, steps=3, freeze_feature_encoder=True, save_every=1))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    start = tiny(tmp_path / "again", steps=3)
    train.run_training(replace(start, steps=1, learning_rate=0.0))
    before, after = weights(tmp_path / "again" / "run"), weights(tmp_path / "run")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("feature_extractor" in name for name in moved) and state["step"] == 3


def test_ctc_and_several_targets_train_the_encoder_and_are_not_kept(tmp_path: Path):
    """On two processes as on one; of the texts of a clip, the first alone is aligned."""
    config = tiny(
        tmp_path, dtype="float64", accumulate=4, steps=6, ctc=0.5, targets=2, curriculum=3
    )
    path = Path(config.train)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(row | {"language": a}) + "\n" for row in rows for a in ("en", "de"))
    )
    train.run_training(config)
    torchrun(replace(config, output=str(tmp_path / "two")))
    assert distance(weights(tmp_path / "run"), weights(tmp_path / "two")) < 1e-6
    assert not any("ctc" in name for name in weights(tmp_path / "run"))
    train.run_training(replace(config, output=str(tmp_path / "without"), ctc=0.0))
    states = [
        torch.load(tmp_path / name / "state.pt", weights_only=True)["module"]
        for name in ("run", "without")
    ]
    assert states[0].keys() - states[1].keys() == {"ctc.weight", "ctc.bias"}
    assert distance(weights(tmp_path / "run"), weights(tmp_path / "without")) > 1e-4


# transformers


OFF = dict.fromkeys(
    (
        "hidden_dropout",
        "attention_dropout",
        "activation_dropout",
        "feat_proj_dropout",
        "layerdrop",
        "mask_time_prob",
    ),
    0.0,
)
FAMILIES = [("xls-r with adapter", "mbart")] + [
    (encoder, decoder)
    for encoder in ("base", "hubert", "unispeech", "unispeech-sat")
    for decoder in DECODERS
    if "," not in decoder
]
FEW = [("base", "bert"), ("xlsr-53", "gpt2"), ("xls-r with adapter", "mbart"), ("hubert", "bart")]


def word_pair(encoder: str, decoder: str, folder: Path):
    """transformers' pair in folder/model, with 43 words for a vocabulary, and clips with their manifest."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pytest.importorskip("transformers")
    theirs = pair_of(encoder, decoder)
    theirs.save_pretrained(folder / "model")
    words = ["<unk>", "<pad>", "<s>", "</s>", *(f"w{i}" for i in range(4, 43))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "model" / "tokenizer.json"))
    rng, rows = np.random.default_rng(3), []
    for i in range(8):
        samples = 0.3 * rng.standard_normal(int(rng.integers(150, 260)))
        soundfile.write(folder / f"{i}.wav", samples, 16000, subtype="FLOAT")
        text = " ".join(words[token] for token in rng.integers(4, 43, rng.integers(2, 5)))
        rows.append({"audio": f"{i}.wav", "text": text})
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        pair if pair in FEW else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in product(ENCODERS, DECODERS)
    ],
)
def test_ten_steps_are_those_of_transformers_and_torch(encoder, decoder, tmp_path: Path):
    """Two clips a step, each a batch: transformers' group norm and adapters would see the padding."""
    theirs = word_pair(encoder, decoder, tmp_path)
    config = TrainConfig(
        model=str(tmp_path / "model"), train=str(tmp_path / "a.jsonl"), output=str(tmp_path / "run"),
        dtype="float64", batch_seconds=0.001, accumulate=2, steps=10, warmup_steps=3, learning_rate=1e-3,
        **OFF,
    )  # fmt: skip
    train.run_training(config)
    stt = nanos2t.load(tmp_path / "model", dtype=torch.float64)
    stt.model = train_start.rebuild_model(stt.model, config, 43)  # without dropout and masks
    found, _ = train_data.select_examples(stt, manifest.read_manifest(config.train), config)
    clips = train_data.Clips(stt, found, config)
    keys = train_data.plan_batches(clips.examples, config, 0, 0, 1)
    optimizer = torch.optim.AdamW(train.decay_groups(theirs, 0.01), betas=(0.9, 0.98))
    for step in range(10):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = train.learning_rate(
            step, config
        )
        optimizer.zero_grad()
        for batch in (clips[next(keys)], clips[next(keys)]):
            labels = {"labels": batch.labels, "decoder_input_ids": batch.decoder_input_ids}
            loss = theirs(input_values=batch.input_values.double(), **labels).loss
            (loss * (batch.labels != -100).sum() / batch.total).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        if step == 0:
            same_loss_and_gradients(theirs, stt, clips, config)
        optimizer.step()
    got = SpeechEncoderDecoder.from_pretrained(tmp_path / "run" / "last", dtype=torch.float64)
    want = remap.import_state(
        pretrained.table_rows(got.families), theirs.state_dict(), stt.model.state_dict()
    )
    got, start = got.state_dict(), stt.model.state_dict()
    assert max(float((got[name] - want[name]).abs().max()) for name in got) < 1e-7
    assert max(float((got[name] - start[name]).abs().max()) for name in got) > 1e-3


def same_loss_and_gradients(theirs, stt, clips, config: TrainConfig) -> None:
    """The gradients of transformers' model are those of our first step, as they are clipped."""
    losses = train.LossStream(stt, train.TrainingModule(stt.model, config), clips.examples, config)
    for loss in losses(0):
        loss.backward()
    nn.utils.clip_grad_norm_(stt.model.parameters(), 1.0)
    gradients = {
        n: p.grad for n, p in theirs.named_parameters(remove_duplicate=False) if p.grad is not None
    }
    wanted = remap.import_state(
        pretrained.table_rows(stt.model.families), gradients, stt.model.state_dict()
    )
    for name, parameter in stt.model.named_parameters():
        if name in wanted or parameter.grad is not None:
            assert (parameter.grad - wanted[name]).abs().max() < 1e-9, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("encoder", "decoder"), FAMILIES)
def test_eight_clips_are_learned_by_heart(encoder, decoder, tmp_path: Path):
    word_pair(encoder, decoder, tmp_path)
    config = TrainConfig(
        model=str(tmp_path / "model"), random="both", vocabulary="characters", output=str(tmp_path / "run"),
        train=str(tmp_path / "a.jsonl"), dev=str(tmp_path / "a.jsonl"), steps=400, learning_rate=5e-3,
        warmup_steps=20, validate_every=400, save_every=400, best="exact", weight_decay=0.0, **OFF,
    )  # fmt: skip
    train.run_training(config)
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["dev_loss"] < 0.01 and last["exact"] == 1.0
