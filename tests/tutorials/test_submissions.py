# pytest tests/tutorials/test_submissions.py
"""What students hand in: folders and zips, with names, sizes and paths of all kinds."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from exercises import archives, folders
from exercises.archives import MAX_BYTES
from exercises.class_folder import find_submissions
from exercises.course import EXERCISES
from exercises.submissions import Submission, find_exercise, name_lines, read_submission
from helpers.answers import exercise_number

ROOT = Path(__file__).parents[2]

FIRST = f"{EXERCISES[0].name}.py"
FIFTH = f"{EXERCISES[4].name}.py"


def read(path: Path) -> Submission:
    return read_submission("Ada", [path], list(EXERCISES))


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
    assert submission.files == {"ex01": b"right"}
    folder = "homework/tutorials/exercises"
    assert submission.notes == [
        "not read: homework/notes.txt",
        f"not read: {folder}/answers and {folder}/stubs, which came with the course",
    ]


def test_names_that_others_have_changed():
    exercises = list(EXERCISES)
    for name, number in {
        FIFTH: 5,
        FIFTH.upper(): 5,
        "ex05_attention (1).py": 5,
        "smith_123_ex05_attention-2.py": 5,
        "ex5.py": 5,
        "ex14.py": 14,
        "exercise5.py": 5,
        "aufgabe_ex_8.py": 8,
        "Exercise 11.py": 11,
    }.items():
        exercise, is_other = find_exercise(name, exercises)
        assert exercise.number == number and is_other == (name.lower() != FIFTH)
    for name in (
        "index5.py",
        "ex05.txt",
        "apex05.py",
        "ex99.py",
        "ex050.py",
        "attention.py",
        f"{FIRST}.1.bak",
    ):
        assert find_exercise(name, exercises) is None


def test_the_file_with_the_right_name_is_preferred(tmp_path):
    files = {FIFTH: "right", "ex05_attention (1).py": "copy", f"old/{FIFTH}": "old"}
    submission = read(write_folder(tmp_path / "Ada", files))
    assert submission.files == {"ex05": b"right"}
    assert submission.notes == [f"graded {FIFTH}, not old/{FIFTH}, ex05_attention (1).py"]


def test_of_files_with_other_names_the_last_version_is_taken(tmp_path):
    """Canvas numbers what is handed in again; Windows hides the end of a name."""
    for old, new in (
        ("smith_1_7_ex05_attention.py", "smith_LATE_1_9_ex05_attention-1.py"),
        ("ex5 (2).py", "ex5 (10).py"),
        ("notes_ex05.py", "smith_ex05-2.py"),
    ):
        folder = tmp_path / new
        submission = read(write_folder(folder, {old: "old", new: "new"}))
        assert submission.files == {"ex05": b"new"}
        assert submission.notes == [f"graded {new}, not {old}"]
    submission = read(write_folder(tmp_path / "Ada", {f"{FIFTH}.txt": "hidden"}))
    assert submission.files == {"ex05": b"hidden"} and not submission.notes


def test_lines_are_those_of_the_modules():
    """The modules of an exercise are joined, and tell where each begins."""
    data = b"# nanos2t/decoder.py\none\ntwo\n\n# nanos2t/generate.py\none\ntwo\n"
    for text, expected in (
        ("line 2 is not valid Python", "nanos2t/decoder.py, line 1 is not valid Python"),
        ("append: ValueError: x (line 3)", "append: ValueError: x (nanos2t/decoder.py, line 2)"),
        ("it took longer, and was in f, line 7: is", "it took longer, and was in f, nanos2t/gen"),
        ("ex11_greedy.py, line 6, in f: x\nx", "nanos2t/generate.py, line 1, in f: x\nx"),
        (
            "JSONDecodeError: Expecting value: line 1 column 1",
            "JSONDecodeError: Expecting value: l",
        ),
    ):
        assert name_lines(text, data).startswith(expected)
    assert name_lines("x: line 1 column 1", data) == "x: line 1 column 1"


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
    assert reasons == ["leads out of the archive"] * 4 + ["is too large", "is a link"]


def test_broken_zips_are_told(tmp_path):
    path = tmp_path / "Ada.zip"
    path.write_text("Dear teacher,", encoding="utf-8")
    assert (
        "Ada.zip cannot be read as a zip: it is none, or was not uploaded whole" in read(path).notes
    )

    write_zip(path, {FIRST: "x" * 500})
    content = bytearray(path.read_bytes())
    content[100:110] = b"0123456789"
    path.write_bytes(content)
    submission = read(path)
    assert "01_normalisation.py cannot be read: Bad CRC" in submission.notes[0]
    assert not submission.files

    # What lies after a file that is damaged is read.
    content[100:110] = b"xxxxxxxxxx"
    write_zip(path, {FIRST: "x" * 500, FIFTH: "right"})
    whole = bytearray(path.read_bytes())
    whole[100] ^= 1
    path.write_bytes(whole)
    assert read(path).files == {"ex05": b"right"}


def test_an_encrypted_zip_is_told(tmp_path):
    path = write_zip(tmp_path / "Ada.zip", {FIRST: "secret"})
    content = bytearray(path.read_bytes())
    # The first bit of the flags of the file, and of its entry in the list at the end.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    submission = read(path)
    assert not submission.files and "encrypted" in submission.notes[0]


def test_links_are_not_followed(tmp_path):
    other = write_folder(tmp_path / "Alan", {FIRST: "Alan's"})
    ada = write_folder(tmp_path / "Ada", {FIFTH: "right"})
    (ada / FIRST).symlink_to(other / FIRST)
    (ada / "more").symlink_to(other)
    submission = read(ada)
    assert submission.files == {"ex05": b"right"}
    assert submission.notes == [
        "more is a link, which is not followed",
        f"{FIRST} is a link or no file, and is not read",
    ]
    (tmp_path / "Bob").symlink_to(other)
    assert read(tmp_path / "Bob").notes == ["Bob is a link, which is not followed"]


def test_folders_of_learning_platforms_have_a_zip_in_them(tmp_path):
    folder = tmp_path / "Ada_123_file"
    folder.mkdir()
    write_zip(folder / "work.ZIP", {f"work/{FIRST}": "right"})
    assert read(folder).files == {"ex01": b"right"}


def names_of(folder: Path, **options) -> dict[str, list[str]]:
    students = find_submissions(folder, **options).students
    return {name: [path.name for path in paths] for name, paths in students.items()}


def test_who_has_handed_in(tmp_path):
    write_folder(tmp_path / "Ada", {FIRST: "1"})
    write_zip(tmp_path / "Ada.zip", {FIRST: "2"})
    write_zip(tmp_path / "Bob.zip", {FIRST: "3"})
    for name in "list.csv", "week1.py":
        (tmp_path / name).write_text("Ada", encoding="utf-8")
    (tmp_path / ".git").mkdir()
    work = find_submissions(tmp_path, tmp_path / "week1.py")
    assert {name: path.name for name, [path] in work.students.items()} == {
        "Ada": "Ada",
        "Ada.zip": "Ada.zip",
        "Bob": "Bob.zip",
    }
    assert work.passed_over == ["list.csv", "week1.py"]
    assert names_of(tmp_path / "Ada") == {"Ada": ["Ada"]}
    assert names_of(tmp_path / "Bob.zip") == {"Bob": ["Bob.zip"]}
    (tmp_path / "empty").mkdir()
    for path in tmp_path / "empty", tmp_path / "list.csv", tmp_path / "nothing":
        with pytest.raises(ValueError, match="expected a folder"):
            find_submissions(path)


def test_whatever_is_handed_in_is_somebodys_work(tmp_path):
    """The order is that of a list of names; capitals and accents make no difference."""
    write_folder(tmp_path / "anna", {FIRST: "1"})
    (tmp_path / "Zoë").mkdir()
    for name in "dora.rar", "Çelik.pdf", "franz.py", "Émile", "anna.7z", "answers.docx":
        (tmp_path / name).write_text("?", encoding="utf-8")
    write_folder(tmp_path / "answers", {FIRST: "1"})
    names = ["anna", "anna.7z", "answers", "answers.docx", "Çelik", "dora", "Émile", "franz", "Zoë"]
    assert list(names_of(tmp_path)) == names
    submission = read(tmp_path / "dora.rar")
    assert submission.notes == ["it has no file of an exercise", "not read: dora.rar"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "zip"])
def test_tars(kind, tmp_path):
    """Also one that is called a zip; a link and a path out of it are told."""
    path = tmp_path / f"petrov.{kind}"
    mode = {"tgz": "gz", "tar": "", "zip": ""}.get(kind, kind.removeprefix("tar."))
    with tarfile.open(path, f"w:{mode}") as archive:
        for name in f"./work/{FIRST}", f"../{FIFTH}", "work/mine.ipynb":
            entry = tarfile.TarInfo(name)
            entry.size = 5
            archive.addfile(entry, io.BytesIO(b"right"))
        entry = tarfile.TarInfo("ex8.py")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    assert names_of(tmp_path) == {"petrov": [path.name]}
    submission = read(path)
    assert submission.files == {"ex01": b"right"}
    assert submission.notes == [
        f"../{FIFTH} leads out of the archive, and is not read",
        "ex8.py is a link, and is not read",
        "not read: work/mine.ipynb",
    ]


def test_a_tar_that_is_cut_short(tmp_path):
    path = tmp_path / "petrov.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (FIRST, b"right"), (FIFTH, os.urandom(50_000)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    path.write_bytes(path.read_bytes()[:20_000])
    submission = read(path)
    assert submission.files == {"ex01": b"right"} and "cannot be read" in submission.notes[0]
    path.write_bytes(b"")
    assert "petrov.tar.gz cannot be read as a tar" in read(path).notes[0]


def test_archives_in_archives(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", {FIRST: "right"}).read_bytes()
    for name in "outer.zip", "outermost.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("Abgabe/work.zip", inner)
            archive.writestr("Abgabe/more.rar", "Rar!")
        inner = (tmp_path / name).read_bytes()
    submission = read(tmp_path / "outermost.zip")
    assert submission.files == {"ex01": b"right"}
    assert submission.notes == ["not read: Abgabe/work.zip/Abgabe/more.rar, Abgabe/more.rar"]
    # One that has itself in it without end is read no deeper than that.
    for _ in range(3):
        with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
            archive.writestr("work.zip", inner)
        inner = (tmp_path / "deep.zip").read_bytes()
    submission = read(tmp_path / "deep.zip")
    assert not submission.files and "work.zip" in submission.notes[-1]


def test_files_without_folders(tmp_path):
    """As learning platforms give them: the name of the student comes first, in three ways."""
    flat = tmp_path / "flat"
    for name in (
        "Müller Tim_1234_assignsubmission_file_ex08_causal_mask.py",
        "Müller Tim_1234_assignsubmission_file_rest.zip",
        "Müller Tim_1234_assignsubmission_onlinetext.html",
        "Müller Tim_9999_assignsubmission_file_work.tar.gz",
        f"adalovelace_LATE_17_3301_{FIRST}",
        f"adalovelace_17_3302_{FIFTH}",
        "Week 1_ab123_attempt_2026-11-29-10-20-30.txt",
        "Week 1_ab123_attempt_2026-11-29-10-20-30_ex5.py",
        "smith_ex5.py",
        "smith_ex1.py",
        "jones.py",
    ):
        write_folder(flat, {name: name})
    assert {name: len(paths) for name, paths in names_of(flat).items()} == {
        "adalovelace_17": 2,
        "jones": 1,
        "Müller Tim_1234": 3,
        "Müller Tim_9999": 1,
        "smith": 2,
        "Week 1_ab123_attempt_2026-11-29-10-20-30": 2,
    }
    students = find_submissions(flat).students
    submission = read_submission("Tim", students["Müller Tim_1234"], list(EXERCISES))
    assert list(submission.files) == ["ex08"] and "rest.zip cannot be read" in submission.notes[0]

    # A zip of the same is not one student's.
    names = {path.name: "" for path in flat.iterdir()}
    with pytest.raises(ValueError, match="the work of 4 students: unpack it"):
        find_submissions(write_zip(tmp_path / "download.zip", names))


def test_a_file_of_nobody_beside_the_work_of_others_stops_all(tmp_path):
    """One student has files with and without a name before them; a class has not."""
    cases = {
        ("anna/ex1.py", FIRST): "whose is ex01_normalisation.py, beside the work of anna?",
        ("anna.zip", FIRST): "beside the work of anna.zip",
        ("anna/deep/Ex5.PY", "nanos2t/__init__.py"): "whose is nanos2t, beside",
        ("ada_ex1.py", "bob_ex1.py", FIFTH): "beside the work of ada, bob",
        ("A_1_assignsubmission_file_ex1.py", FIFTH): "beside the work of A_1",
        ("ada_ex1.py", FIFTH): "",
        ("ada_ex1.py", "ada_ex2.py"): "",
        (FIRST, "pictures/notes.txt"): "",
        ("nanos2t/__init__.py", "tutorials/exercises/course.py", "test_ex5.py"): "",
        (
            "nanos2t/__init__.py",
            "tutorials/exercises/ex15_ngrams.py",
            "tutorials/exercises/course.py",
        ): "",
    }
    for number, (names, message) in enumerate(cases.items()):
        folder = write_folder(tmp_path / f"c{number}", dict.fromkeys(names, ""))
        if message:
            with pytest.raises(ValueError, match=message.replace("?", r"\?")):
                find_submissions(folder)
        else:
            assert names_of(folder) == {folder.name: [folder.name]}


def hand_out_module(number: int) -> tuple[str, str]:
    """The module of an exercise, as a student might have changed it."""
    [target] = exercise_number(number).checks
    path = f"nanos2t/{target.partition(':')[0]}.py"
    return path, (ROOT / path).read_text(encoding="utf-8") + "\n# mine\n"


def test_a_scratch_file_in_a_hand_out_costs_nothing(tmp_path):
    """Exercise by exercise: a file with the right name, else the package, else any file."""
    path, text = hand_out_module(8)
    files = {path: text, "test_ex8.py": "print()", FIRST: "mine", "ex2.py": "mine"}
    submission = read(write_folder(tmp_path / "santos", files))
    assert submission.files["ex08"].decode().endswith("# mine\n")
    assert submission.files["ex01"] == submission.files["ex02"] == b"mine"
    assert submission.from_modules >= {"ex08"} and "ex01" not in submission.from_modules
    assert f"graded {path}, not test_ex8.py" in submission.notes

    # A function that is not written yet does not hide the file in which it is.
    unwritten = 'def causal_mask():\n    raise NotImplementedError("ex08")\n'
    submission = read(write_folder(tmp_path / "kim", {path: unwritten, "ex8 (1).py": "mine"}))
    assert submission.files["ex08"] == b"mine" and submission.notes == []
    stub = exercise_number(1).path(folders.STUBS).read_text(encoding="utf-8")
    submission = read(write_folder(tmp_path / "ito", {FIRST: stub, "ex1 (1).py": "mine"}))
    assert submission.files == {"ex01": b"mine"} and submission.notes == []


def test_the_course_s_own_modules_are_nobodys_work(tmp_path):
    """In a checkout, and beside files of exercises if nobody has changed them."""
    path, text = hand_out_module(8)
    ours = text.removesuffix("\n# mine\n")
    files = {path: ours, FIRST: "mine"}
    assert read(write_folder(tmp_path / "Ada", files)).files == {"ex01": b"mine"}
    checkout = {path: text, f"tutorials/exercises/stubs/{FIFTH}": "stub"}
    assert not read(write_folder(tmp_path / "Bob", checkout)).files
    # Platforms that take single files lose the folder.
    submission = read(write_folder(tmp_path / "Carl", {"decoder.py": text}))
    assert "ex08" in submission.from_modules


def test_folders_with_the_names_of_the_course_s(tmp_path):
    for number, folder in enumerate(["answers", "stubs", "exercises/answers", "mistakes"]):
        submission = read(write_folder(tmp_path / f"s{number}", {f"{folder}/{FIRST}": "right"}))
        assert submission.files == {"ex01": b"right"} and submission.notes == []
    # A folder that was copied from a checkout has both, and the work.
    files = {f"{folder}/{FIRST}": folder for folder in ("answers", "stubs", "work")}
    submission = read(write_folder(tmp_path / "copy", files))
    assert submission.files == {"ex01": b"work"}
    assert submission.notes == ["not read: answers and stubs, which came with the course"]


def test_many_files(tmp_path, monkeypatch):
    """Those of installed packages do not count; of the others only what belongs to exercises."""
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    files = {f"e02/.venv/lib/python3.11/site-packages/ex{i}.py": "" for i in range(9)}
    files |= {f"pictures/{i}.png": "" for i in range(9)}
    files |= {f"work/{exercise.name}.py": "x" for exercise in EXERCISES[:5]}
    for write in write_zip, write_folder:
        submission = read(write(tmp_path / f"{write.__name__}.zip", files))
        assert len(submission.files) == 3
        assert f"work/{FIFTH} is file 4 or later, and is not read" in submission.notes
        note = submission.notes[-1]
        assert note.startswith("not read: pictures/0.png, ") and note.endswith(" and 4 more")


def test_nothing_to_grade_is_told(tmp_path):
    folder = write_folder(tmp_path / "Ada", {"notes.txt": "I was ill.", "nanos2t/audio.py": ""})
    assert read(folder).files.keys() == {"ex01"}
    folder = write_folder(tmp_path / "Bob", {"notes.txt": "I was ill.", "work/hints.json": "{}"})
    assert read(folder).notes == ["it has no file of an exercise", "not read: notes.txt"]


def test_names_that_are_not_recognised_are_told(tmp_path):
    """Not those of other exercises, of the hand-out, or of what the grader writes."""
    files = {
        FIRST: "right",
        "aufgabe2.py": "",
        "ex05_attention.ipynb": "{}",
        f"{EXERCISES[9].name}.py.1.bak": "",
        "handout/nanos2t/__init__.py": "",
        "handout/README.md": "",
        "handout/TASKS.md": "",
        "handout/tutorials/exercises/course.py": "",
        f"work/{FIFTH}": "",
        ".vscode/settings.json": "",
    }
    path = write_folder(tmp_path / "quinn", files)
    submission = read_submission("quinn", [path], [EXERCISES[0]])
    assert submission.notes == ["not read: aufgabe2.py, ex05_attention.ipynb"]
