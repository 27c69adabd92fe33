# pytest tests/test_repo.py
"""The project's promises about itself: the README, what importing needs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def run(code: str, *blocked: str) -> subprocess.CompletedProcess:
    code = BLOCKED.format(blocked=blocked) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_imports_without_transformers_and_friends():
    code = (
        "import torch, nanos2t\n"
        "small = dict(hidden_size=12, num_layers=1, num_heads=3, intermediate_size=7)\n"
        "encoder = nanos2t.EncoderConfig(**small, conv_channels=(4,) * 7, position_groups=2)\n"
        "model = nanos2t.SpeechEncoderDecoder.from_configs(encoder, nanos2t.DecoderConfig.bert(9, **small))\n"
        "ids = dict(decoder_start_token_id=1, eos_token_id=2)\n"
        "print(len(model.generate(torch.randn(1, 900), **ids, max_length=4)))"
    )
    done = run(code, "transformers", "soxr", "tokenizers", "sentencepiece", "tqdm", "num2words")
    assert done.stdout.strip() == "1", done.stderr


def test_readme_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        if "facebook/" in block:  # tests/test_families.py runs it on stand-ins
            continue
        done = subprocess.run(
            [sys.executable, "-c", block], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        expected = [line.partition("# -> ")[2] for line in block.splitlines() if "# -> " in line]
        assert done.stdout.splitlines() == expected


def test_readme_commands_exist():
    from nanos2t.cli.main import build_parser

    for line in re.findall(r"^(?:\$ )?nanos2t (.+?)(?:\s+#.*)?$", README, re.MULTILINE):
        arguments = shlex.split(line.split(" >")[0].split(" | ")[0])
        build_parser().parse_args(arguments)


def test_readme_commands_print_what_it_shows(capsys, monkeypatch):
    from nanos2t.cli import main as cli

    monkeypatch.chdir(ROOT)
    shown = re.findall(r"^\$ nanos2t (.*?)$(.*?)(?=^\$|^```)", README, re.MULTILINE | re.DOTALL)
    assert shown
    for line, expected in shown:
        assert cli.main(shlex.split(line)) == 0
        assert capsys.readouterr().out.strip() == expected.strip()


def test_nothing_big_and_no_recordings_are_committed():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        assert not path.exists() or path.stat().st_size <= 15_000_000, name
        assert not re.fullmatch(r"\d_[a-z]+_\d+\.wav", path.name), (
            f"{name} is a recording of the data set"
        )


@pytest.mark.slow
def test_wheel_transcribes_in_an_empty_environment(tmp_path: Path):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))
    }

    def do(*command: object, **more) -> str:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, **more
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    do(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, ROOT)
    do(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    do(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        ROOT / "constraints.txt",
        *tmp_path.glob("*.whl"),
    )
    where = do(python, "-c", "import nanos2t; print(nanos2t.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path))
    demo = do(tmp_path / "venv" / "bin" / "nanos2t", "demo", cwd=tmp_path)
    sample = ROOT / "nanos2t" / "assets" / "sample.wav"
    text = do(python, "-m", "nanos2t", "transcribe", sample, "--language", "de", cwd=tmp_path)
    assert text.strip() and text.strip() in demo
