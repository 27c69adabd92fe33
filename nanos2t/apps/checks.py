"""What a model's folder says about generation, checked before the first use."""

from dataclasses import fields
from pathlib import Path

from nanos2t.generate import GenerationConfig, with_options
from nanos2t.model import SpeechEncoderDecoder

COUNTS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences",
          "no_repeat_ngram_size", "top_k")
ENDS = ("eos_token_id", "bos_token_id")  # one that the vocabulary lacks is never said, which is no harm

def check_generation(model: SpeechEncoderDecoder, folder: Path) -> None:
    """ValueError naming file, key and value for a default of generation that the model can not follow."""
    path = folder / "generation_config.json"
    path = path if path.exists() else folder / "config.json"
    size = model.decoder.config.vocab_size
    for field in fields(GenerationConfig):
        value = getattr(model.generation, field.name)
        if (expected := problem(field.name, value, size)) is not None:
            raise ValueError(f"{path}: {field.name} is {value!r}, expected {expected}")
    try:
        with_options(model.generation, {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

def problem(name: str, value: object, size: int) -> str | None:
    """What is expected of the option, if `value` is not that; ids are below `size`."""
    if value is None:
        return None
    if name in COUNTS:
        return None if type(value) is int else "a whole number"
    if name in ("length_penalty", "repetition_penalty", "temperature", "top_p"):
        return None if type(value) in (int, float) and value == value else "a number"
    if name in ENDS:
        ids = value if isinstance(value, (list, tuple)) else [value]
        return None if all(type(one) is int and abs(one) < 2**31 for one in ids) else "a token id, or a list"
    if name == "suppress_tokens":
        return None if is_ids(value, size) else f"a list of token ids below {size}"
    if name == "bad_words_ids":
        fine = isinstance(value, (list, tuple)) and all(is_ids(word, size) and word for word in value)
        return None if fine else f"a list of lists of token ids below {size}"
    if name == "lang_to_id":
        fine = isinstance(value, dict) and is_ids([*value.values()], size)
        return None if fine else f"languages and their token ids below {size}"
    if name.endswith("_token_id"):
        return None if is_ids([value], size) else f"a token id below {size}"
    return None

def is_ids(value: object, size: int) -> bool:
    return isinstance(value, (list, tuple)) and all(type(one) is int and 0 <= one < size for one in value)
