"""The halves that a model can be joined from: a speech encoder and a text decoder.

    config.json        read_half          the config of one half
    encoder_*=...      change_half        the same config with other values
    model.safetensors  read_half_weights  its tensors by our names in the pair

A half is alone in its folder, bare or with any head, or is a part of a pair.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nanos2t import remap, remap_config
from nanos2t.checkpoint import read_tensors
from nanos2t.files import read_json
from nanos2t.remap import Table, TensorRow

MODEL_TYPE = "speech-encoder-decoder"  # of a pair

# Ids that transformers reads from the config of a decoder, too.
DECODER_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# Parts that a half need not have, and what marks the names of their tensors. They are new then.
NEW_PARTS = {"cross-attention": ".cross_attn", "the adapter": ".adapter.", "the head": ".head."}

log = logging.getLogger("nanos2t")


@dataclass(frozen=True)
class Half:
    """The encoder or the decoder in a folder, which holds it alone or in a pair."""

    part: str  # "encoder" or "decoder"
    folder: Path
    config: Any  # what config.json says about this half: a dict, unless the file is damaged
    pair_config: dict[str, Any] | None = None  # the whole config.json of a pair
    changes: dict[str, Any] = field(default_factory=dict)  # what replaced values of config.json

    @property
    def where(self) -> str:
        """The beginning of an error message about a key of the config."""
        where = f"{self.folder / 'config.json'}: "
        if self.changes:
            where = f"{where}with {', '.join(f'{self.part}_{key}' for key in self.changes)}: "
        if self.pair_config is None:
            return where
        return f"{where}{self.part}."


# Configs


def read_half(folder: Path, part: str) -> Half:
    """Read the config of an encoder or decoder that is alone in its folder, or half of a pair."""
    config = read_json(folder / "config.json")
    # In a pair, the config of each half is an object inside that of the pair.
    if config.get("model_type") == MODEL_TYPE:
        return Half(part, folder, config.get(part), config)
    return Half(part, folder, config)


def split_options(
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split options into fields of the encoder, fields of the decoder, and all others.

    Fields begin with "encoder_" or "decoder_", which is removed.
    """
    fields = {"encoder_": {}, "decoder_": {}}
    others = {}
    for name, value in options.items():
        prefix = name[: len("encoder_")]
        if prefix in fields:
            fields[prefix][name.removeprefix(prefix)] = value
        else:
            others[name] = value
    return fields["encoder_"], fields["decoder_"], others


def change_half(half: Half, changes: Mapping[str, Any]) -> Half:
    """Replace values of a half's config.json. Raises ValueError, with those known, for a new key.

    Keys are those of transformers. A key that only training in transformers reads has no effect
    here, and is named in the log.
    """
    if not changes:
        return half
    table = remap.read_family_table(half.config, half.part, half.where)
    known = find_config_keys(table)
    for key, value in changes.items():
        name = f"{half.part}_{key}"
        if key not in known and (key not in half.config or key == "model_type"):
            expected = ", ".join(f"{half.part}_{key}" for key in sorted(known))
            raise ValueError(f"{half.where}has no field for {name}, expected one of {expected}")
        if key not in known and value != half.config[key]:
            log.warning("%s=%r has no effect: nothing here reads it", name, value)

    # JSON has lists where Python may have tuples.
    values = dict(changes)
    for key, value in changes.items():
        if isinstance(value, tuple):
            values[key] = list(value)
    # A second name in the file must not outlive a change of the first.
    config = remap_config.use_first_names(table.config, half.config)
    config |= remap_config.use_first_names(table.config, values)
    return replace(half, config=config, changes=values)


def find_config_keys(table: Table) -> set[str]:
    """Find the keys of a config.json that the table of its family reads or writes."""
    keys = set()
    for row in table.config.values():
        keys.update([row.theirs, row.second_name])
        # "if:add_adapter=false" reads a second key.
        if row.rule == "if":
            keys.add(row.switch[0])
    if table.part == "decoder":
        keys.update(DECODER_IDS)
    return keys - {"-", ""}


# Weights


def read_half_weights(half: Half, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the tensors of one half by their names in our pair. `ours`: those of the whole pair.

    Of NEW_PARTS each may be absent, but not a part of one: without the head of a language model
    there is no output matrix, for example. Other heads are left out, and named in the log. Raises
    ValueError, naming the file and tensor, for all else that is missing, misshapen or unknown.
    """
    path, theirs = read_tensors(half.folder)
    table = remap.read_table(half.config["model_type"])
    prefix = f"{half.part}."
    half_of_ours = select_prefix(ours, prefix)

    # Name the half's tensors as inside a pair, without "encoder." or "decoder." before them.
    if half.pair_config is not None:
        theirs = select_prefix(theirs, prefix)
    else:
        theirs = remap.inside_pair(leave_out_heads(theirs, table, path), table)
    if half.changes:
        theirs = leave_out_removed(theirs, table.tensors, half_of_ours, path)

    # A pair was trained with its head: it must be there.
    new_parts = dict(NEW_PARTS)
    if half.pair_config is not None:
        del new_parts["the head"]
    rows = []
    for row in table.tensors:
        if any(mark in f".{row.ours}" for mark in new_parts.values()):
            row = row.as_optional()
        rows.append(row)
    state = remap.import_state(rows, theirs, half_of_ours, str(path))

    # All of a part is there, or none of it.
    for part, mark in new_parts.items():
        names = [name for name in half_of_ours if mark in f".{name}"]
        missing = [name for name in names if name not in state]
        if missing and len(missing) < len(names):
            raise ValueError(
                f"{path}: {part} is there, but without {remap_config.shorten(missing)}"
            )
    return {prefix + name: value for name, value in state.items()}


def leave_out_heads(theirs: Mapping[str, Tensor], table: Table, path: Path) -> dict[str, Tensor]:
    """Leave out what lies outside the base model, unless a row reads it; the log names it.

    In a file of a model with a head, the names of the base model begin with the table's prefix:
    all others belong to heads, of which the table has the language model's.
    """
    base = f"{table.prefix}."
    if not any(name.startswith(base) for name in theirs):
        return dict(theirs)
    heads = [name for name in theirs if not name.startswith(base)]
    rows = [row for row in table.tensors if not row.is_dropped]
    foreign = set(remap.find_uncovered(rows, heads))
    if foreign:
        # Their modules, without ".weight" and ".bias".
        modules = dict.fromkeys(name.rpartition(".")[0] or name for name in sorted(foreign))
        log.warning(
            "%s: not read, outside the base model (%s*): %s", path, base, ", ".join(modules)
        )
    return {name: tensor for name, tensor in theirs.items() if name not in foreign}


def leave_out_removed(
    theirs: Mapping[str, Tensor], rows: list[TensorRow], ours: Iterable[str], path: Path
) -> dict[str, Tensor]:
    """Leave out the layers that a changed config no longer has; the log names them."""
    placed = {match.theirs for match in remap.match_rows(rows, ours)}
    unplaced = [name for name in theirs if name not in placed]
    # What has no row at all is no layer, and what a row allows to skip needs no mention.
    no_layers = set(remap.find_uncovered(rows, unplaced))
    removed = [name for name in remap.find_unknown(rows, unplaced) if name not in no_layers]
    if removed:
        log.warning(
            "%s: not read, the changed config has no place for %s",
            path,
            remap_config.shorten(removed),
        )
    return {name: tensor for name, tensor in theirs.items() if name not in removed}


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the tensors whose name begins with `prefix`, and remove it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
