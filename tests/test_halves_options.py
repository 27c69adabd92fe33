# pytest tests/test_halves_options.py
"""Two halves are joined with other values of their config.json, and options of generation."""

import json
import logging
from pathlib import Path

import pytest
import torch
from helpers.half_files import decoder_file, drawn_parts, encoder_file, read_with_transformers
from helpers.half_files import halves as halves  # noqa: PLC0414, a fixture
from helpers.numbers import assert_same_numbers
from helpers.pairs import spread_
from safetensors.torch import load_file, save_file

from nanos2t.model import SpeechEncoderDecoder

hf = pytest.importorskip("transformers")


def join(folders, **options) -> SpeechEncoderDecoder:
    return SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        *folders, dtype=torch.float64, **options
    )


@pytest.mark.parametrize("decoder", ["bart", "mbart"])
def test_the_start_of_most_people(tmp_path: Path, decoder: str, caplog):
    """An XLS-R encoder with (m)BART, an adapter added, and options of generation."""
    name = "BartForConditionalGeneration" if decoder == "bart" else "MBartForConditionalGeneration"
    encoder_file("Wav2Vec2ForCTC", "xlsr-53", tmp_path / "encoder")
    decoder_file(name, decoder, tmp_path / "decoder")
    model = join(
        (tmp_path / "encoder", tmp_path / "decoder"),
        encoder_add_adapter=True, encoder_num_adapter_layers=3, encoder_layerdrop=0.0,
        encoder_mask_time_prob=0.2, decoder_dropout=0.3, decoder_pad_token_id=1,
        max_length=200, num_beams=5,
    )  # fmt: skip
    assert model.encoder.config.adapter_layers == 3
    assert model.encoder.config.training.layerdrop == 0.0
    assert model.encoder.config.training.mask_time_prob == 0.2
    assert model.decoder.config.training.hidden_dropout == 0.3
    assert (model.generation.max_length, model.generation.num_beams) == (200, 5)
    assert drawn_parts(caplog.text) == {"encoder.adapter", "bridge.weight", "bridge.bias"}

    # With weights that show a mistake, transformers has the same numbers and the same options.
    theirs = read_with_transformers(spread_(model), tmp_path / "pair")
    assert_same_numbers(theirs, model)
    assert (theirs.generation_config.max_length, theirs.generation_config.num_beams) == (200, 5)
    assert theirs.config.encoder.layerdrop == 0.0 and theirs.config.decoder.dropout == 0.3


def test_transformers_joins_the_same_model(halves, tmp_path):
    """What both draw is set equal; all else comes from the files, and the options."""
    options = {"encoder_add_adapter": True, "encoder_adapter_stride": 3,
               "encoder_output_hidden_size": 28, "decoder_num_hidden_layers": 1}  # fmt: skip
    ours = join(halves, **options)
    theirs = hf.SpeechEncoderDecoderModel.from_encoder_decoder_pretrained(
        *map(str, halves), dtype=torch.float64, **options
    )
    theirs.config.decoder_start_token_id, theirs.config.pad_token_id = 2, 1
    theirs.config.eos_token_id = 3
    state = read_with_transformers(ours, tmp_path).state_dict()
    assert state.keys() == theirs.state_dict().keys()
    drawn = ("adapter", "crossattention", "enc_to_dec_proj")
    for name, tensor in theirs.state_dict().items():
        if not any(part in name for part in drawn):
            assert torch.equal(state[name], tensor), name
    theirs.load_state_dict(state)
    assert_same_numbers(theirs.double().eval(), ours)


def test_the_file_says_adapter_but_has_none(halves, caplog):
    path = halves[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_adapter": True}))
    model = join(halves)
    assert model.encoder.config.adapter_layers == 3
    assert "encoder.adapter" in drawn_parts(caplog.text)


def test_a_part_of_an_adapter_is_an_error(halves, tmp_path):
    encoder_file("Wav2Vec2ForCTC", "xls-r with adapter", tmp_path)
    with pytest.raises(ValueError, match=r"the adapter is there, but without adapter.layers.2"):
        join((tmp_path, halves[1]), encoder_num_adapter_layers=4)


def test_layers_that_a_changed_config_removes_are_listed(halves, tmp_path, caplog):
    encoder_file("Wav2Vec2ForCTC", "xls-r with adapter", tmp_path)
    model = join((tmp_path, halves[1]), encoder_add_adapter=False, encoder_num_hidden_layers=2)
    assert len(model.encoder.blocks) == 2 and model.encoder.config.adapter_layers == 0
    assert "the changed config has no place for adapter.layers.0.conv.bias" in caplog.text

    # Without that change they are an error, as other layers that are missing are.
    with pytest.raises(ValueError, match="missing encoder.layers.3.attention"):
        join((tmp_path, halves[1]), encoder_num_hidden_layers=4)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"strange": torch.ones(1)}, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING, "nanos2t"):
        join((tmp_path, halves[1]), encoder_layerdrop=0.0)
    assert "not read, outside the base model (wav2vec2.*): " in caplog.text
    assert "strange" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_add_adaptor": True}, r"no field for encoder_add_adaptor, expected one of "
         r"encoder_activation_dropout, .*encoder_add_adapter, .*encoder_num_adapter_layers"),
        ({"decoder_d_model": 3}, r"decoder/config.json: has no field for decoder_d_model, "),
        ({"encoder_model_type": "hubert"}, "no field for encoder_model_type"),
        ({"decoder_": 1}, "no field for decoder_,"),
        ({"encoder_layerdrop": "much"}, r"config.json: with encoder_layerdrop: layerdrop is "
         r'"much", expected float'),
        ({"encoder_adapter_attn_dim": 16}, "adapter_attn_dim is 16, expected null"),
        ({"encoder_conv_stride": 3}, "conv_stride is 3, expected list"),
        ({"encoder_hidden_size": torch.float32}, "hidden_size is .*float32.*, expected int"),
        ({"num_beems": 5}, "unknown generation option 'num_beems', expected one of max_length, "),
        ({"num_beams": 0}, "num_beams is 0, expected a whole number"),
        ({"max_length": 9, "max_new_tokens": 9}, "contradict each other"),
        ({"decoder_hidden_size": 32}, "embeddings.weight has shape|embeddings.*shape"),
    ],
)  # fmt: skip
def test_unknown_and_wrong_options(halves, options, message):
    with pytest.raises(ValueError, match=message) as error:
        join(halves, **options)
    assert "\n" not in str(error.value)


def test_second_names_in_the_file_and_in_the_options(halves, tmp_path):
    """num_attention_heads is n_head in a GPT-2: the shapes would fit in either case."""
    decoder_file("GPT2LMHeadModel", "gpt2", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["num_attention_heads"] = config.pop("n_head")
    path.write_text(json.dumps(config))
    folders = (halves[0], tmp_path)
    assert join(folders).decoder.config.num_heads == 4
    assert join(folders, decoder_n_head=2).decoder.config.num_heads == 2
    assert join(folders, decoder_num_attention_heads=7).decoder.config.num_heads == 7


def test_ids_of_the_family_in_a_small_vocabulary(halves, tmp_path):
    """A lone GPT-2 with 43 tokens has BOS and EOS 50256, unless its maker changed them."""
    decoder_file("GPT2LMHeadModel", "gpt2", tmp_path)
    path = tmp_path / "config.json"
    ids = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": None}
    ids["decoder_start_token_id"] = None
    path.write_text(json.dumps(json.loads(path.read_text()) | ids))
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    assert join((halves[0], tmp_path)).generation.decoder_start_token_id == 50256
    own = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = join((halves[0], tmp_path), **own)
    assert model.generate(torch.zeros(1, 99, dtype=torch.float64), max_new_tokens=2)[0, 0] == 1


def test_ids_in_the_names_of_the_decoder(halves):
    model = join(halves, decoder_eos_token_id=7, decoder_pad_token_id=5, bos_token_id=6)
    actual = model.generation
    assert (actual.eos_token_id, actual.pad_token_id, actual.bos_token_id) == (7, 5, 6)
    assert model.decoder.config.pad_token_id == 5


def test_a_field_that_nothing_reads_is_named(halves, caplog):
    join(halves, encoder_mask_feature_prob=0.5, encoder_conv_dim=(6, 8, 10))
    assert "encoder_mask_feature_prob=0.5 has no effect" in caplog.text
    assert "conv_dim" not in caplog.text
