"""Searches without a model: logits from tables, by hand or drawn, and results as letters.

Tokens in scripts are written as letters: "-" pad, "^" start, "." EOS, the others are words.
"""

import random
from collections.abc import Callable
from math import exp, log

import pytest
import torch
from torch import Tensor

from nanos2t.beams import IMPOSSIBLE
from nanos2t.generate import Generated, beam_search, greedy_search
from nanos2t.generation_config import GenerationConfig

LETTERS = "-^.abcdef"


CONFIG = GenerationConfig(pad_token_id=0, decoder_start_token_id=1, eos_token_id=2)


# From utterance and tokens so far to the logits of the next token
Table = Callable[[int, tuple[int, ...]], list[float]]


SEARCHES = {
    "greedy": {},
    "greedy, constrained": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_length": 3},
    "one beam": {"num_beams": 1, "early_stopping": "never"},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "beams, eager": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True},
    "beams, never": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
    "beams, short": {"num_beams": 4, "length_penalty": -1.0, "num_return_sequences": 4},
    "beams, two EOS": {"num_beams": 2, "num_return_sequences": 2, "eos_token_id": [2, 4]},
    "beams, constrained": {
        "num_beams": 3,
        "bad_words_ids": [[3], [4, 5]],
        "forced_bos_token_id": 4,
    },
    "more beams than words": {"num_beams": 9, "num_return_sequences": 3},
}


class Script:
    """A NextLogits that looks up the logits in a table.

    It checks that every row continues the row of the call before that `parent_rows` names. Rows
    that nothing continues have left: `row_counts` has the number of rows of each call.
    """

    def __init__(self, table: Table, utterances: int = 1):
        self.table = table
        self.utterances = utterances
        self.rows = None
        self.items = None  # the utterance of each row
        self.row_counts = []
        self.calls = 0

    def __call__(self, tokens: Tensor, parent_rows: Tensor | None) -> Tensor:
        if self.rows is not None:
            parents = self.rows if parent_rows is None else self.rows[parent_rows]
            assert torch.equal(tokens[:, :-1], parents)
            if parent_rows is not None:
                self.items = self.items[parent_rows]
        else:
            self.items = torch.arange(len(tokens)) // (len(tokens) // self.utterances)
        self.rows = tokens.clone()
        self.calls += 1
        self.row_counts.append(len(tokens))
        rows = zip(self.items.tolist(), tokens.tolist())
        return torch.tensor([self.table(item, tuple(row)) for item, row in rows])


def tree(*branches: dict[str, dict[str, float]], default: str = ".") -> Table:
    """Return a table of one dict for each utterance: words so far, next letters, probabilities.

    A letter that is not named is practically impossible. After words that are not named, `default`
    is certain.
    """

    def table(utterance: int, tokens: tuple[int, ...]) -> list[float]:
        words = "".join(LETTERS[token] for token in tokens[1:])
        chances = branches[utterance].get(words, {default: 1.0})
        return [log(chances.get(letter, 1e-12)) for letter in LETTERS]

    return table


def noise(seed: int, V: int, spread: float = 1.5) -> Table:
    """Return a table of random logits that depend on utterance and tokens only."""

    def table(utterance: int, tokens: tuple[int, ...]) -> list[float]:
        rng = random.Random(f"{seed} {utterance} {tokens}")
        return [rng.gauss(0, spread) for _ in range(V)]

    return table


def start(utterances: int = 1) -> Tensor:
    return torch.full((utterances, 1), CONFIG.decoder_start_token_id)


def search(table: Table, utterances: int = 1, **options) -> Generated:
    """Run beam search if num_beams is given, even if it is 1, else greedy search."""
    config = CONFIG.override(options)
    if "num_beams" in options:
        return beam_search(Script(table, utterances), start(utterances), config)
    rows = config.num_return_sequences
    return greedy_search(
        Script(table, utterances), start(utterances).repeat_interleave(rows, 0), config
    )


def letters(found: Generated) -> list[str]:
    """Return each row as letters, without the start token."""
    return ["".join(LETTERS[token] for token in row[1:]) for row in found.sequences.tolist()]


Hypotheses = list[tuple[list[int], float]]  # tokens with the start token, score; the best first


def log_softmax(logits: list[float]) -> list[float]:
    total = log(sum(exp(logit) for logit in logits))
    return [logit - total for logit in logits]


def brute_force(table: Table, V: int, T: int, penalty: float) -> Hypotheses:
    """Return all sequences that end by EOS or have T tokens, for utterance 0, best first."""
    actual = []

    def grow(tokens: tuple[int, ...], total: float) -> None:
        for token, logprob in enumerate(log_softmax(table(0, tokens))):
            longer = (*tokens, token)
            if token == CONFIG.eos_token_id or len(longer) == T + 1:
                actual.append(([*longer], (total + logprob) / len(longer[1:]) ** penalty))
            else:
                grow(longer, total + logprob)

    grow((CONFIG.decoder_start_token_id,), 0.0)
    return sorted(actual, key=lambda hypothesis: -hypothesis[1])


def assert_scores_add_up(found: Generated, config: GenerationConfig) -> None:
    """The score is the sum of token_logprobs / length ** penalty; padding after EOS counts 0."""
    rows = found.sequences, found.token_logprobs, found.sequences_scores
    for tokens, logprobs, score in zip(*rows, strict=True):
        ends = torch.isin(tokens[1:], torch.tensor(config.eos_ids)).nonzero()
        length = int(ends[0]) + 1 if len(ends) else len(tokens) - 1
        assert len(logprobs) == len(tokens) - 1
        if score < IMPOSSIBLE / 1000:
            # An empty place: there are fewer sequences than beams. transformers returns it, too.
            continue
        assert (logprobs[length:] == 0).all()
        assert float(score) == pytest.approx(
            float(logprobs[:length].double().sum()) / length**config.length_penalty,
            rel=1e-5,
            abs=1e-6,
        )
