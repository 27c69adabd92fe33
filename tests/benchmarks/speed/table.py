"""The lines of the two tables: limits, and times beside them."""

import statistics
from dataclasses import asdict, dataclass

# The ratios that were meant to be reached.
REACH = {
    "encode": {"fast": 1.2, "bfloat16": 2.2, "int8": 2.6},
    "greedy": {"fast": 1.65, "bfloat16": 3.2, "int8": 4.2},
    "beam": {"fast": 3.0, "bfloat16": 5.0, "int8": 5.5},
    "batch": {"fast": 2.0, "bfloat16": 2.5, "int8": 3.2},
    "cold": {"fast": 2.6, "bfloat16": 2.6, "int8": 2.2},
    "memory": {"fast": 1.25, "bfloat16": 1.5, "int8": 2.0},
    "train": {"core": 1.15},
}
HEADER = (
    f"\n{'row':28} {'side':22} {'median':>9}     {'ratio':>5} {'(lowest to highest)':20}"
    f" {'limit':>8} {'reached':>7}  tokens"
)


@dataclass(frozen=True)
class Line:
    """One side in one row: seconds or megabytes, and what is possible."""

    row: str
    side: str
    unit: str
    median: float
    ratio: float  # transformers' float32 / this side
    lowest: float  # of a turn
    highest: float
    limit: float | None  # the least that the hardware allows
    same: str  # how many tokens are those of transformers in float32
    reach: float | None

    def __str__(self) -> str:
        limit = " " * 16
        if self.limit is not None:
            limit = f"{self.limit:8.1f} {100 * self.limit / self.median:5.0f} %"
        turns = f"({self.lowest:.2f} to {self.highest:.2f})"
        reach = "" if self.reach is None else f"  reach {self.reach}"
        return (
            f"{self.row:28} {self.side:22} {self.median:9.1f} {self.unit:3} {self.ratio:5.2f}"
            f" {turns:20} {limit}  {self.same}{reach}"
        )

    def as_dict(self) -> dict:
        return asdict(self)


def make_line(
    row: tuple[str, str, str],
    side: str,
    values: dict[str, list[float]],
    limit: float | None = None,
    same: str = "",
) -> Line:
    """Return the line of a side; row: its key, name and unit; values: of every side, in turns."""
    key, name, unit = row
    theirs = values["transformers"]
    ratios = [first / second for first, second in zip(theirs, values[side])]
    median = statistics.median(values[side])
    return Line(
        row=name,
        side=side,
        unit=unit,
        median=median,
        ratio=statistics.median(theirs) / median,
        lowest=min(ratios),
        highest=max(ratios),
        limit=limit,
        same=same,
        reach=REACH[key].get(side),
    )
