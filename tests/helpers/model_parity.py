"""Pairs of HF's model and ours with the same weights, and how far apart their numbers are."""

from functools import cache
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from helpers import decoder_parity, encoder_parity
from helpers.encoder_parity import LENGTHS, items, largest, waves
from helpers.pairs import ours_from, tiny_pair
from nanos2t import remap
from nanos2t.model import IGNORED, SpeechEncoderDecoder
from nanos2t.wav2vec2 import valid_frames

PAIRS = {  # the encoder's variant, the decoder's width and heads; a bridge unless the widths agree
    "base": ("base", 35, 5),
    "base, no bridge": ("base", 45, 3),
    "large": ("large", 35, 5),
    "large, no bridge": ("large", 45, 3),
    "adapter": ("adapter", 35, 5),
    "group, adapter, other width, no bridge": ("group, adapter, other width", 57, 3),
    "hubert": ("hubert, no norm", 35, 5),
    "wavlm": ("wavlm", 35, 5),
    "data2vec": ("data2vec", 35, 5),
}


every_pair = pytest.mark.parametrize("pair", PAIRS)


T = 8


@cache
def models(pair: str) -> tuple[nn.Module, SpeechEncoderDecoder]:
    """HF's model and ours with the same spread weights, in eval mode; cached for all tests."""
    variant, width, heads = PAIRS[pair]
    encoder = {**encoder_parity.SIZES, **encoder_parity.VARIANTS[variant]}
    decoder = {**decoder_parity.SIZES, "hidden_size": width, "num_attention_heads": heads}
    theirs = tiny_pair(encoder.pop("model_type", "wav2vec2"), encoder=encoder, decoder=decoder)
    with TemporaryDirectory() as folder:
        return theirs, ours_from(theirs, folder)


def new_model(pair: str) -> SpeechEncoderDecoder:
    """A new model of ours in float32, with the configs of a pair."""
    ours = models(pair)[1]
    return SpeechEncoderDecoder.from_configs(ours.encoder.config, ours.decoder.config)


def rows(pair: str) -> list[remap.TensorRow]:
    family = encoder_parity.VARIANTS[PAIRS[pair][0]].get("model_type", "wav2vec2")
    encoder = remap.read_table(family).tensors
    decoder = remap.read_table("bert").tensors
    both = remap.prefix_rows(encoder, "encoder.") + remap.prefix_rows(decoder, "decoder.")
    return both + remap.read_table("speech-encoder-decoder").tensors


def batch_of(lengths: tuple[int, ...] = LENGTHS, targets: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Waveforms and mask (B, L), labels (B * targets, T) that end early, one with a hole."""
    waveforms, samples = waves(*lengths)
    labels = torch.randint(4, 43, (len(lengths) * targets, T))
    for i, row in enumerate(labels):
        row[T - i % (T - 2) :] = IGNORED
    labels[-1, 1] = IGNORED
    return waveforms, valid_frames(samples, waveforms.shape[1]).long(), labels


@torch.no_grad()
def differences(pair: str) -> dict[str, float]:
    """Memory, logits and loss of a padded batch of ours, against HF's of the items alone."""
    theirs, ours = models(pair)
    waveforms, mask, labels = batch_of()
    got = ours(waveforms, mask, labels)
    worst, total = {"memory": 0.0, "logits": 0.0}, 0.0
    for i, item in enumerate(items(waveforms, mask.sum(1))):
        want = theirs(item, labels=labels[i : i + 1])
        memory = want.encoder_last_hidden_state
        assert got.frame_lengths[i] == memory.shape[1]
        worst["memory"] = max(worst["memory"], largest(got.memory[i, : memory.shape[1]], memory[0]))
        worst["logits"] = max(worst["logits"], largest(got.logits[i], want.logits[0]))
        total = total + want.loss * (labels[i] != IGNORED).sum()
    return {**worst, "loss": largest(got.loss, total / (labels != IGNORED).sum())}
