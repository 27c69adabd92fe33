"""Tables of how often a model is right in hard conditions, with 95 % intervals."""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

BEGIN = "<!-- written by spoken_numbers.py evaluate --hard -->"
END = "<!-- end -->"


@dataclass
class Row:
    """One line: how many of `count` texts are right, and the wrong words in them."""

    condition: str
    right: int
    count: int
    words: int  # that were spoken
    substituted: int = 0
    deleted: int = 0
    inserted: int = 0


@dataclass
class LeftOut:
    """What a model that was trained without a person writes for this person, and for the others."""

    person: str
    unseen: Row
    known: Row


def wilson_interval(right: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    z = 1.96
    share = right / count
    centre = share + z**2 / (2 * count)
    width = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale)


def count_errors(expected: list[str], written: list[str]) -> tuple[int, int, int]:
    """Return how many words are substituted, deleted and inserted, as few as possible."""
    # best[j]: errors between the words of `expected` so far, and the first j of `written`.
    best = [(0, 0, j) for j in range(len(written) + 1)]
    for word in expected:
        previous = best
        substituted, deleted, inserted = previous[0]
        best = [(substituted, deleted + 1, inserted)]
        for j, other in enumerate(written):
            substituted, deleted, inserted = previous[j]
            choices = [(substituted + (word != other), deleted, inserted)]
            substituted, deleted, inserted = previous[j + 1]
            choices.append((substituted, deleted + 1, inserted))
            substituted, deleted, inserted = best[j]
            choices.append((substituted, deleted, inserted + 1))
            best.append(min(choices, key=sum))
    return best[-1]


def score_texts(condition: str, expected: list[str], written: list[str]) -> Row:
    """Compare the texts of a set word by word."""
    row = Row(condition, 0, len(expected), 0)
    for right_text, text in zip(expected, written):
        row.right += text == right_text
        row.words += len(right_text.split())
        substituted, deleted, inserted = count_errors(right_text.split(), text.split())
        row.substituted += substituted
        row.deleted += deleted
        row.inserted += inserted
    return row


def format_table(rows: list[Row]) -> str:
    """Return the table in Markdown. Errors are words in 100 that were spoken."""
    lines = [
        "| condition | count | exactly right | 95 % interval | substituted | deleted | inserted |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = wilson_interval(row.right, row.count)
        cells = [row.condition, f"{row.count}", f"{row.right / row.count:.3f}"]
        cells.append(f"{low:.3f} to {high:.3f}")
        for number in (row.substituted, row.deleted, row.inserted):
            cells.append(format_share(number, row.words))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def format_left_out(models: list[LeftOut]) -> str:
    """Return a table in Markdown with a row for each person, and one for all of them.

    Shares are means over the models that were trained without the person, `deviation` is the
    standard deviation of these models. The interval is that of one model with the mean share.
    """
    lines = [
        "| left out | models | exactly right | deviation | 95 % interval | the other people |",
        "|---|---|---|---|---|---|",
    ]
    people = {model.person: [] for model in models}
    for model in models:
        people[model.person].append(model)
    for person, own in people.items():
        lines.append(format_person(person, [own]))
    if len(people) > 1:
        lines.append(format_person("all, the mean", [*people.values()]))
    return "\n".join(lines) + "\n"


def format_person(name: str, people: list[list[LeftOut]]) -> str:
    """Return the row of a person, whose models are people[0], or of several people."""
    shares = [[model.unseen.right / model.unseen.count for model in own] for own in people]
    known = [
        statistics.fmean(model.known.right / model.known.count for model in own) for own in people
    ]
    share = statistics.fmean(map(statistics.fmean, shares))
    deviation = ""
    if min(map(len, shares)) > 1:
        deviation = f"{math.sqrt(statistics.fmean(map(statistics.variance, shares))):.3f}"

    # All models hear the same numbers of a person, so these count once.
    count = sum(own[0].unseen.count for own in people)
    low, high = wilson_interval(share * count, count)
    cells = [name, f"{sum(map(len, people))}", f"{share:.3f}", deviation]
    cells += [f"{low:.3f} to {high:.3f}", f"{statistics.fmean(known):.3f}"]
    return f"| {' | '.join(cells)} |"


def format_share(number: int, words: int) -> str:
    """Return a number per 100 words; nothing if no words were spoken."""
    if not words:
        return ""
    return f"{100 * number / words:.1f}"


def write_card(path: Path, table: str) -> None:
    """Replace what is between BEGIN and END in a model's card by a table."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: expected the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}", encoding="utf-8")
