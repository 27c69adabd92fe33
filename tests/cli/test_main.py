# pytest tests/test_cli.py
"""The contract of the command line: what goes where, exit codes, one line for an error and no traceback."""

import io
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import ROOT, python
from helpers.tiny import LANGUAGES, SOUNDS, save_tiny, write
from safetensors.torch import load_file, save_file

import nanos2t
from nanos2t.cli import main as cli
from nanos2t.transcription import loading
from nanos2t.transcription.formats import FORMATS, render
from nanos2t.transcription.loading import BUNDLED
from nanos2t.transcription.transcriber import SpeechToText


@pytest.fixture(scope="module")
def stt(model: Path) -> SpeechToText:
    return nanos2t.load(model)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch) -> list[str]:
    """a.wav ... d.wav of different lengths in the folder where the test runs; each sounds as another text."""
    monkeypatch.chdir(tmp_path)
    return [write(Path(f"{name}.wav"), SOUNDS[i]).name for name, i in zip("abcd", (0, 1, 3, 5))]


@pytest.fixture
def run(capsys, model: Path):
    """Runs `nanos2t` -> exit code, lines on stdout, lines on stderr. The model is the tiny one."""

    def run(*arguments: object, tiny: bool = True) -> tuple[int, list[str], list[str]]:
        more = ["--model", str(model)] if tiny and arguments[0] == "transcribe" else []
        code = cli.main([*map(str, arguments), *more])
        found = capsys.readouterr()
        assert "Traceback" not in found.err and not found.out[-1:].strip(), (
            "the last line has no end"
        )
        for line in found.err.splitlines():
            assert line.startswith("nanos2t: ") and len(line) < 400, line
        return code, found.out.splitlines(), found.err.splitlines()

    return run


@pytest.fixture
def no_model(monkeypatch):
    """The model must not be needed."""
    monkeypatch.setattr(
        nanos2t, "load", lambda *_, **__: pytest.fail("the model was loaded")
    )


# text


def test_one_line_of_bare_text_per_input_in_order(run, stt, clips):
    expected = {name: str(stt.transcribe(name)) for name in clips}
    assert len({*expected.values()}) == 4 and all(expected.values())
    for size in 1, 2, 3, 8:
        for names in clips, clips[::-1], [*clips, clips[0], clips[0]]:
            found = run("transcribe", *names, "--batch-size", size)
            assert found == (0, [expected[name] for name in names], [])
    assert sorted(os.listdir()) == sorted(clips), "files appeared"


def test_the_bundled_model_is_the_default(run, clips):
    code, out, err = run("transcribe", *clips, "--dtype", "float64", tiny=False)
    assert (code, out, err) == (
        0,
        [str(nanos2t.load(dtype="float64").transcribe(name)) for name in clips],
        [],
    )


def test_options_arrive(run, clips, monkeypatch):
    asked, sizes = {}, []
    load, search = nanos2t.load, SpeechToText.transcribe_batch

    def spy_load(name, **how):
        asked.update(how)
        return load(name, **how)

    def spy_search(self, waveforms, call):
        sizes.append(len(waveforms))
        asked.update(call.options, language=call.language, words=call.words)
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
    line = "--language en --num-beams 3 --words --dtype bfloat16 --device auto --batch-size 3 --quiet --no-fast"
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


@pytest.mark.parametrize("format", FORMATS)
def test_formats_on_stdout(capsys, stt, model, clips, format):
    arguments = ["transcribe", *clips[:2], "--format", format, "--words", "--model", str(model)]
    assert cli.main(arguments) == 0
    results = [stt.transcribe(name, words=True) for name in clips[:2]]
    assert capsys.readouterr().out == "".join(
        render(result, format, name) for result, name in zip(results, clips)
    )
    assert sorted(os.listdir()) == sorted(clips)


# inputs


def silent(path: Path) -> Path:
    return write(path, np.zeros(2000, np.float32))


def test_silence_is_an_empty_line(run, clips):
    silent(Path("silence.wav"))
    write(Path("one sample.wav"), SOUNDS[0][:1])
    code, out, err = run("transcribe", "silence.wav", clips[0], "one sample.wav", "silence.wav")
    assert (code, err) == (0, []) and out[0] == out[2] == out[3] == "" and out[1]
    assert run("transcribe", "silence.wav") == (0, [""], [])
    assert run("transcribe", "silence.wav", tiny=False) == (0, [""], [])


def test_a_clip_shorter_than_a_frame_is_done(run, clips):
    write(Path("short.wav"), SOUNDS[1][:3])
    code, out, err = run("transcribe", "short.wav", clips[0], "short.wav")
    assert (code, err) == (0, []) and len(out) == 3 and out[0] == out[2]


@pytest.fixture
def broken(clips) -> list[str]:
    """Inputs that fail, each in another way."""
    Path("empty.wav").write_bytes(b"")
    Path("text.wav").write_text("no audio, however long the text may be\n" * 30)
    write(Path("no samples.wav"), np.zeros(0, np.float32))
    write(Path("nan.wav"), np.where(np.arange(900) == 700, np.nan, SOUNDS[1][:900]))
    write(Path("infinite.wav"), np.where(np.arange(900) == 700, -np.inf, SOUNDS[1][:900]))
    whole = write(Path("whole.flac"), SOUNDS[1], subtype="PCM_16")
    Path("cut.flac").write_bytes(whole.read_bytes()[:-3000])
    whole.unlink()
    Path("header.wav").write_bytes(Path(clips[0]).read_bytes()[:20])
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("no audio")
    names = "missing.wav,empty.wav,text.wav,no samples.wav,nan.wav,infinite.wav,cut.flac,header.wav,folder"
    return names.split(",")


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_what_fails_is_named_and_the_others_are_done(run, stt, clips, broken, size):
    names = [clips[0], *broken[:3], clips[1], *broken[3:], clips[2]]
    code, out, err = run("transcribe", *names, "--batch-size", size)
    assert code == 1 and out == [str(stt.transcribe(name)) for name in clips[:3]]
    assert len(err) == len(broken)
    for name in broken:
        assert len([line for line in err if line.startswith(f"nanos2t: {name}: ")]) == 1, name


def test_a_folder_without_audio_needs_no_model(run, broken, no_model):
    code, out, err = run("transcribe", "folder")
    assert (code, out, len(err)) == (1, [], 1) and err[0].startswith("nanos2t: folder: no audio")


def test_a_folder_without_audio_fails_among_others(run, stt, clips, broken):
    code, out, err = run("transcribe", clips[0], "folder")
    assert (code, out, len(err)) == (1, [str(stt.transcribe(clips[0]))], 1)


def test_all_files_fail(run, broken):
    code, out, err = run("transcribe", *broken, "--quiet")
    assert (code, out, len(err)) == (1, [], len(broken))


def test_the_same_failing_file_twice(run, stt, clips):
    code, out, err = run(
        "transcribe", "missing.wav", clips[0], "missing.wav", clips[1], "--batch-size", 3
    )
    assert code == 1 and out == [str(stt.transcribe(name)) for name in clips[:2]] and len(err) == 2


def test_a_wav_cut_short_is_done_with_a_warning(run, stt, clips):
    data = Path(clips[1]).read_bytes()
    Path("cut.wav").write_bytes(data[:-4000])
    with pytest.warns(UserWarning):
        expected = str(stt.transcribe("cut.wav"))
    assert expected
    for _ in range(2):  # said each time
        code, out, err = run("transcribe", "cut.wav", clips[0])
        assert (code, out[0], len(out), len(err)) == (0, expected, 2, 1)
        assert err[0].startswith("nanos2t: warning: cut.wav: ")
    assert run("transcribe", "cut.wav", clips[0], "--quiet") == (0, out, [])


def test_a_folder_stands_for_the_audio_in_it(run, stt, clips):
    Path("in/deep").mkdir(parents=True)
    Path("in/folder.wav").mkdir()
    for name, to in zip(clips, ("in/z.wav", "in/B.WAV", "in/deep/a.wav", "in/.hidden")):
        shutil.copy(name, to)
    Path("in/notes.txt").write_text("no audio")
    names = [clips[3], "in/B.WAV", "in/deep/a.wav", "in/z.wav", clips[0]]
    code, out, err = run("transcribe", clips[3], "in", clips[0])
    assert (code, out, err) == (0, [str(stt.transcribe(name)) for name in names], [])


def test_stdin(run, stt, clips, monkeypatch):
    expected = [str(stt.transcribe(name)) for name in clips[:2]]

    def type_in(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    type_in(Path(clips[0]).read_bytes())
    assert run("transcribe", "-") == (0, expected[:1], [])
    type_in(Path(clips[0]).read_bytes())
    assert run("transcribe", "-", clips[1], "--output", "out", "--format", "tsv") == (
        0,
        expected,
        [],
    )
    assert sorted(os.listdir("out")) == ["b.tsv", "stdin.tsv"]
    for data in b"", b"no audio":
        type_in(data)
        code, out, err = run("transcribe", "-", clips[1])
        assert (code, out, len(err)) == (1, expected[1:], 1) and err[0].startswith("nanos2t: -: ")
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = run("transcribe", clips[0], "-", clips[1])
    assert (code, out, len(err)) == (1, expected, 1) and err[0].startswith("nanos2t: -: ")


# files


def test_files(run, stt, clips, no_model, monkeypatch):
    monkeypatch.setattr(nanos2t, "load", lambda *_, **__: stt)
    shutil.copy(clips[1], "b.c.wav")
    names = [clips[0], "b.c.wav", silent(Path("s.wav")).name]
    text = [str(stt.transcribe(name)) for name in names]
    for format in FORMATS:
        assert run("transcribe", *names, "--format", format, "--output", f"new/{format}") == (
            0,
            text,
            [],
        )
        assert sorted(os.listdir(f"new/{format}")) == [
            f"a.{format}",
            f"b.c.{format}",
            f"s.{format}",
        ]
        for name in names:
            written = (
                Path(f"new/{format}", name).with_suffix(f".{format}").read_text(encoding="utf-8")
            )
            assert written == render(stt.transcribe(name), format, name)
    Path("new/txt/a.txt").write_text("old")
    assert run("transcribe", clips[0], "--output", "new/txt")[0] == 0
    assert Path("new/txt/a.txt").read_text() == text[0] + "\n"


def test_a_file_is_whole_or_not_there(run, clips, monkeypatch):
    """It is written under another name; when that fails, nothing is left and the old file stands."""
    replace, there = os.replace, []
    Path("out").mkdir()
    Path("out/a.txt").write_text("old")

    def spy(part, path):
        there.append(sorted(os.listdir("out")))
        assert Path(path).name not in there[-1] or Path(path).read_text() == "old"
        assert Path(part).read_text().endswith("\n") and Path(part).parent == Path(path).parent
        if Path(path).name == "a.txt":
            raise OSError(28, "No space left on device")
        replace(part, path)

    monkeypatch.setattr(os, "replace", spy)
    code, out, err = run("transcribe", *clips[:2], "--output", "out")
    assert (code, len(out), len(err)) == (1, 2, 1) and len(there) == 2
    assert err[0].startswith("nanos2t: out/a.txt: can not be written") and "No space left" in err[0]
    assert Path("out/a.txt").read_text() == "old" and sorted(os.listdir("out")) == [
        "a.txt",
        "b.txt",
    ]


def test_a_folder_in_the_place_of_a_file(run, clips):
    Path("out/a.txt").mkdir(parents=True)
    code, out, err = run("transcribe", *clips[:2], "--output", "out")
    assert (code, len(out), len(err)) == (1, 2, 1) and "out/a.txt" in err[0]
    assert sorted(os.listdir("out")) == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    "names", [["x/a.wav", "y/a.flac"], ["a.wav", "a.wav"], ["a.wav", "x/a.wav", "gone/a.ogg"]]
)
def test_two_inputs_of_one_output_are_refused(run, clips, no_model, names):
    code, out, err = run("transcribe", *names, "--output", "out")
    assert (code, out, len(err)) == (2, [], 1) and not Path("out").exists()
    assert names[0] in err[0] and names[1] in err[0] and "out/a.txt" in err[0]


def test_where_nothing_can_be_written(run, clips, no_model, monkeypatch):
    os.chmod(clips[0], 0o755)
    for folder in clips[0], f"{clips[0]}/below/it":
        code, out, err = run("transcribe", clips[1], "--output", folder)
        assert (code, out, len(err)) == (2, [], 1) and f"--output {folder}: {clips[0]}" in err[0]
    os.symlink("nowhere", "dangling")
    assert run("transcribe", clips[1], "--output", "dangling")[0] == 2
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    code, out, err = run("transcribe", clips[1], "--output", "new")
    assert (code, out, len(err)) == (2, [], 1) and "--output new: . is not" in err[0]


def test_a_folder_that_cannot_be_made(run, clips):
    name = "n" * 300
    code, out, err = run("transcribe", clips[0], "--output", name)
    assert (code, out, len(err)) == (2, [], 1) and "--output nnn" in err[0]


def test_skip_existing_does_the_rest(run, stt, clips):
    text = [str(stt.transcribe(name)) for name in clips]
    assert run("transcribe", *clips[:2], "--output", "out", "--skip-existing") == (0, text[:2], [])
    Path("out/a.txt").write_text("kept")
    Path("out/c.txt.part").write_text("half a fi")
    assert run("transcribe", *clips, "gone.wav", "--output", "out", "--skip-existing")[:2] == (
        1,
        text[2:],
    )
    assert sorted(os.listdir("out")) == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert (
        Path("out/a.txt").read_text() == "kept" and Path("out/c.txt").read_text() == text[2] + "\n"
    )


def test_all_exist_already(run, clips, no_model):
    Path("out").mkdir()
    Path("out/a.srt").write_text("")
    arguments = "--output", "out", "--skip-existing", "--format", "srt"
    assert run("transcribe", clips[0], *arguments) == (0, [], [])
    Path("empty").mkdir()
    assert run("transcribe", clips[0], "empty", *arguments)[:2] == (1, [])


def test_patterns_and_lists(run, stt, model, clips):
    text = [str(stt.transcribe(name)) for name in clips]
    assert run("transcribe", "[bc].wav", "a.*") == (0, [text[1], text[2], text[0]], [])
    code, out, err = run("transcribe", "*.flac", clips[0])
    assert (code, out, len(err)) == (1, text[:1], 1) and err[0].startswith(
        "nanos2t: *.flac: no file fits"
    )
    for mark in "", "\ufeff":  # with which some editors begin
        Path("list.txt").write_text(f"{mark}c.wav\n\na.wav\n", encoding="utf-8")
        assert run("transcribe", clips[3], "--files-from", "list.txt") == (
            0,
            [text[3], text[2], text[0]],
            [],
        )
    process = python("-m", "nanos2t", "transcribe", "--files-from", "-", "--model", str(model))
    out, err = process.communicate(b"b.wav\na.wav\n", timeout=300)
    assert (process.returncode, out.decode().splitlines(), err) == (0, [text[1], text[0]], b"")


def test_a_name_that_looks_like_a_pattern(run, stt, clips):
    shutil.copy(clips[0], "[b].wav")
    assert run("transcribe", "[b].wav") == (0, [str(stt.transcribe(clips[0]))], [])


def test_subtitles_have_lines(run, clips):
    arguments = clips[1], "--format", "srt", "--max-line-width", 9, "--max-line-count", 1
    code, out, err = run("transcribe", *arguments)
    texts = [line for line in out if line and not line.isdecimal() and "-->" not in line]
    assert (code, err) == (0, []) and len(texts) > 1 and all(len(line) <= 9 for line in texts)
    code, out, err = run("transcribe", clips[1], "--format", "vtt", "--highlight-words")
    assert (code, err) == (0, []) and "<00:00:0" in "".join(out)


# a given text


def test_align(run, model, clips):
    sample = BUNDLED.parent / "sample.wav"
    code, out, err = run("align", sample, "two four seven", tiny=False)
    assert run("align", sample, " two  four\n\tseven\n", tiny=False) == (code, out, err)
    rows = [line.split("\t") for line in out]
    assert (code, err, rows[0]) == (0, [], ["start", "end", "text"])
    assert [row[2] for row in rows[1:]] == ["two", "four", "seven"]
    assert 0 < int(rows[1][0]) < int(rows[2][0]) < int(rows[3][0]) < 3300
    code, out, err = run(
        "align",
        sample,
        "zweihundertsiebenundvierzig",
        "--language",
        "German",
        "--format",
        "json",
        tiny=False,
    )
    [segment] = json.loads("\n".join(out))["segments"]
    assert (code, err) == (0, []) and segment["words"][0]["probability"] > 0.5
    monkey = run("align", "gone.wav", "w7", "--model", model, tiny=False)
    assert monkey[0] == 1 and monkey[2][0].startswith("nanos2t: gone.wav")
    for text in "two four seven" * 20, "語", " ":
        code, out, [line] = run("align", sample, text, tiny=False)
        assert (code, out) == (1, []) and line.startswith(f"nanos2t: {sample}: ")


# usage


@pytest.mark.parametrize(
    "line, expected",
    [
        ("", "COMMAND"),
        ("translate", "transcribe"),
        ("demo x", "x"),
        ("transcribe", "FILE"),
        ("transcribe a.wav --lang", "--lang"),
        ("transcribe a.wav --beams 3", "--beams"),
        ("transcribe a.wav --num-beams 0", "from 1 to 1000"),
        ("transcribe a.wav --num-beams -1", "--num-beams"),
        ("transcribe a.wav --num-beams 2.5", "from 1 to 1000"),
        ("transcribe a.wav --num-beams many", "from 1 to 1000"),
        ("transcribe a.wav --num-beams 1001", "from 1 to 1000"),
        (f"transcribe a.wav --num-beams {'9' * 5000}", "from 1 to 1000"),
        ("transcribe a.wav --batch-size 0", "from 1 to 1000"),
        ("transcribe a.wav --format doc", "'txt', 'srt', 'vtt', 'tsv', 'json'"),
        ("transcribe a.wav --dtype int4", "one of float32, float64, bfloat16, float16"),
        ("transcribe a.wav --device gpu", "one of auto, "),
        ("transcribe a.wav --device cuda:99", "one of auto, "),
        ("transcribe a.wav --words yes --format", "--format"),
        ("transcribe - a.wav -", "stdin"),
        ("transcribe - --files-from -", "stdin"),
        ("transcribe --files-from gone.txt", "--files-from gone.txt: No such file"),
        ("transcribe --files-from .", "--files-from .: Is a directory"),
        ("transcribe --files-from a.wav", "--files-from a.wav: not a text file"),
        ("transcribe a.wav --skip-existing", "--output"),
        ("transcribe a.wav --max-line-width 0", "from 1 to 1000"),
        ("align a.wav", "TEXT"),
        ("align", "FILE"),
    ],
    ids=lambda text: text[:40],
)
def test_usage(capsys, clips, no_model, line: str, expected: str):
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nanos2t: ")
    assert expected in err.replace(
        "choose from txt, srt, vtt, tsv, json", "'txt', 'srt', 'vtt', 'tsv', 'json'"
    )


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


@pytest.mark.parametrize("line", ["--help", "transcribe --help", "info -h", "--version"])
def test_help(capsys, no_model, line: str):
    assert cli.main(line.split()) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith(("usage: nanos2t", f"nanos2t {nanos2t.__version__}\n"))


# the model


def tensors(change):
    def break_(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        found = {name: tensor.clone() for name, tensor in found.items()}
        change(found)
        save_file(found, folder / "model.safetensors", {"format": "pt"})

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


def test_info(run, model, stt):
    code, out, err = run("info", model)
    table = dict(line.split(maxsplit=1) for line in out)
    assert (code, err) == (0, []) and len(table) == len(out)
    assert table["parameters"] == f"{sum(weight.numel() for weight in stt.model.parameters()):,}"
    assert set(table["languages"].split(", ")) == set(LANGUAGES) and table["audio"].startswith(
        "8000 Hz"
    )
    assert "hidden_size=15" in table["encoder"] and table["encoder"].startswith("wav2vec2")
    assert "vocab_size=40" in table["decoder"] and table["decoder"].startswith("bert")
    assert "decoder_start_token_id=1" in table["ids"] and table["generation"] == "max_length=12"
    code, out, err = run("info")
    assert (code, err) == (0, []) and "verbatim" in dict(line.split(maxsplit=1) for line in out)[
        "languages"
    ]


def test_demo(run, clips, monkeypatch):
    """A line for each language on stdout, everything else on stderr."""
    shutil.copytree(BUNDLED, "assets/spoken-numbers")
    monkeypatch.setattr(loading, "BUNDLED", Path("assets/spoken-numbers").absolute())
    code, out, err = run("demo")
    assert (code, out) == (1, []) and "sample.wav" in err[-1]
    shutil.copy(clips[1], "assets/sample.wav")
    code, out, err = run("demo")
    stt = nanos2t.load()
    expected = [
        f"{language} {stt.transcribe(clips[1], language=language)}".split()
        for language in stt.languages
    ]
    assert code == 0 and [line.split() for line in out] == expected and len(out) > 2
    assert "sample.wav" in err[0] and len(err) == 2


# the terminal, signals, pipes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_for_terminals(model, clips, monkeypatch, capsys):
    """Seconds of audio, of all that there are, how fast, and how long it takes yet."""
    arguments = ["transcribe", *clips[:3], "gone.wav", "--batch-size", "1", "--model", str(model)]
    write(Path(clips[2]), np.tile(SOUNDS[3], 5))  # 3.5 s
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli.main(arguments) == 1
    shown = sys.stderr.getvalue()
    assert "| 0/5 s of audio, " in shown and "| 5/5 s of audio, " in shown and "left" in shown
    assert shown.count("nanos2t: gone.wav") == 1
    assert "\rnanos2t: gone.wav" in shown or "\nnanos2t: gone.wav" in shown, (
        "the line stands behind the bar"
    )
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli.main([*arguments, "--quiet"]) == 1
    assert "of audio" not in sys.stderr.getvalue() and sys.stderr.getvalue().count("\n") == 1
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(run, stt, clips, monkeypatch, number):
    """What is finished stays, on stdout and in files; the handlers are as before."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # else it may be ignored
    search, before = (
        SpeechToText.transcribe_batch,
        [signal.getsignal(number) for number in (2, 15)],
    )
    calls = []

    def stop(self, *arguments):
        calls.append(len(arguments[0]))
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return search(self, *arguments)

    monkeypatch.setattr(SpeechToText, "transcribe_batch", stop)
    code, out, err = run("transcribe", *clips, "--batch-size", 1, "--output", "out")
    assert (code, err) == (130, ["nanos2t: interrupted"])
    assert out == [str(stt.transcribe(name)) for name in clips[:2]]
    assert sorted(os.listdir("out")) == ["a.txt", "b.txt"]
    assert [signal.getsignal(number) for number in (2, 15)] == before
    signal.signal(signal.SIGINT, usual)


def test_in_another_thread(model, clips):
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(cli.main(["transcribe", clips[0], "--model", str(model)]))
    )
    thread.start()
    thread.join()
    assert codes == [0]


def test_stdout_that_takes_nothing(model, clips, monkeypatch, capsys):
    arguments = ["transcribe", *clips, "--batch-size", "1", "--model", str(model)]
    reading, writing = os.pipe()
    os.close(reading)
    for stdout, line in (
        (os.fdopen(writing, "w"), ""),
        (open("/dev/full", "w"), "nanos2t: stdout: No space left"),
    ):
        for command in arguments, ["--help"]:
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", stdout)
                assert cli.main(command) == (1 if command is arguments else 0)
        assert capsys.readouterr().err.startswith(line)
        stdout.close()


def test_no_stdout_and_no_stderr(model, clips, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert (
        cli.main(["transcribe", "gone.wav", clips[0], "--output", "out", "--model", str(model)])
        == 1
    )
    assert os.listdir("out") == ["a.txt"]


def test_text_that_stdout_has_no_bytes_for(model, stt, clips, monkeypatch):
    name = os.fsdecode(b"\xff \xfc.wav")
    shutil.copy(clips[0], name)
    tokens = [6, 2]  # größer
    monkeypatch.setattr(SpeechToText, "decode_tokens", lambda self, found: self.tokenizer.decode(tokens))
    for encoding, expected in (
        ("ascii", "gr\\xf6\\xdfer"),
        ("utf-8", "größer"),
        ("latin-1", "größer"),
    ):
        for format in "txt", "json":
            written = io.BytesIO()
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
            assert (
                cli.main(
                    ["transcribe", name, "--format", format, "--output", "o", "--model", str(model)]
                )
                == 0
            )
            assert written.getvalue().decode(encoding) == expected + "\n"
            [file] = [path for path in Path("o").iterdir() if path.suffix == f".{format}"]
            assert "größer" in file.read_text(encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout := io.TextIOWrapper(io.BytesIO(), "utf-8"))
            assert cli.main(["transcribe", name, "--format", "json", "--model", str(model)]) == 0
        for content in file.read_bytes(), stdout.buffer.getvalue():
            found = json.loads(content.decode("utf-8"))
            assert found["text"] == "größer" and found["audio"] == name


def test_as_a_module_and_stdin(model, stt, clips):
    """And a pipe, which cannot seek, with a folder that is not the repository as the place."""
    process = python("-m", "nanos2t", "transcribe", "gone.wav", "-", "--model", str(model))
    out, err = process.communicate(Path(clips[1]).read_bytes(), timeout=300)
    assert (process.returncode, out.decode()) == (1, f"{stt.transcribe(clips[1])}\n")
    assert err.decode().startswith("nanos2t: gone.wav: ") and err.count(b"\n") == 1


def test_interrupted_while_it_waits(model, stt, clips):
    """Ctrl-C at a pipe that gives nothing: the first line is there already."""
    process = python(
        "-m", "nanos2t", "transcribe", clips[0], "-", "--batch-size", "1", "--model", str(model)
    )
    assert process.stdout.readline().decode() == f"{stt.transcribe(clips[0])}\n"
    process.send_signal(signal.SIGINT)
    out, err = process.stdout.read(), process.stderr.read()
    assert (process.wait(300), out, err) == (130, b"", b"nanos2t: interrupted\n")


def test_a_reader_that_has_enough(model, clips):
    reading, writing = os.pipe()
    process = python(
        "-m",
        "nanos2t",
        "transcribe",
        *clips,
        "--batch-size",
        "1",
        "--model",
        str(model),
        stdout=writing,
    )
    os.close(writing)
    os.close(reading)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (1, b"")


def test_help_needs_no_torch():
    """The command line by itself; what `import nanos2t` imports stands in nanos2t/__init__.py."""
    code = (
        "import sys, types\n"
        "package = sys.modules['nanos2t'] = types.ModuleType('nanos2t')\n"
        f"package.__path__, package.__version__ = [{str(ROOT / 'nanos2t')!r}], '0'\n"
        "from nanos2t.cli import main as cli\n"
        "codes = [cli.main(line.split()) for line in ('--help', 'transcribe --help', 'transcribe', 'x')]\n"
        "slow = {'torch', 'numpy', 'soundfile', 'tqdm', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(0 if codes == [0, 0, 2, 2] and not slow else repr((codes, slow)))\n"
    )
    process = python("-c", code)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
