"""Spell a given text with a model's vocabulary: every character of it, or an error that names it.

A tokenizer may write a text in another way (in lower case, with spaces around punctuation). What
its vocabulary lacks it replaces by a special token, or drops. The comparison here tells the one
from the other: it ignores white space, case and the several codes of Unicode for one character.
"""

import math
import unicodedata

from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription import alignment
from nanos2t.transcription.results import Word

# How some vocabularies write a space, as their normalizers do, too.
SPACE_SYMBOL = "\u2581"

# Characters without width, between letters or words: some normalizers write them as spaces.
ZERO_WIDTH = dict.fromkeys((0x200B, 0x200C, 0x200D, 0xFEFF), " ")


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the tokens of a text without the special ones that the tokenizer puts around it.

    Raises ValueError if they do not have all characters of the text: the message names the others.
    """
    # Of a character with an accent, vocabularies have the one code and not the two.
    text = unicodedata.normalize("NFC", text)
    try:
        tokens = drop_special(tokenizer, tokenizer.encode(text))
    except Exception as error:  # the Rust side raises no narrower class
        reason = f"({error}): it lacks {describe_missing(tokenizer, text)}"
        raise ValueError(f"the tokenizer cannot encode {text!r} {reason}") from None

    decoded = tokenizer.decode(tokens)
    if fold(decoded) != "".join(list_letters(tokenizer, word) for word in text.split()):
        missing = describe_missing(tokenizer, text)
        raise ValueError(f"the tokenizer spells {text!r} as {decoded!r}: it lacks {missing}")
    return tokens


def drop_special(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """Return the tokens that are text."""
    return [token for token in tokens if not alignment.is_special(tokenizer, token)]


def describe_missing(tokenizer: Tokenizer, text: str) -> str:
    """Name the words of a text that the vocabulary cannot spell, and their characters."""
    names = []
    for word in dict.fromkeys(text.split()):
        if is_spelled(tokenizer, word):
            continue
        characters = list(dict.fromkeys(word))
        missing = [character for character in characters if not is_spelled(tokenizer, character)]

        # Where no character is spelled by itself, the vocabulary has whole words.
        if not missing or len(missing) == len(characters):
            names.append(repr(word))
        else:
            names.append(f"{' and '.join(map(repr, missing))} of {word!r}")
    return ", ".join(names) or "tokens for these words together"


def is_spelled(tokenizer: Tokenizer, word: str) -> bool:
    """Return whether the tokens of a word have all of its characters."""
    try:
        decoded = tokenizer.decode(drop_special(tokenizer, tokenizer.encode(word)))
    except Exception:  # the Rust side raises no narrower class
        return False
    letters = list_letters(tokenizer, word)
    return letters != "" and fold(decoded) == letters


def list_letters(tokenizer: Tokenizer, word: str) -> str:
    """Return the characters of a word that its tokens must have, as `fold` writes them."""
    normalizer = tokenizer.backend.normalizer
    if normalizer is not None:
        word = normalizer.normalize_str(word).replace(SPACE_SYMBOL, " ")
    return fold(word)


def fold(text: str) -> str:
    """Return a text without white space, case and the several codes of one character."""
    text = unicodedata.normalize("NFKC", text.translate(ZERO_WIDTH)).casefold()
    return "".join(unicodedata.normalize("NFKC", text).split())


def restore_words(tokenizer: Tokenizer, text: str, decoded_words: list[Word]) -> list[Word]:
    """Return the words of a text, as the text spells them, timed by the decoded words.

    A tokenizer may decode one word as several, such as "forty - seven": they become one again, and
    its probability is their geometric mean. Or it decodes several as one, such as "bon !": they
    share its times. ValueError: a word of the text has no letters.
    """
    # For each letter the decoded word that it is in
    sources = []
    for i, word in enumerate(decoded_words):
        sources += [i] * len(fold(word.word))

    words = []
    num_spelled = 0
    for spelling in text.split():
        num_letters = len(list_letters(tokenizer, spelling))
        if not num_letters:
            raise ValueError(f"the tokenizer spells {spelling!r} as nothing, expected letters")
        own = sorted(set(sources[num_spelled : num_spelled + num_letters]))
        words.append(join_words(spelling, [decoded_words[i] for i in own]))
        num_spelled += num_letters
    return words


def join_words(spelling: str, parts: list[Word]) -> Word:
    """Return one word that lasts as long as its parts together."""
    start = min(part.start for part in parts)
    end = max(part.end for part in parts)
    probability = math.prod(part.probability ** (1 / len(parts)) for part in parts)
    return Word(start, end, spelling, probability)
