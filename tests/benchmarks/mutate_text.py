"""Mutations that know JSON, and texts of lines and words such as vocabularies and tables."""

import copy
import json
import random

from tests.benchmarks.mutate_bytes import mutate_bytes

# Values of JSON that are often special.
VALUES = [
    *(None, True, False),
    *(0, 1, -1, 2, 3, 1000, 2**31, 2**63, -(2**63), 10**30),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")),
    *("", "x", "é\0\ud800", "y" * 70_000),
    *([], {}, [[]], [1, 2], ["a"], {"a": 1}),
    *("../x", "/etc/passwd"),
]

# Words and lines that mean something in one of the formats, or are odd in all of them.
WORDS = [
    *("", " ", "#", "\0", "\ufeff", "{i}", "{q,k}", "{", "}"),
    *("include bert", "include", "prefix", "[decoder]", "[ids]", "[x"),
    *("sqrt:x", "less:-1", "only:", "if:", "fourfold", "drop", "alias", "legacy"),
    *("-", ".*", "(", "null", "1e999", "9" * 5000, "ü" * 300),
    *("[UNK]", "[CLS]", "<s>", "##", "@@", "</w>", "\u2028", "a b c d e f g"),
]


# JSON


def mutate_json(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change one to four values; sometimes damage the bytes, or nest without end."""
    if draw.random() < 0.15:
        return mutate_bytes(draw, data, others)
    if draw.random() < 0.02:
        return b'{"a": ' + draw.choice([b"[", b'{"a": ']) * 100_000 + b"1"
    tree = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        tree = change_value(draw, tree)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def change_value(draw: random.Random, tree: object) -> object:
    """Return the tree with another value, key or order somewhere. The tree itself is changed."""
    places = list_places(tree)
    if not places:
        return draw_value(draw)

    # Often near the beginning: otherwise nearly all would be words of a vocabulary.
    container, key = draw.choice(places[: draw.choice([40, len(places)])])
    kind = draw.randrange(7)
    if kind < 3:
        container[key] = draw_value(draw)
    elif kind == 3 and type(container[key]) in (int, float):
        number = container[key]
        container[key] = draw.choice(
            [-number, number + 1, number - 1, number * 1000, float(number)]
        )
    elif kind == 4:
        other, other_key = draw.choice(places)
        swapped = json.loads(json.dumps([other[other_key], container[key]]))
        container[key], other[other_key] = swapped
    elif isinstance(container, dict):
        if kind == 5:
            value = container.pop(key)
            new_key = draw.choice([*container, "x", "", "model_type", "é" * 99])
            container[new_key] = value
        else:
            del container[key]
    else:
        container.insert(key, draw.choice([draw_value(draw), copy.deepcopy(container[key])]))
    return tree


def draw_value(draw: random.Random) -> object:
    return copy.deepcopy(draw.choice(VALUES))


def list_places(tree: object) -> list[tuple[dict | list, object]]:
    """Return the container and the key of every value in a tree."""
    pairs = ()
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, list):
        pairs = enumerate(tree)
    places = []
    for key, value in pairs:
        places.append((tree, key))
        places += list_places(value)
    return places


# Lines of words


def mutate_lines(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change one to five lines; sometimes damage the bytes."""
    if draw.random() < 0.1:
        return mutate_bytes(draw, data, others)
    lines = data.decode().split("\n")
    for _ in range(draw.choice([1, 1, 2, 5])):
        change_line(draw, lines)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def change_line(draw: random.Random, lines: list[str]) -> None:
    """Replace, insert, delete or change a line."""
    number = draw.randrange(len(lines))
    words = lines[number].split()
    kind = draw.randrange(6)
    if kind == 0:
        lines[number] = draw.choice(WORDS)
    elif kind == 1:
        lines.insert(number, draw.choice([*WORDS, *lines]))
    elif kind == 2 and len(lines) > 1:
        del lines[number]
    elif kind in (3, 4) and words:
        lines[number] = change_words(draw, words, lines, is_longer=kind == 4)
    elif lines[number]:
        lines[number] = change_character(draw, lines[number])


def change_words(draw: random.Random, words: list[str], lines: list[str], is_longer: bool) -> str:
    """Return a line with two more words, or with another word in the place of one."""
    if is_longer:
        return " ".join([*words[:-1], words[0], draw.choice(WORDS), words[-1]])
    first_word = draw.choice(lines).partition(" ")[0]
    word = draw.choice([*WORDS, first_word])
    words[draw.randrange(len(words))] = word
    return " ".join(words)


def change_character(draw: random.Random, line: str) -> str:
    """Return a line with a character that was inserted, or that replaces another one."""
    place = draw.randrange(len(line))
    character = draw.choice("{}[]#,.:=-\t\0éx")
    rest = line[place + draw.randrange(2) :]
    return line[:place] + character + rest
