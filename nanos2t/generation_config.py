"""The options of a search: their names, their defaults, and the only place that checks them.

Names and meanings are those of transformers (generation/configuration_utils.py of 5.23).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

DEFAULT_NEW_TOKENS = 20

# Options that are token ids, lists of token ids, or lists of such lists.
TOKEN_ID_OPTIONS = (
    "bad_words_ids",
    "suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "decoder_start_token_id",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "lang_to_id",
)

# Options that may be None: nothing is limited, forced or forbidden then.
OPTIONAL = (
    *TOKEN_ID_OPTIONS,
    "max_length",
    "max_new_tokens",
    "min_new_tokens",
    "top_k",
    "top_p",
    "alignment_heads",
)


@dataclass(frozen=True)
class GenerationConfig:
    """Options of a search, with transformers' names and defaults.

    `max_length` and `min_length` count the start token. `max_new_tokens` and `min_new_tokens` do
    not, and take precedence. Without a maximum, 20 tokens are generated.

    An option of a call replaces both of the file's: `max_length=10` in a call is followed even if
    the file has `max_new_tokens`, which transformers would follow.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0  # score = sum of log-probabilities / length ** length_penalty
    # When beam search stops. True: as soon as num_beams hypotheses have finished. "never": when no
    # running beam can become better than the finished hypotheses. False: when no running beam is
    # better than they are, at its present length.
    early_stopping: bool | str = False
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
    lang_to_id: dict[str, int] | None = None  # language: its forced_bos_token_id
    # Cross-attention heads that show when each word was said: pairs of layer and head.
    alignment_heads: list[list[int]] | None = None

    @property
    def eos_ids(self) -> list[int]:
        """The ids of all tokens that end a sequence."""
        return self.token_ids("eos_token_id")

    @property
    def max_total_length(self) -> int:
        """The largest number of tokens in a sequence, the start token included."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens + 1
        if self.max_length is not None:
            return self.max_length
        return DEFAULT_NEW_TOKENS + 1

    @property
    def min_total_length(self) -> int:
        """The number of tokens, the start token included, before which no EOS is allowed."""
        if self.min_new_tokens is not None:
            return self.min_new_tokens + 1
        return self.min_length

    def require_id(self, name: str) -> int:
        """Return the token id `name`; ValueError, with the remedy, if the checkpoint has none."""
        token_id = getattr(self, name)
        if token_id is None:
            raise ValueError(
                f"the model has no {name}: pass {name}=... or set it in generation_config.json"
            )
        return token_id

    def token_ids(self, name: str) -> list[int]:
        """Return all token ids in the option `name`, one of TOKEN_ID_OPTIONS."""
        value = getattr(self, name)
        if value is None:
            return []
        if name == "bad_words_ids":
            return [token for word in value for token in word]
        if name == "lang_to_id":
            return list(value.values())
        if isinstance(value, (list, tuple)):
            return list(value)
        return [value]

    def override(
        self, options: Mapping[str, Any], vocab_size: int | None = None
    ) -> "GenerationConfig":
        """Return a checked copy in which the options of a call replace these defaults.

        With `vocab_size`, the token ids in `options` must be below it. Raises ValueError for an
        unknown option, a wrong value, or two options that contradict each other.
        """
        names = [field.name for field in fields(self)]
        for name in options:
            if name not in names:
                raise ValueError(
                    f"unknown generation option {name!r}, expected one of {', '.join(names)}"
                )

        # Of two options for one length, the one that is given now replaces the other's default.
        options = dict(options)
        for length, new_tokens in (
            ("max_length", "max_new_tokens"),
            ("min_length", "min_new_tokens"),
        ):
            if options.get(length) is None:
                continue
            if options.get(new_tokens) is not None:
                raise ValueError(
                    f"{new_tokens}={options[new_tokens]} and {length}={options[length]} "
                    "contradict each other: give one of them"
                )
            options[new_tokens] = None

        config = replace(self, **options)
        config.validate()
        if vocab_size is not None:
            config.check_vocabulary(options, vocab_size)
            config.check_choice(vocab_size)
        return config

    def fit_to_positions(self, options: dict[str, Any], max_positions: int) -> dict[str, Any]:
        """Return `options` such that no sequence needs more than `max_positions` positions.

        A longer default of the checkpoint is cut; raises ValueError if `options` ask for more. The
        last token takes no position, because it is never read.
        """
        longest = max_positions + 1
        max_total_length = self.override(options).max_total_length
        if max_total_length <= longest:
            return options
        if "max_length" in options or "max_new_tokens" in options:
            raise ValueError(
                f"max_length is {max_total_length}, expected at most {longest}: "
                f"the decoder has {max_positions} positions"
            )
        return {**options, "max_length": longest}

    def validate(self, vocab_size: int | None = None) -> None:
        """Check every option.

        The ValueError names the first wrong one, its value and what is allowed.

        With `vocab_size`, token ids must be below it, except EOS and BOS: a checkpoint may name
        ids that its vocabulary lacks. Such an EOS is never predicted, and nothing reads BOS.
        """
        for name, (is_allowed, expected) in RULES.items():
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if not is_allowed(value):
                raise ValueError(f"{name} is {value!r}, expected {expected}")

        # Without beams every sampled sequence is drawn anew, so there may be any number of them.
        is_drawn_anew = self.do_sample and self.num_beams == 1
        if self.num_return_sequences > self.num_beams and not is_drawn_anew:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}, "
                f"expected 1 to num_beams, {self.num_beams}"
            )
        if self.min_total_length > self.max_total_length:
            raise ValueError(
                f"the shortest sequence has {self.min_total_length} tokens, start token included, "
                f"expected at most the longest, {self.max_total_length}: see min_length, max_length"
            )
        self.check_forced_tokens()
        if vocab_size is not None:
            names = [name for name in TOKEN_ID_OPTIONS if name != "eos_token_id"]
            self.check_vocabulary(names, vocab_size)
            self.check_choice(vocab_size)

    def check_forced_tokens(self) -> None:
        """Check that no token is both forced and suppressed."""
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            token_id = getattr(self, name)
            if token_id is not None and token_id in self.token_ids("suppress_tokens"):
                raise ValueError(
                    f"{name} is {token_id}, expected a token that suppress_tokens does not forbid"
                )

    def check_choice(self, vocab_size: int) -> None:
        """Check that the options leave a search a token to choose, and one that does not end it."""
        # Beam search takes so many candidates that some of them have not ended.
        if len(self.eos_ids) >= vocab_size:
            raise ValueError(
                f"eos_token_id has {len(self.eos_ids)} ids, "
                f"expected fewer than the {vocab_size} tokens of the vocabulary"
            )

        # Tokens that are never allowed. A bad word of one token is one, unless it is an EOS.
        banned = set(self.token_ids("suppress_tokens"))
        for word in self.bad_words_ids or []:
            if len(word) == 1 and word[0] not in self.eos_ids:
                banned.add(word[0])
        names = "suppress_tokens and bad_words_ids"
        if self.min_total_length > 1:
            banned.update(self.eos_ids)
            names = "suppress_tokens, bad_words_ids and, before min_length, eos_token_id"
        if banned.issuperset(range(vocab_size)):
            raise ValueError(
                f"{names} forbid all {vocab_size} tokens, expected one that is allowed"
            )

    def check_vocabulary(self, names: Iterable[str], vocab_size: int) -> None:
        """Check that the token ids in the options `names` are below `vocab_size`."""
        for name in names:
            # Nothing reads bos_token_id.
            if name not in TOKEN_ID_OPTIONS or name == "bos_token_id":
                continue
            for token_id in self.token_ids(name):
                if not 0 <= token_id < vocab_size:
                    raise ValueError(
                        f"{name} has {token_id}, expected a token id below {vocab_size}"
                    )


def count_up_to(most: int) -> Callable[[Any], bool]:
    """Return a function that is True for whole numbers from 1 to `most`."""

    def is_allowed(value: Any) -> bool:
        return is_whole(value) and 1 <= value <= most

    return is_allowed


def at_least(least: int) -> Callable[[Any], bool]:
    """Return a function that is True for whole numbers of at least `least`."""

    def is_allowed(value: Any) -> bool:
        return is_whole(value) and value >= least

    return is_allowed


def is_whole(value: Any) -> bool:
    # Python counts True as the whole number 1.
    return isinstance(value, Integral) and not isinstance(value, bool)


def between(least: float, most: float) -> Callable[[Any], bool]:
    """Return a function that is True for numbers from `least` to `most`."""

    # NaN is in no range.
    def is_allowed(value: Any) -> bool:
        return is_number(value) and least <= value <= most

    return is_allowed


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_stopping_rule(value: Any) -> bool:
    return is_flag(value) or (isinstance(value, str) and value == "never")


def is_token_id(value: Any) -> bool:
    # The vocabulary is a separate question: here an id must fit in any tensor of whole numbers.
    return is_whole(value) and abs(value) < 2**31


def is_id_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(is_token_id(item) for item in value)


def is_id_or_list(value: Any) -> bool:
    return is_token_id(value) or is_id_list(value)


def is_word_list(value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    return all(is_id_list(word) and len(word) > 0 for word in value)


def is_language_table(value: Any) -> bool:
    return isinstance(value, dict) and is_id_list(list(value.values()))


def is_head_list(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(is_id_list(pair) and len(pair) == 2 and min(pair) >= 0 for pair in value)


# For each option: which values are allowed, and what the error message says is expected.
RULES = {
    "max_length": (at_least(2), "a whole number, at least 2: the start token and one more"),
    "max_new_tokens": (at_least(1), "a whole number, at least 1"),
    "min_length": (at_least(0), "a whole number, at least 0"),
    "min_new_tokens": (at_least(0), "a whole number, at least 0"),
    "num_beams": (count_up_to(10_000), "a whole number from 1 to 10000"),
    "num_return_sequences": (count_up_to(10_000), "a whole number from 1 to 10000"),
    # Beyond these numbers, scores would be infinite, or equal. Far below 0, long hypotheses may
    # score less than IMPOSSIBLE: then the search finds none, and says so.
    "length_penalty": (between(-10, 10), "a number from -10 to 10"),
    "early_stopping": (is_stopping_rule, 'True, False or "never"'),
    "no_repeat_ngram_size": (at_least(0), "a whole number, at least 0"),
    "repetition_penalty": (between(1e-6, 1e6), "a number from 0.000001 to 1000000"),
    "do_sample": (is_flag, "True or False"),
    "temperature": (between(1e-6, 1e6), "a number from 0.000001 to 1000000"),
    "top_k": (at_least(0), "a whole number, at least 0"),
    "top_p": (between(0, 1), "a number from 0 to 1"),
    "bad_words_ids": (is_word_list, "a list of lists of token ids"),
    "suppress_tokens": (is_id_list, "a list of token ids"),
    "forced_bos_token_id": (is_token_id, "a token id"),
    "forced_eos_token_id": (is_token_id, "a token id"),
    "decoder_start_token_id": (is_token_id, "a token id"),
    "bos_token_id": (is_token_id, "a token id"),
    "eos_token_id": (is_id_or_list, "a token id or a list of token ids"),
    "pad_token_id": (is_token_id, "a token id"),
    "lang_to_id": (is_language_table, "languages with their token ids"),
    "alignment_heads": (is_head_list, "a list of pairs: a layer and a head, from 0"),
}
