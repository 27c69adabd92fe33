"""The sides that are timed: transformers and other peers, and nanos2t in its modes.

A side that cannot run here has a reason, which is printed. Nothing is imported before it is used:
a cold start pays only for what its side needs.
"""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# Options of a search that gives every sequence `count` tokens.
FIXED_LENGTH = ("max_new_tokens", "min_new_tokens")


@dataclass(frozen=True)
class Kind:
    """What a side is: which class runs it, from which packages, in which dtype."""

    program: str
    dtype: str
    packages: tuple[str, ...] = ()
    fast: bool = False


GRAPH = ("onnx", "onnxruntime", "onnxscript")
SIDES = {
    "transformers": Kind("transformers", "float32", ("transformers",)),
    "core": Kind("nanos2t", "float32"),
    "fast": Kind("nanos2t", "float32", fast=True),
    "bfloat16": Kind("nanos2t", "bfloat16", fast=True),
    "int8": Kind("nanos2t", "int8", fast=True),
    "transformers-bfloat16": Kind("transformers", "bfloat16", ("transformers",)),
    "transformers-int8": Kind("transformers", "int8", ("transformers",)),
    "onnxruntime-float32": Kind("onnx_runtime", "float32", GRAPH),
    "onnxruntime-int8": Kind("onnx_runtime", "int8", GRAPH),
    "openvino-float32": Kind("open_vino", "float32", ("openvino",)),
    "openvino-bfloat16": Kind("open_vino", "bfloat16", ("openvino",)),
    "openvino-int8": Kind("open_vino", "int8", ("openvino", "nncf")),
    "ctranslate2": Kind("ctranslate2", "float32"),
}


def find_reason(name: str, device: str) -> str | None:
    """Return why a side cannot run here, or None if it can."""
    kind = SIDES[name]
    if kind.program == "ctranslate2":
        return (
            "CTranslate2 has the encoders Wav2Vec2 and Wav2Vec2Bert, which end in a head for CTC, "
            "and no BERT decoder with cross-attention"
        )
    if device != "cpu" and (kind.program in ("onnx_runtime", "open_vino") or kind.dtype == "int8"):
        return "measured on CPUs only"
    for package in kind.packages:
        if find_spec(package) is None:
            return f"{package} is not installed: pip install -c constraints.txt -e '.[bench]'"
    if name == "transformers-int8" and find_spec("torch.ao.quantization") is None:
        return "this torch has no torch.ao.quantization"
    return None


class Transformers:
    """transformers as installed: SDPA, its cache; int8 is torch's quantize_dynamic."""

    def __init__(self, folder: Path, kind: Kind, device: str):
        import torch
        from transformers import SpeechEncoderDecoderModel

        dtype = torch.bfloat16 if kind.dtype == "bfloat16" else torch.float32
        model = SpeechEncoderDecoderModel.from_pretrained(folder, dtype=dtype)
        if kind.dtype == "int8":
            from torch.ao.quantization import quantize_dynamic

            model = quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
        self.model = model.eval().to(device)
        self.dtype = dtype
        self.device = device

    def encode(self, waveform):
        """Return the memory (1, S, H) of a waveform (1, L), a tensor or an array."""
        import torch

        waveform = torch.as_tensor(waveform).to(self.device, self.dtype)
        return self.model.encoder(waveform).last_hidden_state

    def decode(self, memory, beams: int, count: int) -> list[int]:
        """Return the start token and `count` tokens, of a memory (1, S, H)."""
        from transformers.modeling_outputs import BaseModelOutput

        outputs = BaseModelOutput(memory.clone())
        search = dict.fromkeys(FIXED_LENGTH, count)
        return self.model.generate(encoder_outputs=outputs, num_beams=beams, **search)[0].tolist()


class Nanos2t:
    """nanos2t.load: the core as it is written, or fast/."""

    def __init__(self, folder: Path, kind: Kind, device: str):
        import nanos2t

        self.stt = nanos2t.load(folder, device=device, dtype=kind.dtype, fast=kind.fast)
        self.model = self.stt.model
        self.dtype = self.model.decoder.embed.tokens.weight.dtype
        self.device = device

    def encode(self, waveform):
        """Return the memory (1, S, H) of a waveform (1, L), a tensor or an array."""
        import torch

        return self.model.encode(torch.as_tensor(waveform).to(self.device, self.dtype))[0]

    def decode(self, memory, beams: int, count: int) -> list[int]:
        """Return the start token and `count` tokens, of a memory (1, S, H)."""
        search = dict.fromkeys(FIXED_LENGTH, count)
        return self.model.generate_from_memory(memory, num_beams=beams, **search)[0].tolist()


class Graph:
    """A peer that runs the graphs of export.py, with the search of search.py around them."""

    def __init__(self, folder: Path, kind: Kind, threads: int):
        from tests.benchmarks.speed.pair import read_ids

        peer = importlib.import_module(f"tests.benchmarks.speed.{kind.program}")
        self.model = peer.Model(graph_folder(folder, kind), kind.dtype, threads)
        self.ids = read_ids(folder)

    def encode(self, waveform):
        """Return the memory (1, S, H) of a waveform (1, L), an array or a tensor."""
        import numpy as np

        return self.model.encode(np.asarray(waveform))

    def decode(self, memory, beams: int, count: int) -> list[int]:
        """Return the start token and `count` tokens, of a memory (1, S, H)."""
        from tests.benchmarks.speed.search import search_tokens

        return search_tokens(self.model.start(memory, beams), self.ids, beams, count)


def graph_folder(folder: Path, kind: Kind) -> Path:
    """Return where the graphs of a peer lie, beside the pair's own files."""
    return folder / kind.program / kind.dtype


def prepare_side(name: str, folder: Path, samples: int) -> None:
    """Write the graphs that a side needs, if it needs any and they are not there."""
    kind = SIDES[name]
    target = graph_folder(folder, kind)
    if kind.program not in ("onnx_runtime", "open_vino") or (target / "done").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    peer = importlib.import_module(f"tests.benchmarks.speed.{kind.program}")
    peer.prepare(folder, target, kind.dtype, samples)
    (target / "done").touch()


def load_side(name: str, folder: Path, device: str, threads: int):
    """Return a side, ready to encode and decode."""
    kind = SIDES[name]
    if kind.program == "transformers":
        return Transformers(folder, kind, device)
    if kind.program == "nanos2t":
        return Nanos2t(folder, kind, device)
    return Graph(folder, kind, threads)
