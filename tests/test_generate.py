# pytest tests/test_generate.py          (500 more random cases: pytest -m slow tests/test_generate.py)
"""nanos2t/generate.py: by hand with scripted logits, by exhaustion on tiny vocabularies, and token for token
against transformers' generate, through whole float64 models with spread weights.

Tokens in scripts are written as letters: "-" pad, "^" start, "." EOS, the others are words.
"""

import copy
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from math import exp, inf, log
from tempfile import TemporaryDirectory

import pytest
import torch
from helpers.encoder_parity import LARGE, items, waves
from helpers.pairs import DECODERS, IDS, ours_from, tiny_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nanos2t import decoder
from nanos2t.beams import IMPOSSIBLE
from nanos2t.decoder import DecoderConfig
from nanos2t.generate import (
    DecoderSession,
    Generated,
    beam_search,
    generate,
    greedy_search,
)
from nanos2t.generation_config import GenerationConfig
from nanos2t.logits_processing import (
    ban_bad_words,
    ban_repeated_ngrams,
    process_logits,
    warp_logits,
)
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, valid_frames

hf = pytest.importorskip("transformers")

LETTERS = "-^.abcdef"
CONFIG = GenerationConfig(pad_token_id=0, decoder_start_token_id=1, eos_token_id=2)


# Scripts: next_logits without a model

Table = Callable[
    [int, tuple[int, ...]], list[float]
]  # utterance, tokens so far -> logits of the next


class Script:
    """A NextLogits that looks them up. It checks that every row goes on from the row that `parents` names."""

    def __init__(self, table: Table, utterances: int = 1):
        self.table, self.utterances = table, utterances
        self.rows = None
        self.calls = 0

    def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        if self.rows is not None:
            assert torch.equal(tokens[:, :-1], self.rows if parents is None else self.rows[parents])
        self.rows, self.calls = tokens.clone(), self.calls + 1
        each = len(tokens) // self.utterances
        return torch.tensor(
            [self.table(i // each, tuple(row)) for i, row in enumerate(tokens.tolist())]
        )


def tree(*branches: dict[str, dict[str, float]], default: str = ".") -> Table:
    """One dict for each utterance: words so far -> the next letters with their probabilities.

    A letter that is not named is as good as impossible; after words that are not named comes `default`.
    """

    def table(utterance: int, tokens: tuple[int, ...]) -> list[float]:
        words = "".join(LETTERS[token] for token in tokens[1:])
        chances = branches[utterance].get(words, {default: 1.0})
        return [log(chances.get(letter, 1e-12)) for letter in LETTERS]

    return table


def noise(seed: int, V: int, spread: float = 1.5) -> Table:
    """Logits that depend on utterance and tokens, and on nothing else."""

    def table(utterance: int, tokens: tuple[int, ...]) -> list[float]:
        rng = random.Random(f"{seed} {utterance} {tokens}")
        return [rng.gauss(0, spread) for _ in range(V)]

    return table


def start(utterances: int = 1) -> Tensor:
    return torch.full((utterances, 1), CONFIG.decoder_start_token_id)


def search(table: Table, utterances: int = 1, **options) -> Generated:
    """What a search finds: `greedy` unless num_beams is given, even if it is 1."""
    config = CONFIG.override(options)
    if "num_beams" in options:
        return beam_search(Script(table, utterances), start(utterances), config)
    rows = config.num_return_sequences
    return greedy_search(
        Script(table, utterances), start(utterances).repeat_interleave(rows, 0), config
    )


def letters(found: Generated) -> list[str]:
    """Each row without the start token."""
    return ["".join(LETTERS[token] for token in row[1:]) for row in found.sequences.tolist()]


MISLEADING = {"": {"a": 0.6, "b": 0.4}, "a": {"a": 0.3, "b": 0.3, ".": 0.4}, "b": {".": 1.0}}


def test_greedy_takes_the_likeliest_token_and_beams_the_likeliest_sequence():
    found = search(tree(MISLEADING))
    assert letters(found) == ["a."]
    assert found.sequences_scores.tolist() == pytest.approx([log(0.6 * 0.4) / 2])
    assert found.token_logprobs[0].tolist() == pytest.approx([log(0.6), log(0.4)])
    found = search(tree(MISLEADING), num_beams=2, num_return_sequences=2)
    assert letters(found) == ["b.", "a."]
    assert found.sequences_scores.tolist() == pytest.approx([log(0.4) / 2, log(0.6 * 0.4) / 2])
    assert found.token_logprobs.flatten().tolist() == pytest.approx(
        [log(0.4), 0, log(0.6), log(0.4)], abs=1e-6
    )


def test_greedy_pads_behind_the_eos_and_stops_when_all_have_ended():
    script = Script(tree({}, {"": {"a": 1}, "a": {"b": 1}}, {"": {"a": 1}}), 3)
    found = greedy_search(script, start(3), replace(CONFIG, pad_token_id=0))
    assert letters(found) == [".--", "ab.", "a.-"]
    assert script.calls == 3
    found = search(tree({}, {"": {"a": 1}}), 2, pad_token_id=None)
    assert letters(found) == ["..", "a."]  # no pad: EOS
    assert letters(search(tree({}, {"": {"a": 1}}), 2, pad_token_id=4)) == [".b", "a."]


def test_what_a_row_says_behind_its_eos_costs_nothing():
    table = tree({".": {"a": 0.5, "b": 0.5}}, {"": {"a": 0.9, "b": 0.1}})
    for options in {}, {"num_beams": 1}, {"num_beams": 2}:
        found = search(table, 2, **options)
        assert letters(found) == [".-" if not options else "..", "a."]
        assert found.token_logprobs[0].tolist() == pytest.approx([0, 0], abs=1e-6)
        assert found.sequences_scores.tolist() == pytest.approx([0, log(0.9) / 2], abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"num_beams": 1}, {"num_beams": 3}])
def test_the_last_token_need_not_be_eos(options):
    table = tree({}, default="a")
    assert letters(search(table, max_length=4, **options)) == ["aaa"]
    assert letters(search(table, max_new_tokens=4, **options)) == ["aaaa"]
    assert letters(search(table, **options)) == ["a" * 20]
    assert letters(search(table, max_length=4, eos_token_id=None, **options)) == ["aaa"]
    assert letters(search(tree({}), max_length=4, eos_token_id=None, **options)) == ["..."]


@pytest.mark.parametrize("options", [{}, {"num_beams": 1}, {"num_beams": 2}])
def test_any_of_several_eos_ends(options):
    table = tree({"": {"a": 1}, "a": {"b": 1}}, {"": {"c": 1}}, {"": {"a": 1}, "a": {"a": 1}})
    found = search(table, 3, eos_token_id=[4, 5, 2], pad_token_id=1, **options)
    assert letters(found) == ["ab^", "c^^", "aa."]


def test_beams_fill_up_with_eos_if_the_pad_id_is_0():
    """As transformers has it: its beam search takes `pad or eos`."""
    table = tree({}, {"": {"a": 1}})
    assert letters(search(table, 2, num_beams=2, pad_token_id=0)) == ["..", "a."]
    assert letters(search(table, 2, num_beams=2, pad_token_id=1)) == [".^", "a."]
    assert letters(search(table, 2, pad_token_id=0)) == [".-", "a."]


def test_only_the_first_num_beams_candidates_may_end():
    """The others of the 2 * num_beams are there to run on: a second-best EOS is not recorded."""
    table = tree({"": {"a": 0.6, ".": 0.4}, "a": {"a": 0.1, ".": 0.9}})
    assert letters(search(table, num_beams=1, length_penalty=0.0)) == ["a."]
    assert letters(search(table, num_beams=2, length_penalty=0.0)) == ["a."]
    table = tree({"": {"a": 0.6, ".": 0.4}, "a": {"a": 0.7, ".": 0.3}, "aa": {"b": 0.6, ".": 0.4}})
    assert letters(search(table, num_beams=1, max_length=4, length_penalty=0.0)) == ["aab"]
    assert letters(search(table, num_beams=2, max_length=4, length_penalty=0.0)) == ["."]


def test_a_beam_runs_on_although_all_likelier_tokens_are_eos():
    """With n EOS ids, (n + 1) * num_beams candidates are looked at."""
    table = tree({"": {".": 0.3, "a": 0.25, "b": 0.2, "c": 0.15, "d": 0.1}}, default="c")
    options = {
        "eos_token_id": [2, 3, 4],
        "max_length": 6,
        "length_penalty": 2.0,
        "early_stopping": "never",
    }
    found = search(table, num_beams=1, **options)
    assert letters(found) == ["ccccc"]
    assert found.sequences_scores.item() == pytest.approx(log(0.15) / 25)
    found = search(table, num_beams=2, num_return_sequences=2, **options)
    assert letters(found) == ["ccccc", "dcccc"]


@pytest.mark.parametrize(
    ("penalty", "best"),
    [
        (-1.0, [".-", "a."]),
        (0.0, [".-", "a."]),
        (0.2, [".-", "a."]),
        (0.5, ["a.", ".-"]),
        (1, ["a.", "aa"]),
    ],
)
def test_length_penalty_chooses_between_shorter_and_longer(penalty, best):
    table = tree({"": {".": 0.4, "a": 0.6}, "a": {".": 0.5, "a": 0.3, "b": 0.2}})
    options = {"length_penalty": penalty, "max_length": 3}
    found = search(table, num_beams=2, num_return_sequences=2, **options)
    assert [row if row[0] == "a" else ".-" for row in letters(found)] == best
    scores = {".-": log(0.4), "a.": log(0.6 * 0.5) / 2**penalty, "aa": log(0.6 * 0.3) / 2**penalty}
    assert found.sequences_scores.tolist() == pytest.approx([scores[row] for row in best])


@pytest.mark.parametrize("penalty", [-1, -0.5, 0, 0.5, 1, 2])
def test_the_length_penalty_of_greedy_is_that_of_a_beam(penalty):
    table = tree({"": {"a": 0.6, "b": 0.4}, "a": {".": 0.9, "a": 0.1}}, {"": {".": 0.8, "a": 0.2}})
    for beams in {}, {"num_beams": 1}:
        found = search(table, 2, length_penalty=penalty, early_stopping=True, **beams)
        assert found.sequences_scores.tolist() == pytest.approx([log(0.54) / 2**penalty, log(0.8)])


IMPROVES = {
    "": {"a": 0.65, ".": 0.3, "b": 0.05},
    "a": {"a": 0.55, ".": 0.4, "b": 0.05},
    "aa": {".": 0.9, "a": 0.1},
}
SLOWLY = {
    "": {"a": 0.7, ".": 0.2, "b": 0.1},
    "a": {"a": 0.8, ".": 0.2},
    "aa": {".": 0.9, "a": 0.1},
}
LATE = {"": {".": 0.55, "a": 0.45}, "a": {"a": 1.0}, "aa": {".": 1.0}}


def test_early_stopping():
    best = search(tree(IMPROVES), num_beams=2, num_return_sequences=2, early_stopping=True)
    assert letters(best) == ["a.", ".."]  # two ended: enough
    for never in False, "never":
        best = search(tree(IMPROVES), num_beams=2, num_return_sequences=2, early_stopping=never)
        assert letters(best) == ["aa.", "a.."]
    # at its present length the running beam is worse than the one that ended, when longer it will be better
    assert letters(search(tree(LATE), num_beams=1, early_stopping=True)) == ["."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping=False)) == ["."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping="never")) == ["aa."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping="never", length_penalty=0.0)) == [
        "."
    ]
    assert letters(
        search(tree(LATE), num_beams=1, early_stopping="never", length_penalty=-1.0)
    ) == ["."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping="never", max_length=2)) == ["."]
    assert letters(search(tree(LATE), num_beams=1, early_stopping="never", max_length=3)) == ["aa"]
    # with a negative penalty a running beam is best as long as it is now
    options = {
        "num_beams": 2,
        "num_return_sequences": 2,
        "length_penalty": -1.0,
        "early_stopping": "never",
    }
    assert letters(search(tree(SLOWLY), **options)) == ["...", "aa."]


@pytest.mark.parametrize(
    ("branch", "options", "alone", "calls"),
    [
        (IMPROVES, {"num_beams": 2, "early_stopping": True}, "a.", 2),
        (LATE, {"num_beams": 1}, ".", 1),
    ],
)
def test_what_is_decided_stays_decided_while_the_batch_goes_on(branch, options, alone, calls):
    long = {
        "".join(word): {"a": 0.6, "b": 0.4} for n in range(7) for word in product("ab", repeat=n)
    }
    config = CONFIG.override({**options, "max_length": 20, "pad_token_id": 3})
    script = Script(tree(branch))
    assert letters(beam_search(script, start(), config)) == [alone]
    assert script.calls == calls
    script = Script(tree(branch, long), 2)
    assert letters(beam_search(script, start(2), config)) == [alone.ljust(8, "a"), "a" * 7 + "."]
    assert script.calls > 7


def test_ties_go_to_the_first_index():
    flat = tree({}, default="none")
    assert letters(search(flat, max_length=4)) == ["---"]
    assert letters(search(tree({"": {"c": 0.3, "b": 0.3, "d": 0.3}}))) == ["b."]


def test_more_beams_than_words():
    found = search(noise(0, 3), num_beams=8, num_return_sequences=8, max_length=4)
    assert found.sequences.tolist()[0] == brute_force(noise(0, 3), 3, 3, 1.0)[0][0]
    assert len({tuple(row) for row in found.sequences.tolist()}) == 8


@pytest.mark.parametrize("size", [1, 2, 5])
def test_num_return_sequences_returns_the_best_of_each_utterance(size):
    all_ = search(noise(1, 7), 3, num_beams=5, num_return_sequences=5, max_length=6)
    some = search(noise(1, 7), 3, num_beams=5, num_return_sequences=size, max_length=6)
    assert torch.equal(some.sequences_scores, all_.sequences_scores.view(3, 5)[:, :size].flatten())
    assert (all_.sequences_scores.view(3, 5).diff() <= 0).all()
    width = some.sequences.shape[1]
    assert torch.equal(
        some.sequences, all_.sequences.view(3, 5, -1)[:, :size, :width].flatten(0, 1)
    )


# Batches

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


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("seed", range(4))
def test_each_utterance_of_a_batch_is_searched_as_if_alone(options, seed):
    B, table = 5, noise(seed, 7)
    options = {**options, "max_length": 8, "pad_token_id": 6}
    batch = search(table, B, **options)
    each = options.get("num_return_sequences", 1)
    for i in range(B):
        alone = search(lambda _, tokens, i=i: table(i, tokens), **options)
        rows, width = slice(i * each, (i + 1) * each), alone.sequences.shape[1]
        assert torch.equal(batch.sequences[rows, :width], alone.sequences)
        assert (batch.sequences[rows, width:] == 6).all()
        assert torch.equal(batch.sequences_scores[rows], alone.sequences_scores)
        assert torch.equal(batch.token_logprobs[rows, : width - 1], alone.token_logprobs)
        assert (batch.token_logprobs[rows, width - 1 :] == 0).all()


# All sequences there are

Hypotheses = list[tuple[list[int], float]]  # tokens with the start token, score; the best first


def log_softmax(logits: list[float]) -> list[float]:
    total = log(sum(exp(logit) for logit in logits))
    return [logit - total for logit in logits]


def brute_force(table: Table, V: int, T: int, penalty: float) -> Hypotheses:
    """Every sequence of up to T tokens that ends by EOS or is T tokens long, of utterance 0."""
    found = []

    def grow(tokens: tuple[int, ...], total: float) -> None:
        for token, logprob in enumerate(log_softmax(table(0, tokens))):
            longer = (*tokens, token)
            if token == CONFIG.eos_token_id or len(longer) == T + 1:
                found.append(([*longer], (total + logprob) / len(longer[1:]) ** penalty))
            else:
                grow(longer, total + logprob)

    grow((CONFIG.decoder_start_token_id,), 0.0)
    return sorted(found, key=lambda hypothesis: -hypothesis[1])


def slow_beams(table: Table, K: int, T: int, penalty: float) -> Hypotheses:
    """Beam search in lists, which never stops early."""
    running, ended = [((CONFIG.decoder_start_token_id,), 0.0)], []
    for length in range(1, T + 1):
        longer = [
            ((*tokens, token), total + logprob)
            for tokens, total in running
            for token, logprob in enumerate(log_softmax(table(0, tokens)))
        ]
        longer.sort(key=lambda hypothesis: -hypothesis[1])
        ends = [tokens[-1] == CONFIG.eos_token_id or length == T for tokens, _ in longer]
        ended += [([*longer[i][0]], longer[i][1] / length**penalty) for i in range(K) if ends[i]]
        running = [longer[i] for i in range(len(longer)) if not ends[i]][:K]
    return sorted(ended, key=lambda hypothesis: -hypothesis[1])[:K]


def assert_found(found: Generated, want: Hypotheses) -> None:
    for tokens, score, (want_tokens, want_score) in zip(
        found.sequences.tolist(), found.sequences_scores.tolist(), want, strict=True
    ):
        assert tokens == want_tokens + [2] * (len(tokens) - len(want_tokens))
        assert score == pytest.approx(want_score, rel=1e-5)


@pytest.mark.parametrize(("V", "T"), [(3, 1), (3, 4), (4, 3), (5, 3)])
@pytest.mark.parametrize("stopping", [False, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_beams_as_wide_as_the_tree_find_all_sequences_in_order(V, T, stopping, penalty):
    want = brute_force(noise(V, V), V, T, penalty)
    options = {"length_penalty": penalty, "early_stopping": stopping, "max_new_tokens": T}
    K = max(len(want), 2)
    assert_found(search(noise(V, V), num_beams=K, num_return_sequences=K, **options), want)
    assert_found(search(noise(V, V), num_beams=(V - 1) ** (T - 1) * V, **options), want[:1])


@pytest.mark.parametrize("V", [3, 4, 5])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_never_stops_only_when_nothing_better_can_come(V, penalty):
    for K, T, seed in product(range(1, V), [2, 5], range(4)):
        options = {"length_penalty": penalty, "early_stopping": "never", "max_new_tokens": T}
        found = search(noise(seed, V), num_beams=K, num_return_sequences=K, **options)
        assert_found(found, slow_beams(noise(seed, V), K, T, penalty))


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("eager", [True, False])
def test_one_beam_is_greedy(penalty, eager):
    for seed in range(8):
        options = {"length_penalty": penalty, "pad_token_id": 1, "max_length": 9}
        want = search(noise(seed, 6), 3, **options)
        found = search(noise(seed, 6), 3, num_beams=1, early_stopping=eager, **options)
        assert torch.equal(found.sequences, want.sequences)
        assert torch.allclose(found.sequences_scores, want.sequences_scores, rtol=1e-5)
        assert torch.allclose(found.token_logprobs, want.token_logprobs, atol=1e-6)


# Scores


def assert_scores_add_up(found: Generated, config: GenerationConfig) -> None:
    """token_logprobs summed / length ** penalty is the score; what stands behind EOS has 0."""
    rows = found.sequences, found.token_logprobs, found.sequences_scores
    for tokens, logprobs, score in zip(*rows, strict=True):
        ends = torch.isin(tokens[1:], torch.tensor(config.eos_ids)).nonzero()
        length = int(ends[0]) + 1 if len(ends) else len(tokens) - 1
        assert len(logprobs) == len(tokens) - 1
        if (
            score < IMPOSSIBLE / 1000
        ):  # no sequence: there are fewer than beams, and transformers too returns it
            continue
        assert (logprobs[length:] == 0).all()
        assert float(score) == pytest.approx(
            float(logprobs[:length].double().sum()) / length**config.length_penalty,
            rel=1e-5,
            abs=1e-6,
        )


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("sample", [False, True])
def test_scores_are_the_sum_of_what_the_tokens_cost(options, sample):
    options = {
        **options,
        "max_length": 8,
        "pad_token_id": 6,
        "do_sample": sample,
        "temperature": 0.8,
    }
    for seed in range(3):
        found = search(noise(seed, 20), 3, **options)
        assert_scores_add_up(found, CONFIG.override(options))
        assert (found.token_logprobs <= 0).all()


@pytest.mark.parametrize("beams", [{}, {"num_beams": 1}, {"num_beams": 3}])
@pytest.mark.parametrize("sample", [False, True])
def test_forced_tokens_cost_nothing(beams, sample):
    options = {
        "forced_bos_token_id": 5,
        "forced_eos_token_id": 4,
        "eos_token_id": [2, 4],
        "max_length": 5,
    }
    found = search(
        noise(0, 9), **options, bad_words_ids=[[2]], min_length=5, do_sample=sample, **beams
    )
    tokens, logprobs = found.sequences[0, 1:], found.token_logprobs[0]
    assert (tokens[0], tokens[-1], len(tokens)) == (5, 4, 4)
    assert (logprobs[0], logprobs[-1]) == (0, 0)
    assert (logprobs[1:-1] < 0).all()


def test_a_forced_last_token_goes_before_a_forced_first():
    options = {"forced_bos_token_id": 5, "forced_eos_token_id": 2, "max_length": 2}
    assert (
        letters(search(noise(0, 9), **options))
        == letters(search(noise(0, 9), num_beams=2, **options))
        == ["."]
    )


def test_greedy_scores_are_probabilities_after_the_constraints():
    table = tree({"": {"a": 0.5, "b": 0.3, ".": 0.2}})
    found = search(table, bad_words_ids=[[3]])
    assert letters(found) == ["b."]
    assert found.token_logprobs[0].tolist() == pytest.approx([log(0.3 / 0.5), 0], abs=1e-6)
    found = search(table, bad_words_ids=[[3]], num_beams=1)
    assert found.token_logprobs[0].tolist() == pytest.approx(
        [log(0.3), 0], abs=1e-6
    )  # as in transformers


# Constraints, one by one

EOS = CONFIG.eos_token_id


def constrained(tokens: list[int], V: int = 6, **options) -> list[float]:
    """What constrain makes of logits 1, 2, 3, ... V."""
    scores = torch.arange(1.0, V + 1)[None]
    before = scores.clone()
    after = process_logits(scores, torch.tensor([tokens]), CONFIG.override(options))
    assert torch.equal(scores, before)
    return after[0].tolist()


def test_constraints():
    assert constrained([1]) == [1, 2, 3, 4, 5, 6]
    assert constrained([1, 3, 3], repetition_penalty=2.0) == [1, 1, 3, 2, 5, 6]
    assert constrained([1, 3, 4, 3], no_repeat_ngram_size=2) == [1, 2, 3, 4, -inf, 6]
    assert constrained([1], no_repeat_ngram_size=1) == [1, -inf, 3, 4, 5, 6]
    words = [[5], [4, 0], [3, 1], [2]]  # the last is EOS, which may end any row
    assert constrained([1, 4], bad_words_ids=words) == [-inf, 2, 3, 4, 5, -inf]
    assert constrained([1, 4], bad_words_ids=[[4, 2]]) == [1, 2, -inf, 4, 5, 6]
    assert constrained([1], suppress_tokens=[0, 5]) == [-inf, 2, 3, 4, 5, -inf]
    assert constrained([1], forced_bos_token_id=4) == [-inf, -inf, -inf, -inf, 0, -inf]
    assert constrained([1, 4], forced_bos_token_id=4) == [1, 2, 3, 4, 5, 6]
    assert constrained([1, 4], forced_eos_token_id=4, max_length=3) == [
        -inf,
        -inf,
        -inf,
        -inf,
        0,
        -inf,
    ]
    assert constrained([1], forced_eos_token_id=4, max_length=3) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("shortest", "free"), [({"min_length": 3}, 3), ({"min_new_tokens": 3}, 4)])
def test_min_length_counts_the_start_token_and_min_new_tokens_does_not(shortest, free):
    for length in range(1, 6):
        row = constrained([1] * length, eos_token_id=[2, 4], **shortest)
        assert row == ([1, 2, -inf, 4, -inf, 6] if length < free else [1, 2, 3, 4, 5, 6])


def test_the_repetition_penalty_makes_negative_scores_more_negative():
    config = CONFIG.override({"repetition_penalty": 2.0})
    scores = process_logits(
        torch.tensor([[-1.0, 3.0, -2.0, 5.0]]), torch.tensor([[1, 2, 2]]), config
    )
    assert scores.tolist() == [[-1.0, 1.5, -4.0, 5.0]]


rows_of_tokens = st.integers(1, 9).flatmap(
    lambda T: st.lists(st.lists(st.integers(0, 3), min_size=T, max_size=T), min_size=1, max_size=3)
)
lists_of_words = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4
)


def banned(scores: Tensor) -> list[set[int]]:
    """The tokens of each row that are forbidden; the others' scores must be as they were."""
    untouched = torch.arange(scores.shape[1], dtype=scores.dtype).expand_as(scores)
    assert torch.equal(scores.where(scores != -inf, untouched), untouched)
    return [{token for token, score in enumerate(row) if score == -inf} for row in scores.tolist()]


@settings(max_examples=150, deadline=None)
@given(rows_of_tokens, st.integers(0, 5))
def test_ban_repeats_is_the_naive_one(rows, size):
    want = [set() for _ in rows]
    for i, row in enumerate(rows):
        for token in range(4):
            longer = [*row, token]
            grams = [longer[j : j + size] for j in range(len(longer) - size + 1)]
            if size and longer[len(longer) - size :] in grams[:-1]:
                want[i].add(token)
    scores = torch.arange(4.0).repeat(len(rows), 1)
    assert banned(ban_repeated_ngrams(scores, torch.tensor(rows), size)) == want
    assert torch.equal(scores, torch.arange(4.0).repeat(len(rows), 1))


@settings(max_examples=150, deadline=None)
@given(rows_of_tokens, lists_of_words)
def test_ban_words_is_the_naive_one(rows, words):
    want = [
        {token for token in range(4) for word in words if [*row, token][-len(word) :] == word}
        for row in rows
    ]
    scores = torch.arange(4.0).repeat(len(rows), 1)
    config = GenerationConfig(bad_words_ids=words)
    assert banned(ban_bad_words(scores, torch.tensor(rows), config)) == want
    assert torch.equal(scores, torch.arange(4.0).repeat(len(rows), 1))


@settings(max_examples=150, deadline=None)
@given(
    st.permutations(range(6)), st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([None, 0, 1, 3, 9]),
    st.sampled_from([None, 0.0, 0.3, 0.7, 0.95, 1.0]), st.integers(1, 3),
)  # fmt: skip
def test_warp_keeps_the_likeliest_tokens(order, temperature, top_k, top_p, keep):
    logits = [0.7 * i for i in order]
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    kept = sorted(range(6), key=lambda token: -logits[token])[: max(top_k, keep) if top_k else 6]
    chances = [exp(logits[token] / temperature) for token in kept]
    if top_p is not None and top_p < 1:  # the fewest that have top_p together
        enough = next(n for n in range(1, 7) if sum(chances[:n]) >= top_p * sum(chances) - 1e-6)
        kept = kept[: max(enough, keep)]
    found = warp_logits(torch.tensor([logits]), config, keep)[0].tolist()
    want = [logits[token] / temperature if token in kept else -inf for token in range(6)]
    assert found == pytest.approx(want, rel=1e-6)


# Options


def test_options_override_the_defaults_and_leave_them_alone():
    before = replace(CONFIG)
    config = CONFIG.override({"num_beams": 4, "length_penalty": 2.0})
    assert config == replace(CONFIG, num_beams=4, length_penalty=2.0)
    assert CONFIG == before


def test_defaults_are_those_of_transformers():
    theirs = hf.GenerationConfig()
    defaults = theirs._get_default_generation_params()
    for field in fields(GenerationConfig):
        if field.name not in ("lang_to_id", "max_length"):
            value = getattr(theirs, field.name)
            assert field.default == (defaults.get(field.name) if value is None else value), (
                field.name
            )
    assert GenerationConfig().max_total_length == 1 + defaults["max_length"]


@pytest.mark.parametrize(
    ("defaults", "options", "longest"),
    [({}, {}, 21), ({}, {"max_length": 9}, 9), ({}, {"max_new_tokens": 9}, 10),
     ({"max_length": 5}, {}, 5), ({"max_length": 5}, {"max_new_tokens": 9}, 10),
     ({"max_new_tokens": 5}, {"max_length": 9}, 9), ({"max_new_tokens": 5}, {"max_length": None}, 6),
     ({"max_length": 5, "max_new_tokens": 6}, {}, 7), ({"max_length": 5}, {"max_length": 7}, 7)],
)  # fmt: skip
def test_longest(defaults, options, longest):
    assert replace(CONFIG, **defaults).override(options).max_total_length == longest


@pytest.mark.parametrize(
    ("defaults", "options", "shortest"),
    [({}, {}, 0), ({}, {"min_length": 9}, 9), ({}, {"min_new_tokens": 9}, 10), ({"min_length": 5}, {}, 5),
     ({"min_length": 5}, {"min_new_tokens": 9}, 10), ({"min_new_tokens": 5}, {"min_length": 9}, 9)],
)  # fmt: skip
def test_shortest(defaults, options, shortest):
    assert replace(CONFIG, **defaults).override(options).min_total_length == shortest


@pytest.mark.parametrize(
    ("options", "said"),
    [({"num_beam": 2}, "num_beam'.*num_beams"), ({"use_cache": False}, "use_cache"),
     ({"max_length": 5, "max_new_tokens": 5}, "max_new_tokens=5 and max_length=5"),
     ({"min_length": 0, "min_new_tokens": 3}, "min_new_tokens=3 and min_length=0"),
     ({"num_beams": 0}, "num_beams is 0"), ({"num_beams": -3}, "num_beams is -3"),
     ({"num_return_sequences": 0}, "num_return_sequences is 0"),
     ({"num_return_sequences": 2}, "num_return_sequences is 2.*num_beams, 1"),
     ({"num_return_sequences": 4, "num_beams": 3}, "num_return_sequences is 4.*num_beams, 3"),
     ({"num_return_sequences": 4, "num_beams": 3, "do_sample": True}, "num_return_sequences is 4"),
     ({"num_return_sequences": -1, "do_sample": True}, "num_return_sequences is -1"),
     ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
     ({"temperature": 0.0}, "temperature is 0.0"), ({"temperature": -1.0}, "temperature is -1.0"),
     ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
     ({"top_p": 1.1}, "top_p is 1.1"), ({"top_p": -0.1}, "top_p is -0.1"),
     ({"early_stopping": "always"}, "early_stopping is 'always'.*never"),
     ({"max_length": 1}, "max_length is 1.*at least 2"), ({"max_new_tokens": 0}, "max_new_tokens is 0.*at least 1"),
     ({"min_length": -1}, "min_length is -1.*at least 0"),
     ({"num_beams": None}, "num_beams is None"), ({"num_beams": 2.0}, "num_beams is 2.0"),
     ({"num_beams": True}, "num_beams is True"), ({"temperature": "hot"}, "temperature is 'hot'"),
     ({"do_sample": 1}, "do_sample is 1, expected True or False"), ({"bad_words_ids": [[]]}, "bad_words_ids is"),
     ({"length_penalty": float("nan")}, "length_penalty is nan"), ({"suppress_tokens": 3}, "suppress_tokens is 3"),
     ({"decoder_start_token_id": "a"}, "decoder_start_token_id is 'a', expected a token id"),
     ({"min_length": 9, "max_length": 8}, "9 tokens.*at most the longest, 8"),
     ({"min_new_tokens": 9, "max_new_tokens": 8}, "10 tokens.*at most the longest, 9")],
)  # fmt: skip
def test_errors_name_the_option(options, said):
    with pytest.raises(ValueError, match=said):
        CONFIG.override(options)
    with pytest.raises(ValueError, match=said):
        tiny().generate(torch.zeros(1, 99), **options)


@pytest.mark.parametrize(
    "options",
    [{"num_return_sequences": 3, "do_sample": True}, {"num_return_sequences": 3, "num_beams": 3},
     {"top_p": 0.0, "do_sample": True}, {"top_p": None, "top_k": None}, {"top_k": 0}, {"max_length": 2},
     {"max_new_tokens": 1}, {"min_length": 8, "max_length": 8}, {"early_stopping": True}],
)  # fmt: skip
def test_the_ends_of_the_ranges_are_allowed(options):
    assert isinstance(CONFIG.override(options), GenerationConfig)


def test_a_missing_start_token_says_how_to_give_one():
    model = tiny()
    model.generation = GenerationConfig(eos_token_id=2)
    with pytest.raises(
        ValueError, match="no decoder_start_token_id: pass decoder_start_token_id=... or set it"
    ):
        model.generate(torch.zeros(1, 99))
    assert model.generate(torch.zeros(1, 99), decoder_start_token_id=3)[0, 0] == 3


# Through a model


def tiny(max_positions: int = 30) -> SpeechEncoderDecoder:
    """Our own model, new."""
    encoder = EncoderConfig(
        hidden_size=10, num_layers=1, num_heads=2, intermediate_size=11, conv_channels=(6, 7),
        conv_kernels=(5, 3), conv_strides=(3, 2), position_kernel=4, position_groups=5,
    )  # fmt: skip
    text = DecoderConfig.bert(
        9,
        hidden_size=14,
        num_layers=1,
        num_heads=2,
        intermediate_size=9,
        max_positions=max_positions,
    )
    return SpeechEncoderDecoder.from_configs(encoder, text, CONFIG).eval()


def test_generate_returns_tokens_or_all_of_it():
    model, waveforms = tiny(), torch.randn(3, 99)
    full = model.generate(
        waveforms, num_beams=3, num_return_sequences=2, return_dict_in_generate=True
    )
    assert isinstance(full, Generated)
    assert full.sequences.shape == (6, full.token_logprobs.shape[1] + 1)
    assert full.sequences_scores.shape == (6,)
    assert (full.sequences[:, 0] == CONFIG.decoder_start_token_id).all()
    assert not full.sequences_scores.requires_grad
    assert torch.equal(
        generate(model, waveforms, num_beams=3, num_return_sequences=2), full.sequences
    )
    assert model.generation == CONFIG


@pytest.mark.parametrize("beams", [1, 3])
def test_the_last_position_of_the_decoder_is_used_and_no_more(beams):
    options = {"num_beams": beams, "eos_token_id": None}
    assert tiny(5).generate(torch.randn(1, 99), max_length=6, **options).shape == (1, 6)
    with pytest.raises(ValueError, match="6 tokens, .* 5 positions"):
        tiny(5).generate(torch.randn(1, 99), max_length=7, **options)


PAIRS = {  # encoder, vocabulary, decoder layers, decoder; ours and transformers'
    "group norm, 6 words": ("wav2vec2", {}, 6, 1, "bert"),
    "layer norm, 6 words": ("wav2vec2", LARGE, 6, 2, "bert"),
    "group norm, 23 words": ("hubert", {}, 23, 2, "bert"),
    "layer norm, 23 words": ("wav2vec2", LARGE, 23, 1, "bert"),
    "layer norm, 57 words": ("hubert", LARGE, 57, 1, "bert"),
    "layer norm, 23 words, gpt2": ("wav2vec2", LARGE, 23, 2, "gpt2"),
    "group norm, 19 words, bart": ("wav2vec2", {}, 19, 2, "bart"),
    "layer norm, 7 words, mbart": ("wav2vec2", LARGE, 7, 2, "mbart"),
    "layer norm, 22 words, trocr": ("hubert", LARGE, 22, 1, "trocr"),
}
LAYERS = {
    "bert": "num_hidden_layers",
    "gpt2": "n_layer",
    **dict.fromkeys(("bart", "mbart", "trocr"), "decoder_layers"),
}
LAST_NORM = {
    "gpt2": lambda text: text.transformer.ln_f,
    "bart": lambda text: text.model.decoder.layers[-1].final_layer_norm,
    "mbart": lambda text: text.model.decoder.layer_norm,
    "trocr": lambda text: text.model.decoder.layers[-1].final_layer_norm,
}
LENGTHS = 130, 58, 97
BATCHED = [pair for pair in PAIRS if pair.startswith("layer norm")]  # HF's batches are HF's items


@cache
@torch.no_grad()
def models(pair: str, seed: int = 0) -> tuple[nn.Module, SpeechEncoderDecoder]:
    """HF's and ours. Spread weights alone make one token win everywhere: the head's bias takes that away.

    What is left differs from place to place, and EOS, with a little more, is said after some tokens.
    """
    family, encoder, V, layers, decoder_type = PAIRS[pair]
    text = DECODERS[decoder_type][1] | {"vocab_size": V, LAYERS[decoder_type]: layers}
    theirs = tiny_pair(family, decoder_type, {"num_hidden_layers": 1, **encoder}, text, seed)
    rng, head = torch.Generator().manual_seed(seed), getattr(theirs.decoder, "cls", None)
    norm = head.predictions.transform.LayerNorm if head else LAST_NORM[decoder_type](theirs.decoder)
    norm.weight.mul_(0.4)
    waveforms = torch.randn(40, 100, generator=rng, dtype=torch.float64)
    logits = theirs(waveforms, decoder_input_ids=torch.randint(V, (40, 9), generator=rng)).logits
    bias = -logits.mean((0, 1))
    bias[IDS["eos_token_id"]] += 0.4 + log(V) / 3
    if head:
        head.predictions.decoder.bias.add_(bias)
        head.predictions.bias.copy_(head.predictions.decoder.bias)
    else:  # no bias there: the norm before it has one, and fewer words than dimensions
        norm.bias.add_(torch.linalg.pinv(theirs.get_output_embeddings().weight) @ bias)
    with TemporaryDirectory() as folder:
        return theirs, ours_from(theirs, folder)


def batch() -> tuple[Tensor, Tensor]:
    waveforms, samples = waves(*LENGTHS)
    return waveforms, valid_frames(samples, waveforms.shape[1]).long()


class Uncached:
    """What Decoding does, from the first token on every time."""

    def __init__(self, model: SpeechEncoderDecoder, memory: Tensor, frames: Tensor, rows: int):
        self.decoder, self.mask = model.decoder, model.memory_mask(memory, frames)
        self.memory = model.decoder.project_memory(memory.repeat_interleave(rows, 0))
        self.mask = self.mask.repeat_interleave(rows, 0)

    def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        return self.decoder(tokens, self.memory, self.mask)[:, -1].float()


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("sample", [False, True])
@torch.no_grad()
def test_with_a_cache_and_shared_memory_or_without(options, sample):
    model = models("group norm, 23 words")[1]
    options = {**options, "max_length": 12, "do_sample": sample}
    config = model.generation.override(options)
    memory, frames = model.encode(*batch())
    first = torch.full((len(memory), 1), config.decoder_start_token_id)
    found = beam_search if "num_beams" in options else greedy_search
    torch.manual_seed(0)
    want = found(Uncached(model, memory, frames, config.num_beams), first, config)
    torch.manual_seed(0)
    got = found(
        DecoderSession(
            model.decoder, memory, frames, 3 * config.num_beams, config.max_total_length
        ),
        first,
        config,
    )
    assert torch.equal(got.sequences, want.sequences)
    assert torch.allclose(got.token_logprobs, want.token_logprobs, rtol=1e-5)
    assert len(want.sequences.unique(dim=0)) > 1


@pytest.mark.parametrize(
    ("options", "rows"), [({"num_beams": 4}, 12), ({}, 3), ({"do_sample": True}, 6)]
)
def test_beams_of_an_utterance_share_its_keys_and_values(options, rows, monkeypatch):
    model, seen = models("layer norm, 23 words")[1], []
    attend = decoder.Block.attend_memory

    def watched(self, x, memory, mask):
        seen.append(
            (len(x), *(len(part) for part in memory), *(part.data_ptr() for part in memory))
        )
        return attend(self, x, memory, mask)

    monkeypatch.setattr(decoder.Block, "attend_memory", watched)
    model.generate(*batch(), min_length=4, max_length=6, num_return_sequences=rows // 3, **options)
    assert {call[:3] for call in seen} == {(rows, 3, 3)}
    assert len(set(seen)) == 1  # never copied or put in another order


# Transformers


def draw(rng: random.Random, V: int) -> dict:
    """Options of one call that go together, and mostly so that they have something to change."""
    words = [token for token in range(V) if token != IDS["eos_token_id"]]
    many, K, sample = len(words) // 3, rng.choice([1, 2, 3, 4, 7]), rng.random() < 0.35
    options = {rng.choice(["max_length", "max_new_tokens"]): rng.choice([6, 8, 10])}
    menu = {
        "no_repeat_ngram_size": (0.2, [2] if V < 10 else [1, 2]),
        "repetition_penalty": (0.2, [0.4, 0.7, 1.5, 3.0]),
        "forced_bos_token_id": (0.15, range(V)),
        "forced_eos_token_id": (0.15, range(V)),
        "suppress_tokens": (0.2, [rng.sample(words, many)]),
        "bad_words_ids": (
            0.25,
            [[[3], *([token] for token in rng.sample(words, many)), rng.sample(words, 3)]],
        ),
        "eos_token_id": (
            0.25,
            [[3, *rng.sample(words, 1)], [3, *rng.sample(words, 2)]] * 2 + [None],
        ),
        "decoder_start_token_id": (0.2, range(V)),
        "pad_token_id": (0.2, [0, 4]),
        rng.choice(["min_length", "min_new_tokens"]): (0.3, [3, 4]),
    }
    if sample:
        options["do_sample"] = True
        menu |= {
            "temperature": (0.5, [0.4, 2.0]),
            "top_k": (0.5, [2, 3]),
            "top_p": (0.5, [0.1, 0.4]),
        }
    if K > 1:
        options["num_beams"] = K
        menu |= {
            "length_penalty": (0.5, [-1.0, 0.0, 0.5, 2.0]),
            "num_return_sequences": (0.8, [K, K, K // 2]),
        }
    elif sample:
        menu["num_return_sequences"] = 0.7, [3]
    if K > 1 and rng.random() < 0.4:  # what stops a search, in one that would go on for long
        options |= {"early_stopping": rng.choice([True, "never"]), "num_return_sequences": K}
        menu["length_penalty"] = 0.5, [2.0]
    for name, (chance, values) in menu.items():
        if rng.random() < chance:
            options.setdefault(name, rng.choice(values))
    if "suppress_tokens" in options:  # transformers refuses to force a token and suppress it
        forced = (
            options.get("forced_bos_token_id"),
            options.get("forced_eos_token_id"),
            2,
        )  # 2: BART's own
        options["suppress_tokens"] = [
            token for token in options["suppress_tokens"] if token not in forced
        ]
    return options


@dataclass
class Case:
    number: int
    pair: str
    options: dict

    def models(self) -> tuple[nn.Module, SpeechEncoderDecoder]:
        return models(self.pair, self.number // 100)


def case(number: int) -> Case:
    pair = list(PAIRS)[number % len(PAIRS)]
    return Case(number, pair, draw(random.Random(number + 1000), PAIRS[pair][2]))


def theirs_of(case: Case, waveforms: Tensor, mask: Tensor, options: dict):
    """What HF's generate returns."""
    torch.manual_seed(case.number)
    return case.models()[0].generate(
        waveforms, attention_mask=mask, return_dict_in_generate=True, output_scores=True, **options
    )


def ours_of(case: Case, waveforms: Tensor, mask: Tensor) -> Generated:
    torch.manual_seed(case.number)
    return case.models()[1].generate(waveforms, mask, return_dict_in_generate=True, **case.options)


def assert_same(case: Case, waveforms: Tensor, mask: Tensor) -> None:
    """Tokens are HF's, scores are HF's to 1e-5 of their size, and so is what each token costs."""
    theirs, ours = case.models()
    config = ours.generation.override(case.options)
    got, want = ours_of(case, waveforms, mask), theirs_of(case, waveforms, mask, case.options)
    assert got.sequences.tolist() == want.sequences.tolist()
    assert got.token_logprobs.dtype == torch.float32  # as HF's, also of a float64 model
    assert_scores_add_up(got, config)
    if config.num_beams > 1:
        assert got.sequences_scores.tolist() == pytest.approx(
            want.sequences_scores.tolist(), rel=1e-5
        )
        costs = theirs.compute_transition_scores(want.sequences, want.scores, want.beam_indices)
    else:
        costs = theirs.compute_transition_scores(want.sequences, want.scores, normalize_logits=True)
        costs = costs.where(got.token_logprobs != 0, 0)  # HF says what pads cost
    assert torch.allclose(got.token_logprobs, costs, rtol=1e-5, atol=1e-6)


def assert_batch_is_items(case: Case, waveforms: Tensor, mask: Tensor) -> None:
    """Each utterance of a batch gets what it gets alone, with more padding."""
    config = case.models()[1].generation.override(case.options)
    fill = config.pad_token_id or (
        config.eos_ids[0] if config.num_beams > 1 and config.eos_ids else 0
    )
    whole = ours_of(case, waveforms, mask)
    for i, item in enumerate(items(waveforms, mask.sum(1))):
        alone = ours_of(case, item, torch.ones_like(item))
        each, width = len(alone.sequences), alone.sequences.shape[1]
        rows = slice(i * each, (i + 1) * each)
        assert whole.sequences[rows, :width].tolist() == alone.sequences.tolist()
        assert (whole.sequences[rows, width:] == fill).all()
        assert torch.allclose(
            whole.sequences_scores[rows], alone.sequences_scores, rtol=1e-5, atol=1e-6
        )


NUMBERS = [*range(50), *(pytest.param(number, marks=pytest.mark.slow) for number in range(50, 550))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", NUMBERS)
def test_the_same_as_transformers(number):
    waveforms, mask = batch()
    if case(number).pair in BATCHED:
        assert_same(case(number), waveforms, mask)
    else:
        for item in items(waveforms, mask.sum(1)):
            assert_same(case(number), item, torch.ones_like(item))
    if "do_sample" not in case(number).options:  # draws depend on the rows that there are
        assert_batch_is_items(case(number), waveforms, mask)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_beams": 7, "early_stopping": True}]
)
@torch.no_grad()
def test_ties_go_where_they_go_in_transformers(options, tmp_path):
    theirs = tiny_pair(decoder={"vocab_size": 13})
    predictions = theirs.decoder.cls.predictions
    norm = predictions.transform.LayerNorm
    for weight in norm.weight, norm.bias, predictions.bias, predictions.decoder.bias:
        weight.zero_()  # all logits are 0
    options = {**options, "num_return_sequences": options.get("num_beams", 1), "max_length": 6}
    want = theirs.generate(waves(99)[0], **options)
    assert ours_from(theirs, tmp_path).generate(waves(99)[0], **options).tolist() == want.tolist()
    assert len(want.unique(dim=0)) == len(want)


ONLY_WITH = {
    "num_beams": ("length_penalty", "early_stopping", "num_return_sequences"),
    "do_sample": ("temperature", "top_k", "top_p", "num_return_sequences"),
}


def said(case: Case, options: dict) -> list[tuple[int, ...]]:
    """What HF says for a batch, the EOS included and nothing behind it."""
    rows = theirs_of(case, *batch(), options).sequences[:, 1:].tolist()
    eos = replace(CONFIG, eos_token_id=options.get("eos_token_id", IDS["eos_token_id"])).eos_ids
    ends = [next((i for i, token in enumerate(row) if token in eos), len(row)) for row in rows]
    return [tuple(row[: end + 1]) for row, end in zip(rows, ends, strict=True)]


def best(rows: list) -> list:
    """The first of each utterance."""
    return rows[:: len(rows) // len(LENGTHS)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "numbers", [range(50), pytest.param(range(50, 550), marks=pytest.mark.slow)], ids=["50", "500"]
)
def test_the_cases_above_have_something_to_compare(numbers):
    """In half of them rows end by EOS at different lengths; each option matters in 30 % of its cases."""
    ended, used, changed = 0, Counter(), Counter()
    for one in map(case, numbers):
        rows, eos = (
            said(one, one.options),
            CONFIG.override({"eos_token_id": 3, **one.options}).eos_ids,
        )
        ended += len({len(row) for row in rows if row[-1] in eos}) > 1
        for name in one.options.keys() - {
            "num_return_sequences",
            "pad_token_id",
        }:  # they do what they say
            gone = name, *ONLY_WITH.get(name, ())
            try:
                others = said(
                    one, {key: value for key, value in one.options.items() if key not in gone}
                )
            except (
                RuntimeError
            ):  # without it every token is forbidden, and transformers has none to draw
                continue
            used[name] += 1
            changed[name] += best(rows) != best(others) if name in ONLY_WITH else rows != others
    shares = {name: round(changed[name] / used[name], 2) for name in sorted(used)}
    print(f"of {len(numbers)}, {ended} end at different lengths; changed {shares} of {dict(used)}")
    assert ended >= len(numbers) / 2
    assert len(used) == 19
    assert min(used.values()) >= len(numbers) / 12
    assert min(shares.values()) >= 0.3


# The search as data


def say(logits: Tensor, longest: int, **options) -> tuple[Generated, list]:
    """A search over fixed logits (V,), or (steps, V), and its trace."""
    table, trace = logits.expand(longest, -1) if logits.ndim == 1 else logits, []
    config = CONFIG.override({"max_length": longest, **options})
    search = beam_search if config.num_beams > 1 else greedy_search
    start = torch.ones(2, 1, dtype=torch.long)
    return search(
        lambda tokens, _: table[tokens.shape[1] - 1].expand(len(tokens), -1), start, config, trace
    ), trace


def rebuild(trace: list, row: int, end) -> tuple[list[int], float]:
    """The tokens of a finished candidate, and the sum of their log-probabilities, back along its parents."""
    tokens, total, at = [end.token], end.logprob, end
    while at.step > 1:
        former = [c for c in trace if (c.row, c.step, c.beam) == (row, at.step - 1, at.parent)]
        assert len(former) == 1 and former[0].status == "kept"
        at = former[0]
        tokens, total = [at.token, *tokens], total + at.logprob
    assert at.parent == 0
    return tokens, total


@pytest.mark.parametrize("options", [
    {}, {"num_beams": 3}, {"num_beams": 4, "length_penalty": 0.3, "early_stopping": True},
    {"num_beams": 3, "do_sample": True}, {"do_sample": True}, {"num_beams": 2, "early_stopping": "never"},
])  # fmt: skip
def test_the_trace_is_the_whole_search(options):
    generator = torch.Generator().manual_seed(3)
    found, trace = say(torch.randn(7, 9, generator=generator), 8, **options)
    again, _ = say(torch.randn(7, 9, generator=torch.Generator().manual_seed(3)), 8, **options)
    beams = options.get("num_beams", 1)
    for row in 0, 1:
        ends = [c for c in trace if c.row == row and c.status == "finished"]
        best = max(ends, key=lambda end: end.score)
        tokens, total = rebuild(trace, row, best)
        assert tokens == found.sequences[row, 1 : 1 + len(tokens)].tolist()
        assert best.sum == pytest.approx(total, abs=1e-5) and best.score == pytest.approx(
            found.sequences_scores[row].item(), abs=1e-6
        )
        assert best.score == pytest.approx(
            best.sum / best.step ** options.get("length_penalty", 1.0)
        )
        for step in range(1, max(c.step for c in trace if c.row == row) + 1):
            now = [c for c in trace if (c.row, c.step) == (row, step)]
            kept = sorted(c.beam for c in now if c.status == "kept")
            assert len(now) == (2 * beams if beams > 1 else 1)
            assert kept in ([*range(beams)], []) and all(
                c.beam is None for c in now if c.status != "kept"
            )
            assert not [c for c in now if c.status == "kept" and c.token == 2]
    assert {c.status for c in trace} == (
        {"kept", "dropped", "finished"} if beams > 1 else {"kept", "finished"}
    )
    if not options.get("do_sample"):
        assert torch.equal(found.sequences, again.sequences)


def test_a_trace_stops_with_its_row():
    """The first row ends at once, the second goes on: nothing more is said of the first."""
    table = torch.zeros(2, 4, 9)
    table[0, 0, 2] = table[1, :3, 5] = table[1, 3, 2] = 9.0
    start, trace = torch.ones(2, 1, dtype=torch.long), []
    greedy_search(
        lambda tokens, _: table[:, tokens.shape[1] - 1], start, replace(CONFIG, max_length=5), trace
    )
    assert [(c.step, c.row, c.token, c.status) for c in trace] == [
        (1, 0, 2, "finished"), (1, 1, 5, "kept"), (2, 1, 5, "kept"), (3, 1, 5, "kept"), (4, 1, 2, "finished"),
    ]  # fmt: skip


def test_generate_fills_the_trace_and_changes_nothing():
    model, trace = models("group norm, 23 words")[1], []
    plain = model.generate(*batch(), num_beams=2, max_length=9)
    assert torch.equal(plain, model.generate(*batch(), num_beams=2, max_length=9, trace=trace))
    assert {c.row for c in trace} == {*range(len(LENGTHS))} and {c.step for c in trace} <= {
        *range(1, 9)
    }


# What cannot be


@pytest.mark.parametrize("name, value", [
    ("eos_token_id", 23), ("eos_token_id", [2, -1]), ("pad_token_id", 999), ("suppress_tokens", [1, 23]),
    ("bad_words_ids", [[1], [2, 40]]), ("forced_bos_token_id", -3),
])  # fmt: skip
def test_an_id_outside_the_vocabulary(name, value):
    with pytest.raises(ValueError, match=rf"{name} has .*, expected a token id below 23"):
        models("group norm, 23 words")[1].generate(*batch(), **{name: value})


def test_an_empty_batch():
    with pytest.raises(
        ValueError, match="input_values: expected at least one waveform, found none"
    ):
        models("group norm, 23 words")[1].generate(torch.zeros(0, 500))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_logit_that_is_not_finite(beams):
    model = copy.deepcopy(models("group norm, 23 words")[1])
    with torch.no_grad():
        model.decoder.head.bias[7] = torch.nan
    with pytest.raises(ValueError, match="step 1: token 7 has the logit nan"):
        model.generate(*batch(), num_beams=beams)
