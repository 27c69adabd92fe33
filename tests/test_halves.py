# pytest tests/test_halves.py
"""A speech encoder and a text decoder, each of a file of its own, joined to one model."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from helpers.half_files import decoder_file, encoder_file, initialised
from helpers.half_files import halves as halves  # noqa: PLC0414, a fixture
from helpers.numbers import assert_same_numbers, batch
from helpers.pairs import DECODERS, ENCODERS, IDS, tiny_pair
from helpers.vocabularies import mbart50
from safetensors.torch import load_file, save_file

from nanos2t import remap
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription import vocabularies

hf = pytest.importorskip("transformers")
CHECKPOINTS = (Path(__file__).parents[1] / "tutorials" / "checkpoints.md").read_text()


ENCODER_FILES = {
    "Wav2Vec2Model": "base", "Wav2Vec2ForCTC": "xls-r with adapter",
    "Wav2Vec2ForPreTraining": "base",
    "HubertModel": "hubert", "HubertForCTC": "hubert", "UniSpeechForPreTraining": "unispeech",
    "UniSpeechSatForCTC": "unispeech-sat", "UniSpeechSatForPreTraining": "unispeech-sat",
    "Wav2Vec2ForSequenceClassification": "base",
    "WavLMModel": "wavlm", "WavLMForXVector": "wavlm large with adapter",
    "Data2VecAudioModel": "data2vec-audio", "Data2VecAudioForCTC": "data2vec-audio",
}  # fmt: skip


DECODER_FILES = {
    "BertModel": "bert", "BertForMaskedLM": "bert", "BertForPreTraining": "bert",
    "RobertaModel": "roberta",
    "RobertaForMaskedLM": "roberta", "XLMRobertaForMaskedLM": "xlm-roberta",
    "CamembertForMaskedLM": "camembert", "GPT2Model": "gpt2", "GPT2LMHeadModel": "gpt2",
    "BartModel": "bart",
    "BartForConditionalGeneration": "bart", "BartForCausalLM": "bart",
    "MBartForConditionalGeneration": "mbart", "MBartModel": "mbart",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ENCODER_FILES)
@torch.no_grad()
def test_any_encoder_file(kind, halves, tmp_path, caplog):
    theirs = encoder_file(kind, ENCODER_FILES[kind], tmp_path)
    ours = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        tmp_path, halves[1], dtype=torch.float64
    )
    waveform = batch()[0][1:2]
    assert torch.allclose(
        ours.encoder(waveform)[0], theirs(waveform).last_hidden_state, rtol=0, atol=1e-10
    )
    assert all(
        "cross_attn" in name or name.startswith("bridge") for name in initialised(caplog.text)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DECODER_FILES)
@torch.no_grad()
def test_any_decoder_file(kind, halves, tmp_path, caplog):
    """All of a file arrives: without cross-attention our decoder gives their numbers."""
    theirs = decoder_file(kind, DECODER_FILES[kind], tmp_path, is_decoder=False)
    ours = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        halves[0], tmp_path, dtype=torch.float64
    )
    bare = kind in ("BertModel", "RobertaModel")
    new = [name for name in initialised(caplog.text) if "cross_attn" not in name]
    heads = ["bias"]
    heads += [
        f"transform.{name}.{kind}" for name in ("dense", "norm") for kind in ("weight", "bias")
    ]
    expected = {"bridge.weight", "bridge.bias", *(f"decoder.head.{name}" for name in heads if bare)}
    assert set(new) == expected
    state = theirs.state_dict()
    prefix = remap.read_table(ours.families[1]).prefix + "."
    inside = any(name.startswith(prefix) for name in state)
    rows = remap.read_table(ours.families[1]).tensors
    exported = remap.export_state(rows, ours.decoder.state_dict())
    same = 0
    for name, value in exported.items():
        own = name if inside else name.removeprefix(prefix)
        if own in state and "ross" not in name:
            assert torch.equal(value, state[own]), name
            same += 1
    assert same >= 20


@torch.no_grad()
def test_new_weights_have_transformers_laws_and_a_seed(halves):
    torch.manual_seed(5)
    one = SpeechEncoderDecoder.from_encoder_decoder_pretrained(*halves)
    torch.manual_seed(5)
    two = SpeechEncoderDecoder.from_encoder_decoder_pretrained(*halves)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    cross = one.decoder.blocks[0].cross_attn
    assert 0.01 < cross.q_proj.weight.std() < 0.03 and not cross.q_proj.bias.any()
    assert (
        one.decoder.blocks[0].cross_attn_norm.weight == 1
    ).all() and 0.01 < one.bridge.weight.std() < 0.03


def test_ids_of_two_halves(halves, tmp_path):
    assert (
        SpeechEncoderDecoder.from_encoder_decoder_pretrained(*halves).generation.eos_token_id
        == IDS["eos_token_id"]
    )
    model = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        *halves, decoder_start_token_id=7, eos_token_id=9, pad_token_id=8
    )
    actual = model.generation
    assert (actual.decoder_start_token_id, actual.eos_token_id, actual.pad_token_id) == (7, 9, 8)
    decoder_file("BartForCausalLM", "bart", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("decoder_start_token_id", "eos_token_id", "bos_token_id", "pad_token_id"):
        config.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    actual = SpeechEncoderDecoder.from_encoder_decoder_pretrained(halves[0], tmp_path).generation
    assert (actual.decoder_start_token_id, actual.eos_token_id, actual.pad_token_id) == (2, 2, 1)


def test_only_a_shared_embedding(halves, tmp_path):
    """Files that store tied tensors once may keep any of the names."""
    theirs = decoder_file("BartForConditionalGeneration", "bart", tmp_path)
    tensors = {name: value.clone() for name, value in theirs.state_dict().items()}
    names = ["model.decoder.embed_tokens.weight", "model.shared.weight",
             "model.encoder.embed_tokens.weight",
             "lm_head.weight"]  # fmt: skip
    for kept in names:
        save_file(
            {name: value for name, value in tensors.items() if name == kept or name not in names},
            tmp_path / "model.safetensors",
        )
        ours = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
            halves[0], tmp_path, dtype=torch.float64
        )
        assert torch.equal(ours.decoder.embed.tokens.weight, tensors[kept])
    tensors["lm_head.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"lm_head.weight is a second tensor for our embed.tokens.weight"
    ):
        SpeechEncoderDecoder.from_encoder_decoder_pretrained(halves[0], tmp_path)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ((0, 0), "config.json: model_type is 'wav2vec2', expected one of"),
        ((1, 1), "config.json: model_type is 'bert', expected one of"),
    ],
)
def test_halves_in_the_wrong_place(halves, which, message):
    with pytest.raises(ValueError, match=message):
        SpeechEncoderDecoder.from_encoder_decoder_pretrained(*(halves[i] for i in which))


def test_a_half_that_lacks_more_than_cross_attention(halves, tmp_path, caplog):
    decoder_file("BertForMaskedLM", "bert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model.safetensors: missing bert.encoder.layer.1.output.dense"
    ):
        SpeechEncoderDecoder.from_encoder_decoder_pretrained(halves[0], tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"), [("BartModel", "encoder_attn"), ("GPT2LMHeadModel", "crossattention")]
)
def test_a_half_with_a_part_of_its_cross_attention(halves, tmp_path, kind, name):
    decoder_file(kind, DECODER_FILES[kind], tmp_path, add_cross_attention=True)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = {key for key in tensors if f".1.{name}." in key}
    assert gone
    save_file(
        {key: tensors[key] for key in tensors if key not in gone}, tmp_path / "model.safetensors"
    )
    with pytest.raises(
        ValueError, match=r"model.safetensors: cross-attention is there, but without blocks.1."
    ):
        SpeechEncoderDecoder.from_encoder_decoder_pretrained(halves[0], tmp_path)


def test_save_and_load_a_model_of_two_halves(halves, tmp_path):
    model = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        *halves, dtype=torch.float64, decoder_start_token_id=2
    )
    model.save_pretrained(tmp_path)
    theirs, report = hf.SpeechEncoderDecoderModel.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float64
    )
    assert not any(report.values())
    assert_same_numbers(theirs, model)


def test_the_examples_of_the_guide(halves, tmp_path):
    """On stand-ins of the same layout for the files of the hub, and a recording of noise."""
    blocks = (text.partition("```")[0] for text in CHECKPOINTS.split("```python\n")[1:])
    (block,) = (block for block in blocks if "finetuned" in block)
    (tmp_path / "pair").mkdir()
    backend = vocabularies.load_tokenizer(mbart50(tmp_path / "pair")).backend
    encoder, (kind, decoder) = ENCODERS["xls-r with adapter"][1], DECODERS["mbart"]
    german = backend.token_to_id("de_DE")
    ids = {
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": german,
    }
    size = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 200}
    theirs = tiny_pair("wav2vec2", kind, encoder, decoder | size | ids, **ids).float()
    theirs.generation_config = hf.GenerationConfig(**ids, max_length=20, num_beams=2)
    theirs.save_pretrained(tmp_path / "pair")
    (tmp_path / "pair/preprocessor_config.json").write_text(
        '{"sampling_rate": 16000, "do_normalize": true}'
    )
    noise = torch.randn(3000, generator=torch.Generator().manual_seed(0)) * 0.1
    soundfile.write(tmp_path / "speech.flac", noise.numpy(), 16000)
    for name, folder in {
        "facebook/hubert-large-ll60k": halves[0],
        "google-bert/bert-base-uncased": halves[1],
        "facebook/wav2vec2-xls-r-300m-en-to-15": tmp_path / "pair",
    }.items():
        block = block.replace(f'"{name}"', repr(str(folder)))
    # The stand-in for BERT has 43 tokens.
    block = block.replace("token_id=101", "token_id=41").replace("token_id=102", "token_id=42")
    code = block + "print(float(loss), model.decoder.blocks[0].cross_attn is not None)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "initialised, not in the file: bridge.weight" in done.stderr
    *_, last = done.stdout.splitlines()
    assert 0 < float(last.split()[0]) < 100
    assert (
        SpeechEncoderDecoder.from_pretrained(tmp_path / "finetuned").generation.forced_bos_token_id
        == german
    )


def test_the_log_names_the_files(halves, caplog):
    with caplog.at_level(logging.WARNING, "nanos2t"):
        SpeechEncoderDecoder.from_encoder_decoder_pretrained(*halves)
    assert str(halves[0]) in caplog.text and str(halves[1]) in caplog.text
