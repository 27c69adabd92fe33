# pytest tests/test_bad_files.py
"""Every file of a model folder, whatever is in it, ends as one line that names the file."""

import copy
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.tiny import save_tiny
from safetensors.torch import load_file

import nanos2t
from nanos2t.checkpoint import find_folder
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.pretrained import find_token_id, read_configs
from nanos2t.transcription.loading import from_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
VALUES = [None, True, -1, 1.5, 2**40, "x", "", [], [[]], [5], {}, {"a": 1}]


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_tiny(tmp_path / "model")


def refuse(folder: Path, *words: str) -> None:
    """Expect that a load raises a ValueError of one line with these words."""
    with pytest.raises(ValueError) as error:
        nanos2t.load(folder)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.mark.parametrize("content", [{1: torch.ones(2)}, {"a": {"b": torch.ones(1)}}, {}, 5])
def test_pickles_of_something_else(folder, content):
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    refuse(folder, "pytorch_model.bin: ", "expected a dict of tensors")

    # A few strange keys among the tensors are as wrong.
    tensors = load_file(save_tiny(folder.parent / "other") / "model.safetensors")
    torch.save(tensors | {7: torch.ones(1)}, folder / "pytorch_model.bin")
    refuse(folder, "pytorch_model.bin: dict, expected a dict of tensors")


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
     "tokenizer_config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt",
     "model.safetensors.index.json"],
)  # fmt: skip
def test_a_pointer_of_git_lfs(folder, name):
    if name in ("pytorch_model.bin", "model.safetensors.index.json"):
        (folder / "model.safetensors").unlink()
    if name == "vocab.txt":
        (folder / "tokenizer.json").unlink()
    (folder / name).write_text(POINTER)
    refuse(folder, f"{name}: is a pointer of Git LFS, expected the file itself: run `git lfs pull`")


def test_a_header_of_very_many_tensors(folder):
    tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{i}": tensor for i in range(110_000)}).encode()
    content = struct.pack("<Q", len(header)) + header
    (folder / "model.safetensors").write_bytes(content)
    refuse(folder, "model.safetensors: 110000 tensors, more than the 100000 that are read")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.bin", 5, None, "x.txt"])
def test_an_index_that_names_no_weights_beside_it(folder, name):
    (folder / "model.safetensors").unlink()
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    refuse(folder, f"{path.name}: names the file {str(name)!r}, expected one beside it")


PANICS = {  # what makes the library in Rust panic: when it reads the file, or when it is used
    "charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "template": {"post_processor": {"type": "TemplateProcessing", "pair": [],
                 "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "special_tokens": {}}},
    "length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "prefix": {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
                         "continuing_subword_prefix": "####"}},
}  # fmt: skip


@pytest.mark.parametrize("panic", PANICS)
def test_a_panic_of_rust(folder, panic):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | PANICS[panic]))
    refuse(folder, "tokenizer.json: ", "expected the file of a tokenizer")


def test_the_command_line_writes_one_line(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | PANICS["charsmap"]))
    command = [sys.executable, "-m", "nanos2t", "transcribe", "x.wav", "--model", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and "tokenizer.json: " in done.stderr, done.stderr


def places(content, path=()) -> Iterator[tuple]:
    """The paths to all values in an object of JSON, in long lists and objects to the first ones."""
    yield path
    keys = []
    if isinstance(content, dict):
        keys = list(content)[:40]
    elif isinstance(content, list):
        keys = range(min(2, len(content)))
    for key in keys:
        yield from places(content[key], (*path, key))


def replaced(content, path: tuple, value):
    """The object with another value at a path."""
    if not path:
        return value
    content = copy.deepcopy(content)
    part = content
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return content


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
     "tokenizer_config.json"],
)  # fmt: skip
def test_values_of_wrong_types(folder, name):
    """Each value of a file in turn, replaced by others: it loads, or is one line with the name."""
    model = SpeechEncoderDecoder.from_pretrained(folder)
    path = folder / name
    content = {"do_lower_case": True, "strip_accents": None}
    if path.exists():
        content = json.loads(path.read_text())
    refused = 0
    for place in places(content):
        for value in VALUES:
            path.write_text(json.dumps(replaced(content, place, value)))
            try:
                SpeechEncoderDecoder.build_empty(read_configs(folder))
                find_token_id(folder, "[CLS]")
                from_folder(model, folder)
            except ValueError as error:
                refused += 1
                assert name in str(error) and "\n" not in str(error), (place, value, error)
    assert refused >= 8


def test_a_misspelt_path_is_answered_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nanos2t.checkpoint.download", lambda *words: pytest.fail("asked the hub"))
    (tmp_path / "run/last").mkdir(parents=True)
    with pytest.raises(ValueError, match="^run/best: no such folder, run has last$"):
        find_folder("run/best")
    (tmp_path / "run/last").rmdir()
    with pytest.raises(ValueError, match="^run/best: no such folder, run has none$"):
        find_folder("run/best")


def test_a_name_that_may_be_a_path_is_said_to_be_asked_for(tmp_path, monkeypatch, caplog):
    def refuse_download(*words):
        raise ValueError("the hub has none")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nanos2t.checkpoint.download", refuse_download)
    with pytest.raises(ValueError, match="^run/best: no such folder, and not from the hub: the "):
        find_folder("run/best")
    assert "run/best: no such folder here, asking the hub: is it meant to be a path?" in caplog.text
