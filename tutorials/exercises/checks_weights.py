"""Checks of exercises 13 and 14: alignment, and the weight map. See exercise.py."""

import numpy as np
import torch
from torch import Tensor

from exercises.inputs import draw
from nanos2t.remap import TensorRow, parse_table

TABLE = """
embed.tokens                        wte
blocks.{i}.norm                     h.{i}.ln
blocks.{i}.self_attn.{q,k,v}_proj   h.{i}.c_attn    transpose
blocks.{i}.mlp                      h.{i}.fc
blocks.{i}.mlp                      h.{i}.dense     legacy
spare                               spare           optional
embed.tokens                        lm_head         alias
-                                   h.{i}.mask      drop
"""


def check_dtw(function):
    clear = np.ones((4, 9))
    clear[[0, 0, 1, 1, 1, 2, 3, 3, 3], range(9)] = 0.1
    yield "a clear path", function(clear)
    yield "5 tokens, 9 frames of noise", function(draw(51, 5, 9).abs().numpy())
    yield "more tokens than frames", function(draw(52, 7, 3).abs().numpy())
    yield "one token", function(draw(53, 1, 4).abs().numpy())
    yield "ties", function(np.zeros((3, 3)))


def check_unfuse(function):
    matrix = [torch.zeros(4, 5)]
    copy = TensorRow("ours", "theirs")
    transpose = TensorRow("ours", "theirs", frozenset({"transpose"}))
    yield "one tensor", function(draw(54, 4, 5), matrix, copy, "file: w")
    yield "transpose", function(draw(55, 5, 4), matrix, transpose, "file: w")
    yield "transpose, a bias", function(draw(56, 5), [torch.zeros(5)], transpose, "file: b")
    fused = function(draw(57, 5, 12), matrix * 3, transpose, "file: w")
    yield "q, k and v in one, transpose", fused
    yield "another shape", function(draw(58, 5, 4), matrix, copy, "file: w")
    integers = torch.zeros(4, 5, dtype=torch.long)
    yield "whole numbers", function(integers, matrix, copy, "file: w")


def our_tensors() -> dict[str, Tensor]:
    tensors = {
        "embed.tokens.weight": torch.zeros(7, 4),
        "spare": torch.zeros(3),
        "blocks.1.mlp.weight": torch.zeros(5, 4),
        "blocks.1.norm.bias": torch.zeros(4),
    }
    for name in "q_proj", "k_proj", "v_proj":
        tensors[f"blocks.1.self_attn.{name}.weight"] = torch.zeros(4, 4)
    return tensors


def their_tensors() -> dict[str, Tensor]:
    return {
        "wte.weight": draw(59, 7, 4),
        "h.1.ln.bias": draw(60, 4),
        "h.1.c_attn.weight": draw(61, 4, 12),
        "h.1.fc.weight": draw(62, 5, 4),
        "lm_head.weight": draw(59, 7, 4),
        "spare": draw(63, 3),
        "h.1.mask": draw(64, 2, 2),
    }


def check_import_state(function):
    rows = parse_table(TABLE).tensors
    theirs = their_tensors()

    def load(*missing: str, **more: Tensor):
        tensors = {name: value for name, value in theirs.items() if name not in missing}
        return function(rows, tensors | more, our_tensors(), "file")

    yield "all tensors there", load()
    yield "without an optional one", load("spare")
    yield "only the alias there", load("wte.weight")
    yield "an older name", load("h.1.fc.weight", **{"h.1.dense.weight": draw(65, 5, 4)})
    yield "one missing", load("h.1.ln.bias")
    yield "an unknown one", load(**{"h.1.adapter": draw(66, 2)})
    yield "an alias with other values", load(**{"lm_head.weight": draw(67, 7, 4)})
