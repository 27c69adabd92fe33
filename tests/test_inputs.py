# pytest tests/test_inputs.py
"""Arguments of a wrong type, shape or value: one line that says what was expected."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.generation_models import tiny_model
from helpers.pairs import ADAPTER

from nanos2t.decoder import DecoderConfig
from nanos2t.inputs import IGNORED
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

WAVEFORMS = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[3, 4, 2], [5, 2, IGNORED]])

WRONG_WAVEFORMS = {
    "no batch axis": (
        WAVEFORMS[0],
        "input_values has shape (500,), expected (utterances, samples): "
        "add the first axis with input_values[None]",
    ),
    "three axes": (
        WAVEFORMS[:, None],
        "input_values has shape (2, 1, 500), expected (utterances, samples)",
    ),
    "a number": (WAVEFORMS[0, 0], "input_values has shape (), expected (utterances, samples)"),
    "NumPy": (
        WAVEFORMS.numpy(),
        "input_values is of type numpy.ndarray, expected a torch.Tensor (utterances, samples): "
        "use torch.from_numpy",
    ),
    "a list": (
        WAVEFORMS.tolist(),
        "input_values is of type builtins.list, expected a torch.Tensor (utterances, samples)",
    ),
    "None": (None, "input_values is of type builtins.NoneType, expected a torch.Tensor"),
    "16 bits": (
        (WAVEFORMS * 1000).to(torch.int16),
        "input_values are torch.int16, expected floating point samples",
    ),
    "bool": (WAVEFORMS > 0, "input_values are torch.bool, expected floating point samples"),
    "complex": (
        WAVEFORMS.to(torch.complex64),
        "input_values are torch.complex64, expected floating point samples",
    ),
    "no utterance": (WAVEFORMS[:0], "input_values: expected at least one waveform, found none"),
}

WRONG_MASKS = {
    "NumPy": (
        np.ones((2, 500)),
        "attention_mask is of type numpy.ndarray, expected a torch.Tensor",
    ),
    "one axis": (
        torch.ones(500),
        "attention_mask has shape (500,), expected (utterances, samples)",
    ),
    "too few rows": (
        torch.ones(1, 500),
        "attention_mask has shape (1, 500), expected that of input_values (2, 500)",
    ),
    "another value": (
        torch.full((2, 500), 2),
        "attention_mask has the value 2, expected 1 for real samples, 0 for padding",
    ),
    "NaN": (torch.full((2, 500), torch.nan), "attention_mask has the value nan, expected 1"),
}

WRONG_LABELS = {
    "more rows": (LABELS[[0, 1, 0]], "has 3 rows, expected a multiple of the 2 utterances"),
    "fewer rows": (LABELS[:1], "has 1 rows, expected a multiple of the 2 utterances"),
    "no rows": (LABELS[:0], "has 0 rows, expected a multiple of the 2 utterances"),
    "no tokens": (LABELS[:, :0], "has shape (2, 0), expected at least one token in a row"),
    "one axis": (LABELS[0], "has shape (3,), expected (rows, tokens)"),
    "three axes": (LABELS[:, :, None], "has shape (2, 3, 1), expected (rows, tokens)"),
    "floats": (LABELS.float(), "are torch.float32, expected token ids as torch.int64"),
    "bool": (LABELS > 0, "are torch.bool, expected token ids as torch.int64"),
    "NumPy": (LABELS.numpy(), "is of type numpy.ndarray, expected a torch.Tensor (rows, tokens)"),
    "beyond the vocabulary": (
        torch.tensor([[3, 9], [9, 2]]),
        "has 9, expected token ids from 0 to 8",
    ),
    "below 0": (torch.tensor([[3, 4], [-1, 2]]), "has -1, expected token ids from 0 to 8"),
}


@pytest.fixture(scope="module")
def model() -> SpeechEncoderDecoder:
    model = tiny_model()
    assert model.decoder.config.vocab_size == 9
    return model


def refuse(message: str, call, *arguments, **options) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", WRONG_WAVEFORMS)
def test_wrong_waveforms(case, model):
    waveforms, message = WRONG_WAVEFORMS[case]
    refuse(message, model, waveforms)
    refuse(message, model.encode, waveforms)
    refuse(message, model.generate, waveforms)
    refuse(message, model.generate, waveforms, num_beams=2)


@pytest.mark.parametrize("case", WRONG_MASKS)
def test_wrong_masks_of_samples(case, model):
    mask, message = WRONG_MASKS[case]
    refuse(message, model, WAVEFORMS, mask)
    refuse(message, model.encode, WAVEFORMS, mask)
    refuse(message, model.generate, WAVEFORMS, mask)


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_wrong_labels(case, model):
    labels, message = WRONG_LABELS[case]
    refuse(f"labels {message}", model, WAVEFORMS, labels=labels)
    refuse(f"decoder_input_ids {message}", model, WAVEFORMS, decoder_input_ids=labels)


def test_labels_and_decoder_input_of_different_shapes(model):
    refuse(
        "decoder_input_ids has shape (4, 3), expected that of labels (2, 3)",
        model,
        WAVEFORMS,
        labels=LABELS,
        decoder_input_ids=LABELS.clamp(min=0).repeat(2, 1),
    )
    refuse(
        "decoder_input_ids has -100, expected token ids from 0 to 8",
        model,
        WAVEFORMS,
        decoder_input_ids=LABELS,
    )


def test_wrong_masks_of_frames(model):
    memory, _ = model.encode(WAVEFORMS)
    B, S = memory.shape[:2]
    right = torch.zeros(B, S, dtype=torch.bool)
    model(WAVEFORMS, mask_time_indices=right)
    for wrong in (right[:1], right[:, :1], right[:, 1:], torch.cat([right, right])):
        message = f"mask_time_indices has shape {tuple(wrong.shape)}, expected {(B, S)}"
        refuse(message, model, WAVEFORMS, mask_time_indices=wrong)
        refuse(message, model.encode, WAVEFORMS, mask_time_indices=wrong)
    refuse("mask_time_indices are torch.int64", model, WAVEFORMS, mask_time_indices=right.long())
    refuse("mask_time_indices has shape", model, WAVEFORMS, mask_time_indices=right[0])
    refuse("numpy.ndarray", model, WAVEFORMS, mask_time_indices=right.numpy())


def test_what_is_right_is_computed(model):
    """Several targets of an utterance, ids as int32, and a mask of any type."""
    shifted = LABELS.clamp(min=0).repeat_interleave(2, 0)
    for ids in (shifted, shifted.int()):
        assert model(WAVEFORMS, decoder_input_ids=ids).logits.shape == (4, 3, 9)
    for dtype in (torch.bool, torch.int32, torch.float32):
        mask = torch.ones(WAVEFORMS.shape, dtype=dtype)
        assert torch.equal(model(WAVEFORMS, mask).memory, model(WAVEFORMS).memory)
    assert model.encode(WAVEFORMS[:, :1])[0].shape[1] == 1


def test_waveforms_too_short_for_a_wide_adapter():
    """Two layers with a kernel of 5, padded by 1, make one frame of 3, and 3 of 7."""
    config = replace(ADAPTER, adapter_layers=2, adapter_kernel=5)
    model = SpeechEncoderDecoder(config, DecoderConfig.bert(9, num_layers=1)).eval()
    least = config.count_samples(7)
    waveforms = torch.randn(2, 99)
    mask = (torch.arange(99) < torch.tensor([[99], [least - 1]])).long()
    message = (
        f"a waveform of {least - 1} samples, expected at least {least}: an adapter_kernel of 5"
    )
    refuse(message, model.encode, waveforms, mask)
    refuse(message, model, waveforms[:, : least - 1])
    mask[1, least - 1] = 1
    assert model.encode(waveforms, mask)[1].min() == 1
    assert model.encode(waveforms[:, :least])[0].shape[1] == 1

    # The official kernel makes a frame of any waveform.
    model = SpeechEncoderDecoder(ADAPTER, DecoderConfig.bert(9, num_layers=1)).eval()
    assert model.encode(waveforms[:, :1])[0].shape[1] == 1


def test_values_are_not_read_where_that_costs_time(model):
    """Tensors on the meta device have no values: a look at them would be an error."""
    empty = SpeechEncoderDecoder(model.encoder.config, model.decoder.config, model.generation)
    empty = empty.to("meta").eval()
    logits = empty(WAVEFORMS.to("meta"), labels=LABELS.to("meta")).logits
    assert logits.shape == (2, 3, 9)
    assert empty.device == torch.device("meta")


def test_groups_that_do_not_divide_the_width():
    for groups in (5, 0, -3, 97):
        message = f"hidden_size is 96, expected a multiple of position_groups ({groups})"
        config = EncoderConfig(hidden_size=96, num_layers=1, position_groups=groups)
        refuse(message, SpeechEncoderDecoder, config, DecoderConfig.bert(num_layers=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_device_and_dtype(dtype):
    model = tiny_model().to(dtype)
    assert model.dtype == dtype
    assert model.device == torch.device("cpu")
    waveforms = torch.zeros(1, 500, device=model.device, dtype=model.dtype)
    assert model(waveforms).memory.dtype == dtype


@pytest.mark.slow
def test_compile_and_export_do_not_look_at_values(model):
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    want = model(WAVEFORMS, labels=LABELS)
    assert torch.equal(compiled(WAVEFORMS, labels=LABELS).logits, want.logits)
    exported = torch.export.export(model, (WAVEFORMS,), {"labels": LABELS})
    got = exported.module()(WAVEFORMS, labels=LABELS)
    assert torch.allclose(got.logits, want.logits)
