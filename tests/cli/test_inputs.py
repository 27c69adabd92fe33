# pytest tests/cli/test_inputs.py
"""nanos2t/cli/inputs.py: which files are meant by the names of folders, patterns and lists."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.tiny import SOUNDS, write

from nanos2t.audio import load_audio
from nanos2t.cli.inputs import InputSearch, count_seconds, describe_passed, find_files, read_list

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def test_folders_and_patterns():
    touch(
        "in/b.wav",
        "in/deep/a.FLAC",
        "in/notes.txt",
        "x1.wav",
        "x2.wav",
        "x3.mp3",
        "[x].wav",
        "none/a.txt",
    )
    search = find_files(["x2.wav", "in", "x*.wav", "in/**/*.FLAC", "[x].wav", "gone.wav", "-"])
    inside = ["in/b.wav", "in/deep/a.FLAC"]
    single = ["x2.wav", *inside, "x1.wav", "x2.wav", inside[1], "[x].wav", "gone.wav", "-"]
    assert search.files == single and search.errors == [] and search.passed_over == {".txt": 1}

    search = find_files(["none", "y*", "x1.wav"])
    assert search.files == ["x1.wav"] and search.passed_over == {}
    names = [str(error).partition(": ")[0] for error in search.errors]
    assert names == ["none", "y*"] and "(passed over: 1 .txt)" in str(search.errors[0])


def test_each_file_of_a_folder_is_found_once_through_links():
    touch("in/a.wav", "in/deep/b.wav", "elsewhere/c.wav", "elsewhere/d.wav", "e.wav")
    os.symlink("..", "in/deep/loop")
    os.symlink(".", "in/again")
    os.symlink("deep", "in/0 deep")
    os.symlink("../elsewhere", "in/linked")
    os.symlink("../e.wav", "in/linked.wav")
    os.symlink("a.wav", "in/0.wav")
    os.link("in/a.wav", "in/hard.wav")
    own = ["in/a.wav", "in/deep/b.wav", "in/hard.wav"]
    linked = ["in/linked.wav", "in/linked/c.wav", "in/linked/d.wav"]
    for name in ("in", "in/", "./in", "in/**", "in/**/*.wav"):
        search = find_files([name])
        assert [os.path.normpath(file) for file in search.files] == own + linked, name
        assert search.errors == [] and search.passed_over["second names of files"] > 0


def test_what_is_no_audio_is_passed_over_and_counted():
    touch(
        "in/a.wav", "in/._a.wav", "in/.b.wav", "in/notes.txt", "in/more.TXT", "in/README", "in/x/y"
    )
    os.mkdir("in/folder.wav")
    os.mkfifo("in/pipe.wav")
    search = find_files(["in"])
    assert search.files == ["in/.b.wav", "in/a.wav"] and search.errors == []
    assert search.passed_over == {
        "._ files": 1,
        ".txt": 2,
        "files without a suffix": 2,
        "pipes or devices": 1,
    }
    search = find_files(["in/*"])
    assert search.files == ["in/a.wav"] and search.passed_over["folders"] == 2
    assert find_files(["in/*.txt"]).files == ["in/notes.txt"]
    assert "2 folders" in describe_passed(search) and describe_passed(InputSearch()) == ""


def test_links_that_lead_nowhere_and_closed_folders_are_errors(monkeypatch):
    touch("in/a.wav", "in/closed/b.wav")
    os.symlink("gone.wav", "in/lost.wav")
    os.symlink("/mnt/gone", "in/disk")
    os.symlink("gone.txt", "in/notes.txt")
    os.symlink("self.wav", "in/self.wav")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    search = find_files(["in"])
    names = sorted(str(error).partition(": ")[0] for error in search.errors)
    assert search.files == ["in/a.wav"] and search.passed_over == {".txt": 1}
    assert names == ["in/closed", "in/disk", "in/lost.wav", "in/self.wav"]
    assert [str(error)[:11] for error in find_files(["in/l*"]).errors] == ["in/lost.wav"]


FORMATS = {
    "AIFF": ".aif .aiff .aifc",
    "AU": ".au .snd",
    "AVR": ".avr",
    "CAF": ".caf",
    "FLAC": ".flac",
    "HTK": ".htk",
    "IRCAM": ".sf .ircam",
    "MP3": ".mp3 .mpga",
    "NIST": ".sph .nist",
    "OGG": ".ogg .oga",
    "PAF": ".paf",
    "PVF": ".pvf",
    "RF64": ".rf64",
    "SDS": ".sds",
    "SVX": ".iff .svx .8svx",
    "VOC": ".voc",
    "W64": ".w64",
    "WAV": ".wav .wave .bwf",
    "WVE": ".wve",
}


@pytest.mark.parametrize("format", FORMATS)
def test_what_the_loader_decodes_is_found_by_its_suffix(format):
    sound = 0.1 * np.sin(np.arange(8000) / 10)
    subtype = "ALAW" if format == "WVE" else None
    os.mkdir("in")
    names = [f"in/a{suffix}" for suffix in FORMATS[format].split()]
    for name in names:
        soundfile.write(name, sound, 8000, format=format, subtype=subtype)
        assert abs(len(load_audio(name, 8000)) - 8000) < 2000
    assert find_files(["in"]).files == sorted(names)


def test_lists():
    Path("list").write_bytes("a b.wav\n\n ü.wav\nno end".encode() + b"\xff")
    assert read_list("list") == ["a b.wav", " ü.wav", os.fsdecode(b"no end\xff")]
    with pytest.raises(ValueError, match="--files-from gone: No such file"):
        read_list("gone")


def test_seconds():
    write(Path("a.wav"), SOUNDS[1])
    write(Path("b.wav"), np.zeros(16000))
    Path("c.wav").write_text("no audio")
    assert count_seconds(["a.wav", "b.wav", "c.wav", "gone", "-"]) == 3
