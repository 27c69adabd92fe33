# pytest tests/inspection/test_trace.py
"""nanos2t/inspection/trace.py: every tensor is there, and its source is where it is computed."""

import bdb
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.pairs import spread_
from helpers.tiny import DECODER, ENCODER, LANGUAGES, save_tiny, sound

import nanos2t
from nanos2t import wav2vec2
from nanos2t.cli import main as cli
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection import parity, trace
from nanos2t.inspection.observer import find_stages
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import BUNDLED

COLUMNS = ["# stage", "shape", "dtype", "ms", "parameters", "mean", "deviation", "source"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    more = {"lang_to_id": LANGUAGES, "forced_bos_token_id": 4, "num_beams": 3}
    return save_tiny(tmp_path_factory.mktemp("model"), **more)


def save(folder: Path, encoder, **options) -> Path:
    """Save a model with random weights, without a tokenizer."""
    model = SpeechEncoderDecoder.from_configs(encoder, DECODER, GenerationConfig(**options))
    spread_(model).save_pretrained(folder)
    return folder


def test_trace(capsys, folder):
    stt = nanos2t.load(folder)
    waveform = sound(0.4)
    lines = [re.split(" {2,}", line) for line in trace.render_trace(stt, waveform)]
    assert lines[0] == COLUMNS
    input_values, _ = stt.prepare([waveform])
    written = parity.write_greedily(stt.model, stt.model, input_values)
    tokens = parity.make_decoder_input(stt.model, written)
    stages = list(parity.run_ours(stt.model, input_values, tokens).items())
    at = [name for name, _ in stages].index("embedding")
    stages.insert(at, ("tokens", tokens))
    stages = [
        ("waveform", torch.tensor(waveform)),
        ("input", input_values),
        *stages,
        ("next tokens", stages[-1][1].argmax(2)),
    ]
    assert len(stages) > 13
    for (name, x), line in zip(stages, lines[1:], strict=True):
        assert line[:2] == [name, " x ".join(map(str, x.shape))] and float(line[3]) >= 0
        assert line[2] == str(x.dtype).removeprefix("torch.")
        if x.is_floating_point():
            assert float(line[5]) == pytest.approx(x.mean().item(), abs=1e-4)
            assert float(line[6]) == pytest.approx(x.std(correction=0).item(), abs=1e-4)
        else:
            assert line[5:7] == ["-", "-"]
    clip = BUNDLED.parent / "sample.wav"
    for arguments, code in (
        ([folder, "--trace", parity.__file__], 1),
        ([folder, "--trace", clip], 0),
    ):
        assert cli.main(["info", *map(str, arguments)]) == code
        out, err = capsys.readouterr()
        if code:
            assert out == "" and len(err.splitlines()) == 1 and "parity.py" in err
        else:
            assert err == ""
            assert [line.split("  ")[0] for line in out.splitlines()] == [line[0] for line in lines]


@pytest.mark.parametrize("adapter, pre_norm", [(0, False), (2, True)])
def test_trace_counts_each_parameter_once(adapter, pre_norm, tmp_path):
    sizes = {
        "adapter_layers": adapter,
        "adapter_size": 21 if adapter else None,
        "pre_norm": pre_norm,
    }
    encoder = replace(ENCODER, **sizes)
    stt = nanos2t.load(save(tmp_path / "model", encoder, decoder_start_token_id=1, max_length=4))
    facts = trace.trace_tensors(stt, sound(0.4), torch.tensor([[1, 7]]))
    model = stt.model
    counts = {row.stage: row.parameters for row in facts}
    assert len(facts) == len(counts)
    every = sum(x.numel() for x in model.parameters())
    assert sum(counts.values()) == every - model.encoder.masked_spec_embed.numel()
    first = model.encoder.feature_encoder.conv_layers[0]
    assert counts["conv 0"] == sum(x.numel() for x in first.parameters())
    assert counts["decoder block 1"] == sum(x.numel() for x in model.decoder.blocks[1].parameters())
    assert counts["waveform"] == counts["input"] == counts["tokens"] == counts["next tokens"] == 0
    assert ("adapter 1" in counts) == bool(adapter) and counts["encoder norm"] > 0


class Stops(bdb.Bdb):
    """A debugger that only writes down where it stops."""

    def __init__(self):
        super().__init__()
        self.lines = set()

    def user_line(self, frame):
        self.lines.add(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        self.set_continue()


@pytest.mark.parametrize("kind", ["bundled", "fast", "tiny"])
def test_a_breakpoint_stops_at_every_source(kind, folder):
    """Each source is a line that runs, in the package. The tiny model has a bridge."""
    stt = nanos2t.load(folder if kind == "tiny" else None, fast=kind == "fast")
    sources = trace.find_sources(stt)
    assert sources.keys() == {"waveform", "input"} | find_stages(stt.model).keys()
    assert ("bridge" in sources) == (kind == "tiny")
    debugger = Stops()
    for source in sources.values():
        path, _, line = source.partition(":")
        assert path.startswith("nanos2t/")
        assert debugger.set_break(str(trace.ROOT / path), int(line)) is None
    waveform = debugger.runcall(stt.load_audio, BUNDLED.parent / "sample.wav")
    debugger.runcall(stt.transcribe, waveform, sample_rate=stt.sample_rate)
    assert {f"{trace.ROOT}/{source}" for source in sources.values()} <= debugger.lines


def test_a_source_is_the_first_line_of_a_body():
    source = trace.locate_body(wav2vec2.PositionalConv.forward)
    path, line = source.split(":")
    text = (trace.ROOT / path).read_text().splitlines()[int(line) - 1]
    assert path == "nanos2t/wav2vec2.py" and "position_conv(x, self.gain" in text


def test_times_are_of_a_second_call(folder, monkeypatch):
    """What only the first call of a stage does is not measured."""
    stt = nanos2t.load(folder)
    now = 0.0
    num_calls = 0

    def take_long_at_first(module, arguments):
        nonlocal now, num_calls
        num_calls += 1
        now += 100.0 if num_calls == 1 else 0.25

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    hook = stt.model.encoder.blocks[0].mlp.register_forward_pre_hook(take_long_at_first)
    facts = trace.trace_tensors(stt, sound(0.4), torch.tensor([[1, 3]]))
    hook.remove()
    assert num_calls == 2
    assert max(stage.ms for stage in facts) == 250
