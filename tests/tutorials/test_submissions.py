# pytest tests/tutorials/test_submissions.py
"""What students hand in: folders and zips, with names, sizes and paths of all kinds."""

import zipfile
from pathlib import Path

import pytest
from exercises.course import EXERCISES
from exercises.submissions import (
    MAX_BYTES,
    Submission,
    find_exercise,
    find_submissions,
    read_submission,
)

FIRST = f"{EXERCISES[0].name}.py"
FIFTH = f"{EXERCISES[4].name}.py"


def read(path: Path) -> Submission:
    return read_submission("Ada", path, list(EXERCISES))


def write_zip(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def write_folder(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_files_are_found_wherever_they_lie(write, tmp_path):
    files = {
        f"homework/tutorials/exercises/work/{FIRST}": "right",
        f"homework/tutorials/exercises/stubs/{FIRST}": "stub",
        f"homework/tutorials/exercises/answers/{FIFTH}": "answer",
        f"__MACOSX/{FIFTH}": "system",
        "homework/notes.txt": "notes",
    }
    submission = read(write(tmp_path / "Ada.zip", files))
    assert submission.files == {"ex01": b"right"} and submission.notes == []


def test_names_that_others_have_changed():
    exercises = list(EXERCISES)
    for name, number in {
        FIFTH: 5,
        FIFTH.upper(): 5,
        "ex05_attention (1).py": 5,
        "smith_123_ex05_attention-2.py": 5,
        "ex5.py": 5,
        "ex14.py": 14,
    }.items():
        exercise, is_other = find_exercise(name, exercises)
        assert exercise.number == number and is_other == (name.lower() != FIFTH)
    for name in "ex05.txt", "apex05.py", "ex99.py", "ex050.py", "attention.py", f"{FIRST}.1.bak":
        assert find_exercise(name, exercises) is None


def test_the_file_with_the_right_name_is_preferred(tmp_path):
    files = {FIFTH: "right", "ex05_attention (1).py": "copy", f"old/{FIFTH}": "old"}
    submission = read(write_folder(tmp_path / "Ada", files))
    assert submission.files == {"ex05": b"right"}
    assert submission.notes == [f"graded {FIFTH}, not old/{FIFTH}"]


def test_what_a_zip_may_not_have_is_told(tmp_path):
    """The rest of it is read, and nothing is written anywhere."""
    path = write_zip(
        tmp_path / "Ada.zip",
        {
            f"../../{FIRST}": "out",
            f"/tmp/{EXERCISES[1].name}.py": "out",
            f"..\\{EXERCISES[2].name}.py": "out",
            f"C:/{EXERCISES[3].name}.py": "out",
            FIFTH: "right",
            f"{EXERCISES[5].name}.py": " " * (MAX_BYTES + 1),
        },
    )
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo(f"{EXERCISES[6].name}.py")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "../Alan/ex07_embeddings.py")
    before = sorted(tmp_path.rglob("*"))
    submission = read(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert submission.files == {"ex05": b"right"}
    reasons = [note.partition(".py ")[2].partition(",")[0] for note in submission.notes]
    assert reasons == ["leads out of the zip"] * 4 + ["is too large", "is a link"]


def test_broken_zips_are_told(tmp_path):
    path = tmp_path / "Ada.zip"
    path.write_text("Dear teacher,", encoding="utf-8")
    assert "Ada.zip cannot be read as a zip: File is not a zip file" in read(path).notes

    write_zip(path, {FIRST: "x" * 500})
    content = bytearray(path.read_bytes())
    content[100:110] = b"0123456789"
    path.write_bytes(content)
    submission = read(path)
    assert "cannot be read as a zip: Bad CRC" in submission.notes[0] and not submission.files


def test_links_are_not_followed(tmp_path):
    other = write_folder(tmp_path / "Alan", {FIRST: "Alan's"})
    ada = write_folder(tmp_path / "Ada", {FIFTH: "right"})
    (ada / FIRST).symlink_to(other / FIRST)
    (ada / "more").symlink_to(other)
    submission = read(ada)
    assert submission.files == {"ex05": b"right"}
    assert submission.notes == [f"{FIRST} is a link or no file, and is not read"]
    (tmp_path / "Bob").symlink_to(other)
    assert read(tmp_path / "Bob").notes == ["Bob is a link, which is not followed"]


def test_folders_of_learning_platforms_have_a_zip_in_them(tmp_path):
    folder = tmp_path / "Ada_123_file"
    folder.mkdir()
    write_zip(folder / "work.ZIP", {f"work/{FIRST}": "right"})
    assert read(folder).files == {"ex01": b"right"}


def test_who_has_handed_in(tmp_path):
    exercises = list(EXERCISES)
    write_folder(tmp_path / "Ada", {FIRST: "1"})
    write_zip(tmp_path / "Ada.zip", {FIRST: "2"})
    write_zip(tmp_path / "Bob.zip", {FIRST: "3"})
    (tmp_path / "list.csv").write_text("Ada", encoding="utf-8")
    (tmp_path / ".git").mkdir()
    sources = find_submissions(tmp_path, exercises)
    assert {name: path.name for name, path in sources.items()} == {
        "Ada": "Ada",
        "Ada.zip": "Ada.zip",
        "Bob": "Bob.zip",
    }
    assert find_submissions(tmp_path / "Ada", exercises) == {"Ada": tmp_path / "Ada"}
    assert find_submissions(tmp_path / "Bob.zip", exercises) == {"Bob": tmp_path / "Bob.zip"}
    (tmp_path / "empty").mkdir()
    for path in tmp_path / "empty", tmp_path / "list.csv", tmp_path / "nothing":
        with pytest.raises(ValueError, match="expected a folder"):
            find_submissions(path, exercises)


def test_nothing_to_grade_is_told(tmp_path):
    folder = write_folder(tmp_path / "Ada", {"notes.txt": "I was ill."})
    assert read(folder).notes == ["it has no file of an exercise"]
