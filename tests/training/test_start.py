# pytest tests/training/test_start.py
"""What training starts with: which weights come from where, which are drawn, which config."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.pairs import ADAPTER, DECODERS, ENCODERS, tiny_pair
from helpers.training import RATE, TINY, config_folder, config_of, corpus

from nanos2t.cli import train
from nanos2t.cli.main import build_parser
from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import load_tokenizer
from nanos2t.training import manifest
from nanos2t.training import start as train_start
from nanos2t.training.config import TrainConfig, resolve_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return corpus(tmp_path / "data", languages=("en", "en", "de"))


def start(config, folder: Path):
    folder.mkdir(exist_ok=True)
    return train_start.prepare_transcriber(config, manifest.read_manifest(config.train), folder)


def halves(folder: Path, encoder: str = "base", decoder: str = "bert") -> tuple[Path, Path, dict]:
    """transformers' encoder and decoder, each saved alone, and the tensors of both as ours."""
    pytest.importorskip("transformers")
    (encoder_type, encoder_config), (decoder_type, decoder_config) = (
        ENCODERS[encoder],
        DECODERS[decoder],
    )
    theirs = tiny_pair(encoder_type, decoder_type, encoder_config, decoder_config).float()
    theirs.save_pretrained(folder / "pair")
    theirs.encoder.save_pretrained(folder / "encoder")
    theirs.decoder.save_pretrained(folder / "decoder")
    tensors = SpeechEncoderDecoder.from_pretrained(folder / "pair").state_dict()
    return folder / "encoder", folder / "decoder", tensors


def same(state: dict, wanted: dict, prefix: str) -> bool:
    return all(torch.equal(state[name], wanted[name]) for name in state if name.startswith(prefix))


@pytest.mark.parametrize("decoder", ["bert", "gpt2", "mbart"])
@pytest.mark.parametrize(
    ("first", "second"), [("encoder", "decoder"), ("pair", "decoder"), ("pair", "pair")]
)
def test_halves_come_from_folders_of_their_own_or_from_pairs(
    tmp_path: Path, data, first, second, decoder
):
    _, _, wanted = halves(tmp_path, decoder=decoder)
    config = config_of(tmp_path, data, random="none", vocabulary="decoder", model=None)
    config = replace(config, encoder=str(tmp_path / first), decoder=str(tmp_path / second))
    model = train_start.load_start(config, tmp_path / first, tmp_path / second)
    state = model.state_dict()
    assert state.keys() == wanted.keys()
    assert same(state, wanted, "encoder.")
    if decoder == "bert" or second == "pair" or first == "pair":
        assert same(state, wanted, "decoder.")
    assert not same(state, wanted, "bridge.") or first == second


@pytest.mark.parametrize("random", ["encoder", "decoder", "both"])
def test_a_half_may_be_drawn_from_its_config_alone(tmp_path: Path, data, random, caplog):
    folders = dict(zip(("encoder", "decoder"), halves(tmp_path)))
    for part, folder in folders.items():
        if random in (part, "both"):
            (folder / "model.safetensors").unlink()
    wanted = halves(tmp_path / "again")[2]
    config = config_of(tmp_path, data, random=random)
    torch.manual_seed(1)
    with caplog.at_level(logging.WARNING, "nanos2t"):
        model = train_start.load_start(config, *folders.values())
    state = model.state_dict()
    for part in folders:
        assert same(state, wanted, f"{part}.") == (random not in (part, "both"))
        assert f"{part}.blocks.0.mlp" not in caplog.text
    torch.manual_seed(2)
    laws = SpeechEncoderDecoder.from_configs(
        model.encoder.config, model.decoder.config
    ).state_dict()
    for name, value in state.items():
        if random in (name.partition(".")[0], "both") and value.numel() > 100:
            assert value.std().item() == pytest.approx(
                laws[name].std().item(), rel=0.4, abs=1e-6
            ), name


def test_dropouts_are_the_config_s_and_weights_are_kept(tmp_path: Path):
    model = SpeechEncoderDecoder.from_configs(
        TINY, DecoderConfig.bert(9, hidden_size=28, num_heads=4)
    )
    config = config_of(
        tmp_path, tmp_path / "a", hidden_dropout=0.5, layerdrop=0.25, mask_time_prob=0.0
    )
    new = train_start.rebuild_model(model, config, 9)
    assert new.encoder.config.training == replace(
        TINY.training, hidden_dropout=0.5, layerdrop=0.25, mask_time_prob=0.0
    )
    assert new.decoder.config.training == replace(model.decoder.config.training, hidden_dropout=0.5)
    assert new.encoder.blocks[0].mlp.dropout.p == new.decoder.blocks[0].mlp.dropout.p == 0.5
    before, after = model.state_dict(), new.state_dict()
    assert before.keys() - after.keys() == {"encoder.masked_spec_embed"}
    assert all(torch.equal(before[name], after[name]) for name in after)
    again = train_start.rebuild_model(new, replace(config, mask_time_prob=0.3), 9).state_dict()
    assert again["encoder.masked_spec_embed"].isfinite().all() and again.keys() == before.keys()


@pytest.mark.parametrize("vocabulary", ["characters", "bpe"])
def test_a_vocabulary_is_built_from_the_texts(tmp_path: Path, data, vocabulary):
    config = config_of(config_folder(tmp_path / "model"), data, vocabulary=vocabulary)
    stt = start(config, tmp_path / "start")
    size = stt.model.decoder.config.vocab_size
    texts = [item.text for item in manifest.read_manifest(data)]
    letters = {letter for text in texts for letter in text.replace(" ", "▁")} | {"▁"}
    assert (size == 6 + len(letters)) == (vocabulary == "characters") and 6 + len(
        letters
    ) <= size <= 40
    assert stt.languages == ("en", "de") and stt.model.generation.forced_bos_token_id == 4
    for text in texts:
        ids = stt.tokenizer.encode(text)
        assert stt.tokenizer.decode(ids) == text and ids[-1] == stt.model.generation.eos_token_id
    assert stt.model.decoder.embed.tokens.weight.shape == (size, 28)
    assert stt.model.decoder.embed.tokens.weight[0].abs().sum() == 0  # the pad's
    assert stt.sample_rate == RATE
    again = load_tokenizer(tmp_path / "start").backend
    assert again.to_str() == stt.tokenizer.backend.to_str()


@pytest.mark.parametrize("language", ["s", "unk", "pad"])
def test_a_language_is_no_special_token(tmp_path: Path, data, language):
    items = [manifest.Item("a.wav", "one", language)]
    with pytest.raises(ValueError, match=f"language is '{language}', expected"):
        train_start.build_vocabulary(items, config_of(tmp_path, data), None)


def test_the_pad_keeps_its_id(tmp_path: Path, data):
    items = manifest.read_manifest(data)
    for pad, wanted in (None, 0), (0, 0), (1, 1):
        backend, generation = train_start.build_vocabulary(items, config_of(tmp_path, data), pad)
        assert backend.token_to_id("<pad>") == generation.pad_token_id == wanted
        assert backend.token_to_id("<s>") == generation.decoder_start_token_id
        assert backend.token_to_id("</s>") == generation.eos_token_id
        assert backend.token_to_id("<de>") == generation.lang_to_id["de"] == 5


def test_a_pad_that_the_new_vocabulary_has_no_place_for_is_moved(tmp_path: Path, data):
    config = config_of(
        config_folder(tmp_path / "model", pad_token_id=8), data, vocabulary="characters"
    )
    stt = start(config, tmp_path / "start")
    assert stt.model.decoder.config.pad_token_id == stt.model.generation.pad_token_id == 0
    assert stt.tokenizer.backend.token_to_id("<pad>") == 0
    assert (
        not stt.model.decoder.embed.tokens.weight[0].any()
        and stt.model.decoder.embed.tokens.weight[8].any()
    )


def test_ids_of_a_pair_are_kept_when_a_half_is_drawn(tmp_path: Path, data):
    """As in older pairs, which have them in config.json and no generation_config.json."""
    halves(tmp_path)
    path = tmp_path / "pair" / "config.json"
    ids = {"decoder_start_token_id": 5, "eos_token_id": 6, "pad_token_id": 7}
    path.write_text(json.dumps(json.loads(path.read_text()) | ids))
    (tmp_path / "pair" / "generation_config.json").unlink(missing_ok=True)
    for random in "encoder", "decoder", "both":
        config = config_of(tmp_path, data, random=random)
        model = train_start.load_start(config, tmp_path / "pair", tmp_path / "pair")
        assert {name: getattr(model.generation, name) for name in ids} == ids


def test_that_features_are_not_masked_is_said(tmp_path: Path, data, caplog):
    folder = config_folder(tmp_path / "model")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps(config | {"encoder": config["encoder"] | {"mask_feature_prob": 0.25}})
    )
    start(config_of(folder, data), tmp_path / "start")
    assert "model: mask_feature_prob is 0.25, but features are not masked here" in caplog.text


def test_dropouts_of_a_decoder_that_are_not_implemented_are_said(tmp_path: Path, caplog):
    """Of a BART, layerdrop; of a GPT-2, one of its own after the embeddings."""

    def warnings_of(**config) -> list[str]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        caplog.clear()
        train_start.warn_about_dropouts(tmp_path)
        return caplog.messages

    assert warnings_of(model_type="bart", decoder_layerdrop=0.0) == []
    assert warnings_of(model_type="bart") == warnings_of(model_type="gpt2") == []
    (message,) = warnings_of(model_type="bart", decoder_layerdrop=0.2)
    assert message.startswith(f"{tmp_path}: decoder_layerdrop is 0.2, but no block")
    (message,) = warnings_of(model_type="gpt2", embd_pdrop=0.0)
    assert message.startswith(f"{tmp_path}: embd_pdrop is 0.0, but resid_pdrop, 0.1, is used")
    pair = {"model_type": "speech-encoder-decoder", "encoder": {}}
    assert len(warnings_of(**pair, decoder={"model_type": "mbart", "decoder_layerdrop": 0.1})) == 1


def test_without_languages_none_is_forced(tmp_path: Path):
    data = corpus(tmp_path / "data", languages=(None,))
    stt = start(config_of(config_folder(tmp_path / "model"), data), tmp_path / "start")
    assert stt.languages == () and stt.model.generation.forced_bos_token_id is None


def test_the_tokenizer_is_the_decoder_s_and_the_rate_the_encoder_s(tmp_path: Path, data):
    encoder, decoder = (config_folder(tmp_path / part, TINY) for part in ("encoder", "decoder"))
    (decoder / "preprocessor_config.json").write_text('{"sampling_rate": 2000}')
    built, _ = train_start.build_vocabulary(
        manifest.read_manifest(data), config_of(tmp_path, data), 0
    )
    built.save(str(decoder / "tokenizer.json"))
    (encoder / "tokenizer.json").write_text("{}")
    config = config_of(None, data, vocabulary="decoder")
    config = replace(config, model=None, encoder=str(encoder), decoder=str(decoder))
    stt = start(config, tmp_path / "start")
    assert stt.sample_rate == RATE and stt.tokenizer.backend.to_str() == built.to_str()
    (decoder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="decoder: no tokenizer, expected one, or --vocabulary"):
        start(config, tmp_path / "other")


def test_a_damaged_half_is_named(tmp_path: Path, data):
    encoder, decoder, _ = halves(tmp_path)
    config = config_of(tmp_path, data, random="none")
    path = decoder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="decoder/model.safetensors: missing .*layer.2"):
        train_start.load_start(config, encoder, decoder)
    with pytest.raises(ValueError, match="none: no such folder"):
        train_start.prepare_transcriber(replace(config, model="./none"), [], tmp_path)


@pytest.mark.parametrize(
    "text", ['{"encoder": "x"}', '{"model_type": "speech-encoder-decoder", "encoder": {}}']
)
def test_a_config_without_halves_is_named(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    for random in "none", "both":
        config = TrainConfig(model=str(tmp_path), random=random, vocabulary="characters")
        with pytest.raises(ValueError, match="config.json: .*model_type is None, expected"):
            train_start.prepare_transcriber(config, [], tmp_path)


def test_an_adapter_comes_along(tmp_path: Path):
    model = SpeechEncoderDecoder.from_configs(
        ADAPTER, DecoderConfig.bert(9, hidden_size=28, num_heads=4)
    )
    model.save_pretrained(tmp_path / "pair")
    config = config_of(tmp_path, tmp_path / "a", random="decoder")
    state = train_start.load_start(config, tmp_path / "pair", tmp_path / "pair").state_dict()
    assert same(state, model.state_dict(), "encoder.") and any(
        "adapter.layers" in name for name in state
    )


def test_fields_of_the_halves_change(tmp_path: Path, caplog):
    encoder, decoder, wanted = halves(tmp_path)
    flags = ["--encoder", str(encoder), "--decoder", str(decoder), "--train", "a", "--output", "b"]
    changes = ["--encoder-add-adapter", "--encoder-num-adapter-layers=2",
               "--encoder-layerdrop", "0.0", "--decoder-hidden-act", "gelu_new"]  # fmt: skip
    options, unknown = build_parser().parse_known_args(["train", *flags, *changes])
    train.add_config_changes(options, unknown)
    flags = {name: value for name, value in vars(options).items() if name not in ("command", "run")}
    flags = {name: value for name, value in flags.items() if name not in ("config", "resume")}
    config = resolve_config(flags)

    model = train_start.load_start(config, encoder, decoder)
    assert model.encoder.config.adapter_layers == 2
    assert model.encoder.config.training.layerdrop == 0.0
    assert model.decoder.config.activation == "gelu_tanh"
    assert "initialised, not in the file: encoder.adapter.layers.0.conv.weight" in caplog.text
    state = {name: value for name, value in model.state_dict().items() if "adapter" not in name}
    assert same(state, wanted, "encoder.") and same(state, wanted, "decoder.")
