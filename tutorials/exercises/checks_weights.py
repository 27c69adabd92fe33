"""Checks of exercises 13 and 14: alignment, and the weight map. See exercise.py."""

import numpy as np
import torch
from torch import Tensor

from exercises.exercise import Facts, Raised, type_fact
from exercises.inputs import Draw
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
PLACE = "model.bin"


def check_dtw(function, draw: Draw):
    clear = np.ones((4, 9))
    clear[[0, 0, 1, 1, 1, 2, 3, 3, 3], range(9)] = 0.1
    yield "a clear path", function(clear)
    yield "5 tokens, 9 frames of noise", function(draw(51, 5, 9).abs().numpy())
    yield "more tokens than frames", function(draw(52, 7, 3).abs().numpy())
    yield "one token", function(draw(53, 1, 4).abs().numpy())
    yield "one frame", function(draw(53, 4, 1).abs().numpy())
    yield "ties", function(np.zeros((3, 3)))
    yield "ties, more frames", function(np.zeros((2, 4)))
    yield "ties, more tokens", function(np.zeros((4, 2)))
    # On these tables nearly every other recurrence finds another path.
    yield "4 tokens, 6 frames of noise", function(draw(225, 4, 6).abs().numpy())
    yield "more noise", function(draw(265, 4, 6).abs().numpy())
    table = "32103 10133 30020 20032"
    whole = np.array([[float(digit) for digit in row] for row in table.split()])
    yield "small whole numbers", function(whole)
    yield "negative costs", function(draw(226, 4, 6).numpy())
    corner = np.zeros((4, 4))
    corner[:, 0] = -1
    corner[3] = -1
    yield "down the first frame, as many tokens as frames", function(corner)
    yield "1,500 frames", every_hundredth(function(np.ones((2, 1500))))


def every_hundredth(path: object):
    """Return a part of a long result, which is enough; a result of another form as it is."""
    return path[::100] if isinstance(path, np.ndarray) else path


# The weight map


def refusal(result: object, *names: str):
    """Add to a ValueError whether it says where: the file, and one of the names of the tensor."""
    if not isinstance(result, Raised) or not isinstance(result.error, ValueError):
        return result
    message = str(result.error)
    facts = {"the error names the file, given as `where`": PLACE in message}
    if names:
        has_name = any(name in message for name in names)
        facts["the error names the tensor"] = has_name
    return result, Facts(facts)


def refusal_of_one(result: object, where: str):
    """Add to a ValueError whether it begins with the file and the tensor."""
    if not isinstance(result, Raised) or not isinstance(result.error, ValueError):
        return result
    begins = str(result.error).startswith(where)
    return result, Facts({"the error begins with `where`": begins})


def tuple_fact(result: object):
    if isinstance(result, Raised):
        return result
    return Facts({"the result is a tuple": isinstance(result, tuple)})


def check_unfuse(function, draw: Draw):
    matrix = [torch.zeros(4, 5)]
    copy = TensorRow("ours", "theirs")
    transpose = TensorRow("ours", "theirs", frozenset({"transpose"}))
    where = f"{PLACE}: w"
    yield "one tensor", function(draw(54, 4, 5), matrix, copy, where)
    yield "transpose", function(draw(55, 5, 4), matrix, transpose, where)
    yield "transpose, a bias", function(draw(56, 5), [torch.zeros(5)], transpose, where)
    fused = function(draw(57, 5, 12), matrix * 3, transpose, where)
    yield "q, k and v in one, transpose", fused
    biases = [torch.zeros(6), torch.zeros(2), torch.zeros(3)]
    yield "three biases of other lengths", function(draw(82, 11), biases, transpose, where)
    heights = [torch.zeros(6, 3), torch.zeros(2, 3)]
    two = function(draw(83, 8, 3), heights, copy, where)
    yield "two matrices of other heights", two
    yield "the result of two", tuple_fact(two)
    yield "the result of one", tuple_fact(function(draw(54, 4, 5), matrix, copy, where))
    halves = function(draw(54, 4, 5).half(), matrix, copy, where)
    yield "float16", type_fact(halves, torch.float16)
    turned = function(draw(58, 5, 4), matrix, copy, where)
    yield "another shape", refusal_of_one(turned, where)
    wider = function(draw(58, 4, 6), matrix, copy, where)
    yield "another width", refusal_of_one(wider, where)
    turned = function(draw(58, 4, 5), matrix, transpose, where)
    yield "transpose, another shape", refusal_of_one(turned, where)
    for name, shape in ("wide", (8, 4)), ("high", (9, 3)), ("low", (7, 3)):
        refused = function(draw(94, *shape), heights, copy, where)
        yield f"two in one, which is too {name}", refusal_of_one(refused, where)
    for name, dtype in ("", torch.long), (" of 32 bits", torch.int), (" of 8 bits", torch.uint8):
        refused = function(torch.zeros(4, 5, dtype=dtype), matrix, copy, where)
        yield f"whole numbers{name}", refusal_of_one(refused, where)


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


def their_tensors(draw: Draw) -> dict[str, Tensor]:
    return {
        "wte.weight": draw(59, 7, 4),
        "h.1.ln.bias": draw(60, 4),
        "h.1.c_attn.weight": draw(61, 4, 12),
        "h.1.fc.weight": draw(62, 5, 4),
        "lm_head.weight": draw(59, 7, 4),
        "spare": draw(63, 3),
        "h.1.mask": draw(64, 2, 2),
    }


def check_import_state(function, draw: Draw):
    rows = parse_table(TABLE).tensors
    theirs = their_tensors(draw)
    ours = our_tensors()

    def load(*missing: str, **more: Tensor):
        tensors = {name: value for name, value in theirs.items() if name not in missing}
        return function(rows, tensors | more, ours, PLACE)

    everything = load()
    yield "all tensors there", everything
    yield "memory", share_facts(everything, theirs)
    given = dict(theirs)
    result = function(rows, given, ours, PLACE)
    is_kept = Facts({"their state dict is left as it was": list(given) == list(theirs)})
    yield "the caller's dict", result if isinstance(result, Raised) else is_kept
    yield "without an optional one", load("spare")
    yield "only the alias there", load("wte.weight")
    yield "no alias there", load("lm_head.weight")
    yield "an older name", load("h.1.fc.weight", **{"h.1.dense.weight": draw(65, 5, 4)})

    yield from check_import_errors(load, theirs, draw)
    ours = our_tensors() | {"extra.weight": torch.zeros(2)}
    yield "one of ours without a row", refusal(load(), "extra.weight")
    ours = our_tensors()
    del ours["spare"]
    yield "an optional one that ours lacks", load()


def check_import_errors(load, theirs: dict[str, Tensor], draw: Draw):
    """Load what must be refused: load(name, ...) lacks these tensors, load(**more) has others."""
    missing = refusal(load("h.1.ln.bias"), "h.1.ln.bias", "blocks.1.norm.bias")
    yield "one missing", missing
    unknown = load(**{"h.1.adapter": draw(66, 2)})
    yield "an unknown one", refusal(unknown, "h.1.adapter")
    unknown = load(**{"h.2.ln.bias": draw(92, 4)})
    yield "one of a block that ours lacks", refusal(unknown, "h.2.ln.bias")
    embeddings = ("lm_head.weight", "wte.weight", "embed.tokens.weight")
    missing = load("lm_head.weight", "wte.weight")
    yield "neither the first name nor its alias", refusal(missing, *embeddings)
    for name in "h.1.masked", "other.h.1.mask":
        result = refusal(load(**{name: draw(93, 2, 2)}), name)
        yield f"{name}, where h.1.mask is dropped", result
    unequal = load(**{"lm_head.weight": draw(67, 7, 4)})
    yield "an alias with other values", refusal(unequal, *embeddings)
    close = load(**{"lm_head.weight": theirs["wte.weight"] * (1 + 1e-7)})
    yield "an alias with nearly the same values", refusal(close, *embeddings)
    names = ("h.1.dense.weight", "h.1.fc.weight", "blocks.1.mlp.weight")
    yield "neither the new nor the older name", refusal(load("h.1.fc.weight"), *names)
    # The values are equal, but which of the names is meant?
    both = load(**{"h.1.dense.weight": theirs["h.1.fc.weight"].clone()})
    yield "the new and the older name at once", refusal(both, *names)
    both = load(**{"h.1.dense.weight": draw(85, 5, 4)})
    yield "the older name with other values", refusal(both, *names)
    misshapen = load(**{"h.1.ln.bias": draw(84, 5)})
    yield "one of another shape", refusal(misshapen, "h.1.ln.bias", "blocks.1.norm.bias")
    misshapen = load(spare=draw(63, 4))
    yield "an optional one of another shape", refusal(misshapen, "spare")


def share_facts(state: object, theirs: dict[str, Tensor]) -> Facts | Raised:
    """Return whether the tensors of a state dict are theirs, or views of theirs."""
    known = {value.untyped_storage().data_ptr() for value in theirs.values()}
    if isinstance(state, Raised):
        return state
    is_shared = isinstance(state, dict)
    if is_shared:
        tensors = [value for value in state.values() if isinstance(value, Tensor)]
        is_shared = all(value.untyped_storage().data_ptr() in known for value in tensors)
    return Facts({"no tensor is copied": is_shared})
