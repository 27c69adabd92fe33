"""Compare pages of lessons: the text exactly, printed numbers nearly."""

import re

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def is_near(first: str, second: str) -> bool:
    """Whether two printed numbers are the same but for rounding, on another machine too.

    They may differ by 2 %, by two in the last digit that is printed, or if both are below 1e-5.
    """
    last_digit = 0.0
    if "." in first and "e" not in first:
        last_digit = 2.1 * 10.0 ** -len(first.partition(".")[2])
    a = float(first)
    b = float(second)
    return abs(a - b) <= max(0.02 * max(abs(a), abs(b)), last_digit, 1e-5)


def differences(first: str, second: str, with_numbers: bool = True) -> list[str]:
    """Return the lines in which two printed texts differ; spaces between words do not count."""
    lines = first.splitlines()
    others = second.splitlines()
    if len(lines) != len(others):
        return [f"{len(lines)} lines and {len(others)} lines"]
    result = []
    for line, other in zip(lines, others):
        same = " ".join(NUMBER.sub("0", line).split()) == " ".join(NUMBER.sub("0", other).split())
        if same and with_numbers:
            same = all(map(is_near, NUMBER.findall(line), NUMBER.findall(other)))
        if not same:
            result.append(f"{line!r} and {other!r}")
    return result
