# pytest tests/inspection/test_observer.py
"""nanos2t/inspection/observer.py: it sees what the model computes, and changes nothing."""

from dataclasses import replace

import pytest
import torch
from helpers.pairs import spread_
from helpers.tiny import DECODER, ENCODER

import nanos2t
from nanos2t import wav2vec2
from nanos2t.decoder import DecoderConfig
from nanos2t.inspection.observer import (
    find_stages,
    observe_attention,
    observe_stages,
    time_stages,
)
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

TOKENS = torch.tensor([[1, 5, 0, 22]])


def waveform(samples: int = 1999) -> torch.Tensor:
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(0))


def tiny(**fields) -> SpeechEncoderDecoder:
    encoder = replace(ENCODER, num_layers=3, **fields)
    return spread_(SpeechEncoderDecoder.from_configs(encoder, DECODER)).eval()


@pytest.mark.parametrize("samples", [191, 1])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pre_norm": True, "conv_norm": "layer"},
        {"adapter_layers": 2, "adapter_size": 21},
        {"hidden_size": 10},
    ],
    ids=str,
)
def test_stages_are_the_model(fields, samples):
    """The last stage is what the model returns, and the last before the decoder is its memory."""
    small = {"num_layers": 2, "intermediate_size": 7}
    sizes = {"hidden_size": 15, "num_heads": 5, "position_groups": 5, "position_kernel": 4}
    convs = {"conv_channels": (6, 8), "conv_kernels": (5, 3), "conv_strides": (3, 2)}
    encoder = EncoderConfig(**{**small, **sizes, **convs, **fields})
    decoder = DecoderConfig.bert(23, hidden_size=10, num_heads=2, max_positions=11, **small)
    for changes in {}, {"pre_norm": True, "tied": False}:
        model = SpeechEncoderDecoder.from_configs(encoder, replace(decoder, **changes))
        spread_(model).eval()
        expected = model(waveform(samples), decoder_input_ids=TOKENS)
        with observe_stages(model) as stages:
            observed = model(waveform(samples), decoder_input_ids=TOKENS)
        assert torch.equal(observed.logits, expected.logits)
        text = "embedding", "decoder", "logits"
        memory = [x for name, x in stages.items() if not name.startswith(text)][-1]
        assert torch.equal(memory, expected.memory)
        assert [*stages][-1] == "logits" and torch.equal(stages["logits"], expected.logits)
        assert stages.keys() == find_stages(model).keys()
        assert not any(x.requires_grad for x in stages.values())


def test_stages_come_in_the_order_of_the_data():
    names = ["conv 0", "conv 1", "conv 2", "projection", "positions"]
    blocks = ["encoder block 0", "encoder block 1", "encoder block 2"]
    text = ["bridge", "embedding", "decoder block 0", "decoder block 1", "logits"]
    for pre_norm, order in (False, ["encoder norm", *blocks]), (True, [*blocks, "encoder norm"]):
        model = tiny(pre_norm=pre_norm)
        with observe_stages(model) as stages:
            model(waveform(), decoder_input_ids=TOKENS)
        assert [*stages] == [*names, *order, *text]


def test_what_is_summarised_is_not_kept():
    model = tiny()
    with (
        observe_stages(model, lambda name, x: (name, x.shape)) as stages,
        time_stages(model) as times,
    ):
        model(waveform(), decoder_input_ids=TOKENS)
    assert stages["conv 1"] == ("conv 1", (1, 8, stages["conv 1"][1][2]))
    assert stages["logits"] == ("logits", (1, 4, 40))
    assert times.keys() == stages.keys() and all(0 < seconds < 10 for seconds in times.values())


def test_hooks_go_when_the_pass_fails():
    model = tiny()
    modules = [model.encoder.blocks[0].self_attn]
    observers = (time_stages(model), observe_stages(model), observe_attention(modules))
    too_long = torch.zeros(1, 99, dtype=torch.long)
    with pytest.raises(ValueError, match="positions"), observers[0], observers[1], observers[2]:
        model(waveform(), decoder_input_ids=too_long)
    for part in model.modules():
        assert not part._forward_hooks and not part._forward_pre_hooks


@pytest.mark.parametrize("options", [{}, {"fast": True}, {"dtype": "int8"}], ids=str)
def test_a_fast_model_has_the_same_stages(options):
    stt = nanos2t.load(**options)
    core = nanos2t.load().model
    with torch.no_grad(), observe_stages(stt.model) as stages, observe_stages(core) as expected:
        logits = stt.model(waveform(), decoder_input_ids=TOKENS).logits
        core(waveform(), decoder_input_ids=TOKENS)
    assert [*stages] == [*expected]
    assert torch.equal(stages["logits"], logits)
    for name, x in stages.items():
        assert x.shape == expected[name].shape
        assert x.std().item() == pytest.approx(expected[name].std().item(), rel=0.1)


def test_attention_is_what_attend_applies(monkeypatch):
    """Self-attention of the encoder and the decoder, which is causal, and cross-attention."""
    model = tiny()
    modules = [block.self_attn for block in model.encoder.blocks]
    for block in model.decoder.blocks:
        modules += [block.self_attn, block.cross_attn]
    mixed = []
    attend = wav2vec2.attend

    def spy(queries, keys, values, *rest, **named):
        mixed.append((values, attend(queries, keys, values, *rest, **named)))
        return mixed[-1][1]

    monkeypatch.setattr(wav2vec2, "attend", spy)
    input_values = torch.cat([waveform(), waveform()])
    attention_mask = torch.ones(2, 1999, dtype=torch.long)
    attention_mask[1, 900:] = 0
    with observe_attention(modules) as weights:
        model(input_values, attention_mask, decoder_input_ids=TOKENS.repeat(2, 1))
    assert len(weights) == len(mixed) == 3 + 2 * 2
    for observed, (values, expected) in zip(weights, mixed, strict=True):
        torch.testing.assert_close(observed @ values, expected)
        assert not observed.requires_grad
    own = weights[3]
    assert torch.equal(own, own.tril()), "no token looks at a later one"
    assert (weights[0][1, :, :, -1] == 0).all(), "no frame looks at padding"
