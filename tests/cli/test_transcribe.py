# pytest tests/cli/test_transcribe.py
"""nanos2t/cli/transcribe.py: one line of text for each input in order, files, exit codes."""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.processes import python
from helpers.sounds import Trickle, encode_media, sine
from helpers.tiny import SOUNDS, write

import nanos2t
from nanos2t.cli import main as cli
from nanos2t.transcription.formats import FORMATS, render
from nanos2t.transcription.loading import BUNDLED


def test_one_line_of_bare_text_per_input_in_order(run, stt, clips):
    expected = {name: str(stt.transcribe(name)) for name in clips}
    assert len({*expected.values()}) == 4 and all(expected.values())
    for size in 1, 2, 3, 8:
        for names in clips, clips[::-1], [*clips, clips[0], clips[0]]:
            completed = run("transcribe", *names, "--batch-size", size)
            assert completed == (0, [expected[name] for name in names], [])
    assert sorted(os.listdir()) == sorted(clips), "files appeared"


def test_the_bundled_model_is_the_default(run, clips):
    code, out, err = run("transcribe", *clips, "--dtype", "float64", tiny=False)
    assert (code, out, err) == (
        0,
        [str(nanos2t.load(dtype="float64").transcribe(name)) for name in clips],
        [],
    )


@pytest.mark.parametrize("format", FORMATS)
def test_formats_on_stdout(capsys, stt, model, clips, format):
    # Subtitles on stdout are those of one recording.
    count = 1 if format in ("srt", "vtt", "tsv") else 2
    names = clips[:count]
    arguments = ["transcribe", *names, "--format", format, "--words", "--model", str(model)]
    assert cli.main(arguments) == 0
    results = [stt.transcribe(name, words=True) for name in names]
    assert capsys.readouterr().out == "".join(
        render(result, format, name) for result, name in zip(results, clips)
    )
    assert sorted(os.listdir()) == sorted(clips)


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
    names = "missing.wav,empty.wav,text.wav,no samples.wav,nan.wav,infinite.wav,cut.flac"
    return [*names.split(","), "header.wav", "folder"]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_what_fails_is_named_and_the_others_are_done(run, stt, clips, broken, size):
    names = [clips[0], *broken[:3], clips[1], *broken[3:], clips[2]]
    code, out, err = run("transcribe", *names, "--batch-size", size)
    first, second, third = (str(stt.transcribe(name)) for name in clips[:3])
    # Each input has a line: an empty one if it fails. A folder without audio stands for none.
    num_failed = len(broken) - 1
    assert (code, out) == (1, [first, *[""] * 3, second, *[""] * (num_failed - 3), third])
    options = "--format", "json", "--batch-size", size
    in_json = run("transcribe", *names, *options)[1]
    assert in_json.count("{") == 3 and "" not in in_json
    assert run("transcribe", *names, *options, "--output", "out")[1] == out
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
    assert (code, out, len(err)) == (1, [""] * (len(broken) - 1), len(broken))


def test_the_same_failing_file_twice(run, stt, clips):
    code, out, err = run(
        "transcribe", "missing.wav", clips[0], "missing.wav", clips[1], "--batch-size", 3
    )
    first, second = (str(stt.transcribe(name)) for name in clips[:2])
    assert (code, out, len(err)) == (1, ["", first, "", second], 2)


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
    texts = [str(stt.transcribe(name)) for name in names]
    line = "nanos2t: 5 inputs (passed over: 1 files without a suffix, 1 .txt)"
    assert run("transcribe", clips[3], "in", clips[0]) == (0, texts, [line])
    assert run("transcribe", clips[3], "in", clips[0], "--quiet") == (0, texts, [])


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
        assert (code, out, len(err)) == (1, ["", *expected[1:]], 1)
        assert err[0].startswith("nanos2t: -: ")
        type_in(data)
        assert run("transcribe", "-")[:2] == (1, [""])
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = run("transcribe", clips[0], "-", clips[1])
    assert (code, out, len(err)) == (1, [expected[0], "", expected[1]], 1)
    assert err[0].startswith("nanos2t: -: ") and "stdin is closed" in err[0]
    code, out, err = run("transcribe", "-")
    assert (code, out, len(err)) == (1, [""], 1) and "stdin is closed" in err[0]
    code, out, err = run("transcribe", "--files-from", "-")
    assert (code, out, err) == (2, [], ["nanos2t: --files-from -: stdin is closed"])


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
    """It is written under another name; when that fails, the old file stays and nothing else."""
    replace = os.replace
    there = []
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
    assert err[0].startswith("nanos2t: out/a.txt: cannot be written") and "No space left" in err[0]
    assert Path("out/a.txt").read_text() == "old" and sorted(os.listdir("out")) == [
        "a.txt",
        "b.txt",
    ]


def test_a_folder_in_the_place_of_a_file(run, clips):
    Path("out/a.txt").mkdir(parents=True)
    code, out, err = run("transcribe", *clips[:2], "--output", "out")
    assert (code, len(out), len(err)) == (1, 2, 1) and "out/a.txt" in err[0]
    assert sorted(os.listdir("out")) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("names", [["x/a.wav", "y/a.flac"], ["a.wav", "x/a.wav", "gone/a.ogg"]])
def test_two_inputs_of_one_output_are_refused(run, clips, no_model, names):
    code, out, err = run("transcribe", *names, "--output", "out")
    assert (code, out, len(err)) == (2, [], 1) and not Path("out").exists()
    assert names[0] in err[0] and names[1] in err[0] and "out/a.txt" in err[0]


def test_the_same_input_twice_is_one_output(run, stt, clips):
    os.symlink(".", "here")
    names = [clips[0], f"./{clips[0]}", f"here/{clips[0]}", clips[0]]
    assert run("transcribe", *names, "--output", "out") == (0, [str(stt.transcribe(clips[0]))], [])
    assert os.listdir("out") == ["a.txt"]


@pytest.mark.parametrize("kind", ["itself", "spelling", "link", "hard link", "folder link", "list"])
def test_no_output_replaces_an_input(run, clips, no_model, kind):
    os.mkdir("out")
    shutil.copy(clips[0], "a.txt")
    content = Path("a.txt").read_bytes()
    arguments = ["a.txt", "--output", "out"]
    if kind == "itself":
        arguments = ["a.txt", "--output", "."]
    elif kind == "spelling":
        arguments = ["a.txt", "--output", "out/../out/.."]
    elif kind == "link":
        os.symlink("../a.txt", "out/a.txt")
    elif kind == "hard link":
        os.link("a.txt", "out/a.txt")
    elif kind == "folder link":
        os.symlink(os.getcwd(), "again")
        arguments = ["a.txt", "--output", "again"]
    else:
        Path("b.txt").write_text("b.wav")
        arguments = ["--files-from", "b.txt", "--output", "."]
    code, out, err = run("transcribe", *arguments)
    assert (code, out, len(err)) == (2, [], 1) and "would be written over the input" in err[0]
    assert Path("a.txt").read_bytes() == content


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
        [*text[2:], ""],
    )
    assert sorted(os.listdir("out")) == ["a.txt", "b.txt", "c.txt", "c.txt.part", "d.txt"]
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


@pytest.mark.parametrize("format", ["srt", "vtt", "tsv"])
def test_subtitles_of_several_recordings_need_a_folder(run, clips, no_model, format):
    for names in (clips[:2], ["?.wav"], ["."], [clips[0], "gone.wav"]):
        code, out, err = run("transcribe", *names, "--format", format)
        assert (code, out, len(err)) == (2, [], 1) and "--output DIR" in err[0]


@pytest.mark.parametrize("has_av", [True, False])
def test_recordings_of_phones_in_a_folder_are_no_silent_loss(run, clips, monkeypatch, has_av):
    """Decoded with the extra; without it each of them is a failed input that says what helps."""
    pytest.importorskip("av")
    os.mkdir("in")
    shutil.move("a.wav", "in/a.wav")
    sound = sine(16_000)[None]
    Path("in/b.M4A").write_bytes(encode_media(sound, 16_000, "ipod", "aac"))
    Path("in/c.webm").write_bytes(encode_media(sound, 48_000, "webm", "libopus"))
    if not has_av:
        monkeypatch.setitem(sys.modules, "av", None)
    for names in ["in"], ["in/*"]:
        code, out, err = run("transcribe", *names)
        assert [bool(line) for line in out] == [True, has_av, has_av]
        if has_av:
            assert (code, err) == (0, [])
            continue
        assert code == 1 and [line.split(": ")[1] for line in err] == ["in/b.M4A", "in/c.webm"]
        assert all("pip install 'nanos2t[media]'" in line for line in err)


def test_text_is_written_while_stdin_is_read(tmp_path: Path):
    """A slow writer: the first words are there before the last are spoken."""
    sample, rate = soundfile.read(BUNDLED.parent / "sample.wav", dtype="float32")
    speech = np.concatenate([sample, np.zeros(3 * rate, np.float32)])
    data = write(tmp_path / "a.wav", np.tile(speech, 15), rate, subtype="PCM_16").read_bytes()
    expected = " ".join(["two four seven"] * 15) + "\n"
    process = python("-m", "nanos2t", "transcribe", "-")
    process.stdin.write(data[: len(data) * 2 // 3])
    begin = process.stdout.read(len("two four seven"))
    out, err = process.communicate(data[len(data) * 2 // 3 :], timeout=300)
    assert (begin + out).decode() == expected and (process.returncode, err) == (0, b"")


def test_stdin_that_breaks_off_is_text_and_an_error(run, monkeypatch, tmp_path: Path):
    sample, rate = soundfile.read(BUNDLED.parent / "sample.wav", dtype="float32")
    sound = np.tile(np.concatenate([sample, np.zeros(3 * rate, np.float32)]), 10)
    sound[-5] = np.inf
    data = write(tmp_path / "a.wav", sound, rate).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Trickle(data))))
    code, [text], [line] = run("transcribe", "-", tiny=False)
    assert text.startswith("two four seven two four seven ")
    assert code == 1 and line.startswith("nanos2t: -: ") and "finite samples" in line
