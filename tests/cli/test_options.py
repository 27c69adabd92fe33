# pytest tests/cli/test_options.py
"""nanos2t/cli/options.py: shared options, languages, and models that cannot be loaded."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny import LANGUAGES, save_tiny
from safetensors.torch import load_file, save_file

import nanos2t
from nanos2t.transcription import loading
from nanos2t.transcription.transcriber import SpeechToText


def test_options_arrive(run, clips, monkeypatch):
    asked = {}
    sizes = []
    load = nanos2t.load
    search = SpeechToText.transcribe_batch

    def spy_load(name, **how):
        asked.update(how)
        return load(name, **how)

    def spy_search(self, waveforms, call):
        sizes.append(len(waveforms))
        asked.update(call.generation.options, language=call.generation.language, words=call.words)
        return search(self, waveforms, call)

    monkeypatch.setattr(nanos2t, "load", spy_load)
    monkeypatch.setattr(SpeechToText, "transcribe_batch", spy_search)
    assert run("transcribe", *clips)[0] == 0
    assert asked == {
        "device": "cpu",
        "dtype": torch.float32,
        "fast": True,
        "language": "de",
        "words": False,
    }
    assert sizes == [4]
    line = "--language en --num-beams 3 --words --dtype bfloat16 --device auto"
    line += " --batch-size 3 --quiet --no-fast"
    assert run("transcribe", *clips, *line.split())[0] == 0
    device = loading.choose_device("auto")
    expected = {
        "device": device,
        "dtype": torch.bfloat16,
        "fast": False,
        "language": "en",
        "words": True,
        "num_beams": 3,
    }
    expected["forced_bos_token_id"] = LANGUAGES["en"]
    assert asked == expected and sizes == [4, 3, 1]
    assert run("transcribe", clips[0], "--no-words")[0] == 0 and asked["words"] is False
    for option in ["--highlight-words"], ["--max-line-width", "20"]:
        assert run("transcribe", clips[0], *option)[0] == 0 and asked["words"] is True


def test_language(run, stt, clips):
    for language in LANGUAGES:
        expected = [str(stt.transcribe(name, language=language)) for name in clips]
        assert run("transcribe", *clips, "--language", language) == (0, expected, [])


@pytest.mark.parametrize("tiny, known", [(True, LANGUAGES), (False, ["verbatim", "en", "de"])])
def test_an_unknown_language_lists_the_known(run, clips, tiny, known):
    code, out, err = run("transcribe", clips[0], "--language", "xx", "--output", "out", tiny=tiny)
    assert (code, out, len(err)) == (2, [], 1) and "'xx'" in err[0]
    assert set(known) <= set(err[0].replace(",", "").split()) and not Path("out").exists()


def test_a_monolingual_model_has_no_language_to_choose(run, clips):
    save_tiny(Path("one"))
    code, out, err = run("transcribe", clips[0], "--model", "one", "--language", "en", tiny=False)
    assert (code, out, len(err)) == (2, [], 1) and "none" in err[0]
    assert run("transcribe", clips[0], "--model", "one", tiny=False)[0] == 0
    code, out, err = run("info", "one")
    assert code == 0 and [line for line in out if line.startswith("languages")] == [
        "languages   one, nothing to choose"
    ]


def tensors(change):
    def break_(folder: Path) -> None:
        actual = load_file(folder / "model.safetensors")
        actual = {name: tensor.clone() for name, tensor in actual.items()}
        change(actual)
        save_file(actual, folder / "model.safetensors", {"format": "pt"})

    return break_


def text(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def no_start(folder: Path) -> None:
    for name in "config.json", "generation_config.json":
        content = json.loads((folder / name).read_text())
        for part in content, content.get("decoder", {}):
            for key in "decoder_start_token_id", "bos_token_id":
                part.pop(key, None)
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer.json").unlink()


NORM = "encoder.encoder.layers.0.layer_norm.weight"


BROKEN = {
    "no folder": (shutil.rmtree, ["no such folder"]),
    "no config": (lambda folder: (folder / "config.json").unlink(), ["config.json"]),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ["model.safetensors"]),
    "config": (text("config.json", '{"model_type": '), ["config.json"]),
    "another config": (text("config.json", '{"model_type": "gpt2"}'), ["config.json", "gpt2"]),
    "config is a list": (text("config.json", "[]"), ["config.json"]),
    "generation": (text("generation_config.json", "{}}"), ["generation_config.json"]),
    "preprocessor": (text("preprocessor_config.json", "nothing"), ["preprocessor_config.json"]),
    "tokenizer": (text("tokenizer.json", '{"version": "1.0"}'), ["tokenizer.json"]),
    "empty weights": (text("model.safetensors", ""), ["model.safetensors"]),
    "other weights": (text("model.safetensors", "no tensors" * 99), ["model.safetensors"]),
    "missing": (tensors(lambda found: found.pop(NORM)), ["model.safetensors", "missing", NORM]),
    "extra": (
        tensors(lambda found: found.update({"encoder.extra": torch.ones(2)})),
        ["safetensors", "encoder.extra"],
    ),
    "shape": (
        tensors(lambda found: found.update({NORM: torch.ones(16)})),
        ["safetensors", NORM, "(16,)", "(15,)"],
    ),
    "cut": (
        lambda folder: os.truncate(
            folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 100
        ),
        ["model.safetensors"],
    ),
    "no start token": (no_start, ["decoder_start_token_id"]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_cannot_be_loaded(run, model, clips, kind):
    break_, names = BROKEN[kind]
    shutil.copytree(model, "broken")
    break_(Path("broken"))
    folder = os.path.abspath("broken")
    for arguments in (
        ["transcribe", clips[0], "--output", "out", "--model", folder],
        ["info", folder],
    ):
        if kind == "no start token" and arguments[0] == "info":
            continue  # it can be shown
        code, out, err = run(*arguments, tiny=False)
        assert (code, out, len(err)) == (3, [], 1) and not Path("out").exists()
        assert all(name in err[0] for name in [folder, *names]), err[0]


@pytest.mark.parametrize("name", ["", "a b", "~nobody/model", "x" * 300, "no/such/folder", "a.wav"])
def test_a_model_that_is_not_there(run, clips, name):
    save_tiny(Path("."))  # is no model without a name
    for command in ["transcribe", clips[0], "--model", name], ["info", name]:
        code, out, err = run(*command, tiny=False)
        assert (code, out, len(err)) == (3, [], 1) and (name[:300] or "model is ''") in err[0]


@pytest.mark.parametrize(
    "line",
    [
        "transcribe a.wav",
        "align a.wav two",
        "report a.wav -o page.html",
        "eval manifest.jsonl",
        "demo",
    ],
)
def test_fast_is_the_default_and_can_be_switched_off(run, clips, monkeypatch, line):
    """All commands that transcribe: info and parity always show the core."""
    Path("manifest.jsonl").write_text('{"audio": "a.wav", "text": "two"}\n')
    loaded = []

    def spy_load(name=None, **keywords):
        loaded.append(keywords["fast"])
        raise ValueError("enough")

    monkeypatch.setattr(nanos2t, "load", spy_load)
    for flags in [], ["--fast"], ["--no-fast"]:
        assert run(*line.split(), *flags, tiny=False) == (3, [], ["nanos2t: enough"])
    assert loaded == [True, True, False]


@pytest.mark.parametrize("command", ["info", "parity"])
def test_some_commands_have_the_core_alone(run, command):
    code, out, [line] = run(command, "--fast", tiny=False)
    assert (code, out) == (2, []) and "--fast" in line
