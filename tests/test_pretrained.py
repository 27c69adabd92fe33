# pytest tests/test_pretrained.py
"""nanos2t/pretrained.py: transformers writes and we read, we write and it reads; and what is refused."""

import copy
import filecmp
import gc
import json
import logging
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from helpers.pairs import IDS, ours_from, spread_, tiny_pair
from safetensors.torch import load_file, save_file

from nanos2t import pretrained, remap, remap_config
from nanos2t.decoder import DecoderConfig, DecoderTraining
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

hf = pytest.importorskip("transformers")

CONFIGS = Path(__file__).parent / "data/configs"
ADAPTER = {"add_adapter": True, "num_adapter_layers": 2}
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
    hidden_size=15, num_layers=2, num_heads=3, intermediate_size=19, position_kernel=4, position_groups=5,
    conv_channels=(6, 8), conv_kernels=(5, 3), conv_strides=(3, 2),
)  # fmt: skip
DECODER = DecoderConfig.bert(
    23, hidden_size=14, num_layers=1, num_heads=2, intermediate_size=9, max_positions=11
)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    waveform = torch.randn(1, 191, generator=generator, dtype=torch.float64)
    return waveform, torch.randint(0, 43, (1, 7), generator=generator)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    waveform, tokens = inputs()
    return model(waveform.to(next(model.parameters()).dtype), decoder_input_ids=tokens).logits


def same_files(one: Path, other: Path) -> bool:
    names = ["config.json", "generation_config.json", "model.safetensors"]
    return sorted(path.name for path in other.iterdir()) == names and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )


def same_weights(one: SpeechEncoderDecoder, other: SpeechEncoderDecoder) -> bool:
    """Bit for bit. Logits are not: how a mapped file aligns a tensor decides which kernel multiplies it."""
    state, expected = one.state_dict(), other.state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[name], expected[name]) for name in state
    )


def edit(path: Path, *keys: str, **values) -> None:
    """Set (or with ... delete) values of a JSON file, in the object below `keys`."""
    whole = part = json.loads(path.read_text())
    for key in keys:
        part = part[key]
    for key, value in values.items():
        part.pop(key, None)
        part.update({} if value is ... else {key: value})
    path.write_text(json.dumps(whole))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny_pair().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A tiny pair as transformers saves it, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "pair"))


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
    assert all(torch.equal(state[key], again[key]) for key in again)
    assert state.keys() - again.keys() <= {"encoder.masked_spec_embed"}


def test_every_config_field_reaches_transformers_and_returns(tmp_path):
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
    assert not any(info.values())
    for field in fields(generation):
        found = getattr(theirs.generation_config, field.name)
        expected = getattr(generation, field.name)
        assert found == (list(expected) if isinstance(expected, tuple) else expected), field.name
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


# --- the tables


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
            *remap_config.RULES,
        }
        assert table.ids.keys() <= {field.name for field in fields(GenerationConfig)}


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "bert"])
def test_defaults_are_those_of_transformers(family):
    theirs = hf.AutoConfig.for_model(family).to_dict()
    theirs["output_hidden_size"] = None  # transformers fills it in
    for row in remap.read_table(family).config.values():
        if row.theirs in theirs and row.rule != "write":
            found = theirs[row.theirs]
            assert (list(found) if isinstance(found, tuple) else found) == row.default, row
        if row.rule == "if":
            switch, preset = row.switch
            assert theirs[switch] == preset


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


# --- weights


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
print(sorted({{"sympy", "transformers", "huggingface_hub", "tokenizers", "soxr"}} & sys.modules.keys()))
"""
    root = Path(pretrained.__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found


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


def test_a_failed_save_leaves_the_old_files(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors, path, **options):
        (Path(path) / "model.safetensors").write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "save_torch_state_dict", full)
    with pytest.raises(ValueError, match="can not write there .*No space left"):
        SpeechEncoderDecoder.from_pretrained(folder).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_several_files(folder):
    expected = SpeechEncoderDecoder.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {
        name: f"model-0000{1 + number % 2}-of-00002.safetensors"
        for number, name in enumerate(tensors)
    }
    for place in set(places.values()):
        save_file({name: tensors[name] for name in places if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder), expected)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refuse(
        folder, "model-00002-of-00002.safetensors: ", "No such file", "expected a file of tensors"
    )
    (folder / "model.safetensors.index.json").write_text("{}")
    refuse(folder, "model.safetensors.index.json: no weight_map")


def test_shards_are_written_read_and_replaced(folder, tmp_path):
    model = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    (folder / "model-of-mine.safetensors").write_bytes(b"kept")
    model.save_pretrained(folder, max_shard_size="20KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = {*index["weight_map"].values()}
    assert len(shards) > 1 and not (folder / "model.safetensors").exists()
    assert shards == {path.name for path in folder.glob("model-0*.safetensors")}
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), model)
    theirs, report = hf.SpeechEncoderDecoderModel.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float64
    )
    assert not any(report.values())
    waveform, ids = inputs()
    expected = theirs(input_values=waveform, decoder_input_ids=ids).logits
    assert torch.allclose(
        model(waveform, decoder_input_ids=ids).logits, expected, rtol=0, atol=1e-10
    )
    model.save_pretrained(folder)
    assert not [*folder.glob("model-0*")] and not (folder / "model.safetensors.index.json").exists()
    assert (folder / "model-of-mine.safetensors").read_bytes() == b"kept"
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), model)


def pickled(folder, tensors, name: str = "pytorch_model.bin", **options) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(tensors, folder / name, **options)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle(folder, zipped):
    expected = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    pickled(folder, load_file(folder / "model.safetensors"), _use_new_zipfile_serialization=zipped)
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), expected)


def test_pickles_in_shards(folder):
    expected = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    places = {name: f"pytorch_model-0000{1 + (name > names[9])}-of-00002.bin" for name in names}
    for place in set(places.values()):
        pickled(folder, {name: tensors[name] for name in names if places[name] == place}, place)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), expected)
    index.write_text(json.dumps({"weight_map": places | {names[0]: "../pytorch_model.bin"}}))
    refuse(folder, "pytorch_model.bin.index.json: names the file '../pytorch_model.bin'")
    pickled(folder, tensors, "pytorch_model-00001-of-00002.bin")
    index.write_text(json.dumps({"weight_map": places}))
    refuse(folder, "pytorch_model-00002-of-00002.bin: has ", "as another file")


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("was_run"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_not_run(folder, zipped, monkeypatch):
    monkeypatch.chdir(folder)
    tensors = load_file(folder / "model.safetensors")
    pickled(folder, {**tensors, "code": Hostile()}, _use_new_zipfile_serialization=zipped)
    refuse(
        folder, "pytorch_model.bin: holds more than tensors or is damaged, nothing of it was run"
    )
    assert not (folder / "was_run").exists()


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


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 3}, torch.zeros(3), {"a": torch.ones(2).to_sparse()}]
)
def test_a_pickle_of_something_else(folder, content):
    pickled(folder, content)
    refuse(folder, "pytorch_model.bin: ", "expected a dict of tensors")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("size", [0, 7, 30, 1000, -1])  # 30: inside the length of the first name
def test_a_truncated_pickle(folder, size, zipped):
    pickled(folder, load_file(folder / "model.safetensors"), _use_new_zipfile_serialization=zipped)
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[:size])
    refuse(folder, "pytorch_model.bin: ")


def test_an_absent_mask_vector_is_drawn_and_listed(folder, caplog):
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.masked_spec_embed"]
    save_file(tensors, folder / "model.safetensors")
    with caplog.at_level(logging.INFO, "nanos2t"):
        model = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    assert "model.safetensors" in caplog.text and "encoder.masked_spec_embed" in caplog.text
    drawn = model.encoder.masked_spec_embed.detach()
    assert drawn.dtype == torch.float64 and 0 <= drawn.min() < 0.4 < 0.6 < drawn.max() <= 1
    edit(folder / "config.json", "encoder", mask_time_prob=0.0)
    caplog.clear()
    assert (
        SpeechEncoderDecoder.from_pretrained(folder).encoder.masked_spec_embed is None
        and not caplog.text
    )


# --- ids and generation options


def test_a_folder_of_2021(folder):
    """No generation_config.json, complete dumps of the parts' configs, tensors under older names."""
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
    edit(own, decoder_start_token_id=10, eos_token_id=[11, 12])
    edit(config, decoder_start_token_id=20, eos_token_id=21)
    edit(config, "decoder", decoder_start_token_id=30, eos_token_id=31)
    assert ids() == 10 and ids("eos_token_id") == (11, 12)
    edit(own, decoder_start_token_id=..., eos_token_id=None)
    assert ids() == 20 and ids("eos_token_id") == 21
    edit(config, decoder_start_token_id=None, eos_token_id=...)
    assert ids() == 30 and ids("eos_token_id") == 31
    edit(config, "decoder", decoder_start_token_id=..., eos_token_id=..., bos_token_id=7)
    assert ids() == 7 and ids("eos_token_id") is None  # BERT: [CLS], else bos
    (folder / "vocab.txt").write_text("[PAD]\n[CLS]\nword\n[SEP]\n")
    assert ids() == 1 and ids("eos_token_id") == 3
    added = [{"id": 101, "content": "[CLS]"}, {"id": 102, "content": "[SEP]"}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert ids() == 101 and ids("eos_token_id") == 102


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


# --- errors


def refuse(folder: Path, *words: str) -> None:
    """Loading must be a ValueError of one line that has these words, and no other error behind it."""
    with pytest.raises(ValueError) as error:
        SpeechEncoderDecoder.from_pretrained(folder)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text
    assert (
        error.value.__cause__ is None
        and error.value.__suppress_context__
        or error.value.__context__ is None
    )


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
            "encoder.model_type is None, expected one of ['wav2vec2', 'hubert', 'unispeech', 'unispeech-sat']"
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
        {"model_type": "wavlm"},
        "encoder.model_type is 'wavlm', expected one of ['wav",
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
    "typical_p": 0.5, "renormalize_logits": True, "num_beams": "many", "early_stopping": "sometimes",
}  # fmt: skip


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


def test_truncated_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    for size in (7, 100, len(content) // 2, len(content) - 1):
        (folder / "model.safetensors").write_bytes(content[:size])
        refuse(folder, "model.safetensors: ", "expected a file of tensors")


def test_only_another_framework(folder):
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")
    refuse(folder, f"{folder}: expected one of model.safetensors, ", "found flax_model.msgpack")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, "float32", None])
def test_the_dtype_is_checked(dtype, folder):
    with pytest.raises(ValueError, match=f"dtype is {dtype!r}, expected a floating point type"):
        SpeechEncoderDecoder.from_pretrained(folder, dtype=dtype)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: no such folder"):
        SpeechEncoderDecoder.from_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="file: can not write there"):
        SpeechEncoderDecoder.from_configs(ENCODER, DECODER).save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nowhere", "a b", "-x"])
def test_no_such_folder(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # is not asked
    with pytest.raises(
        ValueError, match=f"^{name}: no such folder, expected one with a config.json, or a hub id"
    ):
        SpeechEncoderDecoder.from_pretrained(name)


def test_the_hub(folder, monkeypatch):
    def download(name, **options):
        asked.append((name, options))
        return str(folder)

    asked, options = [], {"revision": "main", "local_files_only": True}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    SpeechEncoderDecoder.from_pretrained("owner/model", **options)
    files = ["*.json", "*.txt", "*.model"]
    wanted = {**options, "allow_patterns": [*files, "model*.safetensors"]}
    assert asked == [("owner/model", wanted)]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    SpeechEncoderDecoder.from_pretrained("owner/model", **options)
    assert asked[1:] == [
        ("owner/model", wanted),
        ("owner/model", {**options, "allow_patterns": [*files, "pytorch_model*.bin"]}),
    ]


def test_the_hub_has_nothing(monkeypatch, tmp_path):
    from huggingface_hub.errors import LocalEntryNotFoundError

    for error in LocalEntryNotFoundError("not on disk\nand no network"), ValueError("bad name"):

        def fail(name, error=error, **options):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(
            ValueError, match=r"^owner/model: no such folder, and not from the hub: [^\n]+$"
        ):
            SpeechEncoderDecoder.from_pretrained("owner/model", local_files_only=True)
