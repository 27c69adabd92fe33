# pytest tests/cli/test_option_values.py
"""Every option of every command with values that nobody can mean: one line that names the option.

The options are those of the parsers, so that a new one takes part.
"""

import argparse
import json
import os
from dataclasses import fields
from pathlib import Path

import pytest
from helpers.processes import python
from helpers.training import config_folder, corpus

from nanos2t.cli.main import build_parser, main
from nanos2t.cli.options import parse_count, parse_megabytes, parse_seconds, parse_seed
from nanos2t.training import run as training
from nanos2t.training.config import (
    TrainConfig,
    flag_name,
    option_type,
    parse_float,
    parse_int,
)

NUMBERS = (parse_count, parse_megabytes, parse_seconds, parse_seed, parse_int, parse_float)
OTHERS = (None, str, Path)

# No option has a use for these numbers.
SENSELESS = ["9" * 23, "9" * 5000, "-" + "9" * 30, "1e400", "nan", "inf", "-inf", "-1", "-0.5"]
SENSELESS += ["", " ", "many", "1,5", "0x10", "\N{SUPERSCRIPT TWO}", "1e38"]
BORDERLINE = ["0", "1e-400", "2147483648", "1000000000"]
NAMES = ["", "nan", "-1", "no such", "x" * 256, "~nosuchuser/x", "a\nb", "cuda:99", "\x1b[1m", "*"]


def list_options(types: tuple) -> list[tuple[str, str]]:
    """Return each command with each of its flags that takes a value of one of these types."""
    [commands] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    options = []
    for command, parser in commands.choices.items():
        for action in parser._actions:
            if action.option_strings and action.nargs != 0:
                assert action.type in NUMBERS + OTHERS, f"{action}: say above if it is a number"
                if action.type in types:
                    options.append((command, action.option_strings[-1]))
    return options


@pytest.fixture
def lines(clips, model, monkeypatch) -> dict[str, list[str]]:
    """A command line of each command that works; nothing is trained."""
    monkeypatch.setattr(training, "run_training", lambda config, resumed: None)
    Path("m.jsonl").write_text('{"audio": "a.wav", "text": ""}\n')
    tiny = ["--model", str(model)]
    return {
        "demo": ["demo"],
        "transcribe": ["transcribe", "a.wav", *tiny],
        "info": ["info", str(model)],
        "parity": ["parity", str(model)],
        "report": ["report", "a.wav", "-o", "page.html", *tiny],
        "align": ["align", "a.wav", "a", *tiny],
        "train": ["train", "--train", "m.jsonl", "--output", "run", *tiny],
        "eval": ["eval", "m.jsonl", *tiny],
        "exercises": ["exercises", "hint", "1"],
    }


def test_each_command_is_tried(lines):
    [commands] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert commands.choices.keys() == lines.keys()
    assert len(list_options(NUMBERS)) > 30 and len(list_options(OTHERS)) > 30


@pytest.mark.parametrize(("command", "flag"), list_options(NUMBERS))
def test_numbers(run, lines, command, flag):
    for value in SENSELESS:
        code, out, err = run(*lines[command], f"{flag}={value}", tiny=False)
        assert (code, out, len(err)) == (2, [], 1) and flag in err[0], value
    for value in BORDERLINE:
        code, _, err = run(*lines[command], f"{flag}={value}", tiny=False)
        assert code in (0, 1, 2)
        if code == 2:
            assert len(err) == 1 and flag in err[0], value


@pytest.mark.parametrize(("command", "flag"), list_options(OTHERS))
def test_names(run, lines, command, flag):
    for value in NAMES:
        code, _, err = run(*lines[command], f"{flag}={value}", tiny=False)
        errors = [line for line in err if "warning" not in line]
        assert code in (0, 1, 2, 3), value
        if code in (2, 3):
            assert len(errors) == 1, value


@pytest.mark.parametrize("command", ["transcribe", "report", "align", "eval", "train"])
@pytest.mark.parametrize("name", ["", "cuda:99", "cuda:-1", "tpu", "meta", "CPU", "cpu:1e400"])
def test_a_device_that_is_not_there(run, lines, command, name):
    code, out, err = run(*lines[command], f"--device={name}", tiny=False)
    assert (code, out, len(err)) == (2, [], 1) and err[0].startswith("nanos2t: --device is ")


SIZES = ["encoder-hidden-size", "encoder-num-hidden-layers", "encoder-layer-norm-eps"]
SIZES += ["encoder-hidden-dropout", "encoder-mask-time-length", "decoder-hidden-size"]
SIZES += ["decoder-vocab-size", "decoder-layer-norm-eps", "decoder-max-position-embeddings"]


@pytest.mark.parametrize("name", SIZES)
def test_fields_of_a_config_json(capsys, tmp_path, name):
    """Flags that no parser lists: a number that makes no model is one line that names the field."""
    train = str(corpus(tmp_path / "data", count=1))
    half = str(config_folder(tmp_path / "model"))
    begin = ["train", "--encoder", half, "--decoder", half, "--random", "both", "--train", train]
    begin += ["--steps", "1", "--vocabulary", "characters", "--output", str(tmp_path / "run")]
    values = ["NaN", "nan", "-Infinity", "1e400", '"5"', "[]", "true"]
    if "eps" not in name and "dropout" not in name:
        values += ["-1", "9" * 23, "1.5"]
    if "hidden-size" in name or "mask" in name:
        values.append("0")
    for value in values:
        assert main([*begin, f"--{name}={value}"]) in (1, 3)
        lines = capsys.readouterr().err.splitlines()
        field = name.partition("-")[2].replace("-", "_")
        assert lines[-1].startswith("nanos2t: ") and len(lines) == 1
        assert field in lines[0] or f"({field}" in lines[0] or "built" in lines[0], value


# Processes that outnumber the options would be a fork bomb.
PROGRAM = """
import json, os, resource, sys
from nanos2t.cli import main as cli

resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
resource.setrlimit(resource.RLIMIT_NPROC, (2000, 2000))
forks = []

def count_fork():
    forks.append(1)
    if len(forks) > 500:
        os._exit(99)

os.register_at_fork(before=count_fork)
for line in sys.stdin:
    print(cli.main(json.loads(line)), flush=True)
"""


@pytest.mark.slow
def test_a_run_with_the_least_and_the_most_of_each_number(tmp_path: Path):
    """Whatever the options allow, a step can be made: in little memory, with few processes."""
    train = corpus(tmp_path / "data", count=4)
    begin = ["train", "--model", str(config_folder(tmp_path / "model")), "--random", "both"]
    begin += ["--vocabulary", "bpe", "--vocab-size", "30", "--train", str(train)]
    begin += ["--warmup-steps", "0", "--dev", str(train), "--batch-seconds", "2", "--steps", "1"]
    lines = []
    for option in fields(TrainConfig):
        # So many steps, or batches of one, are what was asked for.
        if option_type(option) not in (int, float) or option.name in ("steps", "accumulate"):
            continue
        for end in "least", "most":
            output = str(tmp_path / f"{option.name}-{end}")
            value = str(option.metadata[end])
            lines.append([*begin, flag_name(option.name), value, "--output", output])

    child = python("-c", PROGRAM)
    out, err = child.communicate("\n".join(map(json.dumps, lines)).encode(), timeout=600)
    codes = out.decode().split()
    assert child.returncode == 0 and len(codes) == len(lines) and b"Traceback" not in err, err
    refused = [" ".join(line[-4:-2]) for line, code in zip(lines, codes) if code != "0"]
    # No clip is short enough, nothing is left of the model, and there are no such states.
    expected = ["--max-seconds 0", "--hidden-dropout 1", "--average 1000"]
    assert refused == expected, err.decode()


def test_workers_are_no_more_than_the_cpus(caplog):
    config = training.limit_workers(TrainConfig(workers=100_000))
    assert 1 <= config.workers <= os.cpu_count() and "--workers is 100000" in caplog.text
    caplog.clear()
    assert training.limit_workers(TrainConfig(workers=1)).workers == 1 and caplog.text == ""
    with pytest.raises(ValueError, match="--workers is -1, expected int, 0 to"):
        training.run_training(TrainConfig(workers=-1))
