# pytest tests/peer/test_encoder.py
"""What transformers tests of a Wav2Vec2Model, on the encoders of both sides."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.pairs import ENCODERS, ours_from, tiny_pair
from helpers.sides import SIDES, batch, both_sides, every_family, tokens
from torch import Tensor
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from nanos2t.model import SpeechEncoderDecoder
from nanos2t.training.augmentation import spec_augment
from nanos2t.wav2vec2 import EncoderTraining

EXACT = {"rtol": 0, "atol": 1e-10}


@both_sides
@every_family
@torch.no_grad()
def test_the_number_of_frames_follows_the_convolutions(side, family):
    """(L - kernel) // stride + 1 for each; a layer of the adapter halves it, rounded up."""
    model = side.share(family)
    for length in (60, 61, 100, 191, 192):
        frames = length
        for kernel, stride in ((5, 3), (3, 2), (2, 1)):
            frames = (frames - kernel) // stride + 1
        if "adapter" in family:
            for _ in range(3):
                frames = (frames - 1) // 2 + 1
        waveform = torch.randn(1, length, dtype=torch.float64)
        assert side.encode_alone(model, waveform).shape[1] == frames


@both_sides
@torch.no_grad()
def test_an_adapter_may_change_the_width(side):
    model = side.share("xls-r with adapter + mbart")
    assert side.encode_alone(model, batch()["input_values"]).shape[2] == 28
    model = side.share("xlsr-53 + gpt2")
    assert side.encode_alone(model, batch()["input_values"]).shape[2] == 15


def test_adapters_inside_attention_are_refused_by_name(tmp_path):
    """MMS's small adapters of each language: transformers has them, nanos2t has not."""
    encoder = ENCODERS["xlsr-53"][1] | {"adapter_attn_dim": 16}
    tiny_pair("wav2vec2", encoder=encoder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adapter_attn_dim is 16"):
        SpeechEncoderDecoder.from_pretrained(tmp_path)


def memory_differences(side, model) -> list[float]:
    """How far the real frames of a padded batch are from those of each waveform alone."""
    lengths = [47, 95, 191]
    waveforms = torch.randn(3, 191, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(3, 191, dtype=torch.long)
    for i, length in enumerate(lengths):
        waveforms[i, length:] = 0.0
        mask[i, length:] = 0
    decoder_input = tokens()[:1, :1]
    together = model(waveforms, attention_mask=mask, decoder_input_ids=decoder_input.repeat(3, 1))
    differences = []
    for i, length in enumerate(lengths):
        alone = side.encode(model, waveforms[i : i + 1, :length])[0]
        frames = side.memory(together)[i, : len(alone)]
        differences.append((frames - alone).abs().max().item())
    return differences


@every_family
@torch.no_grad()
def test_a_padded_batch_is_its_items(family):
    """Ours is, for every encoder. transformers' is only without group norm and adapter."""
    for side in SIDES.values():
        worst = max(memory_differences(side, side.share(family)))
        if side.name == "nanos2t" or family == "xlsr-53 + gpt2":
            assert worst < 1e-10
        else:
            assert worst > 1e-3


@both_sides
@every_family
def test_labels_outside_the_vocabulary(side, family):
    """An error on both sides: ours names the label, transformers' is torch's."""
    arguments = batch()
    arguments["labels"][0, 2] = 143
    with pytest.raises((ValueError, IndexError)) as error:
        side.share(family)(**arguments)
    if side.name == "nanos2t":
        assert str(error.value).startswith("labels has 143, expected token ids from 0 to 42")


@both_sides
@every_family
def test_gradients_reach_the_memory_and_the_first_convolution(side, family, tmp_path):
    model = side.copy(family, tmp_path)
    output = model(**batch())
    side.memory(output).retain_grad()
    output.loss.backward()
    assert side.memory(output).grad.abs().max() > 0
    name, first = next(
        (name, weight) for name, weight in model.named_parameters() if "conv_layers.0.conv" in name
    )
    assert first.grad.abs().max() > 0, name


@both_sides
def test_masked_frames_in_training(side, tmp_path):
    """transformers draws the frames itself, ours is told them; the length stays, numbers change."""
    encoder = {"mask_time_prob": 0.5, "mask_time_length": 2, "layerdrop": 0.0}
    rates = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    theirs = tiny_pair(encoder=encoder | rates | {"feat_proj_dropout": 0.0})
    waveforms = batch()["input_values"]
    if side.name == "transformers":
        clean = theirs.encoder(waveforms).last_hidden_state
        masked = copy.deepcopy(theirs.encoder).train()(waveforms).last_hidden_state
    else:
        ours = ours_from(theirs, tmp_path).encoder
        clean = ours(waveforms)[0]
        lengths = torch.tensor([clean.shape[1]] * 2)
        mask = spec_augment(lengths, clean.shape[1], ours.config.training, np.random.default_rng(0))
        masked = ours(waveforms, mask_time_indices=mask)[0]
    assert masked.shape == clean.shape
    assert (masked - clean).abs().max() > 0.1


def draw_theirs(lengths: Tensor, frames: int, prob: float, span: int, least: int) -> Tensor:
    mask = torch.arange(frames) < lengths[:, None]
    drawn = _compute_mask_indices((len(lengths), frames), prob, span, mask.long(), min_masks=least)
    return torch.from_numpy(drawn)


def draw_ours(lengths: Tensor, frames: int, prob: float, span: int, least: int) -> Tensor:
    config = EncoderTraining(mask_time_prob=prob, mask_time_length=span, mask_time_min_masks=least)
    seed = np.random.randint(2**31)
    return spec_augment(lengths, frames, config, np.random.default_rng(seed))


both_samplers = pytest.mark.parametrize(
    "draw", [draw_theirs, draw_ours], ids=["transformers", "nanos2t"]
)


@both_samplers
def test_spans_of_one_frame_add_up(draw: Callable):
    """Without overlap exactly the share of frames is masked that is asked for."""
    mask = draw(torch.tensor([60] * 4), 60, 0.5, 1, 0)
    assert mask.sum(1).tolist() == [30] * 4


@both_samplers
def test_half_a_span_is_one_half_of_the_time(draw: Callable):
    counts = [draw(torch.tensor([100] * 4), 100, 0.05, 10, 0).sum().item() for _ in range(100)]
    assert 10 < sum(count > 0 for count in counts) < 90


@both_samplers
def test_spans_that_overlap_mask_no_more(draw: Callable):
    for _ in range(20):
        assert draw(torch.tensor([80] * 4), 80, 0.5, 4, 0).sum(1).max() <= 40


@both_samplers
def test_padding_is_never_masked(draw: Callable):
    for _ in range(20):
        mask = draw(torch.tensor([40, 40, 80, 80]), 80, 0.5, 4, 0)
        assert mask.sum(1).max() <= 40
        assert not mask[:2, 40:].any()


@both_samplers
def test_a_clip_too_short_for_a_span_is_not_masked(draw: Callable):
    """Five frames have no room for ten, whatever the least number of spans is."""
    mask = draw(torch.tensor([5, 100, 100, 100]), 100, 0.05, 10, 2)
    assert not mask[0, :5].any()
    assert mask[1:].any(1).all()
