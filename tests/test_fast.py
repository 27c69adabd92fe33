# pytest tests/test_fast.py
"""nanos2t/apps/fast.py: what int8 layers compute, and that the bundled model still says the same."""

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import nanos2t
from nanos2t.apps import fast, transcribe
from nanos2t.apps.transcribe import BUNDLED

RATE = 8000
pytestmark = pytest.mark.skipif(not fast.has_int8(), reason="this build of torch has no int8 kernels")


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The error, as a share of what is expected."""
    assert found.shape == expected.shape and found.dtype == torch.float32
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 33), (5, 33), (2, 7, 33)])
@torch.no_grad()
def test_a_linear_layer(shape: tuple, bias: bool):
    linear, x = nn.Linear(33, 19, bias=bias), torch.randn(shape)
    linear.weight *= torch.logspace(-3, 1, 19)[:, None]  # rows of very different sizes
    found, expected = fast.Int8Linear(linear.weight, linear.bias)(x), linear(x)
    size = x.abs() @ linear.weight.abs().T  # of the terms that are summed
    assert ((found - expected).abs() < 0.03 * size).all() and not torch.equal(found, expected)


@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (5, 1)])
@torch.no_grad()
def test_a_convolution(kernel: int, stride: int):
    conv, x = nn.Conv1d(12, 17, kernel, stride), torch.randn(2, 12, 41)
    found = fast.Int8Conv(conv)
    assert far(found(x), conv(x)) < 0.03
    assert (found.kernel_size, found.stride, found.padding) == (conv.kernel_size, conv.stride, conv.padding)


@pytest.fixture(scope="module")
def both() -> tuple[transcribe.SpeechToText, transcribe.SpeechToText]:
    return nanos2t.load(), nanos2t.load(dtype="int8")


def test_what_becomes_int8(both):
    before, after = ([*stt.model.modules()] for stt in both)
    linear = sum(isinstance(part, nn.Linear) for part in before)
    convs = len(both[0].model.encoder.feature_encoder.convs) - 1
    assert sum(isinstance(part, fast.Int8Linear) for part in after) == linear + convs + 1
    assert not any(isinstance(part, nn.Linear) for part in after)


def variants(count: int) -> list[np.ndarray]:
    """The bundled recording at other speeds, in noise, cut at either end."""
    [sample] = [nanos2t.load().read(BUNDLED.parent / "sample.wav")]
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        places = np.arange(0, len(sample) - 1, random.uniform(0.9, 1.1))
        x = np.interp(places, np.arange(len(sample)), sample)[int(random.uniform(0, 0.4) * len(sample)) :]
        level = np.sqrt(np.mean(x**2)) * 10 ** (-random.uniform(20, 40) / 20)
        found.append((x + level * random.standard_normal(len(x))).astype(np.float32))
    return found


def test_transcripts_stay(both):
    """At least 99.5 % of them, in all languages."""
    sounds, same, said = variants(24), [], set()
    for language in both[0].languages:
        texts = [[r.text for r in stt.transcribe_many(sounds, sample_rate=RATE, language=language)]
                 for stt in both]  # fmt: skip
        same += [a == b for a, b in zip(*texts)]
        said |= {*texts[0]}
    assert len(same) >= 200 and len(said) >= 18
    assert np.mean(same) >= 0.995


def test_every_use_of_an_int8_model(both):
    sound = variants(1)[0]
    for options in {"num_beams": 3}, {"words": True}:
        plain, quick = (stt.transcribe(sound, sample_rate=RATE, **options) for stt in both)
        assert (quick.text, len(quick.words)) == (plain.text, len(plain.words))
        assert quick.score == pytest.approx(plain.score, abs=0.05) and quick.score != plain.score


def test_nothing_is_printed(recwarn, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nanos2t.load(dtype="int8").transcribe(BUNDLED.parent / "sample.wav")
    assert capfd.readouterr() == ("", "") and not recwarn


def test_auto_says_what_it_picked(caplog):
    with caplog.at_level(logging.INFO, "nanos2t"):
        stt = nanos2t.load(dtype="auto")
    assert isinstance(stt.model.decoder.head, fast.Int8Head)
    assert caplog.messages == ["dtype auto: int8 on cpu"]


@pytest.mark.parametrize("device, major, expected", [
    ("mps", 0, torch.float16), ("cuda:0", 7, torch.float16), ("cuda:1", 9, torch.bfloat16),
])  # fmt: skip
def test_auto_on_a_gpu(monkeypatch, device: str, major: int, expected: torch.dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert fast.choose(device) == expected


def test_where_int8_cannot_be(monkeypatch):
    with pytest.raises(ValueError, match="int8 is for the device cpu, found mps"):
        fast.check(torch.int8, "mps")
    monkeypatch.setattr(fast, "ENGINES", set())
    assert fast.choose("cpu") == torch.float32
    with pytest.raises(ValueError, match="int8: this build of torch has no kernels"):
        nanos2t.load(dtype="int8")
