"""Damage of its own kind for model folders: fields that a file may have, and lies about sizes."""

import json
import pickle
import random

from nanos2t import remap
from nanos2t.halves import MODEL_TYPE
from tests.benchmarks.mutate_text import change_value, draw_value, mutate_json

# All keys that transformers' classes know, whether they are followed, harmless or refused.
GENERATION_KEYS = sorted({row.theirs for row in remap.read_table(MODEL_TYPE).config.values()})
PREPROCESSOR_KEYS = [
    *("do_normalize", "feature_size", "padding_side", "padding_value", "return_attention_mask"),
    *("sampling_rate", "chunk_length", "feature_extractor_type", "processor_class"),
]
KEYS = {
    "generation_config.json": GENERATION_KEYS,
    "preprocessor_config.json": PREPROCESSOR_KEYS,
}

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456\n"

# Names that an index of shards may give for a file.
SHARD_NAMES = [
    "../model.safetensors",
    "/etc/passwd",
    "",
    ".",
    "a/../../b",
    "config.json",
    "x" * 300,
]


def mutate_fields(draw: random.Random, data: bytes, others: list[bytes], keys: list[str]) -> bytes:
    """Set one to three of all fields that a file may have; sometimes change what is there, too."""
    if draw.random() < 0.2:
        return mutate_json(draw, data, others)
    tree = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 3])):
        value = draw_value(draw)
        if draw.random() < 0.4:
            # Values that options of a search often have.
            value = draw.choice([1, 2, 4, 9, 0.5, 1.5, [3], [[3, 4]], [1, 2], True, 60_000])
        tree[draw.choice(keys)] = value
    if draw.random() < 0.2:
        tree = change_value(draw, tree)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def mutate_index(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Let the index of shards name other files, or other tensors."""
    if draw.random() < 0.3:
        return mutate_json(draw, data, others)
    tree = json.loads(data)
    names = tree["weight_map"]
    for name in draw.sample(sorted(names), draw.choice([1, 2, len(names)])):
        names[name] = draw.choice(SHARD_NAMES)
    return json.dumps(tree).encode()


def lie_about_sizes(draw: random.Random, data: bytes) -> bytes:
    """Let a header of safetensors say other sizes and places than the file has, or be endless."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    start, end = entry["data_offsets"]
    kind = draw.randrange(5)
    if kind == 0:
        wrong = draw.choice([0, 1, size - 1, size + 1, len(data), 2**40, 2**63, 2**64 - 1])
        return wrong.to_bytes(8, "little") + data[8:]
    if kind == 1:
        wrong_places = [[end, start], [start, end + 4], [0, 2**62], [start + 4, end], [-4, end]]
        entry["data_offsets"] = draw.choice(wrong_places)
    elif kind == 2:
        entry["shape"] = draw.choice([[2**31, 2**31], [-1], [0], [1] * 70, [2**63], [1.5]])
    elif kind == 3:
        entry["dtype"] = draw.choice(["F128", "f32", "", 32, None])
    else:
        for number in range(draw.choice([1000, 30_000])):
            header[f"tensor.{number}"] = entry
    content = json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data[8 + size :]


def replace_whole(draw: random.Random) -> bytes:
    """Make something else than what the name of the file promises."""
    contents = [
        POINTER,
        b"",
        b"[]",
        b"null",
        b"PK\x03\x04",
        b"<!DOCTYPE html><html>404</html>",
        pickle.dumps({1: 2, 3: [4]}),
        b"\0" * 100_000,
    ]
    return draw.choice(contents)
