# pytest tests/fast/test_optimise.py
"""nanos2t/fast/optimise.py in float32 and bfloat16: the fast model is the core in other kernels."""

import copy

import pytest
import torch
from helpers.fast_pair import (
    FAST_DTYPES,
    RATE,
    build_model,
    make_batch,
    needs_bfloat16,
    relative_error,
    vary_sample,
)

import nanos2t
from nanos2t.decoder import Head
from nanos2t.fast import onednn, packed
from nanos2t.fast.feature_encoder import FastConvLayer, FoldedConvLayer
from nanos2t.fast.onednn import FastHead, multiply_from_left
from nanos2t.fast.optimise import optimise_model
from nanos2t.fast.packed import FastConv, FastLinear
from nanos2t.fast.positional_conv import FastPositionalConv
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import BUNDLED

FAST_CLASSES = {FastLinear, FastConv, FastHead, FastPositionalConv, FastConvLayer}
FOLDED_NORM = {"group": {FoldedConvLayer}, "layer": set()}  # the norms that are over time


def fast_copy(model: SpeechEncoderDecoder) -> SpeechEncoderDecoder:
    return optimise_model(copy.deepcopy(model))


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_float32_is_the_core_in_other_kernels(norm: str, activation: str):
    plain = build_model(norm, activation)
    fast = fast_copy(plain)
    values, mask, labels = make_batch()
    classes = {type(module) for module in fast.modules()}
    classes = {kind for kind in classes if kind.__module__.startswith("nanos2t.fast")}
    assert classes == FAST_CLASSES | FOLDED_NORM[norm]

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


@pytest.mark.parametrize("dtype", FAST_DTYPES)
def test_a_fast_model_has_the_names_the_weights_and_the_mode_of_the_core(dtype: torch.dtype):
    """Bit for bit, before and after the first products, whose weights may be packed there."""
    for mode in False, True:
        plain = build_model("layer").to(dtype).train(mode)
        fast = optimise_model(copy.deepcopy(plain))
        assert all(module.training is mode for module in fast.modules())
        for _ in range(2):
            expected = plain.state_dict()
            state = fast.state_dict()
            assert list(state) == list(expected)
            assert all(torch.equal(state[name], expected[name]) for name in state)
            assert all(state[name].dtype == dtype for name in state)
            fast.eval().generate(make_batch()[0].to(dtype), num_beams=2, max_new_tokens=3)


def test_other_parameters_are_those_of_the_core():
    model = build_model()
    parameters = dict(model.named_parameters())
    fast = dict(optimise_model(model).named_parameters())
    assert {"decoder.embed.tokens.weight", "encoder.positions.direction"} < fast.keys()
    assert "encoder.blocks.0.mlp.up_proj.weight" not in fast
    assert all(parameters[name] is value for name, value in fast.items())


def test_a_fast_model_is_saved_as_the_core(tmp_path):
    plain = build_model()
    fast = fast_copy(plain)
    fast.generate(make_batch()[0], num_beams=2, max_new_tokens=3)
    files = []
    for model, name in (plain, "plain"), (fast, "fast"):
        model.save_pretrained(tmp_path / name)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("family", [None, *OTHER_ENCODERS])
def test_training_is_refused(family: str | None):
    """A forward with gradients switched on works, and gives what it gives without them."""
    changes = OTHER_ENCODERS.get(family, {})
    fast = optimise_model(build_model(**changes))
    values, mask, labels = make_batch()
    with torch.no_grad():
        expected = fast(values, mask, labels)
    output = fast(values, mask, labels)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-5)
    for result in output.loss, output.memory.sum(), output.logits[0, 0, 0]:
        with pytest.raises(
            ValueError, match=r"a fast model has no gradients: .* without fast=True"
        ):
            result.backward(retain_graph=True)

    # An optimizer changes what is not packed all the same. The next result knows it.
    for parameter in fast.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(fast.parameters(), lr=0.1).step()
    plain = build_model(**changes)
    plain.load_state_dict(fast.state_dict())
    with torch.no_grad():
        assert not torch.equal(fast(values, mask, labels).loss, expected.loss)
        a, b = (model(values, mask, labels).logits for model in (plain, fast))
    assert relative_error(b, a) < 1e-5


@pytest.mark.parametrize("dtype", FAST_DTYPES)
@torch.no_grad()
def test_new_weights_are_used_at_once(dtype: torch.dtype):
    """Loaded, changed in place where they are not packed, or converted: nothing old is left."""
    plain = build_model().to(dtype)
    fast = fast_copy(plain)
    other = build_model("group").to(dtype)
    values, mask, labels = make_batch()

    def check(tolerance: float) -> None:
        inputs = (values.to(plain.dtype), mask, labels)
        expected = plain(*inputs).logits.float()
        assert relative_error(fast(*inputs).logits.float(), expected) < tolerance
        options = {"num_beams": 2, "max_new_tokens": 3, "return_dict_in_generate": True}
        a, b = (model.generate(values[:1].to(plain.dtype), **options) for model in (plain, fast))
        assert plain.dtype == torch.bfloat16 or torch.equal(a.sequences, b.sequences)

    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    check(tolerance)
    state = {name: value.clone() for name, value in other.state_dict().items()}
    for is_assigned in False, True:
        for model in plain, fast:
            model.load_state_dict(copy.deepcopy(state), assign=is_assigned)
        check(tolerance)
        state = {name: value * 0.9 for name, value in state.items()}

    # In place, and through .data, which leaves no trace.
    for model in plain, fast:
        model.decoder.embed.tokens.weight.mul_(1.1)
        model.decoder.head.bias.data.add_(0.5)
        model.encoder.feature_encoder.conv_layers[0].norm.weight.data.mul_(0.8)
        model.encoder.blocks[0].mlp.up_proj.bias.data.add_(0.3)
    check(tolerance)
    for model in plain, fast:
        model.float()
    check(1e-5)


def test_wrong_weights_are_refused_as_by_the_core():
    fast = optimise_model(build_model())
    state = fast.state_dict()
    name = "decoder.blocks.0.mlp.up_proj.weight"
    wrong = [
        {**state, name: state[name][1:]},
        {key: value for key, value in state.items() if key != name},
        {**state, name + "s": state[name]},
    ]
    for content in wrong:
        with pytest.raises(RuntimeError, match=name):
            fast.load_state_dict(content)


@needs_bfloat16
def test_bfloat16_is_near_the_core():
    plain = build_model()
    fast = optimise_model(copy.deepcopy(plain), torch.bfloat16)
    values, mask, labels = make_batch()
    with torch.no_grad():
        expected = plain(values, mask, labels).logits
        result = fast(values.bfloat16(), mask, labels).logits
        core = copy.deepcopy(plain).bfloat16()(values.bfloat16(), mask, labels).logits
    error = relative_error(result.float(), expected)
    assert 0 < error < 2 * relative_error(core.float(), expected)


@pytest.mark.parametrize("dtype", FAST_DTYPES)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_head_is_multiplied_from_the_left_in_bfloat16(monkeypatch, dtype, num_beams: int):
    """Within a whole model: once for each new token, with all beams as rows, and nowhere else."""
    rows = []

    def multiply(x, weight, bias):
        rows.append(x.shape[0])
        return multiply_from_left(x, weight, bias)

    monkeypatch.setattr(onednn, "multiply_from_left", multiply)
    fast = optimise_model(build_model(), dtype)
    values = make_batch()[0][:1].to(dtype)
    fast.generate(values, max_new_tokens=4, min_new_tokens=4, num_beams=num_beams)
    assert rows == ([num_beams] * 4 if dtype == torch.bfloat16 else [])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_the_core(dtype: torch.dtype):
    plain = build_model()
    fast = optimise_model(copy.deepcopy(plain), dtype)
    plain.to(dtype)
    assert {type(module) for module in fast.modules()} == {
        type(module) for module in plain.modules()
    }
    values, mask, labels = make_batch()
    with torch.no_grad():
        a, b = (model(values.to(dtype), mask, labels).logits for model in (plain, fast))
    assert torch.equal(a, b)


def test_load_speeds_up_and_the_core_does_not():
    assert type(nanos2t.load(fast=True).model.decoder.head) is FastHead
    assert type(nanos2t.load().model.decoder.head) is Head
    assert type(SpeechEncoderDecoder.from_pretrained(BUNDLED).decoder.head) is Head

    for dtype in torch.float32, torch.bfloat16, torch.float64:
        assert nanos2t.load(fast=True, dtype=dtype).model.dtype == dtype


def test_bfloat16_is_the_core_where_the_cpu_cannot_multiply_it(monkeypatch):
    monkeypatch.setattr(packed, "has_bfloat16", lambda: False)
    plain = build_model().bfloat16()
    fast = optimise_model(copy.deepcopy(plain))
    assert type(fast.decoder.head) is Head
    values, mask, labels = make_batch()
    with torch.no_grad():
        a, b = (model(values.bfloat16(), mask, labels).logits for model in (plain, fast))
    assert torch.equal(a, b)

    # A fast model is not converted to it later.
    fast = optimise_model(build_model())
    with pytest.raises(ValueError, match=r"or bfloat16 on .* AVX-512, found torch\.bfloat16"):
        fast.bfloat16()


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
