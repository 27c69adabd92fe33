# pytest tests/test_refused.py
"""Damaged folders, and configs that are not implemented, are errors that name the file."""

import json
from pathlib import Path

import pytest
import torch
from helpers.saved_pair import ADAPTER, edit, refuse, save_pair
from safetensors.torch import load_file, save_file

import nanos2t
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder

hf = pytest.importorskip("transformers")
CONFIGS = Path(__file__).parent / "data/configs"

FILES = {  # a file of the folder, its new content (None: remove), what the error says
    "no config": ("config.json", None, ["config.json: No such file"]),
    "broken config": (
        "config.json",
        b'{"model_type": ',
        ["config.json: Expecting value", "expected JSON"],
    ),
    "binary config": ("config.json", b"\xff\xfe\x00", ["config.json: ", "expected JSON"]),
    "a list": ("config.json", b"[1]", ["config.json: list, expected a JSON object"]),
    "another model": (
        "config.json",
        b'{"model_type": "wav2vec2"}',
        ["config.json: model_type is 'wav2vec2', expected 'speech-encoder-decoder'"],
    ),
    "no model type": (
        "config.json",
        b"{}",
        ["config.json: model_type is None, expected 'speech-encoder-decoder'"],
    ),
    "no parts": (
        "config.json",
        b'{"model_type": "speech-encoder-decoder"}',
        [
            "encoder.model_type is None, "
            "expected one of ['wav2vec2', 'data2vec-audio', 'hubert', 'unispeech', "
            "'unispeech-sat', 'wavlm']"
        ],
    ),
    "broken generation": (
        "generation_config.json",
        b"{",
        ["generation_config.json: ", "expected JSON"],
    ),
    "no weights": (
        "model.safetensors",
        None,
        ["expected one of model.safetensors, ", "found none"],
    ),
    "empty": ("model.safetensors", b"", ["model.safetensors: ", "expected a file of tensors"]),
    "garbage": (
        "model.safetensors",
        b"no tensors here, sorry",
        ["model.safetensors: ", "expected a file of tensors"],
    ),
}

VALUES = {  # where in config.json, values, what the error says
    "encoder type": (
        ["encoder"],
        {"model_type": "sew"},
        "encoder.model_type is 'sew', expected one of ['wav",
    ),
    "decoder type": (
        ["decoder"],
        {"model_type": "wav2vec2"},
        "decoder.model_type is 'wav2vec2', expected one of",
    ),
    "batch norm": (
        ["encoder"],
        {"model_type": "hubert", "conv_pos_batch_norm": True},
        "encoder.conv_pos_batch_norm is true, expected false",
    ),
    "few distances": (
        ["encoder"],
        {"model_type": "wavlm", "num_buckets": 3},
        "distance_buckets is 3 and max_distance 800, expected at least 4, and more than a quarter",
    ),
    "short distances": (
        ["encoder"],
        {"model_type": "wavlm", "max_bucket_distance": 80},
        "distance_buckets is 320 and max_distance 80, expected",
    ),
    "another family's weights": (
        ["encoder"],
        {"model_type": "wavlm"},
        "missing encoder.encoder.layers.0.attention.rel_attn_embed.weight (our encoder.block_mask.",
    ),
    "a stack that groups do not divide": (
        ["encoder"],
        {"model_type": "data2vec-audio", "num_conv_pos_embedding_groups": 4},
        "hidden_size is 15, expected a multiple of position_groups (4)",
    ),
    "attention adapter": (
        ["encoder"],
        {"adapter_attn_dim": 16},
        "encoder.adapter_attn_dim is 16, expected null",
    ),
    "positions": (
        ["decoder"],
        {"position_embedding_type": "relative_key"},
        'decoder.position_embedding_type is "relative_key", expected "absolute"',
    ),
    "cross width": (
        ["decoder"],
        {"cross_attention_hidden_size": 15},
        "cross_attention_hidden_size is 15, expected null",
    ),
    "activation": (
        ["decoder"],
        {"hidden_act": "silu"},
        'decoder.hidden_act is "silu", expected "gelu" or "relu" or ',
    ),
    "conv activation": (
        ["encoder"],
        {"feat_extract_activation": "selu"},
        'feat_extract_activation is "selu"',
    ),
    "norm": (
        ["encoder"],
        {"feat_extract_norm": "batch"},
        'feat_extract_norm is "batch", expected "group" or "layer"',
    ),
    "a word": (["encoder"], {"hidden_size": "768"}, 'encoder.hidden_size is "768", expected int'),
    "a fraction": (
        ["decoder"],
        {"num_hidden_layers": 2.5},
        "decoder.num_hidden_layers is 2.5, expected int",
    ),
    "a number": (
        ["encoder"],
        {"do_stable_layer_norm": 1},
        "encoder.do_stable_layer_norm is 1, expected bool",
    ),
    "negative": (
        ["encoder"],
        {"hidden_size": -15},
        "hidden_size is -15, expected int of 0 to 2**31",
    ),
    "negative heads": (
        ["decoder"],
        {"num_attention_heads": -4},
        "num_attention_heads is -4, expected int",
    ),
    "too large": (
        ["decoder"],
        {"vocab_size": 2**40},
        "vocab_size is 1099511627776, expected int of 0 to",
    ),
    "not a list": (
        ["encoder"],
        {"conv_stride": 3},
        "conv_stride is 3, expected list of int above 0",
    ),
    "a list with a truth": (
        ["encoder"],
        {"conv_stride": [True, 3]},
        "conv_stride is [true, 3], expected list",
    ),
    "a list with a negative": (
        ["encoder"],
        {"conv_stride": [3, -1]},
        "conv_stride is [3, -1], expected list",
    ),
    "a list with a zero": (
        ["encoder"],
        {"conv_kernel": [0, 3]},
        "conv_kernel is [0, 3], expected list of int",
    ),
    "a list with a word": (
        ["encoder"],
        {"conv_dim": [6, "8"]},
        'conv_dim is [6, "8"], expected list of int',
    ),
    "no stride": (
        ["encoder"],
        {**ADAPTER, "adapter_stride": 0},
        "expected sizes of which a model can be built (3 layers, adapter_stride 0)",
    ),
    "layers without an end": (
        ["encoder"],
        {"num_hidden_layers": 2**31 - 1},
        "expected sizes of which a model can be built (2147483647 layers, adapter_stride 2)",
    ),
    "positions without an end": (
        ["encoder"],
        {"model_type": "data2vec-audio", "num_conv_pos_embeddings": 2**31 - 1},
        "expected sizes of which a model can be built (2147483647 layers, adapter_stride 2)",
    ),
    "more layers than a number can be": (
        ["decoder"],
        {"num_hidden_layers": 2**63},
        "decoder.num_hidden_layers is 9223372036854775808, expected int of 0 to 2**31",
    ),
    "pad": (["decoder"], {"pad_token_id": 43}, "expected sizes of which a model can be built"),
    "size": (
        ["decoder"],
        {"intermediate_size": 34},
        "layer.0.intermediate.dense.weight has shape (33, 28), expected (34, 28)",
    ),
    "fewer layers": (
        ["decoder"],
        {"num_hidden_layers": 1},
        "no place in the model for decoder.bert.encoder.layer.1.",
    ),
    "more layers": (
        ["encoder"],
        {"num_hidden_layers": 4},
        "missing encoder.encoder.layers.3.attention.q_proj.weight",
    ),
    "more adapters": (["encoder"], ADAPTER, "missing encoder.adapter.layers.0.conv.weight"),
    "untied": (
        ["decoder"],
        {"tie_word_embeddings": False},
        "missing decoder.cls.predictions.decoder.weight",
    ),
}

OPTIONS = {  # in generation_config.json
    "num_beam_groups": 2, "diversity_penalty": 0.5, "encoder_no_repeat_ngram_size": 3, "min_p": 0.1,
    "begin_suppress_tokens": [5],
    "typical_p": 0.5, "renormalize_logits": True,
    "num_beams": "many", "early_stopping": "sometimes",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny pair as transformers saves it, to be changed."""
    return save_pair(tmp_path / "pair")


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_refused(case, folder):
    name, content, words = FILES[case]
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    refuse(folder, *words)


@pytest.mark.parametrize("case", VALUES)
def test_values_that_are_refused(case, folder):
    keys, values, word = VALUES[case]
    edit(folder / "config.json", *keys, **values)
    refuse(folder, str(folder), word)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_are_refused(name, folder):
    edit(folder / "generation_config.json", **{name: OPTIONS[name]})
    value = OPTIONS[name]
    text = repr(value) if name in vars(GenerationConfig()) else json.dumps(value)
    refuse(folder, f"generation_config.json: {name} is {text}, expected ")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_weights_that_are_no_floats(folder, dtype):
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.encoder.layer_norm.bias"] = torch.ones(15, dtype=dtype)
    save_file(tensors, folder / "model.safetensors")
    refuse(folder, "model.safetensors: encoder.encoder.layer_norm.bias is torch.", "not float")


def test_heads_that_do_not_divide_the_width(folder):
    for part, heads in ("encoder", 4), ("decoder", 5), ("decoder", 0):
        before = (folder / "config.json").read_text()
        edit(folder / "config.json", part, num_attention_heads=heads)
        refuse(folder, str(folder), "expected sizes of which a model can be built")
        (folder / "config.json").write_text(before)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, "float32", 32])
def test_the_dtype_is_checked(dtype, folder):
    with pytest.raises(ValueError, match=f"dtype is {dtype!r}, expected a floating point type"):
        SpeechEncoderDecoder.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "", 10**9, float("inf"), ["cpu"]])
def test_the_device_is_checked(device, folder):
    """Before the weights are read; `load` accepts fewer devices, and lists them."""
    with pytest.raises(ValueError, match="device is "):
        SpeechEncoderDecoder.from_pretrained(folder, device=device)
    with pytest.raises(ValueError, match="device is .*expected one of auto"):
        nanos2t.load(folder, device=device)
