# pytest tests/peer/test_pairs.py
"""What transformers tests of a SpeechEncoderDecoderModel, on its model and on ours."""

import copy

import pytest
import torch
from helpers.half_files import halves as halves  # noqa: PLC0414, a fixture
from helpers.sides import SIDES, batch, both_sides, every_family, hf, our_model, their_model, tokens

from nanos2t import wav2vec2
from nanos2t.model import SpeechEncoderDecoder

WAVEFORMS = batch()["input_values"]
NO_BRIDGE = "xls-r with adapter + mbart"


@both_sides
@every_family
@torch.no_grad()
def test_logits_of_waveforms_and_of_their_memory(side, family):
    """A model gives logits for every token, and the same from the memory that it returned."""
    model = side.share(family)
    output = model(input_values=WAVEFORMS, decoder_input_ids=tokens())
    assert output.logits.shape == (2, 7, 43)
    again = side.score(model, side.memory(output), tokens())
    assert torch.allclose(again, output.logits, rtol=0, atol=1e-10)


@both_sides
@every_family
@torch.no_grad()
def test_the_waveforms_may_be_the_first_argument(side, family):
    model = side.share(family)
    named = model(input_values=WAVEFORMS, decoder_input_ids=tokens()).logits
    assert torch.equal(model(WAVEFORMS, decoder_input_ids=tokens()).logits, named)


@every_family
@torch.no_grad()
def test_both_sides_give_the_same_numbers(family):
    """All tests of this folder would pass for two models that differ: these do not."""
    theirs = their_model(family)(**batch())
    ours = our_model(family)(**batch())
    assert torch.allclose(ours.loss, theirs.loss, rtol=0, atol=1e-10)
    assert torch.allclose(ours.logits, theirs.logits, rtol=0, atol=1e-10)
    memory = theirs.encoder_last_hidden_state
    assert torch.allclose(ours.memory, memory, rtol=0, atol=1e-10)


@both_sides
@every_family
@torch.no_grad()
def test_a_model_of_configs_alone(side, family):
    """The configs give the sizes; the weights are new."""
    model = side.share(family)
    new = side.renew(model)
    sizes = {name: weight.shape for name, weight in model.named_parameters()}
    assert {name: weight.shape for name, weight in new.named_parameters()} == sizes
    logits = new(WAVEFORMS, decoder_input_ids=tokens()).logits
    assert logits.shape == (2, 7, 43)
    assert not torch.equal(logits, model(WAVEFORMS, decoder_input_ids=tokens()).logits)


@both_sides
@torch.no_grad()
def test_two_halves_of_their_own_files(side, halves):
    """The encoder's numbers are those of its file; what joins the halves is new."""
    model = side.join(*halves)
    encoder = hf.AutoModel.from_pretrained(halves[0], dtype=torch.float64).eval()
    frames = encoder(WAVEFORMS).last_hidden_state
    assert torch.allclose(side.encode_alone(model, WAVEFORMS), frames, rtol=0, atol=1e-10)
    assert model(WAVEFORMS, decoder_input_ids=tokens()).logits.shape == (2, 7, 43)

    # Cross-attention is drawn anew each time, so two joined models differ.
    other = side.join(*halves)
    assert not torch.equal(side.encode(other, WAVEFORMS), side.encode(model, WAVEFORMS))


@pytest.mark.parametrize("loader", SIDES.values(), ids=SIDES)
@both_sides
@every_family
@torch.no_grad()
def test_a_saved_model_is_read_by_both_sides(side, loader, family, tmp_path):
    model = side.share(family)
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    read = loader.load(tmp_path)
    logits = model(WAVEFORMS, decoder_input_ids=tokens()).logits
    again = read(WAVEFORMS, decoder_input_ids=tokens()).logits
    assert torch.allclose(again, logits, rtol=0, atol=1e-10)


@both_sides
@torch.no_grad()
def test_the_halves_of_a_pair_joined_again(side, tmp_path):
    """Each half in a folder of its own: joined, they are the pair, as it has no bridge."""
    pair = their_model(NO_BRIDGE)
    pair.encoder.save_pretrained(tmp_path / "encoder")
    pair.decoder.save_pretrained(tmp_path / "decoder")
    joined = side.join(tmp_path / "encoder", tmp_path / "decoder")
    logits = joined(WAVEFORMS, decoder_input_ids=tokens()).logits
    expected = pair(WAVEFORMS, decoder_input_ids=tokens()).logits
    assert torch.allclose(logits, expected, rtol=0, atol=1e-10)


@every_family
@torch.no_grad()
def test_attention_weights(family):
    """Of each layer and head: they add up to 1, see no later token, and are the same."""
    weights = {}
    for side in SIDES.values():
        model = side.share(family)
        if side.name == "transformers":
            model = copy.deepcopy(model)
            model.set_attn_implementation("eager")
        weights[side.name] = side.attention(
            model, input_values=WAVEFORMS, decoder_input_ids=tokens()
        )
    frames = our_model(family).encode(WAVEFORMS)[0].shape[1]
    for name, layers in weights["transformers"].items():
        assert len(layers) == len(weights["nanos2t"][name]) > 0
        for theirs, ours in zip(layers, weights["nanos2t"][name]):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)
            assert torch.allclose(ours.sum(-1), torch.ones(()).double())
    assert weights["nanos2t"]["decoder"][0].shape == (2, 4, 7, 7)
    assert weights["nanos2t"]["across"][0].shape == (2, 4, 7, frames)
    assert not weights["nanos2t"]["decoder"][0].triu(1).any()


@both_sides
@every_family
@torch.no_grad()
def test_without_an_end_the_tokens_are_as_many_as_allowed(side, family):
    model = side.share(family)
    got = model.generate(WAVEFORMS, decoder_start_token_id=1, eos_token_id=None, max_length=20)
    assert got.shape == (2, 20)
    assert (got[:, 0] == 1).all()


@both_sides
@every_family
@torch.no_grad()
def test_attention_in_steps_is_attention(side, family, monkeypatch):
    """The other way to compute attention: "eager" in transformers, one line in nanos2t."""
    model = side.share(family)
    expected = model(WAVEFORMS, decoder_input_ids=tokens()).logits
    if side.name == "transformers":
        model = copy.deepcopy(model)
        model.set_attn_implementation("eager")
    else:
        monkeypatch.setattr(wav2vec2, "attend", wav2vec2.attend_step_by_step)
    logits = model(WAVEFORMS, decoder_input_ids=tokens()).logits
    assert torch.allclose(logits, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_other_encoders_are_refused_by_name(tmp_path):
    """transformers joins Speech2Text's encoder of log-mel features; ours reads waveforms."""
    config = hf.Speech2TextConfig(
        vocab_size=43, d_model=12, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=7, decoder_ffn_dim=7,
    )  # fmt: skip
    hf.Speech2TextModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type is 'speech_to_text'"):
        SpeechEncoderDecoder.from_encoder_decoder_pretrained(tmp_path, tmp_path)
