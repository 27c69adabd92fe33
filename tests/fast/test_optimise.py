# pytest tests/fast/test_optimise.py
"""nanos2t/fast/optimise.py in float32: the fast model is the core with other kernels."""

import copy

import pytest
import torch
from helpers.fast_pair import RATE, build_model, make_batch, relative_error, vary_sample

import nanos2t
from nanos2t.decoder import Head
from nanos2t.fast.feature_encoder import FastConvLayer
from nanos2t.fast.onednn import FastHead, FastLinear, FastMLP
from nanos2t.fast.optimise import optimise_model
from nanos2t.fast.positional_conv import FastPositionalConv
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import BUNDLED

FAST_CLASSES = {FastLinear, FastMLP, FastHead, FastPositionalConv, FastConvLayer}


def fast_copy(model: SpeechEncoderDecoder) -> SpeechEncoderDecoder:
    return optimise_model(copy.deepcopy(model))


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_float32_is_the_core_in_other_kernels(norm: str, activation: str):
    plain = build_model(norm, activation)
    fast = fast_copy(plain)
    values, mask, labels = make_batch()
    classes = {type(module) for module in fast.modules()}
    assert {kind for kind in classes if kind.__module__.startswith("nanos2t.fast")} == FAST_CLASSES

    for inputs in (values, mask), (values[:1],), (values[2:, :25],), (values[2:, :4],):
        with torch.no_grad():
            a, b = (model(*inputs, labels=labels[: len(inputs[0])]) for model in (plain, fast))
            _, lengths = plain.encode(*inputs)
        if lengths is None:
            lengths = [a.memory.shape[1]] * len(a.memory)
        for i, length in enumerate(lengths):
            assert torch.allclose(a.memory[i, :length], b.memory[i, :length], rtol=0, atol=3e-5)
        assert torch.allclose(a.logits, b.logits, rtol=0, atol=1e-4)
        assert not torch.equal(a.logits, b.logits)
        options = {"num_beams": 3, "max_new_tokens": 8}
        assert torch.equal(plain.generate(*inputs, **options), fast.generate(*inputs, **options))


# Encoders of other families: WavLM's and data2vec-audio's.
OTHER_ENCODERS = {
    "wavlm": {"distance_buckets": 9, "max_distance": 12},
    "data2vec": {"position_layers": 3, "position_kernel": 5},
}


@pytest.mark.parametrize("family", OTHER_ENCODERS)
def test_encoders_of_other_families(family: str):
    """float32 is the core in other kernels, int8 is near it, and both write its tokens or run."""
    plain = build_model(**OTHER_ENCODERS[family])
    fast = fast_copy(plain)
    small = optimise_model(copy.deepcopy(plain), torch.int8)
    values, mask, _ = make_batch()
    with torch.no_grad():
        memories = [model(values, mask).memory for model in (plain, fast, small)]
        lengths = plain(values, mask).frame_lengths
    for i, length in enumerate(lengths):
        expected, got, near = (memory[i, :length] for memory in memories)
        assert torch.allclose(got, expected, rtol=0, atol=3e-5)
        assert 0 < relative_error(near, expected) < 0.2
    assert not torch.equal(memories[0], memories[1])

    options = {"num_beams": 3, "max_new_tokens": 8}
    tokens = plain.generate(values, mask, **options)
    assert torch.equal(fast.generate(values, mask, **options), tokens)
    assert len(small.generate(values, mask, **options)) == len(tokens)


@pytest.mark.parametrize("family", OTHER_ENCODERS)
def test_training_of_other_families(family: str):
    """In float32 a fast model has the core's gradients, and bfloat16 has nearly those."""
    plain = build_model(**OTHER_ENCODERS[family])
    values, mask, labels = make_batch()
    grads = []
    for model, is_bfloat16 in (plain, False), (fast_copy(plain), False), (fast_copy(plain), True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            loss = model(values, mask, labels).loss
        loss.backward()
        grads.append({name: value.grad for name, value in model.named_parameters()})
    names = [name for name, grad in grads[0].items() if grad is not None]
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in names)

    # Single gradients may be nothing but rounding in bfloat16, as those of a key's bias.
    expected, near = (torch.cat([grad[name].flatten() for name in names]) for grad in grads[::2])
    assert 0 < relative_error(near, expected) < 0.2


def test_fast_modules_share_parameters_names_and_mode():
    for mode in False, True:
        model = build_model().train(mode)
        names = list(model.state_dict())
        parameters = dict(model.named_parameters())
        fast = optimise_model(model)
        assert list(fast.state_dict()) == names
        assert all(parameters[name] is value for name, value in fast.named_parameters())
        assert all(module.training is mode for module in fast.modules())


def test_a_fast_model_is_trained_and_saved_as_the_core(tmp_path):
    plain = build_model()
    fast = fast_copy(plain)
    values, mask, labels = make_batch()
    grads = []
    for model in plain, fast:
        model(values, mask, labels).loss.backward()
        grads.append({name: value.grad for name, value in model.named_parameters()})
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad

    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert (grad is None) == (grads[1][name] is None)
        assert grad is None or torch.equal(grad, grads[1][name])

    # After the step nothing of the former weights is left.
    with torch.no_grad():
        a, b = (model(values, mask, labels).logits for model in (plain, fast))
    assert torch.allclose(a, b, atol=1e-4)

    files = []
    for model, name in (plain, "plain"), (fast, "fast"):
        model.save_pretrained(tmp_path / name)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_the_core(dtype: torch.dtype):
    plain = build_model().to(dtype)
    fast = fast_copy(plain)
    values, mask, labels = make_batch()
    with torch.no_grad():
        a, b = (model(values.to(dtype), mask, labels).logits for model in (plain, fast))
    assert torch.equal(a, b)


def test_load_speeds_up_and_the_core_does_not():
    assert type(nanos2t.load(fast=True).model.decoder.head) is FastHead
    assert type(nanos2t.load().model.decoder.head) is Head
    assert type(SpeechEncoderDecoder.from_pretrained(BUNDLED).decoder.head) is Head

    # A model in float64 may be cast to float32 later.
    assert type(nanos2t.load(fast=True, dtype=torch.float64).model.decoder.head) is FastHead


def test_without_onednn_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert type(nanos2t.load(fast=True).model.decoder.head) is Head


def test_fast_and_plain_write_the_same_text():
    """The bundled recording and variants of it, in all nine languages."""
    plain = nanos2t.load()
    fast = nanos2t.load(fast=True)
    recordings = [plain.load_audio(BUNDLED.parent / "sample.wav"), *vary_sample(5)]
    assert len(plain.languages) == 9
    for language in plain.languages:
        options = {"sample_rate": RATE, "language": language}
        expected = [result.text for result in plain.transcribe_many(recordings, **options)]
        assert [result.text for result in fast.transcribe_many(recordings, **options)] == expected
        assert all(expected)
