# pytest tests/test_initialize.py
"""nanos2t/initialize.py against transformers: each new tensor has the same distribution."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from helpers.encoder_parity import largest
from helpers.model_parity import models, new_model, rows
from torch import Tensor

from nanos2t import remap
from nanos2t.initialize import initialize_weights
from nanos2t.model import SpeechEncoderDecoder

hf = pytest.importorskip("transformers")

# Other standard deviations than by default, and other ones in the encoder than in the decoder.
ENCODER_STD = 0.03
DECODER_STD = 0.05

# How many new models are drawn.
TIMES = 12

# The largest value, in standard deviations, is 1.7 if a distribution is uniform, and more than 2.8
# if 400 values are normal.
UNIFORM_REACH = 2.1


@dataclass
class Distribution:
    """What the tests compare of one tensor in several new models."""

    mean: float
    std: float
    reach: float  # the largest distance from the mean
    zero_rows: list[bool]  # which rows are zero in every model

    @classmethod
    def of(cls, draws: Tensor) -> "Distribution":  # (TIMES, ...)
        mean = draws.mean().item()
        reach = (draws - mean).abs().max().item()
        flat = draws.reshape(TIMES, draws.shape[1], -1)
        zero_rows = flat.eq(0).all(dim=2).all(dim=0).tolist()
        return cls(mean, draws.std().item(), reach, zero_rows)

    @property
    def is_uniform(self) -> bool:
        return self.reach < UNIFORM_REACH * self.std


def stack_states(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


@cache
def draw_ours(pair: str) -> dict[str, Tensor]:
    """Every tensor (TIMES, ...) of new models of ours."""
    model = models(pair)[1]
    encoder = replace(model.encoder.config, init_std=ENCODER_STD)
    decoder = replace(model.decoder.config, init_std=DECODER_STD)
    new = [SpeechEncoderDecoder.from_configs(encoder, decoder) for _ in range(TIMES)]
    return stack_states([model.state_dict() for model in new])


@cache
def draw_theirs(pair: str) -> dict[str, Tensor]:
    """The same of new models of transformers, by our names."""
    theirs, ours = models(pair)
    config = theirs.config.to_dict()
    config["encoder"]["initializer_range"] = ENCODER_STD
    config["decoder"]["initializer_range"] = DECODER_STD
    config = hf.SpeechEncoderDecoderConfig.from_dict(config)

    states = []
    for _ in range(TIMES):
        state = hf.SpeechEncoderDecoderModel(config).state_dict()
        states.append(remap.import_state(rows(pair), state, ours.state_dict()))
    return stack_states(states)


@pytest.mark.parametrize("part", ["encoder.", "decoder.", "bridge."])
@pytest.mark.parametrize("pair", ["base", "large", "adapter", "wavlm", "data2vec"])
def test_initialisation_follows_the_laws_of_hf(pair, part):
    """Same mean, spread, kind (uniform or normal) and rows of zeros."""
    ours = draw_ours(pair)
    theirs = draw_theirs(pair)
    assert ours.keys() == theirs.keys()
    for name in [name for name in ours if name.startswith(part)]:
        got = Distribution.of(ours[name])
        want = Distribution.of(theirs[name])
        assert got.zero_rows == want.zero_rows, name

        # The standard error of the mean, and more than that of the spread.
        error = max(got.std, want.std) / ours[name].numel() ** 0.5
        assert abs(got.mean - want.mean) <= 6 * error, name
        assert abs(got.std - want.std) <= 6 * error, name
        if want.std > 0 and ours[name].numel() > 400:
            assert got.is_uniform == want.is_uniform, name


def test_new_positional_convolution_uses_its_direction_as_weight():
    positions = new_model("base").encoder.positions
    norm = positions.direction.norm(dim=(0, 1), keepdim=True)
    assert largest(positions.gain, norm) < 1e-6


@pytest.mark.parametrize(
    "names",
    [
        {"encoder.masked_spec_embed"},
        {"encoder.feature_encoder.conv_layers.0.norm.weight", "encoder.blocks.1.mlp_norm.bias"},
        {"encoder.feature_encoder.conv_layers.1.conv.weight"},
        {"encoder.positions.direction", "encoder.positions.gain"},
        {"decoder.embed.tokens.weight", "decoder.head.bias", "bridge.weight"},
        set(),
    ],
    ids=lambda names: ", ".join(sorted(names)) or "none",
)
def test_only_the_named_weights_are_drawn(names):
    model = new_model("base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    initialize_weights(model, names)
    for name, parameter in model.named_parameters():
        assert parameter.ne(7.0).any() == (name in names), name
    if "encoder.positions.gain" in names:
        norm = model.encoder.positions.direction.norm(dim=(0, 1), keepdim=True)
        assert torch.equal(model.encoder.positions.gain, norm)
