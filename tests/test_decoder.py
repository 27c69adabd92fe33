# pytest tests/test_decoder.py
"""nanos2t/decoder.py against transformers, float64, weights spread, stage by stage.

Our decoder gets K targets for each memory of a padded batch, HF each target and memory alone. The
functions of helpers/decoder_parity.py that return a difference are the checks; test_mutations.py
breaks the code and asks them to notice.
"""

import copy
from dataclasses import fields, replace

import pytest
import torch
from helpers.decoder_parity import (
    FRAMES,
    K,
    T,
    cache_difference,
    decoders,
    every_variant,
    leak_of_padding,
    leak_of_the_future,
    reorder_difference,
    rows,
    stage_differences,
    tokens_and_memory,
)
from helpers.encoder_parity import TOLERANCE, largest

from nanos2t import remap
from nanos2t.decoder import Decoder, DecoderTraining, causal_mask

hf = pytest.importorskip("transformers")


# Parity


@every_variant
def test_every_stage_is_hf(variant):
    for stage, difference in stage_differences(variant).items():
        assert difference < TOLERANCE, stage


@every_variant
def test_gradients_are_hf(variant):
    """Also where a pad is read: its embedding stays as it is, unless it is an output too (tied)."""
    theirs, ours = decoders(variant)
    tokens, memory, _ = tokens_and_memory(ours.config, repeats=1)
    tokens = tokens[:1]
    tokens[0, 3:5] = theirs.config.pad_token_id or 0
    memory = memory[:1]

    # A random direction, so that all logits matter.
    weights = torch.randn(T, ours.config.vocab_size, dtype=torch.float64)
    their_logits = theirs(input_ids=tokens, encoder_hidden_states=memory).logits
    (their_logits * weights).sum().backward()
    our_logits = ours(tokens, ours.project_memory(memory))
    (our_logits * weights).sum().backward()

    named = theirs.named_parameters(remove_duplicate=False)
    wanted = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    wanted = remap.import_state(rows(variant), wanted, ours.state_dict())
    for name, parameter in ours.named_parameters():
        assert largest(parameter.grad, wanted[name]) < 1e-9, name
    theirs.zero_grad()
    ours.zero_grad()


@every_variant
@torch.no_grad()
def test_one_memory_needs_no_mask(variant):
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    tokens = tokens[:K]
    cross_keys_values = ours.project_memory(memory[:1])
    want = ours(tokens, cross_keys_values, mask[:1])
    assert largest(ours(tokens, cross_keys_values), want) < TOLERANCE


# Laws


@every_variant
def test_no_logits_know_the_future(variant):
    assert leak_of_the_future(variant) < TOLERANCE


@every_variant
@pytest.mark.parametrize("sizes", [[1] * 9, [2, 2, 2, 2, 1], [3, 3, 3], [4, 1, 1, 3], [9]], ids=str)
def test_cached_is_uncached(variant, sizes):
    assert cache_difference(variant, sizes) < TOLERANCE


@every_variant
def test_padded_frames_have_no_influence(variant):
    assert leak_of_padding(variant) < TOLERANCE


@pytest.mark.parametrize("variant", ["bert", "mbart"])
@torch.no_grad()
def test_beams_share_their_memory(variant):
    """Keys and values of B utterances for B * K rows are those of every row on its own."""
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    shared = ours.project_memory(memory)
    shape = (len(FRAMES), 5, max(FRAMES), 7)
    assert [(keys.shape, values.shape) for keys, values in shared] == [(shape, shape)] * 2

    repeated = ours.project_memory(memory.repeat_interleave(K, dim=0))
    want = ours(tokens, repeated, mask.repeat_interleave(K, dim=0))
    assert largest(ours(tokens, shared, mask), want) < TOLERANCE


@pytest.mark.parametrize("variant", ["bert", "mbart"])
def test_reorder(variant):
    assert reorder_difference(variant) < TOLERANCE


def test_too_many_positions():
    ours = decoders("bert")[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    cross_keys_values = ours.project_memory(memory)
    tokens = tokens.repeat(1, 5)
    assert ours(tokens[:, :37], cross_keys_values, mask).shape == (6, 37, 43)
    with pytest.raises(ValueError, match=r"\b38\b.*\b37\b"):
        ours(tokens[:, :38], cross_keys_values, mask)

    # The same with a cache, which has more room.
    caches = ours.new_caches(6, 40)
    ours(tokens[:, :36], cross_keys_values, mask, caches)
    ours(tokens[:, :1], cross_keys_values, mask, caches)
    with pytest.raises(ValueError, match=r"\b38\b.*\b37\b"):
        ours(tokens[:, :1], cross_keys_values, mask, caches)


def test_causal_mask():
    assert causal_mask(2, 3, torch.device("cpu")).tolist() == [[True] * 4 + [False], [True] * 5]


# Training mode


def with_training(ours: Decoder, **rates: float) -> Decoder:
    """The same decoder in training mode, with all dropouts 0 but these."""
    zeros = {field.name: 0.0 for field in fields(DecoderTraining)}
    model = Decoder(replace(ours.config, training=DecoderTraining(**{**zeros, **rates}))).double()
    model.load_state_dict(ours.state_dict())
    return model.train()


@pytest.mark.parametrize("variant", ["bert", "mbart"])
@pytest.mark.parametrize("rate", [field.name for field in fields(DecoderTraining)])
@torch.no_grad()
def test_each_dropout_works_in_training_mode_only(variant, rate):
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    cross_keys_values = ours.project_memory(memory)
    want = ours(tokens, cross_keys_values, mask)
    without = with_training(ours)
    assert largest(without(tokens, cross_keys_values, mask), want) < TOLERANCE
    model = with_training(ours, **{rate: 0.3})
    assert largest(model(tokens, cross_keys_values, mask), want) > 0.1
    assert largest(model.eval()(tokens, cross_keys_values, mask), want) < TOLERANCE


# What transformers calls hidden_dropout, attention_dropout, activation_dropout.
NAMES = {
    "bert": ["hidden_dropout_prob", "attention_probs_dropout_prob"],
    "gpt2": ["resid_pdrop", "attn_pdrop"],
    "bart": ["dropout", "attention_dropout", "activation_dropout"],
    "mbart": ["dropout", "attention_dropout", "activation_dropout"],
}


@pytest.mark.parametrize(
    ("variant", "rate"), [(v, rate) for v, rates in NAMES.items() for rate in rates]
)
@torch.no_grad()
def test_the_same_seed_drops_what_hf_drops(variant, rate):
    """HF and ours draw in the same order: the dropouts stand in the same places."""
    theirs, ours = decoders(variant)
    config = copy.deepcopy(theirs.config)
    for name in NAMES[variant]:
        setattr(config, name, 0.0)
    setattr(config, rate, 0.3)
    if variant == "gpt2":
        config.embd_pdrop = config.resid_pdrop
    model = type(theirs)(config).double().train()
    model.load_state_dict(theirs.state_dict())
    our_rates = [field.name for field in fields(DecoderTraining)]
    our_rate = our_rates[NAMES[variant].index(rate)]
    ours = with_training(ours, **{our_rate: 0.3})
    tokens, memory, _ = tokens_and_memory(ours.config)
    torch.manual_seed(3)
    want = model(input_ids=tokens[:1], encoder_hidden_states=memory[:1]).logits
    torch.manual_seed(3)
    assert largest(ours(tokens[:1], ours.project_memory(memory[:1])), want) < TOLERANCE
