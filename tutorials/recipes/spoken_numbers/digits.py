"""Numbers as digits and as texts in nine languages."""

from functools import lru_cache

import numpy as np

LANGUAGES = ("verbatim", "en", "de", "fr", "es", "it", "nl", "pt", "da")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Digits = tuple[int, ...]


@lru_cache(None)
def spell(digits: Digits, language: str) -> str:
    """Write a number in words, with num2words; "verbatim" writes the digits one by one.

    (2, 4, 7) is "zweihundertsiebenundvierzig" in "de" and "two four seven" in "verbatim".
    """
    if language == "verbatim":
        return " ".join(DIGITS[digit] for digit in digits)
    from num2words import num2words

    if not digits:
        return ""
    return num2words(int("".join(map(str, digits))), lang=language)


def spell_all(digits: Digits) -> dict[str, str]:
    """Return the text in each language. Digits that form no number, "zero four", are only
    verbatim.
    """
    is_number = len(digits) < 2 or digits[0] != 0
    languages = LANGUAGES if is_number else ("verbatim",)
    return {language: spell(digits, language) for language in languages}


def draw_digits(rng: np.random.Generator, max_digits: int, empty: float = 0.02) -> Digits:
    """Draw a number of up to `max_digits` digits without leading zeros.

    Sometimes the digits are any at all. In a share `empty` there are none, which is silence.
    """
    # Longer numbers are more likely: the probability is proportional to the length.
    lengths = np.arange(1, max_digits + 1)
    count = int(rng.choice(lengths, p=lengths / lengths.sum()))

    if rng.random() < empty:
        return ()
    if count > 1 and rng.random() < 0.15:
        return tuple(int(digit) for digit in rng.integers(0, 10, count))
    smallest = 0 if count == 1 else 1
    first = rng.integers(smallest, 10)
    others = rng.integers(0, 10, count - 1)
    return (int(first), *(int(digit) for digit in others))
