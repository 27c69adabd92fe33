# pytest tests/test_repo.py
"""The project's promises about itself: the README, what importing needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_imports_without_transformers_and_friends():
    code = (
        "import torch, nanos2t\n"
        "small = dict(hidden_size=12, num_layers=1, num_heads=3, intermediate_size=7)\n"
        "encoder = nanos2t.EncoderConfig(**small, conv_channels=(4,) * 7, position_groups=2)\n"
        "decoder = nanos2t.DecoderConfig.bert(9, **small)\n"
        "model = nanos2t.SpeechEncoderDecoder.from_configs(encoder, decoder)\n"
        "ids = dict(decoder_start_token_id=1, eos_token_id=2)\n"
        "print(len(model.generate(torch.randn(1, 900), **ids, max_length=4)))"
    )
    done = run(code, "transformers", "soxr", "tokenizers", "sentencepiece", "tqdm", "num2words")
    assert done.stdout.strip() == "1", done.stderr


def test_import_is_lazy_and_complete():
    """What `import nanos2t` gave when it imported everything is there, but torch comes on use."""
    code = (
        "import sys, nanos2t\n"
        "print('torch' in sys.modules)\n"
        "print(nanos2t.wav2vec2.Encoder.__name__, nanos2t.EncoderConfig.__name__)\n"
        "print(nanos2t.transcription.__name__, hasattr(nanos2t, 'nothing'))\n"
    )
    done = run(code)
    expected = ["False", "Encoder EncoderConfig", "nanos2t.transcription False"]
    assert done.stdout.splitlines() == expected, done.stderr


def test_nothing_big_and_no_recordings_are_committed():
    listed = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False
    )
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
            list(map(str, command)),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            **more,
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
