# pytest tests/test_trained_by_transformers.py
"""Tensors and ids that differ in files that transformers trained and models that peft changed."""

import json
from pathlib import Path

import pytest
import torch
from helpers.half_files import read_with_transformers
from helpers.numbers import assert_same_numbers
from helpers.pairs import DECODERS, s2t_folder, spread_, tiny_pair
from helpers.saved_pair import edit
from torch import nn

from nanos2t.model import SpeechEncoderDecoder

hf = pytest.importorskip("transformers")


def load(folder: Path, **options) -> SpeechEncoderDecoder:
    return SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64, **options)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_the_bias_that_an_untied_head_uses(family, tmp_path):
    """Training changes only one of the two output biases."""
    theirs = tiny_pair("wav2vec2", family, decoder={"tie_word_embeddings": False})
    head = theirs.decoder.cls.predictions if family == "bert" else theirs.decoder.lm_head
    assert head.bias is not head.decoder.bias
    with torch.no_grad():
        head.bias.fill_(7.0)
        spread_(head.decoder)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    assert torch.equal(ours.decoder.head.bias, head.decoder.bias)
    assert_same_numbers(theirs, ours)

    # Both biases of what we write are the one that is used.
    again = read_with_transformers(ours, tmp_path / "ours")
    assert_same_numbers(again, ours)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_a_start_that_is_the_pad_has_no_position_in_roberta(family, tmp_path):
    tiny_pair("wav2vec2", family).save_pretrained(tmp_path)
    load(tmp_path)
    for name in "config.json", "generation_config.json":
        path = tmp_path / name
        content = json.loads(path.read_text()) | {"decoder_start_token_id": 1, "pad_token_id": 1}
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"decoder_start_token_id is 1, the pad_token_id, which"):
        load(tmp_path)


def test_a_start_that_is_the_pad_has_no_computed_position(tmp_path):
    learned = DECODERS["trocr"][1]
    computed = DECODERS["trocr, sinusoidal, untied"][1]
    ids = {"decoder_start_token_id": 1, "pad_token_id": 1}

    # A learned position is numbered with the pads: the same TrOCR loads, with the same numbers.
    theirs = tiny_pair("wav2vec2", "trocr", decoder=learned, **ids)
    theirs.save_pretrained(tmp_path / "learned")
    assert_same_numbers(theirs, load(tmp_path / "learned"))

    theirs = tiny_pair("wav2vec2", "trocr", decoder=computed, **ids)
    theirs.save_pretrained(tmp_path / "trocr")
    s2t_folder(theirs, tmp_path / "speech_to_text_2")
    for name in "trocr", "speech_to_text_2":
        with pytest.raises(ValueError, match=r"json: decoder_start_token_id is 1, the pad_token"):
            load(tmp_path / name)
    # Another start is a token like all others.
    edit(tmp_path / "speech_to_text_2" / "config.json", decoder_start_token_id=2)
    assert load(tmp_path / "speech_to_text_2").generation.decoder_start_token_id == 2


def test_a_start_that_is_the_pad_is_a_token_in_the_other_families(tmp_path):
    theirs = tiny_pair("wav2vec2", "bert", pad_token_id=2)
    theirs.save_pretrained(tmp_path)
    assert_same_numbers(theirs, load(tmp_path))


class LoRA(nn.Module):
    """A linear layer as peft wraps it, in its names."""

    def __init__(self, base_layer: nn.Linear):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base_layer.out_features, bias=False)


def test_lora_inside_a_model_is_not_saved(tmp_path):
    tiny_pair().save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    attention = model.decoder.blocks[0].self_attn
    attention.q_proj = LoRA(attention.q_proj)
    with pytest.raises(ValueError, match=r"the model has decoder.*q_proj.base_layer.*merge LoRA"):
        model.save_pretrained(tmp_path / "ours")
    assert not (tmp_path / "ours").exists()

    attention.q_proj = attention.q_proj.base_layer
    model.save_pretrained(tmp_path / "ours")
    assert load(tmp_path / "ours").state_dict().keys() == model.state_dict().keys()
