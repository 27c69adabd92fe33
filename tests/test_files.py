# pytest tests/test_files.py
"""Files are there whole or not at all, however the process that writes them ends."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanos2t import files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_text("old")
    return path


def test_text_and_copies_replace_what_was_there(path: Path):
    files.write_text(path, "grüß\ud800")
    assert path.read_bytes() == "grüß\\ud800".encode()
    (path.parent / "b").write_text("another")
    files.copy_file(path.parent / "b", path)
    assert path.read_text() == "another"
    files.copy_file(path, path.parent / "." / "a")
    assert path.read_text() == "another" and sorted(os.listdir(path.parent)) == ["a", "b"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("failed writing")]
)
def test_what_can_not_be_written_is_kept(path: Path, error: Exception):
    def write(part: Path) -> None:
        part.write_text("ne")
        raise error

    with pytest.raises(
        ValueError, match="a: cannot be written .(No space|failed).*what was there is kept"
    ):
        files.write_atomically(path, write)
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a"]
    with pytest.raises(ValueError, match="gone/a: cannot be written .No such file"):
        files.write_text(path.parent / "gone" / "a", "new")
    with pytest.raises(ValueError, match="a: cannot be written .No such file"):
        files.copy_file(path.parent / "gone", path)
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a"]


def test_a_killed_write_leaves_the_old_file(path: Path):
    code = """import os, signal, sys; from pathlib import Path; from nanos2t import files
def write(part):
    part.write_text("ne"); os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(Path(sys.argv[1]), write)"""
    assert (
        subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode
        == -signal.SIGKILL
    )
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new" and os.listdir(path.parent) == ["a"]


def test_the_last_file_of_a_group_is_moved_at_the_end(tmp_path: Path, monkeypatch):
    moved = []
    replace = os.replace

    def spy(source: Path, target: Path) -> None:
        moved.append(target.name)
        replace(source, target)

    def write_parts(partial: Path) -> None:
        for name in ("config.json", "a.json", "model.safetensors"):
            (partial / name).write_text(name)

    monkeypatch.setattr(os, "replace", spy)
    paths = files.write_group(tmp_path / "model", write_parts)
    assert moved == ["a.json", "model.safetensors", "config.json"]
    assert sorted(paths) == sorted((tmp_path / "model").iterdir())
    assert all(path.read_text() == path.name for path in paths)


def test_a_link_is_kept_and_its_target_written(path: Path, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    for target in ("../a", "new"):
        link = tmp_path / "folder" / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        files.write_text(link, f"to {target}")
        assert link.is_symlink() and link.read_text() == f"to {target}"
    assert path.read_text() == "to ../a" and sorted(os.listdir(link.parent)) == ["link", "new"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_permissions_are_those_of_the_file_that_is_replaced(path: Path, mode: int):
    """And never wider while it is written."""
    folder = path.parent
    modes = []

    def write_part(part: Path) -> None:
        part.write_text("new")
        modes.append(part.stat().st_mode & 0o777)

    def write_parts(partial: Path) -> None:
        (partial / "a").write_text("newest")
        modes.append(partial.stat().st_mode & 0o777)

    path.chmod(mode)
    files.write_atomically(path, write_part)
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == mode
    files.write_group(folder, write_parts, last="a")
    assert path.read_text() == "newest" and path.stat().st_mode & 0o777 == mode
    assert modes == [mode | 0o600, 0o700]
    files.copy_file(path, folder / "b")
    os.symlink("a", folder / "link")
    files.write_text(folder / "link", "of a link")
    assert path.read_text() == "of a link" and path.stat().st_mode & 0o777 == mode


def test_a_hard_link_keeps_what_it_had(path: Path):
    os.link(path, path.parent / "b")
    files.write_text(path, "new")
    assert path.read_text() == "new" and (path.parent / "b").read_text() == "old"


def test_pipes_and_devices_are_written_through(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    texts = []
    reader = threading.Thread(target=lambda: texts.append(pipe.read_text()))
    reader.start()
    files.write_text(pipe, "through")
    reader.join(10)
    assert texts == ["through"] and stat.S_ISFIFO(pipe.stat().st_mode)

    files.write_text(Path("/dev/null"), "nowhere")
    assert not Path("/dev/null").is_file()
    code = "from nanos2t import files; files.write_text(files.Path('/dev/stdout'), 'text')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == b"text" and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "a.part", ".nanos2t"])
def test_any_name_that_a_file_may_have_is_written(tmp_path: Path, name: str):
    (tmp_path / f"{name[:80]}.part").write_text("the user's")
    for text in ("one", "two"):
        files.write_text(tmp_path / name, text)
    assert (tmp_path / name).read_text() == "two"
    expected = {name, f"{name[:80]}.part"}
    assert set(os.listdir(tmp_path)) == expected


WRITERS = """import sys; from pathlib import Path; from nanos2t import files
path = Path(sys.argv[1])
def write_parts(folder):
    for name in ("a", "b", "config.json"):
        (folder / name).write_text(sys.argv[2])
for _ in range(200):
    files.write_text(path / "file", sys.argv[2] * 10_000)
    text = (path / "file").read_text()
    assert len(text) == 10_000 and len(set(text)) == 1
    files.write_group(path / "group", write_parts)
"""


def test_processes_that_write_the_same_file_neither_mix_nor_fail(tmp_path: Path):
    writers = []
    for letter in "abc":
        command = [sys.executable, "-c", WRITERS, str(tmp_path), letter]
        writers.append(subprocess.Popen(command))
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert sorted(os.listdir(tmp_path)) == ["file", "group"]
    group = {file.name: file.read_text() for file in (tmp_path / "group").iterdir()}
    assert set(group) == {"a", "b", "config.json"} and len(set(group.values())) == 1


def test_a_part_is_removed_only_if_its_process_is_dead(tmp_path: Path):
    path = tmp_path / "a"
    with files.new_part(path) as living:
        files.part_path(path, 3).write_text("of a dead process")
        files.part_folder(files.part_path(path, 3)).mkdir()
        files.write_text(path, "new")
        assert sorted(os.listdir(tmp_path)) == sorted([living.name, "a"])
    assert os.listdir(tmp_path) == ["a"]


def test_an_interruption_leaves_no_part_at_any_moment(path: Path):
    """Ctrl-C raises KeyboardInterrupt between any two steps of Python; a timer does it here."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(300):
            with contextlib.suppress(KeyboardInterrupt):
                # From no time at all to longer than a file takes.
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + number * 5e-6)
                while True:
                    files.write_text(path, "whole")
    finally:
        signal.signal(signal.SIGALRM, before)

    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_outputs_are_compared_with_inputs_as_files(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").write_text("in")
    Path("other").write_text("in")
    os.symlink("in", "link")
    os.link("in", "hard")
    os.symlink(".", "here")
    for output in ("in", "./in", "here/in", "link", "hard", str(tmp_path / "in")):
        with pytest.raises(ValueError, match=f"{output}: would be written over the input in"):
            files.check_outputs(["other", output], ["gone", "in"])
    files.check_outputs(["other", "new", "/dev/null", "."], ["in", "gone", "/dev/null", "."])
