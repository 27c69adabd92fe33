"""Folders of one encoder or one decoder, as transformers saves each class of them."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn

from helpers.pairs import DECODERS, ENCODERS, IDS, spread_

hf = pytest.importorskip("transformers")


def encoder_file(kind: str, encoder: str, folder: Path, **changes) -> nn.Module:
    """A bare encoder, or one below a head, saved by transformers; returns the bare one."""
    name, config = ENCODERS[encoder]
    config = hf.AutoConfig.for_model(name, **config | changes)
    model = spread_(getattr(hf, kind)(config).double().eval())
    model.save_pretrained(folder)
    return getattr(model, model.base_model_prefix, model)


def decoder_file(kind: str, decoder: str, folder: Path, **changes) -> nn.Module:
    """A decoder, bare or with any head, saved by transformers; returns the whole model."""
    name, config = DECODERS[decoder]
    config = hf.AutoConfig.for_model(name, **{**config, **IDS, **changes})
    model = spread_(getattr(hf, kind)(config).double().eval())
    model.save_pretrained(folder)
    return model


@cache
def saved_halves() -> TemporaryDirectory:
    """A folder, removed when Python ends, with an encoder below a CTC head and BERT."""
    folder = TemporaryDirectory()
    encoder_file("Wav2Vec2ForCTC", "base", Path(folder.name, "encoder"))
    decoder_file("BertForMaskedLM", "bert", Path(folder.name, "decoder"), is_decoder=False)
    return folder


@pytest.fixture
def halves(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of an encoder and a decoder."""
    folder = tmp_path_factory.mktemp("halves") / "both"
    shutil.copytree(saved_halves().name, folder)
    return folder / "encoder", folder / "decoder"


def initialised(text: str) -> list[str]:
    """The names of the weights that a log says are drawn."""
    return text.partition("not in the file: ")[2].split("\n")[0].split(", ")


def drawn_parts(text: str) -> set[str]:
    """The parts of a pair of which a log says that weights are drawn."""
    parts = set()
    for name in initialised(text):
        words = name.split(".")
        parts.add("cross_attn" if ".cross_attn" in name else ".".join(words[:2]))
    return parts - {""}


def read_with_transformers(model, folder: Path) -> nn.Module:
    """Save our model, and load it with transformers, with nothing missing and nothing left over."""
    model.save_pretrained(folder)
    theirs, report = hf.SpeechEncoderDecoderModel.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float64
    )
    assert not any(report.values())
    return theirs.eval()
