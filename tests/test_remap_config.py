# pytest tests/test_remap_config.py
"""nanos2t/remap_config.py: every field has a row; configs are read and written by the tables."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from nanos2t import pretrained, remap, remap_config
from nanos2t.decoder import DecoderConfig, DecoderTraining
from nanos2t.generation_config import GenerationConfig
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

hf = pytest.importorskip("transformers")
MODEL_TYPES = set(hf.CONFIG_MAPPING)
CONFIGS = Path(__file__).parent / "data/configs"


def test_every_field_has_a_row_and_every_rule_is_known():
    kinds = {
        "encoder": (EncoderConfig, EncoderTraining),
        "decoder": (DecoderConfig, DecoderTraining),
        "generation": (GenerationConfig,),
    }
    for name in remap.find_tables():
        table = remap.read_table(name)
        wanted = {field.name for field in fields(kinds[table.part][0])} - {"training"}
        for nested in kinds[table.part][1:]:
            wanted |= {f"training.{field.name}" for field in fields(nested)}
        assert {row.ours for row in table.config.values() if row.ours != "-"} == wanted
        assert {row.rule for row in table.config.values()} <= {
            "",
            "only",
            "if",
            "write",
            "harmless",
            *remap_config.RULES,
        }
        assert table.ids.keys() <= {field.name for field in fields(GenerationConfig)}


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "bert"])
def test_defaults_are_those_of_transformers(family):
    theirs = hf.AutoConfig.for_model(family).to_dict()
    theirs["output_hidden_size"] = None  # transformers fills it in
    for row in remap.read_table(family).config.values():
        if row.theirs in theirs and row.rule != "write":
            actual = theirs[row.theirs]
            assert (list(actual) if isinstance(actual, tuple) else actual) == row.default, row
        if row.rule == "if":
            switch, preset = row.switch
            assert theirs[switch] == preset


@pytest.mark.parametrize("family", [name for name in remap.find_tables() if name in MODEL_TYPES])
def test_second_names_are_those_of_transformers(family):
    """transformers calls them attribute_map: n_head of a GPT-2 is also its num_attention_heads."""
    second_names = type(hf.AutoConfig.for_model(family)).attribute_map
    rows = {row.theirs: row for row in remap.read_table(family).config.values()}
    want = {second: first for second, first in second_names.items() if first in rows}
    assert {row.second_name: key for key, row in rows.items() if row.second_name} == want
    config = {}
    for i, (second, first) in enumerate(want.items()):
        config |= {second: 2 + i, first: 7}
    theirs = hf.AutoConfig.for_model(family, **config)
    ours = remap_config.read_config(remap.read_table(family).config, config)
    for first in want.values():
        assert ours[rows[first].ours] == getattr(theirs, first) != 7


def test_an_empty_config_is_our_default():
    for part, family, ours in (
        ("encoder", "wav2vec2", EncoderConfig()),
        ("encoder", "hubert", EncoderConfig()),
        ("decoder", "bert", DecoderConfig.bert()),
    ):
        config = {part: {"model_type": family}}
        assert pretrained.read_part(config[part], part, "config.json: ") == (family, ours)


def test_defaults_of_generation_are_those_of_transformers():
    """The table leaves them to GenerationConfig, which test_generation_config.py compares."""
    ours = vars(GenerationConfig())
    rows = remap.read_table("speech-encoder-decoder").config
    assert remap_config.read_config(rows, {}) == dict.fromkeys(ours)
    assert remap_config.write_config(rows, ours) == ours


def test_official_configs():
    def read(name: str, part: str = "encoder", kind: type = EncoderConfig, **changes):
        config = json.loads((CONFIGS / f"{name}.json").read_text())
        return pretrained.read_part({**config, **changes}, part, f"{name}: ")[1]

    def untrained(config):
        return replace(config, training=type(config.training)())

    hubert = untrained(read("facebook__hubert-large-ll60k.reconstructed"))
    large = untrained(read("facebook__wav2vec2-large-lv60"))
    assert untrained(read("facebook__wav2vec2-base")) == EncoderConfig()
    training = EncoderTraining(feat_proj_dropout=0.1, activation_dropout=0.0, layerdrop=0.05)
    assert read("facebook__wav2vec2-base").training == training
    assert untrained(read("facebook__hubert-base-ls960.reconstructed")) == EncoderConfig()
    assert hubert == large == EncoderConfig.large()
    assert untrained(
        read("facebook__wav2vec2-xls-r-300m", add_adapter=True, output_hidden_size=1024)
    ) == (EncoderConfig.large(adapter_layers=3, adapter_size=1024))
    assert read("google-bert__bert-base-uncased", "decoder", DecoderConfig) == DecoderConfig.bert()


def test_sqrt_rule():
    rows = remap.parse_table(
        "[decoder]\nhidden_size d_model 8\nembed_scale scale_embedding false sqrt:hidden_size"
    ).config
    for on, scale in (True, 3.0), (False, 1.0):
        fields_ = remap_config.read_config(rows, {"d_model": 9, "scale_embedding": on})
        assert fields_ == {"hidden_size": 9, "embed_scale": scale}
        assert remap_config.write_config(rows, fields_) == {"d_model": 9, "scale_embedding": on}
    assert remap_config.read_config(rows, {}) == {"hidden_size": 8, "embed_scale": 1.0}
