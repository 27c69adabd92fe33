"""What a model's folder says about generation, checked before the first use."""

from pathlib import Path

from nanos2t.generation_config import override_options
from nanos2t.model import SpeechEncoderDecoder


def check_generation(model: SpeechEncoderDecoder, folder: Path) -> None:
    """ValueError naming file, key and value for a default of generation that the model can not follow."""
    path = folder / "generation_config.json"
    path = path if path.exists() else folder / "config.json"
    size = model.decoder.config.vocab_size
    for name, value in vars(model.generation).items():
        if (expected := problem(name, value, size)) is not None:
            raise ValueError(f"{path}: {name} is {value!r}, expected {expected}")
    try:
        override_options(model.generation, {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def problem(name: str, value: object, size: int) -> str | None:
    """What is expected of the option, if `value` is not that; ids are below `size`."""
    if name in ("max_length", "max_new_tokens", "min_new_tokens"):  # the core checks other numbers
        fine, expected = type(value) is int, "a whole number"
    elif name in (
        "eos_token_id",
        "bos_token_id",
    ):  # the vocabulary may lack them: they are never said then
        ids = value if isinstance(value, (list, tuple)) else [value]
        fine, expected = (
            all(type(one) is int and abs(one) < 2**31 for one in ids),
            "a token id, or a list",
        )
    elif name == "length_penalty":
        fine, expected = value == value, "a number"
    elif name == "suppress_tokens":
        fine, expected = is_ids(value, size), f"a list of token ids below {size}"
    elif name == "bad_words_ids":
        fine = isinstance(value, (list, tuple)) and all(
            is_ids(word, size) and word for word in value
        )
        expected = f"a list of lists of token ids below {size}"
    elif name == "lang_to_id":
        fine = isinstance(value, dict) and is_ids([*value.values()], size)
        expected = f"languages and their token ids below {size}"
    else:
        fine, expected = (
            not name.endswith("_token_id") or is_ids([value], size),
            f"a token id below {size}",
        )
    return None if fine or value is None else expected


def is_ids(value: object, size: int) -> bool:
    return isinstance(value, (list, tuple)) and all(
        type(one) is int and 0 <= one < size for one in value
    )
