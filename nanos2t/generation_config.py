"""Shared by tests."""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class GenerationConfig:
    """Options, named as in transformers. max_length and min_length count the start token; max_new_tokens and
    min_new_tokens, which go before them, do not. Default: 20 new tokens."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0  # score = sum of log-probabilities / length ** length_penalty
    early_stopping: bool | str = (
        False  # True: when num_beams ended; False: heuristic; "never": exact
    )
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    bad_words_ids: list[list[int]] | None = None
    suppress_tokens: list[int] | None = None
    forced_bos_token_id: int | None = None  # the token after the start token: a language
    forced_eos_token_id: int | None = None  # the last token, when max_length is reached
    decoder_start_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    lang_to_id: dict[str, int] | None = None  # language -> forced_bos_token_id

    def require_id(self, name: str) -> int:
        """The id `name`; ValueError, with the cure, if the checkpoint has none."""
        if getattr(self, name) is None:
            raise ValueError(
                f"the model has no {name}: pass {name}=... or set it in generation_config.json"
            )
        return getattr(self, name)

    @property
    def eos_ids(self) -> list[int]:
        return [] if self.eos_token_id is None else flatten(self.eos_token_id)

    @property
    def max_total_length(self) -> int:
        length = 21 if self.max_length is None else self.max_length
        return length if self.max_new_tokens is None else self.max_new_tokens + 1

    @property
    def min_total_length(self) -> int:
        return self.min_length if self.min_new_tokens is None else self.min_new_tokens + 1


def override_options(config: GenerationConfig, options: dict) -> GenerationConfig:
    """The checkpoint's defaults overridden by a call's options; ValueError if unknown or contradictory."""
    names = [field.name for field in fields(config)]
    if unknown := [name for name in options if name not in names]:
        raise ValueError(
            f"unknown generation option {unknown[0]!r}, expected one of {', '.join(names)}"
        )
    for new, old in ("max_new_tokens", "max_length"), ("min_new_tokens", "min_length"):
        if options.get(old) is not None and options.get(new) is not None:
            raise ValueError(
                f"{new}={options[new]} and {old}={options[old]} contradict: give one of them"
            )
        if options.get(old) is not None:
            options = {**options, new: None}
    config = replace(config, **options)
    many = (
        config.num_beams
        if config.num_beams > 1 or not config.do_sample
        else config.num_return_sequences
    )
    for name, holds, expected in (
        ("num_beams", config.num_beams >= 1, "at least 1"),
        (
            "num_return_sequences",
            1 <= config.num_return_sequences <= many,
            f"1 to num_beams, {many}",
        ),
        ("no_repeat_ngram_size", config.no_repeat_ngram_size >= 0, "at least 0"),
        ("temperature", config.temperature > 0, "above 0"),
        ("repetition_penalty", config.repetition_penalty > 0, "above 0"),
        ("top_k", config.top_k is None or config.top_k >= 0, "at least 0"),
        ("top_p", config.top_p is None or 0 <= config.top_p <= 1, "0 to 1"),
        (
            "early_stopping",
            config.early_stopping in (True, False, "never"),
            'True, False or "never"',
        ),
        (
            "max_total_length",
            config.max_total_length > 1,
            "at least 2: the start token and one more",
        ),
        (
            "min_total_length",
            0 <= config.min_total_length <= config.max_total_length,
            f"0 to the longest, {config.max_total_length}",
        ),
    ):
        if not holds:
            raise ValueError(
                f"generation option {name} is {getattr(config, name)!r}, expected {expected}"
            )
    return config


def flatten(value) -> list:
    return (
        [i for one in value for i in flatten(one)] if isinstance(value, list | tuple) else [value]
    )
