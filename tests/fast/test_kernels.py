# pytest tests/test_fast.py
"""nanos2t/fast/kernels.py: float32 is the core, int8 is near it, and the bundled model still says the same."""

import copy
import logging
import warnings

import numpy as np
import pytest
import torch
from helpers.pairs import spread_
from torch import nn

import nanos2t
from nanos2t import wav2vec2
from nanos2t.decoder import DecoderConfig, Head
from nanos2t.fast import kernels as fast
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import IGNORED, SpeechEncoderDecoder
from nanos2t.transcription import transcriber as transcribe
from nanos2t.transcription.loading import BUNDLED
from nanos2t.wav2vec2 import EncoderConfig

RATE = 8000
needs_int8 = pytest.mark.skipif(
    not fast.has_int8(), reason="this build of torch has no int8 kernels"
)


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The error, as a share of what is expected."""
    assert found.shape == expected.shape and found.dtype == torch.float32
    return ((found - expected).norm() / expected.norm()).item()


def build(norm: str = "group", activation: str = "gelu") -> SpeechEncoderDecoder:
    """A tiny pair with spread weights, every size its own."""
    encoder = EncoderConfig(
        hidden_size=24, num_layers=2, num_heads=3, intermediate_size=40, conv_channels=(8, 9, 10),
        conv_kernels=(5, 3, 2), conv_strides=(3, 2, 2), conv_norm=norm, conv_bias=norm == "layer",
        position_kernel=6, position_groups=4, activation=activation, conv_activation=activation,
    )  # fmt: skip
    sizes = {
        "hidden_size": 20,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 28,
        "max_positions": 30,
    }
    decoder = DecoderConfig.bert(31, activation=activation, **sizes)
    generation = GenerationConfig(decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
    return spread_(SpeechEncoderDecoder.from_configs(encoder, decoder, generation)).eval()


def speech() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise of three lengths, one of them a single frame, its mask, and labels."""
    mask = torch.arange(301) < torch.tensor([301, 200, 25])[:, None]
    labels = torch.randint(3, 31, (3, 7))
    labels[1, 4:] = IGNORED
    return torch.randn(3, 301) * mask, mask.long(), labels


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_float32_is_the_core_in_other_kernels(norm: str, activation: str):
    plain = build(norm, activation)
    quick, (values, mask, labels) = fast.optimise_(copy.deepcopy(plain)), speech()
    kinds = {
        type(part).__name__ for part in quick.modules() if type(part).__name__.startswith("Fast")
    }
    assert kinds == {kind.__name__ for kind in fast.KINDS.values()}
    for how in (values, mask), (values[:1],), (values[2:, :25],), (values[2:, :4],):
        with torch.no_grad():
            a, b = (model(*how, labels=labels[: len(how[0])]) for model in (plain, quick))
            for i, frames in enumerate(a.frames):
                assert torch.allclose(a.memory[i, :frames], b.memory[i, :frames], rtol=0, atol=3e-5)
            assert torch.allclose(a.logits, b.logits, rtol=0, atol=1e-4)
            assert not torch.equal(a.logits, b.logits)
        found = [
            model.generate(*how[:2], num_beams=3, max_new_tokens=8) for model in (plain, quick)
        ]
        assert torch.equal(*found)


def test_a_fast_model_is_trained_and_saved_as_the_core(tmp_path):
    plain = build()
    quick, (values, mask, labels) = fast.optimise_(copy.deepcopy(plain)), speech()
    grads = []
    for model in plain, quick:
        model(values, mask, labels).loss.backward()
        grads.append({name: part.grad for name, part in model.named_parameters()})
        with torch.no_grad():
            for part in model.parameters():
                part -= 0.1 * part.grad if part.grad is not None else 0
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert (grad is None) == (grads[1][name] is None) and (
            grad is None or torch.equal(grad, grads[1][name])
        )
    with torch.no_grad():  # after the step: nothing of the former weights is left
        assert torch.allclose(
            plain(values, mask, labels).logits, quick(values, mask, labels).logits, atol=1e-4
        )
    for model, folder in (plain, "plain"), (quick, "quick"):
        model.save_pretrained(tmp_path / folder)
    plain, quick = (
        (tmp_path / folder / "model.safetensors").read_bytes() for folder in ("plain", "quick")
    )
    assert plain == quick


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_the_core(dtype: torch.dtype):
    plain = build().to(dtype)
    quick, (values, mask, labels) = fast.optimise_(copy.deepcopy(plain)), speech()
    with torch.no_grad():
        assert torch.equal(
            plain(values.to(dtype), mask, labels).logits,
            quick(values.to(dtype), mask, labels).logits,
        )


def test_load_speeds_up_and_the_core_does_not():
    assert type(nanos2t.load().model.decoder.head) is fast.FastHead
    assert (
        type(nanos2t.load(dtype=torch.float64).model.decoder.head) is fast.FastHead
    )  # may be cast later
    assert type(SpeechEncoderDecoder.from_pretrained(BUNDLED).decoder.head) is Head


def test_without_onednn_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert type(nanos2t.load().model.decoder.head) is Head


@needs_int8
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 33), (5, 33), (2, 7, 33)])
@torch.no_grad()
def test_a_linear_layer(shape: tuple, bias: bool):
    linear, x = nn.Linear(33, 19, bias=bias), torch.randn(shape)
    linear.weight *= torch.logspace(-3, 1, 19)[:, None]  # rows of very different sizes
    found, expected = fast.Int8Linear(linear.weight, linear.bias)(x), linear(x)
    size = x.abs() @ linear.weight.abs().T  # of the terms that are summed
    assert ((found - expected).abs() < 0.03 * size).all() and not torch.equal(found, expected)


@needs_int8
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (5, 1)])
@torch.no_grad()
def test_a_convolution(kernel: int, stride: int):
    conv, x = nn.Conv1d(12, 17, kernel, stride), torch.randn(2, 12, 41)
    found = fast.Int8Conv(conv)
    assert far(found(x), conv(x)) < 0.03
    assert (found.kernel_size, found.stride, found.padding) == (
        conv.kernel_size,
        conv.stride,
        conv.padding,
    )


@pytest.fixture(scope="module")
def both() -> tuple[transcribe.SpeechToText, transcribe.SpeechToText]:
    return nanos2t.load(), nanos2t.load(dtype="int8")


@needs_int8
def test_what_becomes_int8(both):
    before, after = ([*stt.model.modules()] for stt in both)
    linear = sum(isinstance(part, nn.Linear) for part in before)
    convs = len(both[0].model.encoder.feature_encoder.convs) - 1
    assert sum(isinstance(part, fast.Int8Linear) for part in after) == linear + convs + 1
    assert not any(isinstance(part, nn.Linear) for part in after)


def variants(count: int) -> list[np.ndarray]:
    """The bundled recording at other speeds, in noise, cut at either end."""
    [sample] = [nanos2t.load().load_audio(BUNDLED.parent / "sample.wav")]
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        places = np.arange(0, len(sample) - 1, random.uniform(0.9, 1.1))
        x = np.interp(places, np.arange(len(sample)), sample)[
            int(random.uniform(0, 0.4) * len(sample)) :
        ]
        level = np.sqrt(np.mean(x**2)) * 10 ** (-random.uniform(20, 40) / 20)
        found.append((x + level * random.standard_normal(len(x))).astype(np.float32))
    return found


@needs_int8
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


@needs_int8
def test_every_use_of_an_int8_model(both):
    sound = variants(1)[0]
    for options in {"num_beams": 3}, {"words": True}:
        plain, quick = (stt.transcribe(sound, sample_rate=RATE, **options) for stt in both)
        assert (quick.text, len(quick.words)) == (plain.text, len(plain.words))
        assert quick.score == pytest.approx(plain.score, abs=0.05) and quick.score != plain.score


def test_only_memory_of_the_weight_is_released():
    whole = torch.ones(3, 300, 1000)
    fast.release_pages(whole[1])
    assert (whole[0] == 1).all() and (whole[2] == 1).all()
    fused = torch.ones(300, 3000)  # GPT-2 keeps three matrices so, and transposed
    fast.release_pages(fused.T[:1000])
    assert (fused == 1).all()


@needs_int8
def test_nothing_is_printed(recwarn, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nanos2t.load(dtype="int8").transcribe(BUNDLED.parent / "sample.wav")
    assert capfd.readouterr() == ("", "") and not recwarn


@needs_int8
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
    assert fast.choose_fast_dtype(device) == expected


def test_where_int8_cannot_be(monkeypatch):
    with pytest.raises(ValueError, match="int8 is for the device cpu, found mps"):
        fast.check_fast_dtype(torch.int8, "mps")
    monkeypatch.setattr(fast, "ENGINES", set())
    assert fast.choose_fast_dtype("cpu") == torch.float32
    with pytest.raises(ValueError, match="int8: this build of torch has no kernels"):
        nanos2t.load(dtype="int8")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels", [12, 20])
def test_positions_in_bfloat16_are_near_those_in_float32(dtype: torch.dtype, channels: int):
    """Of a CPU with AMX torch.conv1d returns something else for 12 channels a group, without an error."""
    config = EncoderConfig(hidden_size=4 * channels, position_kernel=16, position_groups=4)
    torch.manual_seed(0)
    plain = wav2vec2.PositionalConv(config)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 30, 4 * channels)
    expected = plain(x)
    quick = copy.deepcopy(plain).to(dtype)
    quick.__class__ = fast.FastPositions
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        found = quick(x.to(dtype))
    assert found.dtype == torch.bfloat16 and far(found.float(), expected) < 0.02
    found.sum().backward()
    expected.sum().backward()
    for name, parameter in quick.named_parameters():
        assert far(parameter.grad.float(), plain.get_parameter(name).grad) < 0.03, name
