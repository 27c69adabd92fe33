# pytest tests/cli/test_train.py
"""nanos2t/cli/train.py: what of the command line reaches a run. tests/training/ has the runs."""

import json
import shutil
from pathlib import Path

import pytest

from nanos2t.cli import main as cli
from nanos2t.training import run as training
from nanos2t.transcription.loading import BUNDLED

SAMPLE = BUNDLED.parent / "sample.wav"
FLAGS = ["--train", "train.jsonl", "--model", "folder", "--output", "run"]


@pytest.fixture
def runs(monkeypatch) -> list:
    """The configs that a run is called with, and whether it is resumed; nothing is trained."""
    calls = []
    monkeypatch.setattr(
        training, "run_training", lambda config, resumed: calls.append((config, resumed))
    )
    return calls


def test_flags_and_a_config_file_reach_the_run(runs, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"steps": 7, "learning_rate": 0.5}))
    assert cli.main(["train", "--config", str(file), "--steps", "9", *FLAGS]) == 0
    [(config, resumed)] = runs
    assert (config.train, config.model, config.output) == ("train.jsonl", "folder", "run")
    assert (config.steps, config.learning_rate, resumed) == (9, 0.5, False)


def test_usage(runs, capsys, tmp_path):
    for arguments, named in [
        (["--steps", "many", *FLAGS], "--steps"),
        (["--no-such-flag", *FLAGS], "--no-such-flag"),
        (["--config", str(tmp_path / "none.json"), *FLAGS], "none.json"),
        (["--resume", str(tmp_path)], str(tmp_path)),
    ]:
        assert cli.main(["train", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and named in err
    assert runs == []


def test_a_run_that_fails_is_one_line(monkeypatch, capsys):
    def fail(config, resumed):
        raise ValueError("folder: no such\nmodel")

    monkeypatch.setattr(training, "run_training", fail)
    assert cli.main(["train", *FLAGS]) == 1
    assert capsys.readouterr() == ("", "nanos2t: folder: no such model\n")


BROKEN = {
    "no folder": (["--model", "none"], None, "and not from the hub"),
    "no weights": (["--model", "model"], "model.safetensors", "model.safetensors"),
    "no config": (["--encoder", "model", "--decoder", "model"], "config.json", "config.json"),
    "no JSON": (["--model", "model"], ("config.json", "{"), "expected JSON"),
    "another family": (
        ["--model", "model", "--random", "encoder"],
        ("config.json", '{"model_type": "speech-encoder-decoder", "encoder": {}}'),
        "model_type is None",
    ),
    "broken weights of a half": (
        ["--encoder", "model", "--decoder", "model"],
        ("model.safetensors", "garbage"),
        "expected a file of tensors",
    ),
    "a broken tokenizer": (["--model", "model"], ("tokenizer.json", "{}"), "tokenizer.json"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_is_exit_code_3(kind, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLED, "model")
    Path("train.jsonl").write_text(json.dumps({"audio": str(SAMPLE), "text": "two"}) + "\n")
    arguments, change, message = BROKEN[kind]
    if isinstance(change, tuple):
        Path("model", change[0]).write_text(change[1])
    elif change:
        Path("model", change).unlink()
    command = ["train", "--train", "train.jsonl", "--output", "run", *arguments]
    assert cli.main(command) == 3
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if message in line]
    assert out == "" and len(lines) == 1 and "Traceback" not in err


def test_what_is_no_fault_of_the_model_is_exit_code_1(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text(json.dumps({"audio": str(SAMPLE), "text": "two"}) + "\n")
    model = ["--encoder", str(BUNDLED), "--decoder", str(BUNDLED)]
    command = ["train", "--train", "train.jsonl", "--output", "run", *model]
    assert cli.main([*command, "--encoder-no-such-field", "3"]) == 1
    assert "has no field for encoder_no_such_field" in capsys.readouterr().err


@pytest.mark.parametrize("clash", ["config", "manifest", "model", "link"])
def test_a_run_writes_over_none_of_its_inputs(runs, capsys, tmp_path, monkeypatch, clash):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "run"
    (output / "last").mkdir(parents=True)
    (output / "train.json").write_text("{}")
    (output / "last" / "config.json").write_text("{}")
    flags = {"--train": "train.jsonl", "--model": "folder", "--output": "run"}
    if clash == "config":
        flags["--config"] = "run/train.json"
    elif clash == "manifest":
        (output / "log.jsonl").write_text("{}")
        flags["--dev"] = "run/../run/log.jsonl"
    elif clash == "model":
        flags["--model"] = "run/last"
    else:
        (tmp_path / "train.jsonl").symlink_to("run/train.json")
    arguments = [word for flag in flags.items() for word in flag]
    assert cli.main(["train", *arguments]) == 2 and runs == []
    assert "would be written over the input" in capsys.readouterr().err
