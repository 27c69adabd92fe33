from torch import equal

from nanos2t.remap import compile_pattern, match_rows


def unfuse(value, ours, row, where):
    turned = row.is_transposed and value.ndim == 2
    shape = [sum(len(part) for part in ours), *ours[0].shape[1:]]
    expected = shape[::-1] if turned else shape
    if list(value.shape) != list(expected):
        raise ValueError(f"{where} has shape {tuple(value.shape)}, expected {tuple(expected)}")
    if not value.is_floating_point():
        raise ValueError(f"{where} is {value.dtype}, not float")
    if turned:
        value = value.t()
    parts = []
    first = 0
    for part in ours:
        parts.append(value[first : first + len(part)])
        first += len(part)
    return tuple(parts)


def import_state(rows, theirs, ours, where="state dict"):
    state = {}
    read = set()
    may_lack = set()
    for names, right, row in match_rows(rows, ours):
        if row.is_optional:
            may_lack.update(names)
        if right not in theirs:
            continue
        read.add(right)
        parts = unfuse(theirs[right], [ours[name] for name in names], row, f"{where}: {right}")
        for name, part in zip(names, parts):
            if name not in state:
                state[name] = part
            elif not row.is_alias or not equal(state[name], part):
                raise ValueError(f"{where}: {right} is a second tensor for our {name}")
    for name in ours:
        if name not in state and name not in may_lack:
            known = [
                right
                for names, right, row in match_rows(rows, ours)
                if name in names and not row.flags
            ]
            raise ValueError(f"{where}: nothing for our {name}, expected {' '.join(known)}")
    for name in theirs:
        covered = any(
            compile_pattern(row.theirs).fullmatch(name)
            for row in rows
            if row.is_dropped or row.is_optional
        )
        if name not in read and not covered:
            raise ValueError(f"{where}: no place in the model for {name}")
    return state
