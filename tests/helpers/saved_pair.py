"""A tiny pair of transformers' in a folder that tests may change, and comparisons of models."""

import filecmp
import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from helpers.pairs import tiny_pair
from nanos2t.model import SpeechEncoderDecoder

ADAPTER = {"add_adapter": True, "num_adapter_layers": 2}


@cache
def saved() -> TemporaryDirectory:
    """A folder, removed when Python ends, with a tiny pair as transformers saves it."""
    folder = TemporaryDirectory()
    tiny_pair().save_pretrained(folder.name)
    return folder


def save_pair(folder: Path) -> Path:
    """Put a tiny pair, as transformers saves it, into a new folder."""
    return Path(shutil.copytree(saved().name, folder))


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    waveform = torch.randn(1, 191, generator=generator, dtype=torch.float64)
    return waveform, torch.randint(0, 43, (1, 7), generator=generator)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    waveform, tokens = inputs()
    return model(waveform.to(next(model.parameters()).dtype), decoder_input_ids=tokens).logits


def same_files(one: Path, other: Path) -> bool:
    names = ["config.json", "generation_config.json", "model.safetensors"]
    return sorted(path.name for path in other.iterdir()) == names and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )


def same_weights(one: SpeechEncoderDecoder, other: SpeechEncoderDecoder) -> bool:
    """Whether all weights are equal, bit for bit.

    Logits need not be: the alignment of a mapped tensor decides which kernel multiplies it.
    """
    state, expected = one.state_dict(), other.state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[name], expected[name]) for name in state
    )


def edit(path: Path, *keys: str, **values) -> None:
    """Set (or with ... delete) values of a JSON file, in the object below `keys`."""
    whole = part = json.loads(path.read_text())
    for key in keys:
        part = part[key]
    for key, value in values.items():
        part.pop(key, None)
        part.update({} if value is ... else {key: value})
    path.write_text(json.dumps(whole))


def refuse(folder: Path, *words: str) -> None:
    """Expect that loading raises a ValueError of one line with these words, and no other cause."""
    with pytest.raises(ValueError) as error:
        SpeechEncoderDecoder.from_pretrained(folder)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text
    assert (
        error.value.__cause__ is None
        and error.value.__suppress_context__
        or error.value.__context__ is None
    )
