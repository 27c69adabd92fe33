# pytest tests/training/test_config.py
"""One dataclass: its flags, its config files, and which of them overrides which."""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from nanos2t.training import config as train_config
from nanos2t.training.config import TrainConfig

GIVEN = {"model": "m", "train": "a.jsonl", "output": "run"}


def parse(*arguments: str) -> dict:
    parser = argparse.ArgumentParser()
    train_config.add_flags(parser)
    return vars(parser.parse_args(arguments))


def test_every_field_has_a_flag_and_only_given_ones_count():
    assert parse() == {}
    for option in fields(TrainConfig):
        name = train_config.flag_name(option.name)
        value_type = train_config.option_type(option)
        if value_type is dict:
            continue  # its flags are for fields that no parser lists
        if value_type is bool:
            parsed = parse(name)
            assert parsed == {option.name: True}
            assert parse("--no-" + name.removeprefix("--")) == {option.name: False}
        else:
            value = option.metadata["choices"][-1] if option.metadata["choices"] else "1"
            parsed = parse(name, value)
            assert parsed == {option.name: value_type(value)}
        train_config.check_option(option, parsed[option.name])
        train_config.check_option(option, option.default)


def test_flags_go_before_the_file_before_the_run_before_the_defaults(tmp_path: Path):
    old = train_config.resolve_config(
        GIVEN | {"output": str(tmp_path), "steps": 5, "seed": 6, "workers": 7}
    )
    (tmp_path / "train.json").write_text(train_config.render_config(old))
    assert json.loads((tmp_path / "train.json").read_text()) == asdict(old)
    (tmp_path / "c.json").write_text('{"seed": 60, "learning-rate": 1}')
    config = train_config.resolve_config({"workers": 700}, str(tmp_path / "c.json"), str(tmp_path))
    assert (config.steps, config.seed, config.workers, config.learning_rate) == (5, 60, 700, 1)
    assert config.output == str(tmp_path) and config.model == "m" and config.accumulate == 1


def test_a_config_may_be_toml(tmp_path: Path):
    (tmp_path / "c.toml").write_text('steps = 5\nbfloat16 = true\nschedule = "cosine"\n')
    config = train_config.resolve_config(GIVEN, str(tmp_path / "c.toml"))
    assert config.steps == 5 and config.bfloat16 is True and config.schedule == "cosine"
    (tmp_path / "c.toml").write_text("save-every = 5\nsave_every = 6\n")
    with pytest.raises(ValueError, match="c.toml: save_every is there twice"):
        train_config.resolve_config(GIVEN, str(tmp_path / "c.toml"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"stepz": 5}', "stepz is no option of train"),
        ('{"steps": "5"}', "--steps is '5', expected int"),
        ('{"steps": true}', "--steps is True, expected int"),
        ('{"steps": -1}', "--steps is -1, expected int, 1 to 1000000000"),
        ('{"bfloat16": 1}', "--bfloat16 is 1, expected bool$"),
        ('{"schedule": "none"}', "--schedule is 'none', expected one of linear, cosine, constant"),
        ('{"hidden_dropout": -0.1}', "--hidden-dropout is -0.1, expected float, 0 to 1"),
        ('{"label_smoothing": 2}', "--label-smoothing is 2, expected float, 0 to 1"),
        ('{"mask_time_length": 0}', "--mask-time-length is 0, expected int, 1 to 1000000000"),
        ('{"seed": 1e20}', "--seed is 1e"),
        ('{"seed": 100000000000000000000}', "--seed is 1.*, expected int, 0 to 4294967296"),
        ('{"learning_rate": NaN}', "--learning-rate is nan"),
        ('{"encoder": 3}', "--encoder is 3, expected str$"),
        ("[1]", "c.json: list, expected an object"),
        ("{", "c.json: .*expected a config"),
        ('{"steps": 5, "steps": 6}', "c.json: steps is there twice"),
        ('{"save-every": 5, "save_every": 6}', "c.json: save_every is there twice"),
    ],
)
def test_what_a_config_must_not_say(tmp_path: Path, content, reason):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=reason):
        train_config.resolve_config(GIVEN, str(tmp_path / "c.json"))


NUMBERS = [o for o in fields(TrainConfig) if train_config.option_type(o) in (int, float)]
WRONG_NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "1" + 22 * "0",
    '"5"',
    "true",
    "[5]",
    "0x" + 9999 * "f",
]


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_a_wrong_number_names_its_option(tmp_path: Path, option):
    """In TOML, in JSON and from Python: infinite, no number at all, or larger than can be meant."""
    pytest.importorskip("tomllib")
    for text in [*WRONG_NUMBERS, str(10 * option.metadata["most"]), "1e308"]:
        (tmp_path / "c.toml").write_text(f"{option.name} = {text}\n")
        with pytest.raises(ValueError, match=train_config.flag_name(option.name)) as refused:
            train_config.resolve_config(GIVEN, str(tmp_path / "c.toml"))
        assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)
    for text in "NaN", "Infinity", "-Infinity", "1e400", "-1", "1" + 22 * "0", "{}":
        (tmp_path / "c.json").write_text(f'{{"{option.name}": {text}}}')
        with pytest.raises(ValueError, match=train_config.flag_name(option.name)):
            train_config.resolve_config(GIVEN, str(tmp_path / "c.json"))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"model": "m", "train": "a"}, "expected --train and --output"),
        ({"model": "m", "output": "a"}, "expected --train and --output"),
        ({"train": "a", "output": "b"}, "expected --encoder and --decoder, or --model"),
        (
            {"train": "a", "output": "b", "encoder": "c"},
            "expected --encoder and --decoder, or --model",
        ),
        (GIVEN | {"encoder": "c", "decoder": "d"}, "expected --encoder and --decoder, or --model"),
        (GIVEN | {"decoder": "d"}, "expected --encoder and --decoder, or --model"),
    ],
)
def test_what_must_be_given(given, reason):
    with pytest.raises(ValueError, match=reason):
        train_config.resolve_config(given)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"model": "other"}, "--model is 'other', expected 'm', with which .* began"),
        ({"ctc": 0.5}, "--ctc is 0.5, expected 0.0, with which"),
        ({"output": "other"}, "--output is 'other', expected"),
        ({"output": 3}, "--output is 3, expected str"),
        ({"vocabulary": "bpe"}, "--vocabulary is 'bpe', expected 'decoder'"),
    ],
)
def test_a_run_goes_on_with_what_it_began_with(tmp_path: Path, more, reason):
    old = train_config.resolve_config(GIVEN | {"output": str(tmp_path)})
    (tmp_path / "train.json").write_text(train_config.render_config(old))
    with pytest.raises(ValueError, match=reason):
        train_config.resolve_config(more, None, str(tmp_path))
    same = {"model": "m", "output": f"{tmp_path}/"}
    assert train_config.resolve_config(same | {"steps": 3}, None, str(tmp_path)).steps == 3


def test_files_that_are_missing_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="none.json: No such file"):
        train_config.resolve_config(GIVEN, str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="train.json: No such file"):
        train_config.resolve_config({}, None, str(tmp_path))


def test_help_needs_no_torch():
    actual = "import sys, importlib.util as u; s = u.spec_from_file_location('t', sys.argv[1]); "
    actual += "m = u.module_from_spec(s); sys.modules['t'] = m; s.loader.exec_module(m); "
    actual += "print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", actual, train_config.__file__],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "False", done.stderr


def test_fields_of_a_config_json_are_options(tmp_path: Path):
    """They come from flags that no parser lists, or from keys of a config file."""
    words = "--encoder-add-adapter --encoder-layerdrop 0.0 --decoder-hidden-act=gelu --encoder-x no"
    changes = train_config.parse_config_changes(words.split())
    assert changes == {"encoder_add_adapter": True, "encoder_layerdrop": 0.0,
                       "decoder_hidden_act": "gelu", "encoder_x": "no"}  # fmt: skip
    assert train_config.parse_config_changes(["--encoder-add-adapter=false"]) == {
        "encoder_add_adapter": False
    }
    for wrong in ["--strange"], ["5"], ["--encoder-x", "5", "6"], ["--encoder-x", "--strange"]:
        with pytest.raises(ValueError, match="unrecognized arguments: "):
            train_config.parse_config_changes(wrong)

    (tmp_path / "c.json").write_text('{"encoder_layerdrop": 0.5, "encoder-mask-time-prob": 0}')
    needed = {"encoder": "e", "decoder": "d", "train": "a", "output": str(tmp_path)}
    flags = needed | {"encoder_layerdrop": 0.1}
    config = train_config.resolve_config(flags, str(tmp_path / "c.json"))
    assert config.config_changes == {"encoder_layerdrop": 0.1, "encoder_mask_time_prob": 0}

    # A run goes on with the same fields.
    (tmp_path / "train.json").write_text(train_config.render_config(config))
    assert train_config.resolve_config({}, resume=str(tmp_path)) == config
    with pytest.raises(ValueError, match="--config-changes is .*, expected .*began"):
        train_config.resolve_config({"encoder_layerdrop": 0.2}, resume=str(tmp_path))
    with pytest.raises(ValueError, match="--encoder-layerdrop: expected --encoder and --decoder"):
        train_config.resolve_config(GIVEN | {"encoder_layerdrop": 0.2})


@pytest.mark.parametrize(
    "name, text", [("c.json", '{\r\n"steps": 5}\r\n'), ("c.toml", "steps = 5\r\n")]
)
def test_a_byte_order_mark_and_crlf_are_accepted(tmp_path, name, text):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert train_config.read_config_file(tmp_path / name) == {"steps": 5}
