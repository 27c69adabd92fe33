# pytest tests/cli/test_parity.py
"""nanos2t/cli/parity.py: its table, its JSON, its exit codes."""

import json
from pathlib import Path

import pytest
from helpers.pairs import pair_of, s2t_folder, tiny_pair

import nanos2t
from nanos2t import wav2vec2
from nanos2t.cli import main as cli
from nanos2t.cli import parity as command
from nanos2t.inspection import parity

STAGES = [
    "conv 0",
    "conv 1",
    "conv 2",
    "projection",
    "positions",
    "encoder norm",
    "encoder block 0",
    "encoder block 1",
    "encoder block 2",
    "bridge",
    "embedding",
    "decoder block 0",
    "decoder block 1",
    "logits",
    "greedy tokens",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where transformers saved a tiny pair."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("pair")
    tiny_pair().save_pretrained(folder)
    preprocessor = {"sampling_rate": 1000, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


@pytest.fixture
def run(capfd):
    """Runs `nanos2t parity` -> exit code, stdout, lines on stderr."""

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        code = cli.main(["parity", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert "Traceback" not in err and all(len(line) < 400 for line in err.splitlines())
        return code, out, err.splitlines()

    return run


def test_command(folder, run, monkeypatch):
    code, out, err = run(folder)
    assert (code, err) == (0, []) and out.splitlines()[-1] == "first to depart: none"
    assert [line.split("  ")[0] for line in out.splitlines()[1:-1]] == STAGES

    clip = Path(nanos2t.__file__).parent / "assets" / "sample.wav"
    code, text, err = run(folder, "--dtype", "float64", "--json", "--audio", clip)
    actual = json.loads(text)
    assert (code, err, actual["first_departure"]) == (0, [], None)
    assert [row["stage"] for row in actual["stages"]] == STAGES
    assert max(row["difference"] for row in actual["stages"]) < 1e-9
    assert set(actual["stages"][0]) == {"stage", "shape", "difference", "largest", "departs"}

    right = wav2vec2.position_conv
    monkeypatch.setattr(wav2vec2, "position_conv", lambda x, *rest: right(x, *rest).flip(1))
    code, out, err = run(folder)
    assert (code, err) == (1, []) and out.splitlines()[-1] == "first to depart: positions"
    assert json.loads(run(folder, "--json")[1])["first_departure"] == "positions"


def test_command_on_the_bundled_model(run):
    pytest.importorskip("transformers")
    code, out, err = run("--dtype", "float64")
    assert (code, err) == (0, []) and out.endswith("first to depart: none\n")


def test_command_that_cannot_be_done(folder, run, tmp_path, monkeypatch):
    for code, named, *arguments in [
        (3, "no/such/folder", "no/such/folder"),
        (3, "config.json", tmp_path),
        (1, "nothing.wav", folder, "--audio", "nothing.wav"),
        (2, "float16", folder, "--dtype", "float16"),
    ]:
        completed, out, err = run(*arguments)
        assert (completed, out, len(err)) == (code, "", 1) and named in err[0], arguments

    # transformers 5 has no speech_to_text_2.
    s2t_folder(pair_of("base", "trocr, sinusoidal, untied"), tmp_path / "s2t")
    completed, out, err = run(tmp_path / "s2t")
    assert (completed, out, len(err)) == (3, "", 1)
    assert str(tmp_path / "s2t") in err[0] and "speech_to_text_2" in err[0]

    # Another model has other stages.
    untied = {"hidden_size": 15, "num_attention_heads": 5, "tie_word_embeddings": False}
    other = tiny_pair(decoder=untied)
    monkeypatch.setattr(parity, "load_theirs", lambda *_: other)
    completed, out, err = run(folder, "--dtype", "float64")
    assert completed == 1 and out.splitlines()[-1].startswith("first to depart: ")

    monkeypatch.setattr(command, "find_spec", lambda name: None)
    completed, out, err = run(folder)
    assert (completed, out, len(err)) == (2, "", 1) and "transformers" in err[0]
