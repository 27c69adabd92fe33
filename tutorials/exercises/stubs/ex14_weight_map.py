"""Exercise 14 of 14: weight mapping

A checkpoint has the same tensors under other names, some of them fused or transposed. A table says
which is which: rows (ours, theirs, words). `split` makes one tensor of theirs into the one or
several of ours that it holds: with "transpose" among the words it is stored as (in, out), the other
way round than ours (a bias has one dimension and stays), and several of ours stand one behind the
other.
`load` fills all tensors of ours, or raises a ValueError that names the tensor: nothing is ever
skipped in silence. Words: "alias" (a second name: must be equal if both are there, fills in if the
first is not), "legacy" (an older name), "optional" (may be absent), "drop" (theirs only).
Given: `match_rows(rows, ours)` yields (our names, their name, words) for each tensor, aliases last;
`pattern(theirs).fullmatch(name)` tells whether a row covers a name of theirs; `some(names)` lists
names; `fuse(parts, words)` is `unfuse` backwards, and on the meta device tells the shape to
expect.

In the package this stands in nanos2t/remap.py; try it before you look.
Check it: nanos2t exercises 14    Stuck: nanos2t exercises hint 14
"""

from collections.abc import Mapping

import torch
from torch import Tensor, equal

from nanos2t.remap import Row, Words, fuse, match_rows, pattern
from nanos2t.remap_config import shorten


def unfuse(value: Tensor, ours: list[Tensor], words: Words, where: str) -> tuple[Tensor, ...]:
    """A tensor of theirs as the tensors of ours that it holds; ValueError if it has not their shape."""
    raise NotImplementedError("ex14")


def import_state(
    rows: list[Row],
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    where: str = "state dict",
) -> dict[str, Tensor]:
    """Their state dict -> ours, as views, optional ones if there. Of `ours` only names and shapes are read.
    ValueError, naming `where` and the tensor, if one is missing, misshapen, unknown, or given twice."""
    raise NotImplementedError("ex14")
