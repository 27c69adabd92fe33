"""Run pytest many times without importing torch and transformers each time."""

import json
import os
from pathlib import Path

from helpers.processes import python

# The server imports what most tests need, but nothing of nanos2t. For each line on stdin it forks:
# the child runs pytest in a folder, and the server prints the exit code.
SERVER = """
import json, os, sys
import hypothesis, numpy, pytest, safetensors.torch, soundfile, tokenizers, torch
from transformers import (
    BartForCausalLM, BertLMHeadModel, GPT2LMHeadModel, HubertModel, MBartForCausalLM,
    SpeechEncoderDecoderModel, Wav2Vec2Model,
)

for line in sys.stdin:
    folder, arguments = json.loads(line)
    process = os.fork()
    if process == 0:
        os.chdir(folder)
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = folder
        output = os.open("pytest.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = pytest.main(arguments)
        sys.stdout.flush()
        os._exit(code)
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class ForkedPytest:
    """A server process, which ends with the `with` block."""

    def __enter__(self) -> "ForkedPytest":
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        self.server = python("-c", SERVER, env=environment)
        return self

    def __exit__(self, *error: object) -> None:
        self.server.communicate()

    def run(self, folder: Path, *arguments: str) -> tuple[int, str]:
        """Run pytest in a folder, which has a package nanos2t. Return exit code and output."""
        request = json.dumps([str(folder), arguments]) + "\n"
        self.server.stdin.write(request.encode())
        code = self.server.stdout.readline()
        if not code:
            raise RuntimeError(self.server.stderr.read().decode())
        return int(code), (folder / "pytest.log").read_text(errors="replace")
