# pytest tests/training/test_run.py
"""Runs from manifests: what they leave, what they refuse, and what their options do."""

import json
import math
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.training import (
    RATE,
    command_line,
    distance,
    folder_contents,
    model_weights,
    read_weights,
    tiny_run,
)

import nanos2t
from nanos2t.cli import console
from nanos2t.cli import main as cli
from nanos2t.training import loop, run
from nanos2t.training.config import TrainConfig
from nanos2t.training.loop import LossStream
from nanos2t.training.manifest import Item
from nanos2t.training.run import run_training


def test_a_run_leaves_models_and_what_they_were_made_with(whole_run):
    config, folder = whole_run
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
        distance(model_weights(state["module"]), nanos2t.load(output / "last").model.state_dict())
        == 0
    )
    states = [
        torch.load(output / f"state-{step}.pt", weights_only=True)["module"] for step in (8, 12)
    ]
    mean = model_weights({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
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


def test_numbers_that_are_not_finite_stop_with_the_batch_and_its_files(
    tmp_path: Path, capsys, monkeypatch
):
    config = tiny_run(tmp_path, best="dev_loss", validate_every=50, save_every=1)
    compute_loss = LossStream.compute_loss

    def compute_nan(self, batch):
        factor = math.nan if batch.number == 7 else 1.0
        return compute_loss(self, batch) * factor

    monkeypatch.setattr(LossStream, "compute_loss", compute_nan)
    assert cli.main(command_line(config)) == console.FAILED
    results = capsys.readouterr().err
    assert "gradient norm nan: the last state is kept. batch " in results and ".wav" in results
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 3 and "step 4:" in results


def test_weights_that_an_update_has_ruined_are_never_saved(tmp_path: Path, capsys, monkeypatch):
    config = tiny_run(tmp_path, save_every=1, validate_every=1)
    step = torch.optim.AdamW.step
    made = []

    def ruin(self, *arguments):
        step(self, *arguments)
        made.append(1)
        if len(made) == 3:
            self.param_groups[0]["params"][0].data.view(-1)[0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", ruin)
    assert cli.main(command_line(config)) == console.FAILED
    path = tmp_path / "run" / "state.pt"
    [line] = [line for line in capsys.readouterr().err.splitlines() if "not finite" in line]
    assert line.startswith("nanos2t: step 3: the weights are not finite after it: ")
    assert f"the last state is kept, of step 2, {path}" in line
    state = torch.load(path, weights_only=True)
    assert state["step"] == 2
    for name in "last", "best":
        weights = read_weights(tmp_path / "run", name)
        assert all(weight.isfinite().all() for weight in weights.values())
    monkeypatch.undo()
    assert cli.main(["train", "--resume", config.output]) == 0


def test_a_recording_that_is_gone_stops_with_its_name(tmp_path: Path, monkeypatch, capsys):
    config = tiny_run(tmp_path)
    real_select = run.select_examples

    def examples(*arguments, **more):
        selected = real_select(*arguments, **more)
        with suppress(FileNotFoundError):
            (tmp_path / "data" / "2.wav").unlink()
        return selected

    monkeypatch.setattr(run, "select_examples", examples)
    config = replace(config, dev=None, workers=1)
    assert cli.main(command_line(config)) == console.FAILED
    assert "2.wav: No such file" in capsys.readouterr().err


def test_what_is_skipped_is_counted_and_listed(tmp_path: Path, caplog):
    config = tiny_run(tmp_path, steps=1)
    path = Path(config.train)
    path.write_text(path.read_text() + '{"audio": "none.wav", "text": "one"}\n')
    run_training(config)
    assert "a.jsonl: 8 of 9 lines are used" in caplog.text
    listed = (tmp_path / "run" / "skipped.txt").read_text()
    assert listed.count("none.wav: No such file") == 1 and "item 9" in listed
    path.write_text('{"audio": "none.wav", "text": "one"}\n')
    with pytest.raises(
        ValueError, match="a.jsonl: no line can be trained on, the first: .*none.wav"
    ):
        run_training(replace(config, output=str(tmp_path / "other")))


def test_a_damaged_recording_is_skipped_while_the_run_goes_on(tmp_path: Path, caplog, capsys):
    config = tiny_run(tmp_path, workers=1)
    path = Path(config.train).parent / "2.wav"
    sound, rate = soundfile.read(path)
    sound[20] = np.inf
    soundfile.write(path, sound, rate, subtype="FLOAT")
    dev = path.with_name("dev.jsonl")
    dev.write_text(Path(config.train).read_text())
    run_training(replace(config, dev=str(dev)))
    assert caplog.text.count("skipped: " + str(path)) == 1
    assert f"{dev}: 7 of 8 lines are used" in caplog.text
    listed = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert listed[0].startswith(f"{dev}: skipped: item 3, ")
    reason = "expected finite samples up to 1e+15, found inf"
    assert listed[1:] == [f"{config.train}: damaged, skipped: {path}: {reason}"]
    assert cli.main(["train", "--resume", config.output]) == 0  # is done: draws nothing
    assert (tmp_path / "run" / "skipped.txt").read_text().splitlines() == listed
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 12


def test_lines_without_a_language_among_others_are_counted(tmp_path: Path, caplog):
    """A key that is misspelt in some lines would train their texts as another language's."""
    config = tiny_run(tmp_path, steps=1)
    run_training(config)
    assert "no language" not in caplog.text
    path = Path(config.train)
    path.write_text(path.read_text().replace('"language": "en"', '"langauge": "en"'))
    run_training(replace(config, output=str(tmp_path / "other"), dev=None, best="dev_loss"))
    assert f"{path}: 4 of 8 lines have no language: " in caplog.text
    assert caplog.text.count("is assumed, de") == 1


def test_a_damaged_recording_of_any_name_is_listed(tmp_path: Path, monkeypatch):
    """A name that is no UTF-8 does not end the run."""
    # pytest-xdist sends what is logged to its parent, in UTF-8 alone.
    logged = []
    monkeypatch.setattr(loop.log, "error", lambda *parts: logged.append(parts))
    path = tmp_path / os.fsdecode(b"\xff.wav")
    path.touch()
    config = TrainConfig(train="a.jsonl", output=str(tmp_path))
    losses = LossStream(None, None, [], config)
    losses.report_damaged({Item(str(path), "one"): "cannot be decoded"})
    listed = (tmp_path / "skipped.txt").read_text("utf-8")
    assert listed.endswith("\\udcff.wav: cannot be decoded\n")
    assert len(logged) == 1 and logged[0][0] == "%s (%d damaged so far)"


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
        run_training(tiny_run(tmp_path, **more))


def test_a_run_is_not_begun_twice(whole_run, tmp_path: Path):
    with pytest.raises(ValueError, match="there is a run, go on with --resume"):
        run_training(whole_run[0])
    assert cli.main(["train", "--resume", str(tmp_path)]) == console.USAGE


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path):
    config = tiny_run(tmp_path)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    before = folder_contents(tmp_path)
    for output in (tmp_path / "model", tmp_path / "data"):
        with pytest.raises(
            ValueError, match=f"{output}: not empty, expected a new folder for the run"
        ):
            run_training(replace(config, output=str(output)))
    assert folder_contents(tmp_path) == before


@pytest.mark.parametrize(
    "more",
    [
        {"checkpoint_activations": True},
        {"bfloat16": True},
        {"label_smoothing": 0.2},
        {"average": 1},
    ],
)
def test_options_of_computing(whole_run, tmp_path: Path, more):
    """Activations computed again give the same bits; bfloat16 and smoothing do not, but learn."""
    config = tiny_run(tmp_path, **more)
    run_training(config)
    if "checkpoint_activations" in more or "average" in more:
        assert distance(read_weights(whole_run[1] / "run"), read_weights(tmp_path / "run")) < 1e-6
    else:
        assert (
            1e-5
            < distance(read_weights(whole_run[1] / "run"), read_weights(tmp_path / "run"))
            < 0.1
        )


def test_a_frozen_feature_encoder_stays(tmp_path: Path):
    run_training(tiny_run(tmp_path, steps=3, freeze_feature_encoder=True, save_every=1))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    start = tiny_run(tmp_path / "again", steps=3)
    run_training(replace(start, steps=1, learning_rate=0.0))
    before = read_weights(tmp_path / "again" / "run")
    after = read_weights(tmp_path / "run")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("feature_extractor" in name for name in moved) and state["step"] == 3
