# pytest tests/test_generation_config.py
"""Options of a search: how a call overrides a checkpoint's defaults, and which are refused."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from helpers.generation_models import make_batch, paired_models, tiny_model
from helpers.search_scripts import CONFIG

import nanos2t
from nanos2t.cli import main as cli
from nanos2t.generate import draw_tokens
from nanos2t.generation_config import RULES, TOKEN_ID_OPTIONS, GenerationConfig
from nanos2t.inspection import info
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import BUNDLED

hf = pytest.importorskip("transformers")

SAMPLE = str(BUNDLED.parent / "sample.wav")


def test_every_option_has_a_rule():
    assert list(RULES) == [field.name for field in fields(GenerationConfig)]
    GenerationConfig().validate()


def test_options_override_the_defaults_and_leave_them_alone():
    before = replace(CONFIG)
    config = CONFIG.override({"num_beams": 4, "length_penalty": 2.0})
    assert config == replace(CONFIG, num_beams=4, length_penalty=2.0)
    assert before == CONFIG


def test_defaults_are_those_of_transformers():
    theirs = hf.GenerationConfig()
    defaults = theirs._get_default_generation_params()
    for field in fields(GenerationConfig):
        if field.name not in ("lang_to_id", "alignment_heads", "max_length"):
            value = getattr(theirs, field.name)
            assert field.default == (defaults.get(field.name) if value is None else value), (
                field.name
            )
    assert GenerationConfig().max_total_length == 1 + defaults["max_length"]


@pytest.mark.parametrize(
    ("defaults", "options", "longest"),
    [
        ({}, {}, 21),
        ({}, {"max_length": 9}, 9),
        ({}, {"max_new_tokens": 9}, 10),
        ({"max_length": 5}, {}, 5),
        ({"max_length": 5}, {"max_new_tokens": 9}, 10),
        ({"max_new_tokens": 5}, {"max_length": 9}, 9),
        ({"max_new_tokens": 5}, {"max_length": None}, 6),
        ({"max_length": 5, "max_new_tokens": 6}, {}, 7),
        ({"max_length": 5}, {"max_length": 7}, 7),
    ],
)
def test_longest(defaults, options, longest):
    assert replace(CONFIG, **defaults).override(options).max_total_length == longest


@pytest.mark.parametrize(
    ("defaults", "options", "shortest"),
    [
        ({}, {}, 0),
        ({}, {"min_length": 9}, 9),
        ({}, {"min_new_tokens": 9}, 10),
        ({"min_length": 5}, {}, 5),
        ({"min_length": 5}, {"min_new_tokens": 9}, 10),
        ({"min_new_tokens": 5}, {"min_length": 9}, 9),
    ],
)
def test_shortest(defaults, options, shortest):
    assert replace(CONFIG, **defaults).override(options).min_total_length == shortest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beam": 2}, "num_beam'.*num_beams"),
        ({"use_cache": False}, "use_cache"),
        ({"max_length": 5, "max_new_tokens": 5}, "max_new_tokens=5 and max_length=5"),
        ({"min_length": 0, "min_new_tokens": 3}, "min_new_tokens=3 and min_length=0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": -3}, "num_beams is -3"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2.*num_beams, 1"),
        ({"num_return_sequences": 4, "num_beams": 3}, "num_return_sequences is 4.*num_beams, 3"),
        (
            {"num_return_sequences": 4, "num_beams": 3, "do_sample": True},
            "num_return_sequences is 4",
        ),
        ({"num_return_sequences": -1, "do_sample": True}, "num_return_sequences is -1"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": -0.1}, "top_p is -0.1"),
        ({"early_stopping": "always"}, "early_stopping is 'always'.*never"),
        ({"max_length": 1}, "max_length is 1.*at least 2"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0.*at least 1"),
        ({"min_length": -1}, "min_length is -1.*at least 0"),
        ({"num_beams": None}, "num_beams is None"),
        ({"num_beams": 2.0}, "num_beams is 2.0"),
        ({"num_beams": True}, "num_beams is True"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"do_sample": 1}, "do_sample is 1, expected True or False"),
        ({"bad_words_ids": [[]]}, "bad_words_ids is"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"suppress_tokens": 3}, "suppress_tokens is 3"),
        ({"decoder_start_token_id": "a"}, "decoder_start_token_id is 'a', expected a token id"),
        ({"length_penalty": 1000}, "length_penalty is 1000, expected a number from -10 to 10"),
        ({"length_penalty": -1000.0}, "length_penalty is -1000.0"),
        ({"length_penalty": 2**31}, "length_penalty is 2147483648"),
        ({"length_penalty": 10**400}, "length_penalty is 1000"),
        ({"length_penalty": float("inf")}, "length_penalty is inf"),
        ({"length_penalty": None}, "length_penalty is None"),
        ({"repetition_penalty": 1e30}, "repetition_penalty is 1e.30, expected a number from"),
        ({"repetition_penalty": 1e-30}, "repetition_penalty is 1e-30"),
        ({"temperature": 1e-45, "do_sample": True}, "temperature is 1e-45"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"num_beams": 10**9}, "num_beams is 1000000000, expected a whole number from 1 to 10000"),
        ({"num_return_sequences": 10**12, "do_sample": True}, "num_return_sequences is 1000"),
        ({"early_stopping": 1}, "early_stopping is 1, expected True, False"),
        ({"early_stopping": torch.tensor([1, 2])}, "early_stopping is tensor"),
        (
            {"forced_bos_token_id": 5, "suppress_tokens": [4, 5]},
            "forced_bos_token_id is 5, expected a token that suppress_tokens does not forbid",
        ),
        (
            {"forced_eos_token_id": 2, "suppress_tokens": (2,), "num_beams": 3},
            "forced_eos_token_id is 2, expected a token that suppress_tokens does not forbid",
        ),
        ({"min_length": 9, "max_length": 8}, "9 tokens.*at most the longest, 8"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "10 tokens.*at most the longest, 9"),
    ],
)
def test_errors_name_the_option(options, message):
    with pytest.raises(ValueError, match=message):
        CONFIG.override(options)
    with pytest.raises(ValueError, match=message):
        tiny_model().generate(torch.zeros(1, 99), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"num_return_sequences": 3, "do_sample": True},
        {"num_return_sequences": 3, "num_beams": 3},
        {"top_p": 0.0, "do_sample": True},
        {"top_p": None, "top_k": None},
        {"top_k": 0},
        {"max_length": 2},
        {"max_new_tokens": 1},
        {"min_length": 8, "max_length": 8},
        {"early_stopping": True},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(options):
    assert isinstance(CONFIG.override(options), GenerationConfig)


@pytest.mark.parametrize(
    "name, value",
    [
        ("eos_token_id", 23),
        ("eos_token_id", [2, -1]),
        ("pad_token_id", 999),
        ("suppress_tokens", [1, 23]),
        ("bad_words_ids", [[1], [2, 40]]),
        ("forced_bos_token_id", -3),
    ],
)
def test_an_id_outside_the_vocabulary(name, value):
    with pytest.raises(ValueError, match=rf"{name} has .*, expected a token id below 23"):
        paired_models("group norm, 23 words")[1].generate(*make_batch(), **{name: value})


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_token_id": list(range(9))}, "eos_token_id has 9 ids, expected fewer than the 9"),
        ({"eos_token_id": [2] * 9}, "eos_token_id has 9 ids, expected fewer than the 9"),
        ({"suppress_tokens": list(range(9))}, "suppress_tokens and bad_words_ids forbid all 9"),
        (
            {"suppress_tokens": list(range(3, 9)), "bad_words_ids": [[0], [1], [2]],
             "eos_token_id": 8},
            "suppress_tokens and bad_words_ids forbid all 9",
        ),
        (
            {"suppress_tokens": [0, 1, 3, 4, 5, 6, 7, 8], "eos_token_id": 2, "min_length": 3},
            "suppress_tokens, bad_words_ids and, before min_length, eos_token_id forbid all 9",
        ),
        (
            {"no_repeat_ngram_size": 1, "min_length": 15, "max_length": 16},
            "no sequence of .* tokens is allowed, .*no_repeat_ngram_size",
        ),
    ],
)  # fmt: skip
def test_options_that_leave_no_token_are_named(options, message, beams, sample):
    options = options | {"num_beams": beams, "do_sample": sample}
    with pytest.raises(ValueError, match=message) as error:
        tiny_model().generate(torch.zeros(2, 99), **options)
    assert "\n" not in str(error.value)


def test_a_row_that_allows_no_token_does_not_change_what_others_draw():
    scores = torch.randn(3, 9)
    scores[0, 1:] = -torch.inf
    torch.manual_seed(0)
    want = draw_tokens(scores, 1)
    torch.manual_seed(0)
    scores[2] = -torch.inf
    got = draw_tokens(scores, 1)
    assert got[0] == 0 and torch.equal(got[:2], want[:2]) and 0 <= got[2] < 9


def test_a_single_token_that_is_allowed_is_enough():
    only = {"suppress_tokens": [0, 1, 2, 3, 4, 5, 6, 7], "max_length": 5}
    for beams in (1, 3):
        tokens = tiny_model().generate(torch.zeros(1, 99), num_beams=beams, **only)
        assert tokens[0, 1:].tolist() == [8] * 4
    ends = {"bad_words_ids": [[token] for token in range(9)], "eos_token_id": 2}
    assert tiny_model().generate(torch.zeros(1, 99), **ends)[0, 1:].tolist() == [2]


# Defaults in a model's folder: an error is a line that names file and option, and exit code 3.

BAD = [
    ("length_penalty", float("nan")),
    ("forced_bos_token_id", 99999),
    ("forced_bos_token_id", -1),
    ("decoder_start_token_id", "a"),
    ("decoder_start_token_id", 2.0),
    ("pad_token_id", 99999),
    ("max_length", "a"),
    ("max_length", 10.5),
    ("max_length", 0),
    ("min_length", 100),
    ("num_beams", 0),
    ("num_beams", "4"),
    ("temperature", 0),
    ("bad_words_ids", [1]),
    ("bad_words_ids", [[99999]]),
    ("bad_words_ids", [[]]),
    ("bad_words_ids", "x"),
    ("suppress_tokens", [99999]),
    ("suppress_tokens", ["a"]),
    ("eos_token_id", "x"),
    ("eos_token_id", ["2"]),
    ("eos_token_id", 2**63),
    ("bos_token_id", -(2**31)),
    ("lang_to_id", [1]),
    ("lang_to_id", {"de": "x"}),
    ("alignment_heads", []),
    ("alignment_heads", [1, 2]),
    ("alignment_heads", [[1, 2, 3]]),
    ("alignment_heads", [[1, -2]]),
    ("length_penalty", 1000),
    ("length_penalty", 2**31),
    ("length_penalty", "1"),
    ("repetition_penalty", 1e30),
    ("early_stopping", 1),
    ("eos_token_id", list(range(320))),
    ("suppress_tokens", list(range(99))),
    ("stop_strings", ["seven"]),
    ("max_time", 5.0),
    ("token_healing", True),
    ("watermarking_config", {"bias": 2.0}),
    ("top_p", 7),
    ("top_k", -1),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLED, tmp_path / "model")


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_default_is_named(folder: Path, key: str, value: object, capsys):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert cli.main(["transcribe", SAMPLE, "--model", str(folder)]) == 3
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and str(path) in err


@pytest.mark.parametrize("value", [99999, -1])
@pytest.mark.parametrize("key", [name for name in TOKEN_ID_OPTIONS if name != "bos_token_id"])
def test_from_pretrained_names_an_id_outside_the_vocabulary(folder: Path, key: str, value: int):
    """As a search would, except for ends: a model may name one that it never predicts."""
    nested = {"bad_words_ids": [[value]], "suppress_tokens": [value], "lang_to_id": {"de": value}}
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: nested.get(key, value)}))
    if key == "eos_token_id":
        SpeechEncoderDecoder.from_pretrained(folder)
        return
    with pytest.raises(ValueError, match=f"{key} has {value}, expected a token id below") as error:
        SpeechEncoderDecoder.from_pretrained(folder)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_forced_token_that_is_suppressed_is_named(folder: Path, capsys):
    path = folder / "generation_config.json"
    options = {"forced_bos_token_id": 5, "suppress_tokens": [5]}
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    assert cli.main(["transcribe", SAMPLE, "--model", str(folder)]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{path}: forced_bos_token_id is 5" in err


def test_ends_that_the_vocabulary_lacks_do_no_harm(folder: Path):
    path = folder / "generation_config.json"
    for one in 50256, -1:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token_id": one}))
        assert nanos2t.load(folder).transcribe(SAMPLE).text == "two four seven"
        assert any(f"bos_token_id={one}" in line for line in info.describe_model(folder))
