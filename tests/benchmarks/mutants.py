"""Damaged files for fuzz.py: seeds of every kind that nanos2t reads, and mutations of them by
number.

`build` writes the seeds once; `Mutants(folder, seed)[index]` is then the same bytes whoever asks,
and knows nothing of the inputs before it. Some mutations know the format and leave its header
whole, others are blind.
"""

import copy
import io
import json
import os
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import soundfile
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.pairs import ADAPTER, spread_
from helpers.tiny import LANGUAGES, save_tiny
from helpers.vocabularies import bert, fast_bpe, gpt2, mbart50

from nanos2t import audio
from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import BUNDLED

ROOT = Path(__file__).parents[2]
SIZES = {
    "hidden_size": 28,
    "num_layers": 1,
    "num_heads": 4,
    "intermediate_size": 33,
    "max_positions": 37,
}
SOUNDS = [  # format, subtype, rate, channels
    ("WAV", "PCM_16", 8000, 1), ("WAV", "FLOAT", 11_025, 2), ("WAV", "PCM_U8", 8000, 1),
    ("WAV", "IMA_ADPCM", 8000, 1), ("WAV", "GSM610", 8000, 1), ("WAVEX", "PCM_24", 16_000, 2),
    ("FLAC", "PCM_16", 16_000, 1), ("FLAC", "PCM_24", 8000, 2), ("OGG", "VORBIS", 16_000, 1),
    ("OGG", "OPUS", 16_000, 1), ("MP3", "MPEG_LAYER_III", 16_000, 1), ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ("AIFF", "PCM_16", 8000, 1), ("AU", "ULAW", 8000, 1), ("CAF", "ALAC_16", 8000, 1),
    ("W64", "PCM_16", 8000, 1),
]  # fmt: skip
SHARES = {"audio": 35, "config": 22, "weights": 15, "tokenizer": 20, "table": 8}  # of 100 inputs


@dataclass(frozen=True)
class Mutant:
    """A damaged file: the `content` that stands in the place of `file` of the seed folder `base`.
    """

    kind: str
    base: str
    file: str
    content: bytes


# seeds


def build(folder: Path) -> None:
    """Audio of the bundled sample and of a synthesis, models of five sorts, the tables."""
    write_sounds(folder / "audio")
    ids = {
        "lang_to_id": LANGUAGES,
        "forced_bos_token_id": 4,
        "num_beams": 2,
        "no_repeat_ngram_size": 3,
    }
    save_tiny(folder / "json", **ids)
    gpt = {"pre_norm": True, "embed_norm": False, "activation": "gelu_tanh", "pad_token_id": None}
    bart = {"position_offset": 2, "embed_scale": 28**0.5, "pre_norm": True}
    families = {  # the files of its vocabulary, and how many tokens they have
        "bert": (bert, DecoderConfig.bert(2500, **SIZES)),
        "gpt2": (gpt2, DecoderConfig(1501, **SIZES, **gpt)),
        "mbart": (mbart50, DecoderConfig(1460, **SIZES, **bart)),
        "s2t": (fast_bpe, DecoderConfig.bert(160, **SIZES)),
    }
    for name, (vocabulary, decoder) in families.items():
        generation = GenerationConfig(
            decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, max_length=9
        )
        model = spread_(SpeechEncoderDecoder.from_configs(ADAPTER, decoder, generation))
        model.save_pretrained(folder / name)
        vocabulary(folder / name)
        (folder / name / "preprocessor_config.json").write_text(
            '{"sampling_rate": 8000, "chunk_length": 20}'
        )
    tensors = load_file(folder / "gpt2/model.safetensors")
    (folder / "gpt2/model.safetensors").unlink()
    torch.save(tensors, folder / "gpt2/pytorch_model.bin")
    tensors = load_file(folder / "s2t/model.safetensors")
    (folder / "s2t/model.safetensors").unlink()
    torch.save(tensors, folder / "s2t/pytorch_model.bin", _use_new_zipfile_serialization=False)
    shard(folder / "mbart")
    shutil.copytree(ROOT / "weights_map", folder / "tables", ignore=shutil.ignore_patterns("*.md"))


def shard(folder: Path) -> None:
    """A model of one file as one of two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    files = {
        name: f"model-0000{1 + i % 2}-of-00002.safetensors"
        for i, name in enumerate(sorted(tensors))
    }
    for file in {*files.values()}:
        save_file({name: tensors[name] for name in files if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "model.safetensors").unlink()


def write_sounds(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, (kind, subtype, rate, channels) in enumerate(SOUNDS):
        sample = audio.load_audio(BUNDLED.parent / "sample.wav", rate)[: rate * 3 // 2]
        times = np.arange(rate // 2) / rate
        tone = 0.3 * np.sin(2 * np.pi * 440 * times) + 0.01 * np.random.default_rng(
            number
        ).standard_normal(rate // 2)
        sound = np.repeat(np.concatenate([sample, tone])[:, None], channels, 1)
        path = folder / f"{number:02}-{subtype.lower()}.{kind.lower()}"
        with soundfile.SoundFile(path, "w", rate, channels, subtype, format=kind) as file:
            for start in range(0, len(sound), 4096):
                file.write(sound[start : start + 4096])


# mutations of bytes


WORDS = [
    0,
    1,
    2,
    3,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
]


def flip(draw: random.Random, data: bytearray, at: int, others: list[bytes]) -> None:
    data[at] ^= 1 << draw.randrange(8)


def poke(draw: random.Random, data: bytearray, at: int, others: list[bytes]) -> None:
    """A number that is often special, in 1 to 8 bytes, in either order."""
    size = draw.choice([1, 2, 4, 8])
    number = draw.choice([draw.choice(WORDS), draw.randrange(2 ** (8 * size))]) % 2 ** (8 * size)
    data[at : at + size] = number.to_bytes(size, draw.choice(["big", "little"]))


def drop(draw: random.Random, data: bytearray, at: int, others: list[bytes]) -> None:
    del data[at : at + draw.choice([1, 4, 64, 1000])]


def repeat(draw: random.Random, data: bytearray, at: int, others: list[bytes]) -> None:
    size = draw.choice([1, 4, 64, 1000])
    data[at:at] = data[at : at + size] * draw.choice([1, 1, 1, 50])


def blank(draw: random.Random, data: bytearray, at: int, others: list[bytes]) -> None:
    size = min(draw.choice([4, 64, 1000]), len(data) - at)
    data[at : at + size] = bytes([draw.choice([0, 255, 32])]) * size


def noise(draw: random.Random, data: bytearray, at: int, others: list[bytes]) -> None:
    size = min(draw.choice([4, 64, 1000]), len(data) - at)
    data[at : at + size] = draw.randbytes(size)


def cut(draw: random.Random, data: bytearray, at: int, others: list[bytes]) -> None:
    del data[max(1, at) :]


def splice(draw: random.Random, data: bytearray, at: int, others: list[bytes]) -> None:
    """It goes on as another file does."""
    other = draw.choice(others)
    data[at:] = other[at * len(other) // max(1, len(data)) :]


BYTES = [flip, flip, flip, poke, poke, poke, drop, repeat, blank, noise, cut, splice]


def of_bytes(draw: random.Random, data: bytes, others: list[bytes] = (), header: int = 0) -> bytes:
    """One to four mutations behind the first `header` bytes, or often among the first hundred
    behind.
    """
    found = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        if len(found) > header:
            near = min(len(found), header + 100) if draw.random() < 0.3 else len(found)
            draw.choice(BYTES)(draw, found, draw.randrange(header, near), list(others) or [data])
    return bytes(found)


def of_audio(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    return of_bytes(draw, data, others, draw.choice([0, 12, 64, min(4096, len(data) // 2)]))


# mutations of JSON


VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 1000, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), "", "x", "é\0\ud800", "y" * 70_000, [], {}, [[]], [1, 2], ["a"], {"a": 1},
    "../x", "/etc/passwd",
]  # fmt: skip


def any_value(draw: random.Random) -> object:
    return copy.deepcopy(draw.choice(VALUES))


def places(tree: object) -> list[tuple[dict | list, object]]:
    """Every (container, key) in it."""
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [place for key, value in pairs for place in [(tree, key), *places(value)]]


def change(draw: random.Random, tree: object) -> object:
    """One value, key or place of it differs."""
    if not (found := places(tree)):
        return any_value(draw)
    within, key = draw.choice(found[: draw.choice([40, len(found)])])  # a vocabulary is not all
    kind = draw.randrange(7)
    if kind < 3:
        within[key] = any_value(draw)
    elif kind == 3 and type(within[key]) in (int, float):
        within[key] = draw.choice(
            [-within[key], within[key] + 1, within[key] - 1, within[key] * 1000, float(within[key])]
        )
    elif kind == 4:
        other, there = draw.choice(found)
        within[key], other[there] = json.loads(json.dumps([other[there], within[key]]))
    elif kind == 5 and isinstance(within, dict):
        within[draw.choice([*within, "x", "", "model_type", "é" * 99])] = within.pop(key)
    elif isinstance(within, dict):
        del within[key]
    else:
        within.insert(key, draw.choice([any_value(draw), copy.deepcopy(within[key])]))
    return tree


def of_json(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    if draw.random() < 0.15:
        return of_bytes(draw, data, others)
    if draw.random() < 0.02:
        return b'{"a": ' + draw.choice([b"[", b'{"a": ']) * 100_000 + b"1"
    tree = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        tree = change(draw, tree)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


# mutations of weights


def of_safetensors(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    size = int.from_bytes(data[:8], "little")
    kind = draw.random()
    if kind < 0.5:
        header = json.loads(data[8 : 8 + size])
        if kind < 0.15:  # still valid: another type, shape or name of the same bytes
            entry = header[name := draw.choice([name for name in header if name != "__metadata__"])]
            bits = {
                "BF16": 2,
                "F16": 2,
                "I16": 2,
                "U8": 1,
                "BOOL": 1,
                "I32": 4,
                "F64": 8,
                "I64": 8,
                "F8_E4M3": 1,
            }
            entry["dtype"] = draw.choice(list(bits))
            span = entry["data_offsets"][1] - entry["data_offsets"][0]
            entry["shape"] = (
                [span // bits[entry["dtype"]]] if draw.random() < 0.5 else entry["shape"][::-1]
            )
            header[draw.choice([name, f"{name}.x", ""])] = header.pop(name)
        else:
            header = change(draw, header)
        header = json.dumps(header).encode("utf-8", "surrogatepass")
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    return of_bytes(draw, data, others, 8 + size if kind < 0.85 else 0)


class Evil:
    """A pickle of it runs a command, if it is let."""

    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


def of_pickle(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    if draw.random() < 0.1:
        call = draw.choice(
            [(os.system, "touch ran"), (eval, "open('ran', 'w')"), (os.mkdir, "ran"), (exec, "1/0")]
        )
        torch.save({"a": torch.ones(2), "b": Evil(*call)}, written := io.BytesIO(),
                   _use_new_zipfile_serialization=draw.random() < 0.5)  # fmt: skip
        return written.getvalue()
    if not zipfile.is_zipfile(io.BytesIO(data)) or draw.random() < 0.25:
        return of_bytes(draw, data, others, draw.choice([0, 60, len(data) // 2]))
    written, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(data))
    names = old.namelist()
    chosen = draw.choice(
        [next(name for name in names if name.endswith("data.pkl")), draw.choice(names)]
    )
    with zipfile.ZipFile(written, "w") as new:
        for name in names:
            content = old.read(name)
            new.writestr(name, of_bytes(draw, content) if name == chosen and content else content)
    return written.getvalue()


# mutations of lines


ODD = [
    "", " ", "#", "\0", "\ufeff", "{i}", "{q,k}", "{", "}", "include bert", "include", "prefix", "[decoder]",
    "[ids]", "[x", "sqrt:x", "less:-1", "only:", "if:", "fourfold", "drop", "alias", "legacy", "-", ".*", "(",
    "null", "1e999", "9" * 5000, "ü" * 300, "[UNK]", "[CLS]", "<s>", "##", "@@", "</w>", "\u2028",
    "a b c d e f g",
]  # fmt: skip


def of_lines(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    if draw.random() < 0.1:
        return of_bytes(draw, data, others)
    lines = data.decode().split("\n")
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = draw.randrange(len(lines))
        words = lines[at].split()
        kind = draw.randrange(6)
        if kind == 0:
            lines[at] = draw.choice(ODD)
        elif kind == 1:
            lines.insert(at, draw.choice([*ODD, *lines]))
        elif kind == 2 and len(lines) > 1:
            del lines[at]
        elif kind == 3 and words:
            words[draw.randrange(len(words))] = draw.choice(
                [*ODD, draw.choice(lines).partition(" ")[0]]
            )
            lines[at] = " ".join(words)
        elif kind == 4 and words:
            lines[at] = " ".join([*words[:-1], words[0], draw.choice(ODD), words[-1]])
        elif lines[at]:
            where = draw.randrange(len(lines[at]))
            lines[at] = (
                lines[at][:where]
                + draw.choice("{}[]#,.:=-\t\0éx")
                + lines[at][where + draw.randrange(2) :]
            )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def of_sentencepiece(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    return of_bytes(draw, data, others, draw.choice([0, 3, 100, len(data) // 2]))


def maker(kind: str, name: str) -> Callable[[random.Random, bytes, list[bytes]], bytes]:
    """What damages a file of this kind and name."""
    if kind in ("audio", "table"):
        return of_audio if kind == "audio" else of_lines
    ends = {
        ".json": of_json,
        ".txt": of_lines,
        ".model": of_sentencepiece,
        ".safetensors": of_safetensors,
    }
    return ends.get(Path(name).suffix, of_pickle)


def kind_of(base: str, name: str) -> str:
    if base in ("audio", "tables"):
        return base.removesuffix("s")
    if name.endswith((".safetensors", ".bin", ".index.json")):
        return "weights"
    return (
        "tokenizer"
        if name.startswith(("tok", "vocab", "merges", "sentence", "special"))
        else "config"
    )


class Mutants:
    """`self[index]`: the mutant of that number. Seeds are those that `build` has written."""

    def __init__(self, folder: Path, seed: int):
        self.seed, self.files = seed, {kind: [] for kind in SHARES}
        for path in sorted(folder.glob("*/*")):
            kind = kind_of(path.parent.name, path.name)
            self.files[kind].append((path.parent.name, path.name, path.read_bytes()))

    def __getitem__(self, index: int) -> Mutant:
        draw = random.Random(f"{self.seed} {index}")
        [kind] = draw.choices(list(SHARES), list(SHARES.values()))
        base, name, content = draw.choice(self.files[kind])
        others = [
            other for _, file, other in self.files[kind] if Path(file).suffix == Path(name).suffix
        ]
        return Mutant(kind, base, name, maker(kind, name)(draw, content, others))


def is_past_header(mutant: Mutant) -> bool:
    """Whether the outermost format is whole: the damage, if any, is found behind it."""
    content, end = mutant.content, Path(mutant.file).suffix
    try:
        if mutant.kind == "audio":
            soundfile.SoundFile(io.BytesIO(content)).close()
        elif end == ".json":
            return isinstance(json.loads(content), dict)
        elif end == ".safetensors":
            safetensors.deserialize(content)
        elif end == ".bin":
            return content[:1] == b"\x80" or any(
                "data.pkl" in name for name in zipfile.ZipFile(io.BytesIO(content)).namelist()
            )
        elif end == ".model":
            from sentencepiece import SentencePieceProcessor

            SentencePieceProcessor(model_proto=content)
        else:
            content.decode()
    except Exception:
        return False
    return True
