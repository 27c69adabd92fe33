# pytest tests/test_speed_benchmark.py
"""tests/benchmarks/speed/: limits are counted right, a peer's graphs and search are the core's, and
the tables say what was measured."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny import DECODER, ENCODER, save_tiny
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nanos2t import wav2vec2
from nanos2t.decoder import Decoder, DecoderConfig
from nanos2t.generate import decode_memory
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import Encoder, EncoderConfig
from tests.benchmarks import gpu
from tests.benchmarks.speed import sides
from tests.benchmarks.speed.export import MemoryGraph, StepGraph
from tests.benchmarks.speed.limits import (
    Machine,
    Work,
    count_encoding,
    count_memory,
    count_token,
    count_token_weights,
    measure_machine,
)
from tests.benchmarks.speed.search import search_tokens
from tests.benchmarks.speed.table import make_line


def count_products(run) -> float:
    """Return the multiplications that torch counts in `run`: half of its operations."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


@pytest.fixture(autouse=True)
def visible_attention(monkeypatch):
    """torch does not count the products inside its own attention on a CPU."""
    monkeypatch.setattr(wav2vec2, "attend", wav2vec2.attend_step_by_step)


@pytest.mark.parametrize("samples", [3_000, 5_123])
def test_multiplications_of_the_encoder(samples: int):
    # Of an even kernel, one frame is computed and dropped.
    encoder = Encoder(EncoderConfig(**vars(ENCODER) | {"position_kernel": 5})).eval()
    work = count_encoding(encoder, samples)
    assert work.multiplications == count_products(lambda: encoder(torch.zeros(1, samples)))
    assert work.weights == sum(weight.numel() for weight in encoder.parameters())


@pytest.mark.parametrize("rows, past", [(1, 0), (3, 4)])
@pytest.mark.parametrize("decoder_config", [DECODER, DecoderConfig.gpt2(41, hidden_size=28)])
def test_multiplications_of_a_token(decoder_config: DecoderConfig, rows: int, past: int):
    decoder = Decoder(DecoderConfig(**vars(decoder_config) | {"num_layers": 2, "num_heads": 4}))
    memory = torch.randn(1, 7, decoder.config.hidden_size)
    cross = decoder.eval().project_memory(memory)
    caches = decoder.new_caches(rows, 9)
    for cache in caches:
        cache.length = past
    work = count_token(decoder, 7, rows, past)
    step = count_products(lambda: decoder(torch.ones(rows, 1).long(), cross, None, caches))
    assert work.multiplications == step

    # All keys and values are read, those of the memory once for all rows.
    read = 2 * sum(keys.numel() for keys, _ in cross)
    read += 2 * sum(cache.keys[:, :, :past].numel() for cache in caches)
    assert work.keys_values == read
    products = count_products(lambda: decoder.project_memory(memory))
    assert count_memory(decoder, 7).multiplications == products


def test_weights_of_a_token_are_those_that_hooks_see():
    decoder = Decoder(DECODER).eval()
    cross = decoder.project_memory(torch.randn(1, 7, 28))
    seen = []

    def see(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        for weight in module.parameters(recurse=False):
            is_table = isinstance(module, nn.Embedding)
            seen.append(weight.shape[1] if is_table else weight.numel())

    for module in decoder.modules():
        module.register_forward_hook(see)
    decoder(torch.ones(1, 1).long(), cross, None, decoder.new_caches(1, 9))

    # No hook sees the first row of the token types, nor the table of tokens in the tied head.
    seen.append(28 + decoder.embed.tokens.weight.numel())
    assert count_token_weights(decoder) == sum(seen)


def test_a_token_of_bert_reads_123_million_weights():
    with torch.device("meta"):
        decoder = Decoder(DecoderConfig.bert())
    assert round(count_token_weights(decoder) / 1e6, 1) == 123.3
    assert count_token(decoder, 549, 1, 0).keys_values == 2 * 12 * 549 * 768
    assert round(count_token(decoder, 549, 1, 0).bytes("int8") / 1e6) == 164


def test_the_longer_of_multiplying_and_reading_limits():
    machine = Machine({"float32": 100.0, "int8": 400.0}, {50: 20.0, 1000: 10.0})
    assert machine.least_seconds([Work(1000, 10)], "float32") == 10  # 40 bytes take 2 s
    assert machine.least_seconds([Work(100, 25)], "float32") == 10  # 100 bytes, at 10 a second
    assert machine.least_seconds([Work(400, 25, 5)], "int8") == 2.25  # 25 + 20 bytes, at 20
    assert machine.least_seconds([Work(1000, 10), Work(100, 500)], "float32") == 10 + 200


def test_the_machine_is_measured():
    machine = measure_machine("cpu", ["float32", "bfloat16"], small=True)
    assert machine.multiplications.keys() == {"float32", "bfloat16"}
    assert all(speed > 0 for speed in (*machine.multiplications.values(), *machine.read.values()))


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_graphs_and_search_of_a_peer_give_the_tokens_of_the_core(beams: int, tmp_path):
    model = SpeechEncoderDecoder.from_pretrained(save_tiny(tmp_path), dtype=torch.float64)
    # With small embeddings, positions decide: tokens do not repeat themselves.
    model.decoder.embed.tokens.weight *= 0.1
    frames = torch.randn(1, 7, 15, generator=torch.Generator().manual_seed(0)).double()
    memory = model.bridge(frames)
    eos_id = 2
    options = {"num_beams": beams, "max_new_tokens": 9, "min_new_tokens": 9, "eos_token_id": eos_id}
    expected = decode_memory(model, memory, None, options).sequences[0].tolist()

    graph = StepGraph(model)
    state = {"past": [torch.empty(beams, 4, 0, 7).double()] * 4}
    cross = list(MemoryGraph(model)(memory))

    def step(tokens: np.ndarray, parent_rows: np.ndarray) -> np.ndarray:
        position = torch.tensor([state["past"][0].shape[2]])
        inputs = (torch.from_numpy(tokens), position, torch.from_numpy(parent_rows))
        logprobs, *state["past"] = graph(*inputs, cross, state["past"])
        return logprobs.numpy()

    ids = {"decoder_start_token_id": 1, "eos_token_id": eos_id}
    assert search_tokens(step, ids, beams, 9) == expected
    assert len(set(expected)) > 2


def test_a_side_that_cannot_run_has_a_reason(monkeypatch):
    assert sides.find_reason("core", "cpu") is None
    assert "no BERT decoder" in sides.find_reason("ctranslate2", "cpu")
    assert sides.find_reason("openvino-float32", "cuda") == "measured on CPUs only"
    assert sides.find_reason("int8", "cuda") == "measured on CPUs only"
    monkeypatch.setattr(sides, "find_spec", lambda name: None if name == "onnxruntime" else name)
    reason = sides.find_reason("onnxruntime-int8", "cpu")
    assert reason.startswith("onnxruntime is not installed") and "[bench]" in reason
    assert sides.find_reason("openvino-int8", "cpu") is None


def test_a_line_has_median_ratio_range_limit_and_goal():
    values = {"transformers": [8.0, 10.0, 30.0], "int8": [4.0, 2.0, 5.0]}
    line = make_line(("beam", "beam 5, a token", "ms"), "int8", values, 1.0, "41 of 41")
    assert (line.median, line.ratio, line.lowest, line.highest) == (4.0, 2.5, 2.0, 6.0)
    assert line.reach == 5.5
    words = " ".join(str(line).split())
    assert words == ("beam 5, a token int8 4.0 ms 2.50 (2.00 to 6.00) 1.0 25 % 41 of 41 reach 5.5")
    assert make_line(("cold", "import", "s"), "transformers", values).limit is None


@pytest.mark.slow
def test_the_command_prints_both_tables(tmp_path):
    command = "-m tests.benchmarks.speed --small --repeat 1 --threads 1 --row encode beam --json"
    command = [sys.executable, *command.split(), "--side", "int8", "ctranslate2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    skipped, machine, work, *lines = done.stdout.splitlines()
    assert skipped.startswith("skipped: ctranslate2: ")
    assert json.loads(machine)["machine"]["multiplications"].keys() == {"float32", "int8"}
    assert json.loads(work).keys() == {"encode", "a token, 1 rows", "a token, 5 rows"}
    lines = [json.loads(line) for line in lines]
    names = [(line["row"], line["side"]) for line in lines]
    each = ["transformers", "core", "int8"]
    assert names == [(row, side) for row in ("encode 1 s", "beam 5, a token") for side in each]
    assert [line["same"] for line in lines if line["side"] == "core"] == ["error 0", "7 of 7"]


def test_parts_of_a_gpu_run_are_done_once(tmp_path, capsys):
    program = "import sys; print('text'); sys.exit({})"
    assert not gpu.run_part("tests", ["-c", program.format(1)], tmp_path)
    assert not (tmp_path / "tests.txt").exists()
    assert gpu.run_part("tests", ["-c", program.format(0)], tmp_path)
    assert (tmp_path / "tests.txt").read_text() == "text\n"
    assert sum(gpu.LIMITS.values()) <= 480
    assert gpu.LIMITS.keys() == gpu.part_commands("cuda", False, tmp_path).keys()
