# pytest tests/peer/test_common.py
"""What transformers tests of all its models (ModelTesterMixin), on its pair and on ours."""

import copy
import inspect
import io
import json
from pathlib import Path

import pytest
import torch
from helpers.half_files import halves as halves  # noqa: PLC0414, a fixture
from helpers.sides import (
    Ours,
    Theirs,
    batch,
    both_sides,
    every_family,
    our_model,
    their_model,
    tokens,
)
from safetensors.torch import load_file, save_file
from torch import nn

TIED = "base + bert"


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(batch()["input_values"], decoder_input_ids=tokens()).logits


@both_sides
@every_family
def test_the_same_call_gives_the_same_bits(side, family):
    assert torch.equal(logits(side.share(family)), logits(side.share(family)))


@both_sides
@every_family
def test_arguments_in_the_order_that_callers_rely_on(side, family):
    """Only the first is the same by position: transformers has 13 arguments, nanos2t five."""
    names = list(inspect.signature(side.share(family).forward).parameters)
    shared = {"input_values", "attention_mask", "labels", "decoder_input_ids"}
    assert shared <= set(names)
    assert [name for name in names if name in ("attention_mask", "decoder_input_ids")][0] == (
        "attention_mask"
    )
    if side.name == "nanos2t":
        assert names[:4] == ["input_values", "attention_mask", "labels", "decoder_input_ids"]


@both_sides
@every_family
def test_outputs_by_place_and_by_name(side, family):
    """The loss is the first where there are labels. Without, ours keeps the place as None."""
    model = side.share(family)
    with torch.no_grad():
        output = model(**batch())
        assert output[0] is output.loss
        assert output[1] is output.logits
        without = model(batch()["input_values"], decoder_input_ids=tokens())
    assert without.loss is None
    if side.name == "nanos2t":
        assert without[0] is None
        loss, given, memory, frame_lengths = output
        assert (loss, given) == (output.loss, output.logits)
    else:
        assert without[0] is without.logits


@both_sides
@every_family
def test_every_weight_has_a_gradient(side, family, tmp_path):
    """But the vector of masked frames, as none is masked."""
    model = side.copy(family, tmp_path).train()
    model(**batch()).loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    if side.name == "transformers" and "bert" in family:
        # The bias of the head that transformers does not use, if it is not the same tensor.
        idle = [name for name in idle if name != "decoder.cls.predictions.bias"]
    assert all(name.endswith("masked_spec_embed") for name in idle)


@both_sides
@every_family
def test_a_step_of_training_lowers_the_loss(side, family, tmp_path):
    model = side.copy(family, tmp_path).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = model(**batch()).loss
    before.backward()
    optimizer.step()
    assert model(**batch()).loss < before


@both_sides
@every_family
def test_checkpointed_gradients_are_the_same(side, family, tmp_path):
    """Computed again in the backward pass, and with the method that switches it off, not again."""
    gradients = []
    for switch in ("gradient_checkpointing_enable", "gradient_checkpointing_disable"):
        model = side.copy(family, tmp_path / switch).train()
        model.gradient_checkpointing_enable()
        getattr(model, switch)()
        model(**batch()).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        if gradient is not None:
            assert torch.allclose(gradient, gradients[1][name], rtol=0, atol=1e-10), name


@both_sides
def test_a_frozen_feature_encoder(side, tmp_path):
    model = side.copy(TIED, tmp_path).train()
    model.freeze_feature_encoder()
    model(**batch()).loss.backward()
    frozen = [name for name, weight in model.named_parameters() if weight.grad is None]
    convolutions = [name for name, _ in model.named_parameters() if "conv_layers" in name]
    assert convolutions
    assert set(convolutions) <= set(frozen)


@both_sides
@every_family
def test_a_state_dict_goes_into_a_new_model(side, family):
    model = side.share(family)
    new = side.renew(model)
    new.load_state_dict(model.state_dict())
    assert torch.allclose(logits(new), logits(model), rtol=0, atol=1e-10)


@both_sides
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old format"])
def test_pickled_weights_of_both_formats(side, is_zip, tmp_path):
    """pytorch_model.bin as torch writes it today, and as before version 1.6."""
    model = side.share(TIED)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    assert torch.allclose(logits(side.load(tmp_path)), logits(model), rtol=0, atol=1e-10)


@both_sides
def test_a_whole_model_is_copied_and_pickled(side):
    """transformers' model is not pickled: torch refuses its weight norm."""
    model = side.share(TIED)
    assert torch.allclose(logits(copy.deepcopy(model)), logits(model), rtol=0, atol=1e-10)
    stream = io.BytesIO()
    if side.name == "transformers":
        with pytest.raises(RuntimeError, match="parametrized modules"):
            torch.save(model, stream)
        return
    torch.save(model, stream)
    stream.seek(0)
    assert torch.allclose(
        logits(torch.load(stream, weights_only=False)), logits(model), rtol=0, atol=1e-10
    )


@both_sides
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_that_is_asked_for(side, dtype, tmp_path):
    side.share(TIED).save_pretrained(tmp_path)
    model = side.load(tmp_path, dtype)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert model.dtype == dtype


@both_sides
def test_a_tied_matrix_is_one_tensor_in_memory_and_in_the_file(side, tmp_path):
    """A change of the embedding is one of the output matrix, before saving and after."""
    model = side.copy(TIED, tmp_path / "first")
    shape = (43, 28)
    names = [name for name, weight in model.named_parameters() if weight.shape == shape]
    assert len(names) == 1
    with torch.no_grad():
        model.get_parameter(names[0])[5] += 1.0
    model.save_pretrained(tmp_path / "second")
    tensors = load_file(tmp_path / "second" / "model.safetensors")
    assert len([name for name, tensor in tensors.items() if tensor.shape == shape]) == 1
    assert torch.allclose(logits(side.load(tmp_path / "second")), logits(model), rtol=0, atol=1e-10)
    assert not torch.allclose(logits(model), logits(side.share(TIED)))


@both_sides
def test_a_tensor_of_another_shape_is_an_error(side, tmp_path):
    side.share(TIED).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name] = tensors[name][:20].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError)) as error:
        side.load(tmp_path)
    if side.name == "nanos2t":
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_missing_tensor_is_drawn_by_transformers_and_an_error_of_ours(tmp_path):
    """With an extra one it is the same: transformers goes on, nanos2t names it."""
    model = their_model(TIED)
    for change in ("missing", "extra"):
        folder = tmp_path / change
        model.save_pretrained(folder)
        path = folder / "model.safetensors"
        tensors = load_file(path)
        name = "decoder.bert.encoder.layer.0.output.dense.weight"
        if change == "missing":
            del tensors[name]
        else:
            name = "decoder.bert.encoder.layer.7.output.dense.weight"
            tensors[name] = torch.zeros(3)
        save_file(tensors, path, metadata={"format": "pt"})
        loaded = logits(Theirs().load(folder))
        same = torch.allclose(loaded, logits(model), rtol=0, atol=1e-10)
        assert same == (change == "extra")
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            Ours().load(folder)


@both_sides
def test_on_the_meta_device_there_are_shapes_and_no_numbers(side):
    """What people do to plan for a large model. transformers leaves one vector on the CPU."""
    model = side.share(TIED)
    with torch.device("meta"):
        new = side.renew(model)
    others = [name for name, weight in new.named_parameters() if weight.device.type != "meta"]
    if side.name == "transformers":
        assert others == ["encoder.masked_spec_embed"]
        return
    assert not others
    arguments = {name: value.to("meta") for name, value in batch().items()}
    assert new(**arguments).logits.shape == (2, 6, 43)


@both_sides
@every_family
def test_the_number_of_parameters(side, family):
    """The same, but for the vector of masked frames, which ours has only if frames are masked."""
    count = sum(weight.numel() for weight in side.share(family).parameters())
    ours = sum(weight.numel() for weight in our_model(family).parameters())
    vector = their_model(family).encoder.masked_spec_embed.numel()
    assert count - ours == (vector if side.name == "transformers" else 0)


@both_sides
@every_family
def test_the_config_file_is_the_same_after_reading_and_writing(side, family, tmp_path):
    side.share(family).save_pretrained(tmp_path / "first")
    side.load(tmp_path / "first").save_pretrained(tmp_path / "second")
    for name in ("config.json", "generation_config.json"):
        first = read_config(tmp_path / "first" / name)
        assert read_config(tmp_path / "second" / name) == first


def read_config(path: Path) -> dict:
    """Read a config without what transformers adds to its parts when it loads them."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    for part in (config.get("encoder", {}), config.get("decoder", {})):
        part.pop("_name_or_path", None)
        part.pop("dtype", None)
    return config


@pytest.mark.slow
@both_sides
def test_an_exported_program_gives_the_same_numbers(side):
    """torch.export takes the place of TorchScript and of torch.fx."""
    model = copy.deepcopy(side.share(TIED))
    if side.name == "transformers":
        model.config.use_cache = False
        model.config.decoder.use_cache = False
    arguments = {"input_values": batch()["input_values"], "decoder_input_ids": tokens()}
    with torch.no_grad():
        exported = torch.export.export(model, (), arguments, strict=False)
        got = exported.module()(**arguments).logits
    assert torch.allclose(got, logits(model), rtol=0, atol=1e-10)
