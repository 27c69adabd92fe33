# pytest tests/fast/test_int8.py
"""nanos2t/fast/int8.py: int8 is near float32, and the bundled model writes the same."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from helpers.fast_pair import RATE, relative_error, vary_sample
from torch import nn

import nanos2t
from nanos2t.fast import int8
from nanos2t.fast.dtypes import has_int8
from nanos2t.fast.int8 import (
    Int8Conv,
    Int8Layer,
    Int8Linear,
    Int8ManyRows,
    has_fast_bytes,
    has_vnni,
)
from nanos2t.fast.onednn import has_onednn
from nanos2t.transcription.loading import BUNDLED
from nanos2t.transcription.transcriber import SpeechToText

pytestmark = pytest.mark.skipif(not has_int8(), reason="this build of torch has no int8 kernels")

needs_fast_bytes = pytest.mark.skipif(not has_fast_bytes(), reason="not for this CPU")
each_class = pytest.mark.parametrize(
    "layer_class", [Int8Linear, pytest.param(Int8ManyRows, marks=needs_fast_bytes)]
)


@each_class
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 33), (5, 33), (2, 7, 33)])
@torch.no_grad()
def test_a_linear_layer(shape: tuple, bias: bool, layer_class: type):
    linear = nn.Linear(33, 19, bias=bias)
    x = torch.randn(shape)
    linear.weight *= torch.logspace(-3, 1, 19)[:, None]  # rows of very different sizes
    result = layer_class(linear.weight, linear.bias)(x)
    expected = linear(x)
    size = x.abs() @ linear.weight.abs().T  # of the terms that are summed
    assert ((result - expected).abs() < 0.03 * size).all()
    assert not torch.equal(result, expected)


@pytest.mark.parametrize("has_vnni", [has_vnni(), False])
@torch.no_grad()
def test_sums_of_large_products_do_not_overflow(monkeypatch, has_vnni: bool):
    """Without VNNI two products are added in 16 bits: 2 * 255 * 127 is too large for them."""
    monkeypatch.setattr(int8, "has_vnni", lambda: has_vnni)
    x = torch.ones(3, 256)
    x[:, 0] = -0.01  # so that 1 becomes the largest byte
    result = Int8Linear(torch.ones(8, 256), None)(x)
    assert (result - x.sum(1)[:, None]).abs().max() < 2


@pytest.mark.parametrize("activation", [None, nn.GELU(), nn.GELU("tanh"), nn.ReLU(), nn.Tanh()])
@each_class
@torch.no_grad()
def test_the_activation_after_it(layer_class: type, activation: nn.Module | None):
    linear = nn.Linear(33, 19)
    x = torch.randn(40, 33)
    plain = Int8Linear(linear.weight, linear.bias)(x)
    expected = plain if activation is None else activation(plain)
    result = layer_class(linear.weight, linear.bias, activation)(x)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


@needs_fast_bytes
@torch.no_grad()
def test_many_rows_have_the_numbers_of_a_few():
    linear = nn.Linear(33, 19)
    few = Int8Linear(linear.weight, linear.bias)
    many = Int8ManyRows(linear.weight, linear.bias)
    x = torch.randn(2, 40, 33)
    for values in x, 3 + x.abs(), 0 * x, x[:, ::2], x.transpose(0, 1), x[:, :0]:
        torch.testing.assert_close(many(values), few(values), rtol=1e-5, atol=1e-5)

    # A copy, and what comes back from a file.
    for twin in copy.deepcopy(many), pickle.loads(pickle.dumps(many)):
        assert torch.equal(twin(x), many(x))


@pytest.mark.parametrize("capabilities", [{"avx512_vnni": True}, {"avx512_vnni": False}, {}])
def test_other_cpus_have_torchs_own_kernels(monkeypatch, capabilities: dict):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    is_expected = capabilities.get("avx512_vnni", False) and has_onednn()
    assert has_fast_bytes() is is_expected
    model = nanos2t.load(dtype="int8").model
    for layer in model.encoder.blocks[0].mlp.up_proj, model.decoder.blocks[0].cross_attn.k_proj:
        assert type(layer) is (Int8ManyRows if is_expected else Int8Linear)
    assert type(model.decoder.blocks[0].mlp.up_proj) is Int8Linear


@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (5, 1)])
@torch.no_grad()
def test_a_convolution(kernel: int, stride: int):
    conv = nn.Conv1d(12, 17, kernel, stride)
    x = torch.randn(2, 12, 41)
    quantised = Int8Conv(conv)
    assert relative_error(quantised(x), conv(x)) < 0.03
    for name in "kernel_size", "stride", "padding":
        assert getattr(quantised, name) == getattr(conv, name)


@pytest.fixture(scope="module")
def both() -> tuple[SpeechToText, SpeechToText]:
    return nanos2t.load(), nanos2t.load(dtype="int8")


def test_what_becomes_int8(both):
    before, after = ([*stt.model.modules()] for stt in both)
    linear = sum(isinstance(module, nn.Linear) for module in before)
    convs = len(both[0].model.encoder.config.conv_kernels) - 1
    assert sum(isinstance(module, Int8Layer) for module in after) == linear + convs + 1
    assert not any(isinstance(module, nn.Linear) for module in after)


def test_transcripts_stay(both):
    """At least 99.5 % of them, in all languages."""
    recordings = vary_sample(24)
    same = []
    texts = set()
    for language in both[0].languages:
        options = {"sample_rate": RATE, "language": language}
        plain, quantised = (
            [result.text for result in stt.transcribe_many(recordings, **options)] for stt in both
        )
        same += [a == b for a, b in zip(plain, quantised)]
        texts |= set(plain)
    assert len(same) >= 200 and len(texts) >= 18
    assert np.mean(same) >= 0.995


def test_every_use_of_an_int8_model(both):
    recording = vary_sample(1)[0]
    for options in {"num_beams": 3}, {"words": True}:
        plain, quantised = (stt.transcribe(recording, sample_rate=RATE, **options) for stt in both)
        assert (quantised.text, len(quantised.words)) == (plain.text, len(plain.words))
        assert quantised.score == pytest.approx(plain.score, abs=0.05)
        assert quantised.score != plain.score


def test_an_int8_model_is_neither_saved_nor_trained(tmp_path):
    model = nanos2t.load(dtype="int8").model
    with pytest.raises(ValueError, match="int8 model has only rounded weights: to save it, load"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    values = torch.randn(1, 4000)
    output = model(values, decoder_input_ids=torch.tensor([[1, 5]]))
    for result in output.logits.sum(), output.memory.sum():
        with pytest.raises(ValueError, match="a fast model has no gradients"):
            result.backward()
    with pytest.raises(ValueError, match="the weight of a fast layer is packed"):
        model.decoder.blocks[0].mlp.up_proj.weight.data.mul_(2)


def test_nothing_is_printed(recwarn, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nanos2t.load(dtype="int8").transcribe(BUNDLED.parent / "sample.wav")
    assert capfd.readouterr() == ("", "") and not recwarn
