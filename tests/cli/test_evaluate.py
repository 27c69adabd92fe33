# pytest tests/cli/test_evaluate.py
"""nanos2t/cli/evaluate.py: the table, the JSON, the exit codes."""

import contextlib
import json
import logging
import os
import sys
from pathlib import Path

import pytest
from helpers.tiny import SOUNDS, write

import nanos2t
from nanos2t.cli import evaluate
from nanos2t.cli import main as cli
from nanos2t.transcription.results import Result
from nanos2t.transcription.transcriber import SpeechToText

pytest.importorskip("jiwer")
pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def stt(model: Path) -> SpeechToText:
    return nanos2t.load(model, dtype="float64")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write(folder / f"{i}.wav", SOUNDS[i])) for i in (0, 1, 3, 5, 6)]


@pytest.fixture
def run(capsys, model: Path):
    def run(*arguments: object, tiny: bool = True) -> tuple[int, str, list[str]]:
        command = ["eval", *map(str, arguments)]
        if tiny:
            command += ["--model", str(model)]
        code = cli.main(command)
        stderr = capsys.readouterr()
        assert "Traceback" not in stderr.err
        assert all(line.startswith("nanos2t: ") for line in stderr.err.splitlines())
        return code, stderr.out, stderr.err.splitlines()

    return run


def manifest(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_keys_that_are_not_read_have_a_line_unless_quiet(run, stt, clips, tmp_path):
    text = str(stt.transcribe(clips[0]))
    path = manifest(tmp_path / "m.jsonl", {"audio": clips[0], "text": text, "langauge": "en"})
    assert run(path)[2] == [f"nanos2t: {path}: not read: langauge"]
    assert run(path, "--quiet")[2] == []
    assert not logging.getLogger("nanos2t").level  # what follows in this process is not quiet


def test_the_scores_are_in_a_file_if_stdout_is_closed(stt, model, clips, tmp_path, monkeypatch):
    text = str(stt.transcribe(clips[0]))
    path = manifest(tmp_path / "m.jsonl", {"audio": clips[0], "text": text})
    command = ["eval", str(path), "--model", str(model)]
    output = tmp_path / "scores.json"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert cli.main(command) == 1
        assert cli.main([*command, "--output", str(output)]) == 0
    assert json.loads(output.read_text())["items"]


def test_the_scores_are_in_a_file_if_stdout_takes_nothing(stt, model, clips, tmp_path):
    path = manifest(
        tmp_path / "m.jsonl", {"audio": clips[0], "text": str(stt.transcribe(clips[0]))}
    )
    output = tmp_path / "scores.json"
    command = ["eval", str(path), "--model", str(model), "--output", str(output)]
    with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):
        assert cli.main(command) == 1
    assert json.loads(output.read_text())["items"]


def test_the_command_prints_a_table_and_the_worst(run, stt, clips, tmp_path):
    texts = [str(stt.transcribe(clip, language="en")) for clip in clips]
    rows = [{"audio": clip, "text": text, "language": "en"} for clip, text in zip(clips, texts)]
    rows[1]["text"] += " extra"
    path = manifest(tmp_path / "m.jsonl", *rows)
    code, out, err = run(path, "--dtype", "float64")
    assert (code, err) == (0, [])
    table = [line.split() for line in out.splitlines()[:3]]
    assert table[0] == ["items", "exact", "wer", "cer", "bleu", "chrf"]
    assert table[1][:3] == ["en", "5", "0.8000"] and table[2][1:] == table[1][1:]
    assert clips[1] in out and clips[0] not in out and "extra" in out
    assert sorted(os.listdir(tmp_path)) == ["m.jsonl"], "files appeared"


def test_json_and_output(run, clips, tmp_path):
    path = manifest(tmp_path / "m.jsonl", *({"audio": clip, "text": "w7"} for clip in clips))
    code, out, _ = run(path, "--json", "--output", tmp_path / "found.json", "--language", "de")
    actual = json.loads(out)
    assert code == 0 and json.loads((tmp_path / "found.json").read_text()) == actual
    assert len(actual["items"]) == 5 and actual["scores"]["all"]["items"] == 5
    assert {row["language"] for row in actual["items"]} == {"de"}
    code, out, err = run(path, "--output", tmp_path / "no" / "found.json")
    assert code == 1 and "all" in out and len(err) == 1 and "found.json" in err[0]


def test_options_arrive(run, clips, tmp_path, monkeypatch):
    asked = {}

    def spy(self, sources, batch_size, **how):
        asked.update(how, batch_size=batch_size)
        return (Result("One, two.", 0.0, [], [], None) for _ in sources)

    monkeypatch.setattr(SpeechToText, "transcribe_many", spy)
    path = manifest(tmp_path / "m.jsonl", {"audio": clips[0], "text": "one two"})
    line = "--num-beams 3 --batch-size 7 --language en --normalise --quiet --json"
    code, out, _ = run(path, *line.split())
    assert code == 0 and json.loads(out)["scores"]["all"]["exact"] == 1
    assert (asked["num_beams"], asked["batch_size"], asked["language"]) == (3, 7, "en")
    asked.clear()
    assert run(path)[0] == 0 and "num_beams" not in asked and asked["batch_size"] == 8


def test_exit_codes(run, clips, tmp_path, monkeypatch):
    path = manifest(
        tmp_path / "m.jsonl", {"audio": clips[0], "text": "x"}, {"audio": "gone.wav", "text": "x"}
    )
    code, out, err = run(path)
    assert code == 1 and len(err) == 1 and str(tmp_path / "gone.wav") in err[0] and "all" in out
    none = manifest(tmp_path / "none.jsonl", {"audio": "gone.wav", "text": "x"})
    code, out, err = run(none)
    assert code == 1 and len(err) == 1 and "all" not in out
    assert run(tmp_path / "no.jsonl")[0] == 2
    assert run(manifest(tmp_path / "bad.jsonl", {"audio": 3}))[0] == 2
    assert run(path, "--language", "tlh")[0] == 2
    assert run(path, "--model", tmp_path / "nothing", tiny=False)[0] == 3
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    code, out, err = run(path)
    assert (code, out) == (2, "") and "pip install jiwer sacrebleu" in err[0]


def test_empty_texts_are_counted_on_stderr(run, clips, tmp_path):
    rows = [{"audio": clip, "text": text} for clip, text in zip(clips, ("", "x", "..."))]
    path = manifest(tmp_path / "m.jsonl", *rows)
    code, _, err = run(path, "--language", "en")
    assert code == 0 and len(err) == 1 and "1 of 3 texts are empty" in err[0]
    _, _, err = run(path, "--language", "en", "--normalise")
    assert "2 of 3 texts are empty" in err[0]
    assert run(path, "--language", "en", "--quiet")[2] == []


@pytest.mark.parametrize("kind", ["manifest", "recording", "link", "model"])
def test_the_output_replaces_no_input(run, clips, tmp_path, model, monkeypatch, kind):
    monkeypatch.setattr(nanos2t, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    path = manifest(tmp_path / "m.jsonl", {"audio": clips[0], "text": "w7"})
    output = {"manifest": path, "recording": clips[0], "model": model / "config.json"}.get(kind)
    if output is None:
        output = tmp_path / "link"
        output.symlink_to(path)
    before = Path(output).read_bytes()
    code, out, err = run(path, "--output", output)
    assert (code, out, len(err)) == (2, "", 1) and "would be written over the input" in err[0]
    assert Path(output).read_bytes() == before
