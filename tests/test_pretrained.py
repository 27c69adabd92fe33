# pytest tests/test_pretrained.py
"""nanos2t/pretrained.py: transformers writes and we read; we write and transformers reads."""

import copy
import gc
import json
import logging
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from helpers.pairs import DECODERS, IDS, ours_from, spread_, tiny_pair
from helpers.saved_pair import ADAPTER, edit, inputs, logits, same_files, same_weights, save_pair
from safetensors.torch import load_file, save_file

from nanos2t import pretrained
from nanos2t.decoder import DecoderConfig, DecoderTraining
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

hf = pytest.importorskip("transformers")
CONFIGS = Path(__file__).parent / "data/configs"


LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}

PAIRS = {
    "base": {},
    "large, adapter of another width": {"encoder": {**LARGE, **ADAPTER, "output_hidden_size": 28}},
    "adapter, gelu_new, beams": {
        "encoder": ADAPTER,
        "decoder": {"hidden_act": "gelu_new"},
        "num_beams": 3,
    },
    "no masks, relu, 3 token types": {
        "encoder": {"mask_time_prob": 0.0, "hidden_act": "relu"},
        "decoder": {"type_vocab_size": 3},
    },
    "no augmentation, odd kernel": {
        "encoder": {"apply_spec_augment": False, "num_conv_pos_embeddings": 7}
    },
    "hubert": {"encoder_type": "hubert"},
    "hubert without a norm": {
        "encoder_type": "hubert",
        "encoder": {"feat_proj_layer_norm": False, **LARGE},
    },
    "untied head": {"decoder": {"tie_word_embeddings": False}},
    "no bridge": {"decoder": {"hidden_size": 15, "num_attention_heads": 5}},
}

ENCODER = EncoderConfig(
    hidden_size=15, num_layers=2, num_heads=3, intermediate_size=19,
    position_kernel=4, position_groups=5,
    conv_channels=(6, 8), conv_kernels=(5, 3), conv_strides=(3, 2),
)  # fmt: skip

DECODER = DecoderConfig.bert(
    23, hidden_size=14, num_layers=1, num_heads=2, intermediate_size=9, max_positions=11
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny pair as transformers saves it, to be changed."""
    return save_pair(tmp_path / "pair")


@pytest.mark.parametrize("name", PAIRS)
def test_there_and_back(name, tmp_path):
    theirs = tiny_pair(**PAIRS[name])
    ours = ours_from(theirs, tmp_path / "theirs")
    assert not ours.training and (logits(ours) - logits(theirs)).abs().max() < 1e-10
    ours.save_pretrained(tmp_path / "ours")
    SpeechEncoderDecoder.from_pretrained(tmp_path / "ours", dtype=torch.float64).save_pretrained(
        tmp_path / "again"
    )
    assert same_files(tmp_path / "ours", tmp_path / "again")
    back, info = hf.SpeechEncoderDecoderModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    assert (
        back.dtype == torch.float64 and (logits(back.eval()) - logits(theirs)).abs().max() < 1e-10
    )
    assert back.config.encoder.model_type == theirs.config.encoder.model_type
    waveform, options = inputs()[0], {"max_new_tokens": 8}
    tokens = theirs.generate(waveform, **options)
    assert torch.equal(back.generate(waveform, **options), tokens)
    assert torch.equal(ours.generate(waveform, **options), tokens)
    state, again = theirs.state_dict(), back.state_dict()

    # Of the two output biases of an untied BERT, the one that counts is written twice.
    bias = "decoder.cls.predictions.bias"
    if bias in state:
        state[bias] = state["decoder.cls.predictions.decoder.bias"]
    assert all(torch.equal(state[key], again[key]) for key in again)
    assert state.keys() - again.keys() <= {"encoder.masked_spec_embed"}


@pytest.mark.parametrize(
    ("family", "own_fields"),
    [
        ("wav2vec2", {}),
        ("wavlm", {"distance_buckets": 12, "max_distance": 19}),
        ("data2vec-audio", {"position_layers": 2, "pre_norm": False}),
    ],
)
def test_every_config_field_reaches_transformers_and_returns(tmp_path, family, own_fields):
    encoder = replace(
        ENCODER,
        norm_eps=1e-4,
        activation="relu",
        conv_activation="gelu_tanh",
        init_std=0.03,
        pre_norm=True,
        conv_norm="layer",
        conv_bias=True,
        adapter_layers=2,
        adapter_kernel=2,
        adapter_stride=3,
        adapter_size=14,
        training=EncoderTraining(0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 7, 3),
    )
    encoder = replace(encoder, **own_fields)
    decoder = replace(
        DECODER,
        norm_eps=1e-3,
        activation="relu",
        pad_token_id=4,
        init_std=0.01,
        num_token_types=5,
        tied=False,
        training=DecoderTraining(0.21, 0.22),
    )
    generation = GenerationConfig(
        max_length=9,
        max_new_tokens=8,
        min_length=2,
        min_new_tokens=1,
        num_beams=4,
        num_return_sequences=2,
        length_penalty=0.5,
        early_stopping="never",
        no_repeat_ngram_size=3,
        repetition_penalty=1.1,
        do_sample=True,
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        bad_words_ids=([5, 6], [7]),
        suppress_tokens=(8, 9),
        forced_bos_token_id=10,
        forced_eos_token_id=3,
        decoder_start_token_id=2,
        bos_token_id=1,
        eos_token_id=(3, 11),
        pad_token_id=4,
        lang_to_id={"en": 12, "de": 13},
        alignment_heads=([1, 0], [0, 2]),
    )
    for ours, usual in (
        (encoder, EncoderConfig()),
        (decoder, DecoderConfig.bert()),
        (generation, GenerationConfig()),
    ):
        unchanged = {
            field.name
            for field in fields(ours)
            if getattr(ours, field.name) == getattr(usual, field.name)
        }
        assert unchanged <= {
            "feat_proj_norm",
            "pre_norm",
            "embed_norm",
            "embed_scale",
            "position_offset",
            "sinusoidal",
            "mlm_head",
            "position_layers",
            "distance_buckets",
            "max_distance",
        }
    model = SpeechEncoderDecoder.from_configs(encoder, decoder, generation)
    model.save_pretrained(tmp_path / "ours")
    again = SpeechEncoderDecoder.from_pretrained(tmp_path / "ours")
    assert (again.encoder.config, again.decoder.config, again.generation) == (
        encoder,
        decoder,
        generation,
    )
    theirs, info = hf.SpeechEncoderDecoderModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()) and theirs.config.encoder.model_type == family
    for field in fields(generation):
        actual = getattr(theirs.generation_config, field.name)
        expected = getattr(generation, field.name)
        assert actual == (list(expected) if isinstance(expected, tuple) else expected), field.name
    theirs.generation_config = hf.GenerationConfig(
        **IDS
    )  # so many options at once are not valid there
    theirs.save_pretrained(tmp_path / "theirs")
    again = SpeechEncoderDecoder.from_pretrained(tmp_path / "theirs")
    assert (again.encoder.config, again.decoder.config) == (encoder, decoder)


def test_a_hubert_is_saved_as_a_hubert_and_a_new_model_as_wav2vec2(tmp_path):
    for kind in ("hubert", "wav2vec2"):
        ours_from(tiny_pair(kind), tmp_path / kind).save_pretrained(tmp_path / "saved")
        assert (
            json.loads((tmp_path / "saved/config.json").read_text())["encoder"]["model_type"]
            == kind
        )
    for config, kind in (ENCODER, "wav2vec2"), (replace(ENCODER, feat_proj_norm=False), "hubert"):
        SpeechEncoderDecoder.from_configs(config, DECODER).save_pretrained(tmp_path / "saved")
        assert (
            json.loads((tmp_path / "saved/config.json").read_text())["encoder"]["model_type"]
            == kind
        )
        assert SpeechEncoderDecoder.from_pretrained(tmp_path / "saved").encoder.config == config


def test_what_no_family_can_say_is_not_saved(tmp_path, caplog):
    for decoder in replace(DECODER, pre_norm=True), replace(DECODER, embed_scale=3.0):
        model = SpeechEncoderDecoder.from_configs(ENCODER, decoder)
        with pytest.raises(
            ValueError, match="no family's config.json can say what the decoder's config says: .*="
        ):
            model.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()
    model = SpeechEncoderDecoder.from_configs(
        ENCODER, replace(DECODER, training=DecoderTraining(0.1, 0.1, 0.3))
    )
    model.save_pretrained(tmp_path / "saved")  # of no effect but in training
    assert "no key for the decoder's training.activation_dropout=0.3" in caplog.text


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_into_every_dtype(folder, stored):
    tensors = {
        name: part.to(stored) for name, part in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for dtype in torch.float16, torch.bfloat16, torch.float32, torch.float64:
        model = SpeechEncoderDecoder.from_pretrained(folder, dtype=dtype)
        assert {part.dtype for part in model.parameters()} == {dtype}
        assert torch.equal(model.bridge.weight, tensors["enc_to_dec_proj.weight"].to(dtype))
    assert next(SpeechEncoderDecoder.from_pretrained(folder).parameters()).dtype == torch.float32


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_weights_stay_mapped_in_the_same_dtype_and_can_be_trained(folder):
    def mapped() -> bool:
        gc.collect()
        return str(folder / "model.safetensors") in Path("/proc/self/maps").read_text()

    model = SpeechEncoderDecoder.from_pretrained(folder)
    assert not mapped()
    model = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    assert mapped() and all(
        part.requires_grad and part.is_contiguous() for part in model.parameters()
    )
    before = model.bridge.bias.clone()
    logits_ = model(inputs()[0], decoder_input_ids=inputs()[1]).logits
    logits_.square().mean().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(model.bridge.bias, before)
    assert torch.equal(
        SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64).bridge.bias, before
    )  # the file is as it was


def test_loading_imports_nothing_slow(folder):
    code = f"""
import sys
from nanos2t.model import SpeechEncoderDecoder
SpeechEncoderDecoder.from_pretrained({str(folder)!r})
slow = {{"sympy", "transformers", "huggingface_hub", "tokenizers", "soxr"}}
print(sorted(slow & sys.modules.keys()))
"""
    root = Path(pretrained.__file__).parents[1]
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert completed.stdout.strip() == "[]", completed


def test_saving_over_the_file_that_is_mapped(folder, tmp_path):
    model = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    expected = copy.deepcopy(model)
    spread_(
        other := SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64),
        torch.Generator().manual_seed(1),
    )
    other.save_pretrained(folder)
    assert same_weights(model, expected) and not same_weights(model, other)
    model.save_pretrained(folder)
    model.save_pretrained(tmp_path / "elsewhere")
    assert same_files(folder, tmp_path / "elsewhere")


def test_an_absent_mask_vector_is_drawn_and_listed(folder, caplog):
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.masked_spec_embed"]
    save_file(tensors, folder / "model.safetensors")
    with caplog.at_level(logging.INFO, "nanos2t"):
        model = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    assert "model.safetensors" in caplog.text and "encoder.masked_spec_embed" in caplog.text
    drawn = model.encoder.masked_spec_embed.detach()
    assert drawn.dtype == torch.float64 and 0 <= drawn.min() < 0.4 and 0.6 < drawn.max() <= 1
    edit(folder / "config.json", "encoder", mask_time_prob=0.0)
    caplog.clear()
    assert (
        SpeechEncoderDecoder.from_pretrained(folder).encoder.masked_spec_embed is None
        and not caplog.text
    )


def test_a_folder_of_2021(folder):
    """No generation_config.json, complete configs of the parts, tensors under older names."""
    expected = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    legacy = json.loads(
        (CONFIGS / "facebook__wav2vec2-xls-r-300m-en-to-15.reconstructed.json").read_text()
    )
    config = json.loads((folder / "config.json").read_text())
    for part in ("encoder", "decoder"):
        config[part] = {**legacy[part], **config[part], "eos_token_id": 5}
    config = {
        **{key: legacy[key] for key in legacy if key not in config},
        **config,
        "forced_bos_token_id": 6,
        "transformers_version": None,
        "bos_token_id": None,
    }
    del config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    tensors = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): part
        for name, part in tensors.items()
    }
    save_file(
        {**tensors, "decoder.bert.embeddings.position_ids": torch.arange(37)},
        folder / "model.safetensors",
    )
    model = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    assert same_weights(model, expected) and model.encoder.config == expected.encoder.config
    assert model.generation == GenerationConfig(
        max_length=200,
        num_beams=5,
        early_stopping=True,
        forced_bos_token_id=6,
        forced_eos_token_id=2,
        decoder_start_token_id=2,
        eos_token_id=5,
        pad_token_id=1,
    )


def test_ids_are_looked_up_in_order(folder):
    def ids(start: str = "decoder_start_token_id") -> int | None:
        return getattr(SpeechEncoderDecoder.from_pretrained(folder).generation, start)

    own, config = folder / "generation_config.json", folder / "config.json"
    edit(own, decoder_start_token_id=10, eos_token_id=[11, 12], bos_token_id=...)
    edit(config, decoder_start_token_id=20, eos_token_id=21)
    edit(config, "decoder", decoder_start_token_id=30, eos_token_id=31)
    assert ids() == 10 and ids("eos_token_id") == (11, 12)
    edit(own, decoder_start_token_id=..., eos_token_id=None)
    assert ids() == 20 and ids("eos_token_id") == 21
    edit(config, decoder_start_token_id=None, eos_token_id=...)
    assert ids() == 30 and ids("eos_token_id") == 31
    edit(config, "decoder", decoder_start_token_id=..., eos_token_id=..., bos_token_id=7)
    assert ids() == 7 and ids("eos_token_id") is None
    (folder / "vocab.txt").write_text("[PAD]\n[CLS]\nword\n[SEP]\n")
    assert ids() == 7 and ids("eos_token_id") == 3  # BOS, as in transformers, else BERT's [CLS]
    edit(config, "decoder", bos_token_id=...)
    assert ids() == 1
    added = [{"id": 41, "content": "[CLS]"}, {"id": 42, "content": "[SEP]"}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert ids() == 41 and ids("eos_token_id") == 42


@pytest.mark.parametrize("family", ["bart", "mbart", "trocr", "gpt2"])
def test_a_pair_without_a_start_starts_with_bos_as_in_transformers(family, tmp_path):
    kind, decoder = DECODERS[family]
    theirs = tiny_pair(decoder_type=kind, decoder=decoder | {"bos_token_id": 5})
    theirs.save_pretrained(tmp_path)
    config, own = tmp_path / "config.json", tmp_path / "generation_config.json"
    edit(config, decoder_start_token_id=...)
    edit(config, "decoder", decoder_start_token_id=...)
    edit(own, decoder_start_token_id=..., bos_token_id=9)
    waveform = torch.randn(1, 191, dtype=torch.float64)
    for start in (9, 5):  # of generation_config.json, then, without the file, of the decoder
        theirs = hf.SpeechEncoderDecoderModel.from_pretrained(tmp_path).double().eval()
        ours = SpeechEncoderDecoder.from_pretrained(tmp_path, dtype=torch.float64)
        want = theirs.generate(waveform, max_new_tokens=3)
        assert want[0, 0] == start
        assert torch.equal(ours.generate(waveform, max_new_tokens=3), want)
        own.unlink(missing_ok=True)


def test_options_other_than_ids_come_from_one_file(folder):
    edit(folder / "config.json", num_beams=4, max_length=50)
    edit(folder / "config.json", "decoder", num_beams=3, top_k=7)
    assert SpeechEncoderDecoder.from_pretrained(folder).generation == GenerationConfig(**IDS)
    (folder / "generation_config.json").unlink()
    assert SpeechEncoderDecoder.from_pretrained(folder).generation == GenerationConfig(
        **IDS, num_beams=4, max_length=50, top_k=7
    )


def test_pad_falls_back_to_eos_and_what_is_missing_is_an_error_when_needed(folder):
    everywhere = [
        (folder / "generation_config.json",),
        (folder / "config.json",),
        (folder / "config.json", "decoder"),
    ]
    for place in everywhere:
        edit(*place, pad_token_id=None)
    assert (
        SpeechEncoderDecoder.from_pretrained(folder).generation.pad_token_id == IDS["eos_token_id"]
    )
    edit(folder / "generation_config.json", eos_token_id=[9, 3])
    assert SpeechEncoderDecoder.from_pretrained(folder).generation.pad_token_id == 9
    for place in everywhere:
        edit(*place, pad_token_id=None, eos_token_id=None, decoder_start_token_id=None)
    model = SpeechEncoderDecoder.from_pretrained(folder)
    assert (
        model(torch.randn(1, 99), decoder_input_ids=torch.ones(1, 2, dtype=torch.long)).logits
        is not None
    )
    for name in IDS:
        with pytest.raises(ValueError, match=name):
            model.generation.require_id(name)
    edit(folder / "config.json", "decoder", pad_token_id=...)
    assert (
        SpeechEncoderDecoder.from_pretrained(folder).generation.pad_token_id == 0
    )  # the default of BertConfig


def test_languages(folder, tmp_path):
    edit(folder / "generation_config.json", lang_to_id={"<|de|>": 5, "<|en|>": 6})
    model = SpeechEncoderDecoder.from_pretrained(folder)
    assert model.generation.lang_to_id == {"<|de|>": 5, "<|en|>": 6}
    model.save_pretrained(tmp_path / "saved")
    assert SpeechEncoderDecoder.from_pretrained(tmp_path / "saved").generation == model.generation
    theirs = hf.SpeechEncoderDecoderModel.from_pretrained(tmp_path / "saved").eval()
    waveform = inputs()[0].float()
    assert torch.equal(
        theirs.generate(waveform, max_new_tokens=5), model.generate(waveform, max_new_tokens=5)
    )
