# pytest tests/test_reliability.py (and with -m slow)
"""What people rely on: nothing is lost, nothing else is touched, nothing of a checkpoint is run.

The long versions are commands: python -m tests.benchmarks.fuzz, .many, .soak, .long_audio.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import python
from helpers.tiny import sound, write
from safetensors.torch import load_file

import nanos2t
from nanos2t.transcription.loading import BUNDLED

ROOT = Path(__file__).parents[2]
SAMPLE = str(BUNDLED.parent / "sample.wav")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and seccomp")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


# fuzzing


@linux
def test_two_hundred_damaged_files():
    """The first of the ten thousand: documented errors only, at least half past the header."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.fuzz",
        "--inputs",
        "200",
        "--output",
        os.getcwd(),
    ]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=900
    )
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["failures"] == [] and done.returncode == 0, done.stdout
    assert counts["all"]["inputs"] == 200 and counts["all"]["past_header"] >= 100
    assert all(
        counts[kind]["inputs"] and counts[kind]["refused"] for kind in counts if kind in KINDS
    )
    again = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert json.loads(again.stdout.splitlines()[-1]) == counts, "it goes on where it was"


KINDS = ("audio", "config", "weights", "tokenizer", "table")


# sockets, files, code


GUARDED = """
import json, os, socket, sys
import tests.benchmarks.forbidden as guards
def refuse(*rest):
    raise OSError("a socket")
import nanos2t
from nanos2t.cli import main as cli
from nanos2t.inspection import info, parity
from nanos2t.transcription import alignment, forced_alignment
from nanos2t.model import SpeechEncoderDecoder
import numpy, sentencepiece, soxr, tokenizers, tqdm
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
sys.modules["huggingface_hub"] = None
forbidden = guards.Forbidden(os.path.abspath("out"))
guards.no_sockets()
exec(sys.stdin.read())
print(json.dumps(forbidden))
"""


def guarded(code: str) -> subprocess.CompletedProcess:
    """Run `code` in a process that prints what it did that is forbidden. A socket ends it."""
    for name in "home", "temporary":
        Path(name).mkdir(exist_ok=True)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))
    }
    environment |= {"HOME": os.path.abspath("home"), "TMPDIR": os.path.abspath("temporary")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", GUARDED]
    return subprocess.run(
        command,
        check=False,
        input=code,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def snapshot(folder: Path) -> dict[str, str]:
    """What is in a folder: paths, and a hash of each file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }


def test_the_guards_are_awake():
    for code in (
        "import _socket; _socket.socket()",
        "import ctypes; ctypes.CDLL(None).socket(2, 1, 0)",
    ):
        assert guarded(code).returncode in (1, -signal.SIGSYS)
    done = guarded("open('new', 'w'); os.mkdir('out'); open('out/a', 'w'); os.mkdir('outside')")
    actual = json.loads(done.stdout)
    assert len(actual) == 2 and "'new'" in actual[0] and "outside" in actual[1]


def test_a_local_model_needs_no_socket_and_writes_into_the_output_folder_only(model: Path):
    """Neither Python nor the kernel is asked for a socket; the hub's library is absent."""
    shutil.copytree(model, "model")
    for i in range(3):
        write(Path(f"{i}.wav"), sound(0.4 + i, i))
    os.mkdir("out")
    before = snapshot(Path.cwd()) | {"home": "", "temporary": ""}
    done = guarded(f"""
codes = [cli.main(line.split()) for line in (
    "transcribe 0.wav 1.wav gone.wav --model model --output out/new --format json --words",
    "transcribe 2.wav --num-beams 3 --output out --format vtt --highlight-words --language en"
    " --model model",
    "transcribe {SAMPLE}", "demo", "info model", "info --map", "info --trace 0.wav",
    "align {SAMPLE} two",
    "transcribe 0.wav --model no/folder/there", "transcribe 0.wav --model ./model/config.json",
)]
assert codes == [1, 0, 0, 0, 0, 0, 0, 0, 3, 3], codes
stt = nanos2t.load("model", dtype="int8" if "int8" in cli.__dict__ else "float32")
assert [str(one) for one in stt.transcribe_many(["0.wav", open("1.wav", "rb").read()])][1]
SpeechEncoderDecoder.from_pretrained("model")
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    after = snapshot(Path.cwd())
    assert {path: after.pop(path) for path in before} == before
    assert set(after) == {"out/2.vtt", "out/new", "out/new/0.json", "out/new/1.json"}


class Evil:
    def __init__(self, call, *arguments):
        self.call = call
        self.arguments = arguments

    def __reduce__(self):
        return self.call, self.arguments


EVIL = {
    "os.system": Evil(os.system, "touch ran"),
    "eval": Evil(eval, "open('ran', 'w').close()"),
    "exec": Evil(exec, "open('ran', 'w').close()"),
    "mkdir": Evil(os.mkdir, "ran"),
    "subprocess": Evil(subprocess.check_call, ["touch", "ran"]),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", EVIL)
def test_a_pickle_runs_nothing(model: Path, name: str, zipped: bool):
    shutil.copytree(model, "model")
    tensors = load_file("model/model.safetensors")
    os.unlink("model/model.safetensors")
    torch.save(
        {**tensors, "x": EVIL[name]},
        "model/pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: .*nothing of it was run"):
        nanos2t.load("model")
    assert not os.path.exists("ran")
    torch.save(tensors, "model/pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert nanos2t.load("model").transcribe(SAMPLE).text


def test_code_in_a_checkpoint_is_not_run(model: Path):
    """Modules beside the weights, and configs that ask for them."""
    shutil.copytree(model, "model")
    for name in (
        "modeling_own",
        "configuration_own",
        "tokenization_own",
        "__init__",
        "sitecustomize",
        "conftest",
    ):
        Path(f"model/{name}.py").write_text("open('ran', 'w').close()\n")
    classes = {"AutoConfig": "configuration_own.C", "AutoModel": "modeling_own.M"}
    for name in "config", "preprocessor_config", "tokenizer_config", "processor_config":
        file = Path(f"model/{name}.json")
        known = json.loads(file.read_text()) if file.exists() else {}
        more = {
            "auto_map": classes,
            "trust_remote_code": True,
            "tokenizer_class": "tokenization_own.T",
        }
        file.write_text(json.dumps(known | more))
    Path("model/chat_template.jinja").write_text(
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}"
    )
    assert (
        nanos2t.load("model").transcribe(SAMPLE).text == nanos2t.load(model).transcribe(SAMPLE).text
    )
    assert not os.path.exists("ran")


# interruptions


def clips(count: int, seconds: float) -> list[str]:
    return [write(Path(f"{i:03}.wav"), sound(seconds, i)).name for i in range(count)]


def is_whole(path: Path, text: str) -> bool:
    return json.loads(path.read_text(encoding="utf-8"))["text"] == text


def command_line(model: Path, names) -> list[str]:
    line = f"-m nanos2t transcribe --model {model} --output out --batch-size 1"
    return [*line.split(), *names]


def stop_at(
    moment: float, number: int, model: Path, texts: dict[str, str], started: bool = True
) -> int:
    """Run over all of `texts`, end the run `moment` seconds after its first line, run again.

    All that was written to stdout is on disk, whole, and the same command does the rest. Returns
    how many files the first run wrote.
    """
    arguments = command_line(model, texts)
    process = python(*arguments, "--format", "json", "--skip-existing")
    first = process.stdout.readline() if started else b""
    time.sleep(moment)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    files = sorted(Path("out").glob("*.json"))
    lines = (first + out).decode().split("\n")[:-1]

    codes = {-number} if number == signal.SIGKILL else {130}
    # When the program has not begun, or is done, Python itself is what the signal ends.
    if len(lines) == len(texts):
        codes |= {0, -number}
    elif not started:
        codes |= {-number}
    assert process.returncode in codes, err.decode()
    assert not started or b"Traceback" not in err
    assert lines == list(texts.values())[: len(lines)] and len(lines) <= len(files), (
        "said, but not on disk"
    )
    for path in files:
        assert is_whole(path, texts[f"{path.stem}.wav"])
    left = list(Path("out").glob("*.part")) if files else []
    assert len(left) <= (1 if number == signal.SIGKILL else 0)

    again = python(*arguments, "--format", "json", "--skip-existing")
    out, err = again.communicate(timeout=300)
    assert (again.returncode, err) == (0, b"")
    assert out.decode().splitlines() == list(texts.values())[len(files) :]
    assert sorted(path.name for path in Path("out").iterdir() if path not in left) == [
        f"{name[:-4]}.json" for name in texts
    ]
    shutil.rmtree("out")
    return len(files)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_some_moment(model: Path, number: int):
    stt = nanos2t.load(model)
    texts = {name: str(stt.transcribe(name)) for name in clips(60, 1.9)}
    assert stop_at(random.Random(number).uniform(0, 0.3), number, model, texts) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_many_moments(model: Path, number: int):
    """From the start of the interpreter to the end of the work."""
    stt = nanos2t.load(model)
    draw = random.Random(number)
    texts = {name: str(stt.transcribe(name)) for name in clips(60, 1.9)}
    done = [stop_at(draw.uniform(0, 1.5), number, model, texts) for _ in range(4)]
    done += [stop_at(draw.uniform(0, 6), number, model, texts, started=False) for _ in range(4)]
    assert min(done) < 60 and max(done) > 0


LIMITED = """
import resource, sys
from nanos2t.cli import main as cli
resource.setrlimit(resource.RLIMIT_FSIZE, (450, 450))
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_file_that_does_not_fit(model: Path):
    """A disk that takes 450 bytes of a file: a line for each larger one, of which nothing stays."""
    names = [write(Path("short.wav"), np.zeros(3000)).name, *clips(2, 1.0)]
    arguments = *names, "--model", str(model), "--output", "out", "--format", "json", "--words"
    process = python("-c", LIMITED, "transcribe", *arguments)
    out, err = process.communicate(timeout=300)
    lines = err.decode().splitlines()
    assert (process.returncode, os.listdir("out")) == (1, ["short.json"]), err
    assert len(lines) == 2 and out.count(b"\n") == 3
    for line, name in zip(lines, names[1:]):
        assert line.startswith(f"nanos2t: out/{name[:-4]}.json: cannot be written (File too large")


def test_a_full_disk(model: Path):
    """What fitted is whole, what did not is not there, and is done when there is room."""
    os.mkdir("small")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "small"],
        check=False,
        capture_output=True,
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        stt = nanos2t.load(model)
        texts = {name: str(stt.transcribe(name)) for name in clips(9, 0.5)}
        arguments = (
            "transcribe",
            *texts,
            "--model",
            str(model),
            "--output",
            "small",
            "--format",
            "json",
        )
        process = python("-m", "nanos2t", *arguments)
        out, err = process.communicate(timeout=300)
        files = sorted(Path("small").iterdir())
        assert process.returncode == 1 and out.decode().splitlines() == list(texts.values())
        assert 0 < len(files) < 9 and all(
            is_whole(path, texts[f"{path.stem}.wav"]) for path in files
        )
        assert (
            err.count(b"nanos2t: small/") == err.count(b"No space left on device") == 9 - len(files)
        )
        subprocess.run(["mount", "-o", "remount,size=1m", "small"], check=True)
        process = python("-m", "nanos2t", *arguments, "--skip-existing")
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, b"") and len(list(Path("small").iterdir())) == 9
    finally:
        subprocess.run(["umount", "-l", "small"], check=True)


def test_a_file_that_vanishes(model: Path, monkeypatch, capsys):
    """Listed, and gone when its turn comes."""
    from nanos2t.cli import main as cli
    from nanos2t.cli import transcribe

    names = clips(3, 0.5)
    find = transcribe.find_files

    def find_and_lose(names):
        files = find(names)
        os.unlink("001.wav")
        return files

    monkeypatch.setattr(transcribe, "find_files", find_and_lose)
    assert cli.main(["transcribe", ".", "--model", str(model), "--output", "out"]) == 1
    out, err = capsys.readouterr()
    assert (
        err.startswith("nanos2t: 001.wav: No such file")
        and err.count("\n") == 1
        and out.count("\n") == 3
    )
    assert sorted(os.listdir("out")) == ["000.txt", "002.txt"] and len(names) == 3


def test_a_closed_pipe_loses_no_file(model: Path):
    """The reader stops after a line: files written before stay, the same command does the rest."""
    stt = nanos2t.load(model)
    texts = {name: str(stt.transcribe(name)) for name in clips(20, 0.5)}
    arguments = command_line(model, texts)
    process = python(*arguments)
    assert process.stdout.readline().decode() == texts["000.wav"] + "\n"
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(300) in (0, 1)
    done = {path.stem: path.read_text() for path in Path("out").iterdir()}
    assert done and all(texts[f"{stem}.wav"] + "\n" == text for stem, text in done.items())
    out, err = python(*arguments, "--skip-existing").communicate(timeout=300)
    assert out.decode().splitlines() == list(texts.values())[len(done) :] and err == b""


# many files


@pytest.mark.parametrize(
    "count, broken, most", [(60, 20, 1.0), pytest.param(1000, 50, 2.0, marks=pytest.mark.slow)]
)
def test_many_files_some_broken(model: Path, count: int, broken: int, most: float):
    from benchmarks import many

    names, spoiled = many.make_files(Path.cwd(), count, broken, most)
    options = ["--model", str(model)] if count < 1000 else []
    actual = many.run_command(names, spoiled, Path.cwd(), *options)
    assert actual["problems"] == []
    assert (actual["transcripts"], actual["lines_on_stderr"], actual["exit"]) == (
        count - broken,
        broken,
        1,
    )


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_batch_is_what_its_files_are(count: int):
    from benchmarks import many

    longest = 2.0 if count < 100 else 12.0
    names, _ = many.make_files(Path.cwd(), count, 0, longest, seed=1)
    actual = many.compare_batches(nanos2t.load(), names, language="de")
    assert actual["differ"] == [] and actual["score_difference"] < 1e-4
    assert actual["compared"] == count and actual["texts"] > count / 3


@pytest.mark.slow
def test_no_word_is_lost_in_silence(tmp_path: Path):
    """Folders, links, damaged files, outputs and options, drawn at random, with counted words."""
    command = ["-m", "tests.benchmarks.fuzz", "--scenes", "--inputs", "80", "--seed", "7"]
    process = python(*command, "--output", str(tmp_path / "fuzz"), cwd=ROOT)
    out, err = process.communicate(timeout=600)
    counts = json.loads(out.splitlines()[-1])["scene"]
    assert process.returncode == 0, (out, err)
    assert counts["inputs"] == 80 and counts["failed"] == 0
    assert counts["ok"] > 15 and counts["refused"] > 15
