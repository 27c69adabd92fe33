# pytest tests/test_torch_tools.py
"""The model with tools of PyTorch: gradient checkpointing, torch.compile, torch.export."""

from dataclasses import replace

import pytest
import torch
from helpers.fast_pair import build_model, make_batch
from torch import Tensor, nn

from nanos2t.model import Output, SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderTraining

# What an encoder may be, in fields of EncoderConfig.
ENCODERS = {
    "wav2vec2": {},
    "adapter": {"adapter_layers": 2, "pre_norm": True, "conv_norm": "layer"},
    "wavlm": {"distance_buckets": 9, "max_distance": 12},
    "data2vec": {"position_layers": 2, "position_kernel": 5},
}
every_encoder = pytest.mark.parametrize("family", ENCODERS)


def compute_gradients(model: SpeechEncoderDecoder, output: Output) -> dict[str, Tensor]:
    """The gradients of the loss, which are removed from the model."""
    output.loss.backward()
    grads = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            grads[name] = parameter.grad
        parameter.grad = None
    return grads


def count_calls(model: SpeechEncoderDecoder) -> list[str]:
    """A list to which each block adds its name whenever its forward runs."""
    calls = []
    for part in ("encoder", "decoder"):
        for i, block in enumerate(model.get_submodule(f"{part}.blocks")):
            name = f"{part} {i}"
            block.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    return calls


# Gradient checkpointing


@every_encoder
def test_checkpointing_computes_blocks_again_and_gives_the_same_gradients(family):
    """With dropouts, too: the second time they drop the same."""
    model = build_model(**ENCODERS[family]).train()
    batch = make_batch()
    calls = count_calls(model)
    seed = 3
    grads = []
    for change in (
        model.gradient_checkpointing_disable,
        model.gradient_checkpointing_enable,
        model.gradient_checkpointing_disable,
    ):
        change()
        torch.manual_seed(seed)
        output = model(*batch)
        first = list(calls)
        calls.clear()
        grads.append(compute_gradients(model, output))

        # The backward pass goes through the blocks in the reverse order.
        is_recomputed = change == model.gradient_checkpointing_enable
        assert calls == (first[::-1] if is_recomputed else [])
        calls.clear()

    assert {name for name in first if name.startswith("decoder")} == {"decoder 0", "decoder 1"}
    for other in grads[1:]:
        assert other.keys() == grads[0].keys()
        assert all(torch.equal(other[name], grads[0][name]) for name in other)


def test_checkpointing_is_for_training_only():
    model = build_model()
    values, mask, labels = make_batch()
    want = model(values, mask, labels)
    tokens = model.generate(values, mask, num_beams=2, max_new_tokens=5)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    calls = count_calls(model)
    got = model(values, mask, labels)
    calls.clear()
    got.loss.backward()
    assert calls == [] and torch.equal(got.logits, want.logits)
    assert torch.equal(model.generate(values, mask, num_beams=2, max_new_tokens=5), tokens)


def test_checkpointing_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="use_reentrant': True}, expected None or"):
        build_model().gradient_checkpointing_enable({"use_reentrant": True})


# Full graphs: nothing depends on values


def without_dropouts(family: str) -> SpeechEncoderDecoder:
    """A model in training mode without random numbers."""
    training = EncoderTraining(0.0, 0.0, 0.0, 0.0, 0.0)
    model = build_model(**ENCODERS[family], training=training).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "recompute"), [*[(family, False) for family in ENCODERS], ("wavlm", True)]
)
def test_compile_the_training_forward_with_a_mask(family, recompute):
    model = without_dropouts(family)
    if recompute:
        model.gradient_checkpointing_enable()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    values, mask, labels = make_batch()
    want = model(values, mask, labels)
    got = compiled(values, mask, labels)
    assert torch.allclose(got.logits, want.logits, rtol=0, atol=1e-4)
    assert torch.equal(got.frame_lengths, want.frame_lengths)
    want_grads = compute_gradients(model, want)
    got_grads = compute_gradients(model, got)
    assert got_grads.keys() == want_grads.keys()
    for name, grad in want_grads.items():
        assert torch.allclose(got_grads[name], grad, rtol=1e-3, atol=1e-4), name

    # The same graph for another mask: what is padding is not built into it.
    values, mask, labels = (tensor.flip(0) for tensor in (values, mask, labels))
    with torch.no_grad():
        assert torch.allclose(
            compiled(values, mask, labels).logits, model(values, mask, labels).logits, atol=1e-4
        )


@pytest.mark.slow
@every_encoder
def test_export_the_training_forward_with_a_mask(family):
    model = without_dropouts(family)
    values, mask, labels = make_batch()
    named = {"attention_mask": mask, "labels": labels}
    exported = torch.export.export(model, (values,), named).module()
    for order in (0, 1, 2), (2, 0, 1):
        batch = (tensor[list(order)] for tensor in (values, mask, labels))
        values, named["attention_mask"], named["labels"] = batch
        got = exported(values, **named)
        want = model(values, **named)
        assert torch.allclose(got.logits, want.logits, rtol=0, atol=1e-4)
        assert torch.allclose(got.loss, want.loss)
        assert torch.equal(got.frame_lengths, want.frame_lengths)


@pytest.mark.slow
def test_compile_with_masked_frames():
    """SpecAugment's frames are an argument."""
    model = without_dropouts("wav2vec2")
    values, mask, labels = make_batch()
    frames = model(values, mask).memory.shape[1]
    config = replace(model.encoder.config.training, mask_time_prob=0.1)
    model.encoder.config = replace(model.encoder.config, training=config)
    model.encoder.masked_spec_embed = nn.Parameter(torch.randn(24))
    masked = torch.rand(3, frames) < 0.3
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    got = compiled(values, mask, labels, mask_time_indices=masked)
    want = model(values, mask, labels, mask_time_indices=masked)
    assert torch.allclose(got.loss, want.loss)
