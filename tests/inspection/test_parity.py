# pytest tests/inspection/test_parity.py
"""nanos2t/inspection/parity.py: both libraries agree, and where not, the first stage is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.pairs import DECODERS, LARGE, pair_of, tiny_pair
from safetensors.torch import load_file, save_file

from nanos2t.inspection import observer, parity
from nanos2t.model import SpeechEncoderDecoder

ADAPTER = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 28}
PAIRS = {
    "base": {},
    "large, adapter of another width": {"encoder": LARGE | ADAPTER},
    "hubert": {"encoder_type": "hubert", "encoder": LARGE},
    "no bridge, untied": {
        "decoder": {"hidden_size": 15, "num_attention_heads": 5, "tie_word_embeddings": False}
    },
    "mbart": {"decoder_type": "mbart", "decoder": DECODERS["mbart"][1]},
    "nothing starts it": {
        "decoder": {"decoder_start_token_id": None},
        "decoder_start_token_id": None,
    },
}
CONVS, BLOCKS = ["conv 0", "conv 1", "conv 2"], [f"encoder block {i}" for i in range(3)]
DECODED = ["embedding", "decoder block 0", "decoder block 1", "logits", "greedy tokens"]
STAGES = {
    "base": [*CONVS, "projection", "positions", "encoder norm", *BLOCKS, "bridge", *DECODED],
    "large, adapter of another width": [
        *[
            *CONVS,
            "projection",
            "positions",
            *BLOCKS,
            "encoder norm",
            "adapter norm",
            "adapter 0",
            "adapter 1",
        ],
        *DECODED,
    ],
}
BROKEN = {  # stage -> a tensor of the file that only it, and what comes after, can feel
    "base": {
        "conv 0": "encoder.feature_extractor.conv_layers.0.layer_norm.bias",
        "conv 1": "encoder.feature_extractor.conv_layers.1.conv.weight",
        "projection": "encoder.feature_projection.layer_norm.weight",
        "positions": "encoder.encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        "encoder norm": "encoder.encoder.layer_norm.bias",
        "encoder block 0": "encoder.encoder.layers.0.attention.v_proj.weight",
        "encoder block 2": "encoder.encoder.layers.2.final_layer_norm.weight",
        "bridge": "enc_to_dec_proj.bias",
        "embedding": "decoder.bert.embeddings.token_type_embeddings.weight",
        "decoder block 0": "decoder.bert.encoder.layer.0.attention.self.query.weight",
        "decoder block 1": "decoder.bert.encoder.layer.1.crossattention.self.value.bias",
        "logits": "decoder.cls.predictions.transform.LayerNorm.bias",
    },
    "large, adapter of another width": {
        "conv 2": "encoder.feature_extractor.conv_layers.2.layer_norm.weight",
        "encoder norm": "encoder.encoder.layer_norm.weight",
        "adapter norm": "encoder.adapter.proj.bias",
        "adapter 0": "encoder.adapter.layers.0.conv.weight",
        "adapter 1": "encoder.adapter.layers.1.conv.bias",
    },
    "mbart": {
        "embedding": "decoder.model.decoder.embed_positions.weight",
        "decoder block 1": "decoder.model.decoder.layers.1.fc2.bias",
        "decoder norm": "decoder.model.decoder.layer_norm.bias",
    },
}


def waveform(samples: int = 191, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(
        1, samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """kind -> HF's model, and the folder where it saved it."""
    pytest.importorskip("transformers")
    made = {}

    def pair(kind: str):
        if kind not in made:
            folder = tmp_path_factory.mktemp("pair")
            made[kind] = tiny_pair(**PAIRS[kind]), folder
            made[kind][0].save_pretrained(folder)
            preprocessor = {"sampling_rate": 1000, "do_normalize": True}
            (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        return made[kind]

    return pair


def changed(
    folder: Path, copy: Path, name: str, change=lambda tensor: tensor * 1.001 + 1e-3
) -> Path:
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


# both sides


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", PAIRS)
def test_agreement(pairs, kind, dtype):
    hf, folder = pairs(kind)
    ours = SpeechEncoderDecoder.from_pretrained(folder, dtype=dtype)
    theirs = parity.load_theirs(folder, dtype)
    rows = parity.compare_models(ours, theirs, waveform(dtype=dtype))
    assert parity.first_departure(rows) is None, parity.render_parity(rows)
    names = [row.stage for row in rows]
    assert names == STAGES.get(kind, names)
    assert ("greedy tokens" in names) == (kind != "nothing starts it") and "logits" in names
    assert max(row.difference / (row.largest or 1) for row in rows) < parity.TOLERANCE[dtype]
    assert all(row.largest > 0.1 for row in rows if row.stage != "greedy tokens")


@pytest.mark.parametrize(
    "kind, stage", [(kind, stage) for kind, tensors in BROKEN.items() for stage in tensors]
)
def test_the_first_departure_is_where_a_tensor_was_changed(pairs, tmp_path, kind, stage):
    hf, folder = pairs(kind)
    ours = SpeechEncoderDecoder.from_pretrained(
        changed(folder, tmp_path / "changed", BROKEN[kind][stage]), dtype=torch.float64
    )
    rows = parity.compare_models(ours, hf, waveform())
    assert parity.first_departure(rows) == stage
    departs = {row.stage: row.departs for row in rows}
    assert departs["logits"]
    *table, last = parity.render_parity(rows).splitlines()
    assert last == f"first to depart: {stage}"
    assert [line.endswith("  departs") for line in table[1:]] == [*departs.values()]


def test_a_small_error_is_seen_in_float64_only(pairs, tmp_path):
    hf, folder = pairs("base")
    name = BROKEN["base"]["encoder block 2"]
    copy = changed(folder, tmp_path / "changed", name, lambda tensor: tensor * (1 + 1e-8))
    rows = parity.compare_models(
        SpeechEncoderDecoder.from_pretrained(copy, dtype=torch.float64), hf, waveform()
    )
    assert parity.first_departure(rows) == "encoder block 2"
    theirs = parity.load_theirs(folder, torch.float32)
    rows = parity.compare_models(
        SpeechEncoderDecoder.from_pretrained(copy), theirs, waveform(dtype=torch.float32)
    )
    assert parity.first_departure(rows) is None
    copy = changed(folder, tmp_path / "more", name, lambda tensor: tensor * (1 + 1e-3))
    rows = parity.compare_models(
        SpeechEncoderDecoder.from_pretrained(copy), theirs, waveform(dtype=torch.float32)
    )
    assert parity.first_departure(rows) == "encoder block 2"


@pytest.mark.parametrize(
    "encoder, decoder",
    [
        ("unispeech", "roberta"),
        ("unispeech-sat", "gpt2"),
        ("xls-r with projection", "bart"),
        ("hubert without a norm", "trocr, sinusoidal, untied"),
        ("wavlm", "roberta"),
        ("data2vec-audio", "mbart"),
    ],
)
def test_other_families(tmp_path, encoder, decoder):
    pytest.importorskip("transformers")
    pair_of(encoder, decoder).save_pretrained(tmp_path)
    ours = SpeechEncoderDecoder.from_pretrained(tmp_path, dtype=torch.float64)
    theirs = parity.load_theirs(tmp_path, torch.float64)
    rows = parity.compare_models(ours, theirs, waveform())
    assert parity.first_departure(rows) is None, parity.render_parity(rows)
    assert {"embedding", "decoder block 1", "logits", "greedy tokens"} <= {
        row.stage for row in rows
    }


def test_other_tokens_from_the_same_logits_depart(pairs):
    hf, folder = pairs("base")
    ours = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    ours.generation = replace(ours.generation, repetition_penalty=1e6)
    rows = parity.compare_models(ours, hf, waveform())
    assert parity.first_departure(rows) == "greedy tokens" and rows[-1].difference > 0


def test_both_start_and_stop_at_our_ids(pairs, monkeypatch):
    hf, folder = pairs("base")
    for name, other in ("decoder_start_token_id", 7), ("eos_token_id", 20), ("pad_token_id", 9):
        monkeypatch.setattr(hf.generation_config, name, other)
    rows = parity.compare_models(
        SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), hf, waveform()
    )
    assert parity.first_departure(rows) is None


def test_what_cannot_be_compared_departs(pairs, tmp_path, monkeypatch):
    hf, folder = pairs("base")
    ours = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    with monkeypatch.context() as patch:  # HF has another name for it
        patch.delitem(observer.THEIR_STAGES, "encoder.feature_projection")
        rows = parity.compare_models(ours, hf, waveform())
        assert parity.first_departure(rows) == "projection"
        assert [row.difference for row in rows if row.departs] == [None]
    theirs = parity.run_theirs(hf, waveform(), torch.tensor([[1, 2]]))
    with monkeypatch.context() as patch:  # another shape
        theirs["bridge"] = theirs["bridge"][:, 1:]
        patch.setattr(parity, "run_theirs", lambda *_: theirs)
        rows = parity.compare_models(ours, hf, waveform())
        assert parity.first_departure(rows) == "bridge"
    name = BROKEN["base"]["encoder block 0"]
    nan = SpeechEncoderDecoder.from_pretrained(
        changed(folder, tmp_path / "nan", name, lambda x: x * torch.nan), dtype=torch.float64
    )
    monkeypatch.setattr(nan, "generation", replace(nan.generation, decoder_start_token_id=None))
    rows = parity.compare_models(nan, hf, waveform())
    assert parity.first_departure(rows) == "encoder block 0"
    assert (
        rows[6].difference is None and rows[6].departs and "nan" not in parity.render_parity(rows)
    )


def test_hooks_are_gone_afterwards(pairs):
    hf, folder = pairs("base")
    ours = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    parity.compare_models(ours, hf, waveform())
    for part in (*hf.modules(), *ours.modules()):
        assert not part._forward_hooks and not part._forward_pre_hooks


def test_what_the_decoder_reads(pairs):
    """Nothing from the first pad on, to which some decoders give no position; never too many."""
    ours = SpeechEncoderDecoder.from_pretrained(pairs("base")[1], dtype=torch.float64)
    for pad, written, read in [
        (1, [2, 5, 7, 3], [2, 5, 7, 3]),
        (1, [2, 5, 1, 7], [2, 5]),
        (2, [2, 5, 2, 7], [2, 5]),
        (None, [2] * 99, [2] * 37),
    ]:
        ours.generation = replace(ours.generation, pad_token_id=pad)
        assert parity.make_decoder_input(ours, written).tolist() == [read]
    assert parity.make_decoder_input(ours, []).tolist() == [list(range(8))]


# loading theirs, and the command


def test_what_transformers_cannot_load(pairs, tmp_path):
    hf, folder = pairs("base")
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="transformers .* cannot load") as caught:
        parity.load_theirs(tmp_path / "broken", torch.float64)
    assert "\n" not in str(caught.value) and str(tmp_path / "broken") in str(caught.value)


def test_what_transformers_drew_at_random_is_said(pairs, tmp_path, caplog):
    hf, folder = pairs("base")
    shutil.copytree(folder, tmp_path / "less")
    tensors = load_file(folder / "model.safetensors")
    del tensors["enc_to_dec_proj.bias"]
    save_file(tensors, tmp_path / "less" / "model.safetensors", {"format": "pt"})
    parity.load_theirs(tmp_path / "less", torch.float64)
    assert "enc_to_dec_proj.bias" in caplog.text
