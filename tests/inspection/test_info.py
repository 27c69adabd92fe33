# pytest tests/inspection/test_info.py
"""nanos2t/inspection/info.py: what it says about a model is true."""

import json
import math
import os
import re
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.pairs import spread_
from helpers.tiny import DECODER, ENCODER, LANGUAGES, RATE, save_tiny
from safetensors.torch import load_file, save_file

import nanos2t
from nanos2t import pretrained, remap
from nanos2t.cli import main as cli
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection import info
from nanos2t.model import SpeechEncoderDecoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    more = {"lang_to_id": LANGUAGES, "forced_bos_token_id": 4, "num_beams": 3}
    return save_tiny(tmp_path_factory.mktemp("model"), **more)


@pytest.fixture
def run(capsys):
    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        code = cli.main(["info", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


def save(folder: Path, encoder=ENCODER, decoder=DECODER, **options) -> Path:
    """Random weights, no tokenizer, no preprocessor_config.json."""
    model = SpeechEncoderDecoder.from_configs(encoder, decoder, GenerationConfig(**options))
    spread_(model).save_pretrained(folder)
    return folder


def described(folder: Path) -> dict[str, str]:
    """First word -> the rest, lines that go on joined."""
    text = "\n".join(info.describe_model(folder))
    return dict(line.split(maxsplit=1) for line in re.sub(r"\n {12}", " ", text).splitlines())


@pytest.mark.parametrize(
    ("family", "changes", "part"),
    [
        ("wavlm", {"distance_buckets": 9, "max_distance": 12}, "encoder.block_mask"),
        ("data2vec-audio", {"position_layers": 2, "conv_norm": "layer"}, "encoder.positions"),
    ],
)
def test_other_encoders(tmp_path, family, changes, part):
    folder = save(tmp_path, replace(ENCODER, **changes))
    table = described(folder)
    assert table["encoder"].startswith(f"{family}: hidden_size=")
    assert all(f"{name}={value}" in table["encoder"] for name, value in changes.items())
    module = SpeechEncoderDecoder.from_pretrained(folder).get_submodule(part)
    count = sum(weight.numel() for weight in module.parameters())
    assert table[part] == f"{count:,}" != "0"


def test_parameters_per_part(folder):
    model, table = nanos2t.load(folder).model, described(folder)
    parts = {
        name: int(count.replace(",", ""))
        for name, count in table.items()
        if re.match(r"[\d,]+$", count)
    }
    assert (
        parts.pop("parameters")
        == sum(parts.values())
        == sum(weight.numel() for weight in model.parameters())
    )
    for name, count in parts.items():
        part = (
            model.encoder.masked_spec_embed
            if name == "encoder.masked_spec_embed"
            else model.get_submodule(name)
        )
        weights = [part] if isinstance(part, torch.Tensor) else part.parameters()
        assert count == sum(weight.numel() for weight in weights), name
    assert {"encoder.feature_encoder", "encoder.positions", "encoder.blocks", "bridge"} <= set(
        parts
    )
    assert {"decoder.embed", "decoder.blocks", "decoder.head"} <= set(parts)


def test_configs_languages_audio(folder):
    table = described(folder)
    assert (
        table["encoder"].startswith("wav2vec2: hidden_size=15, ")
        and "adapter_size=none" in table["encoder"]
    )
    assert (
        table["decoder"].startswith("bert: vocab_size=40, ") and "training" not in table["decoder"]
    )
    for part, config in ("encoder", ENCODER), ("decoder", DECODER):
        for name in set(vars(config)) - {"training"}:
            assert f"{name}=" in table[part]
    assert table["languages"] == "en, de" and table["audio"] == f"{RATE} Hz, normalised"
    assert table["tokenizer"] == "WordLevel, 40 tokens"


def test_frame_rate(folder, tmp_path):
    assert described(folder)["frames"] == "50 per second, each from 20.62 ms of sound"
    official = {"conv_kernels": (10, 3, 3, 3, 3, 2, 2), "conv_strides": (5, 2, 2, 2, 2, 2, 2)}
    encoder = replace(ENCODER, conv_channels=(4,) * 7, adapter_layers=3, **official)
    description = described(save(tmp_path / "adapter", encoder))
    assert (
        description["frames"]
        == "50 per second, each from 25 ms of sound; 6.25 per second after the adapter"
    )
    assert "encoder.adapter" in description


def test_ids_and_options(folder, tmp_path):
    table = described(folder)
    for text in [
        *["decoder_start_token_id=1 <s>", "pad_token_id=0 <pad>", "forced_bos_token_id=4 <de>"],
        *["bos_token_id=none", "forced_eos_token_id=none", "eos_token_id=(2, 9, 14, 21, 27, 33)"],
    ]:
        assert text in table["ids"]
    assert table["generation"] == "max_length=12, num_beams=3"
    table = described(save(tmp_path / "bare"))
    assert "decoder_start_token_id=none" in table["ids"] and table["generation"].startswith(
        "neutral"
    )
    assert (
        table["tokenizer"] == "none: ids instead of text"
        and table["audio"] == "16000 Hz, normalised"
    )
    assert table["languages"] == "one, nothing to choose"


def test_files(folder, tmp_path):
    table = described(folder)
    assert table["files"] == str(folder)
    for file in folder.iterdir():
        assert table[file.name] == f"{file.stat().st_size:,} bytes"
    tensors = load_file(folder / "model.safetensors")
    assert table["weights"] == f"model.safetensors: {len(tensors)} tensors, float64"
    shutil.copytree(folder, tmp_path / "half")
    half = {
        name: tensor.half() if "norm" in name else tensor.float()
        for name, tensor in tensors.items()
    }
    save_file(half, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    assert described(tmp_path / "half")["weights"].endswith(" tensors, float16, float32")


def test_lines_are_not_long(folder):
    assert max(map(len, info.describe_model(folder))) <= 110 * 6  # a text may take several lines
    assert all(
        len(line) <= 110 for text in info.describe_model(folder) for line in text.split("\n")
    )


# the map


def mapped(folder: Path) -> list[list[str]]:
    return [re.split(" {2,}", line) for line in info.tensor_map(folder)]


def test_map_has_every_tensor_of_both_sides(folder):
    header, *rows = mapped(folder)
    assert header == ["# theirs", "ours", "shape", "rule", "file"]
    theirs, ours = (
        load_file(folder / "model.safetensors"),
        nanos2t.load(folder, dtype="float64").model.state_dict(),
    )
    there = {row[0]: row for row in rows if row[4] != "-"}
    assert there.keys() == theirs.keys() and len({row[0] for row in rows}) == len(rows)
    for name, (_, our_name, shape, rule, dtype) in there.items():
        assert shape == " x ".join(map(str, theirs[name].shape)) and (rule, dtype) in {
            *[("copy", "float64"), ("optional", "float64")]
        }
        assert torch.equal(theirs[name], ours[our_name])
    assert [row[1] for row in rows if row[3] in ("copy", "optional")] == [*ours], (
        "in the order of our model"
    )
    rules = {row[0]: row[3] for row in rows}
    assert rules["decoder.cls.predictions.decoder.weight"] == "alias"
    assert rules["encoder.encoder.pos_conv_embed.conv.weight_g"] == "legacy"
    assert rules["encoder.masked_spec_embed"] == "optional"


def test_map_of_fused_and_transposed_tensors(folder, monkeypatch):
    """In a table like GPT-2's they keep three matrices in one, and as (in, out)."""
    rows = pretrained.table_rows(("wav2vec2", "bert"))
    rows = [
        row for row in rows if "decoder.blocks.{i}.self_attn." not in row[0] or "out_proj" in row[0]
    ]
    fused = remap.TensorRow(
        "decoder.blocks.{i}.self_attn.{q,k,v}_proj",
        "decoder.h.{i}.c_attn",
        frozenset({"transpose"}),
    )
    monkeypatch.setattr(pretrained, "table_rows", lambda families: [*rows, fused])
    lines = info.tensor_map(folder)
    row = next(line for line in lines if line.startswith("decoder.h.1.c_attn.weight"))
    ours = [f"decoder.blocks.1.self_attn.{part}_proj.weight" for part in "qkv"]
    assert re.split(" {2,}", row)[1:] == [", ".join(ours), "28 x 84", "transpose", "-"]


def test_map_of_files_with_more_and_with_less(run, folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    extra = {
        "encoder.lm_head.weight": torch.ones(3, 2),
        "decoder.bert.pooler.dense.bias": torch.ones(5),
    }
    save_file(tensors | extra, broken / "model.safetensors", {"format": "pt"})
    code, out, err = run(broken, "--map")
    rows = {line.split()[0]: re.split(" {2,}", line)[1:] for line in out}
    assert (code, err) == (0, []) and rows["encoder.lm_head.weight"] == [
        "-",
        "3 x 2",
        "drop",
        "float32",
    ]
    assert rows["decoder.bert.pooler.dense.bias"] == ["-", "5", "drop", "float32"]
    missing = "encoder.encoder.layer_norm.bias"
    del tensors[missing]
    save_file(
        tensors | {"encoder.other": torch.ones(4)}, broken / "model.safetensors", {"format": "pt"}
    )
    code, out, err = run(broken, "--map")
    rows = {line.split()[0]: re.split(" {2,}", line)[1:] for line in out}
    assert code == 3 and len(err) == 1 and missing in err[0] and rows[missing][-1] == "-"
    assert rows["encoder.other"] == ["-", "4", "no row", "float32"]
    os.unlink(broken / "model.safetensors")
    code, out, err = run(broken, "--map")
    rows = {line.split()[0]: re.split(" {2,}", line)[1:] for line in out}
    assert code == 3 and len(err) == 1 and "model.safetensors" in err[0]
    assert {row[-1] for row in rows.values()} == {"-", "file"} and rows["encoder.quantizer"][
        2
    ] == "drop"


# the command


def test_command(run, folder, tmp_path):
    code, out, err = run(folder)
    assert (code, err, out) == (0, [], "\n".join(info.describe_model(folder)).splitlines())
    assert run()[0] == 0 and run("--map")[0] == 0
    assert run(folder, "--map", "--trace", "a.wav")[0] == 2
    for more in [], ["--map"], ["--trace", "a.wav"]:
        code, out, err = run(tmp_path, *more)
        assert (code, out, len(err)) == (3, [], 1) and "config.json" in err[0]


def test_weights_stay_unread(run, folder, tmp_path):
    """A model of 8 GB, of which the disk holds only a header, is described at no cost."""
    huge = shutil.copytree(folder, tmp_path / "huge")
    config = json.loads((huge / "config.json").read_text())
    config["decoder"]["vocab_size"] = rows = 70_000_000
    (huge / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, tensor in load_file(folder / "model.safetensors").items():
        shape = [
            rows if size == 40 else size for size in tensor.shape
        ]  # the vocabulary had 40 tokens
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(huge / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KB
    code, out, err = run(huge)
    assert (code, err) == (0, []) and end > 8e9
    assert any(f"{end + 8 + len(text):,} bytes" in line for line in out)
    code, out, err = run(huge, "--map")
    assert (code, err) == (0, []) and any("70000000 x 28" in line for line in out)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
