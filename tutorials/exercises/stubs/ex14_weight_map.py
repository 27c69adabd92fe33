"""Exercise 14: weight mapping

A checkpoint has the same tensors under other names, some of them fused or transposed. A
table says which is which, by rows (ours, theirs, flags).

`unfuse` splits one tensor of theirs into the one or several of ours that it holds, in
this order, and returns a tuple, also if it is one. They need not be equally high. If
`row.is_transposed`, a matrix is stored as (in, out), ours as (out, in) (a bias has one
dimension and stays as it is). Another shape is a ValueError, and so are whole numbers:
weights are floats. The message begins with `where`, the file and the tensor.

`import_state` fills all tensors of ours, without copies (by views of theirs), or raises
a ValueError that names the file (`where`) and the tensor: nothing else is skipped
silently, and one of ours that no row covers is missing. `theirs` stays as it is. A row may
be at most one of `row.is_alias` (a second name: it must be equal if both are there, and
fills in if the first is missing), `row.is_legacy` (an older name; with the new one there,
too, it is an error, even if they are equal), `row.is_optional` (may be absent from theirs,
and then from the result, or from ours, and then it is skipped) or `row.is_dropped` (theirs
only). The flags `fallback` and `override` are not part of this exercise.

Given: `match_rows(rows, ours)` yields (our names, their name, row) for each tensor,
aliases last; `compile_pattern(row.theirs).fullmatch(name)` tells whether a row covers a
name of theirs; `shorten(names)` lists names; `fuse(tensors, row)` is the reverse of
`unfuse`, and on the meta device gives the shape to expect. They are in the file of the
answer: `python -m pydoc nanos2t.remap.match_rows` shows what one says, and no code.

In the package this is in nanos2t/remap.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 14
Stuck: nanos2t exercises hint 14
"""

from collections.abc import Mapping

import torch
from torch import Tensor, equal

from nanos2t.remap import TensorRow, compile_pattern, fuse, match_rows
from nanos2t.remap_config import shorten


def unfuse(value: Tensor, ours: list[Tensor], row: TensorRow, where: str) -> tuple[Tensor, ...]:
    """Split a tensor of theirs into those of ours that it holds. Of `ours` only shapes are read.

    Raises ValueError, beginning with `where`, for another shape, or numbers that are not floats.
    """
    raise NotImplementedError("ex14")


def import_state(
    rows: list[TensorRow],
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    where: str = "state dict",
) -> dict[str, Tensor]:
    """Translate their state dict to ours, without copies. Of `ours` only names and shapes are read.

    Optional tensors may be absent on either side. Raises ValueError, naming `where` and the
    tensor, if one is missing, misshapen, unknown, or given twice.
    """
    raise NotImplementedError("ex14")
