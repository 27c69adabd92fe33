# pytest tests/test_generation_keys.py
"""Every key of transformers' GenerationConfig is followed, harmless, or refused by name.

The keys are those of the installed transformers: one that is new there fails here until the table
weights_map/speech-encoder-decoder.txt has a row for it.
"""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from helpers.generation_models import make_batch, paired_models
from helpers.saved_pair import edit, refuse, save_pair

from nanos2t import remap
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder

hf = pytest.importorskip("transformers")

ROWS = remap.read_table("speech-encoder-decoder").config
FOLLOWED = {row.theirs for row in ROWS.values() if row.ours != "-"}
HARMLESS = {row.theirs for row in ROWS.values() if row.rule == "harmless"}
REFUSED = {row.theirs for row in ROWS.values()} - FOLLOWED - HARMLESS

# A value that asks for what we do not have, for each key that is refused.
REFUSED_VALUES = {
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "encoder_no_repeat_ngram_size": 3,
    "encoder_repetition_penalty": 1.5,
    "begin_suppress_tokens": [5],
    "forced_decoder_ids": [[1, 5]],
    "sequence_bias": [[[5], -2.0]],
    "exponential_decay_length_penalty": [3, 1.5],
    "penalty_alpha": 0.6,
    "guidance_scale": 1.5,
    "renormalize_logits": True,
    "typical_p": 0.5,
    "min_p": 0.1,
    "top_h": 0.5,
    "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.001,
    "force_words_ids": [[5]],
    "constraints": ["x"],
    "dola_layers": "low",
    "max_time": 5.0,
    "remove_invalid_values": True,
    "stop_strings": ["."],
    "token_healing": True,
    "watermarking_config": {"greenlist_ratio": 0.25},
    "assistant_early_exit": 2,
    "assistant_ensemble_weight": 0.5,
    "prompt_lookup_num_tokens": 3,
    "use_mtp": True,
}

# A value other than the default, for each key that is harmless.
HARMLESS_VALUES = {
    "_from_model_config": True,
    "assistant_confidence_threshold": 0.9,
    "assistant_lookbehind": 3,
    "cache_config": {"backend": "quanto"},
    "cache_implementation": "dynamic",
    "compile_config": {"fullgraph": False},
    "continuous_batching_config": {},
    "disable_compile": True,
    "is_assistant": False,
    "low_memory": False,
    "max_cache_len": 99,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 7,
    "num_assistant_tokens_schedule": "constant",
    "output_attentions": True,
    "output_hidden_states": True,
    "output_logits": True,
    "output_scores": True,
    "prefill_chunk_size": 16,
    "return_dict_in_generate": True,
    "speculation_type": "x",
    "target_lookbehind": 3,
    "transformers_version": "9.9.9",
    "use_cache": False,
}

# Of the harmless keys, those that transformers' generate takes for any model.
HARMLESS_ARGUMENTS = (
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "disable_compile",
    "is_assistant",
    "low_memory",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_logits",
    "output_scores",
    "target_lookbehind",
    "use_cache",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair") / "pair")


@pytest.fixture
def folder(saved):
    """A tiny pair as transformers saves it; its generation_config.json is restored afterwards."""
    path = saved / "generation_config.json"
    before = path.read_text()
    yield saved
    path.write_text(before)


def test_every_key_of_transformers_has_a_row():
    config = hf.GenerationConfig()
    theirs = set(vars(config)) | set(config.to_dict())
    assert len(theirs) > 60
    assert theirs - FOLLOWED - HARMLESS - REFUSED == set()


def test_every_row_is_tried_here():
    assert {field.name for field in fields(GenerationConfig)} == FOLLOWED
    assert set(REFUSED_VALUES) == REFUSED
    assert set(HARMLESS_VALUES) == HARMLESS


@pytest.mark.parametrize("key", REFUSED_VALUES)
def test_what_is_not_implemented_is_refused_by_name(key, folder):
    value = REFUSED_VALUES[key]
    edit(folder / "generation_config.json", **{key: value})
    refuse(folder, f"generation_config.json: {key} is {json.dumps(value)}, expected ")


def test_defaults_and_nulls_of_what_is_not_implemented_load(folder):
    for values in (
        {key: ROWS[key].default for key in REFUSED},
        dict.fromkeys(REFUSED),
    ):
        edit(folder / "generation_config.json", **values)
        SpeechEncoderDecoder.from_pretrained(folder)


def test_what_is_harmless_loads_and_changes_nothing(folder):
    waveforms = torch.randn(1, 500)
    want = SpeechEncoderDecoder.from_pretrained(folder)
    edit(folder / "generation_config.json", **HARMLESS_VALUES)
    got = SpeechEncoderDecoder.from_pretrained(folder)
    assert got.generation == want.generation
    assert torch.equal(got.generate(waveforms), want.generate(waveforms))


def test_what_is_harmless_changes_no_token_in_transformers():
    theirs = paired_models("layer norm, 23 words")[0]
    waveforms, mask = make_batch()
    options = {"attention_mask": mask, "max_new_tokens": 8}
    for beams in (1, 3):
        want = theirs.generate(waveforms, num_beams=beams, **options)
        for key in HARMLESS_ARGUMENTS:
            value = {key: HARMLESS_VALUES[key]}
            assert torch.equal(
                theirs.generate(waveforms, num_beams=beams, **options, **value), want
            )
