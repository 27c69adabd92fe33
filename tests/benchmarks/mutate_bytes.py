"""Blind mutations of bytes: of bits, numbers and stretches, by a random generator."""

import random
from collections.abc import Callable

# Numbers that are often special.
SPECIAL_NUMBERS = [
    *(0, 1, 2, 3, 7),
    *(0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1),
]


def mutate_bytes(
    draw: random.Random, data: bytes, others: list[bytes] = (), header_size: int = 0
) -> bytes:
    """Mutate one to four places after the header, often in its first hundred bytes."""
    mutated = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        if len(mutated) > header_size:
            end = len(mutated)
            if draw.random() < 0.3:
                end = min(end, header_size + 100)
            mutate = draw.choice(MUTATIONS)
            place = draw.randrange(header_size, end)
            mutate(draw, mutated, place, list(others) or [data])
    return bytes(mutated)


# Each mutation gets the generator, the data that it changes, a place in it, and other files.


def flip_bit(draw: random.Random, data: bytearray, place: int, others: list[bytes]) -> None:
    data[place] ^= 1 << draw.randrange(8)


def write_number(draw: random.Random, data: bytearray, place: int, others: list[bytes]) -> None:
    """Write a number in 1 to 8 bytes, in either order."""
    size = draw.choice([1, 2, 4, 8])
    largest = 2 ** (8 * size)
    number = draw.choice([draw.choice(SPECIAL_NUMBERS), draw.randrange(largest)]) % largest
    data[place : place + size] = number.to_bytes(size, draw.choice(["big", "little"]))


def delete(draw: random.Random, data: bytearray, place: int, others: list[bytes]) -> None:
    size = draw.choice([1, 4, 64, 1000])
    del data[place : place + size]


def repeat(draw: random.Random, data: bytearray, place: int, others: list[bytes]) -> None:
    size = draw.choice([1, 4, 64, 1000])
    data[place:place] = data[place : place + size] * draw.choice([1, 1, 1, 50])


def fill(draw: random.Random, data: bytearray, place: int, others: list[bytes]) -> None:
    size = min(draw.choice([4, 64, 1000]), len(data) - place)
    data[place : place + size] = bytes([draw.choice([0, 255, 32])]) * size


def write_noise(draw: random.Random, data: bytearray, place: int, others: list[bytes]) -> None:
    size = min(draw.choice([4, 64, 1000]), len(data) - place)
    data[place : place + size] = draw.randbytes(size)


def truncate(draw: random.Random, data: bytearray, place: int, others: list[bytes]) -> None:
    del data[max(1, place) :]


def splice(draw: random.Random, data: bytearray, place: int, others: list[bytes]) -> None:
    """Go on as another file does, from the same part of it."""
    other = draw.choice(others)
    data[place:] = other[place * len(other) // max(1, len(data)) :]


Mutation = Callable[[random.Random, bytearray, int, list[bytes]], None]

# Those that are listed several times are drawn more often.
MUTATIONS: list[Mutation] = [
    *(flip_bit, flip_bit, flip_bit),
    *(write_number, write_number, write_number),
    *(delete, repeat, fill, write_noise, truncate, splice),
]
