# pytest tests/test_generate_parity.py          (500 more random cases: add -m slow)
"""The same tokens as transformers' generate: random options, float64 models, spread weights."""

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from helpers.encoder_parity import items, waves
from helpers.generation_models import BATCHED, LENGTHS, PAIRS, make_batch, paired_models
from helpers.pairs import IDS, ours_from, tiny_pair
from helpers.search_scripts import CONFIG, assert_scores_add_up
from torch import Tensor, nn

from nanos2t.generate import Generated
from nanos2t.model import SpeechEncoderDecoder

pytest.importorskip("transformers")


def draw_options(rng: random.Random, V: int) -> dict:
    """Draw the options of a call that go together, and that mostly change something."""
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
        return paired_models(self.pair, self.number // 100)


def make_case(number: int) -> Case:
    pair = list(PAIRS)[number % len(PAIRS)]
    return Case(number, pair, draw_options(random.Random(number + 1000), PAIRS[pair][2]))


def generate_with_theirs(case: Case, waveforms: Tensor, mask: Tensor, options: dict):
    """Return what transformers' generate returns."""
    torch.manual_seed(case.number)
    return case.models()[0].generate(
        waveforms, attention_mask=mask, return_dict_in_generate=True, output_scores=True, **options
    )


def generate_with_ours(case: Case, waveforms: Tensor, mask: Tensor) -> Generated:
    torch.manual_seed(case.number)
    return case.models()[1].generate(waveforms, mask, return_dict_in_generate=True, **case.options)


def assert_same(case: Case, waveforms: Tensor, mask: Tensor) -> None:
    """Tokens are those of transformers; scores and log-probabilities agree to 1e-5."""
    theirs, ours = case.models()
    config = ours.generation.override(case.options)
    got, want = (
        generate_with_ours(case, waveforms, mask),
        generate_with_theirs(case, waveforms, mask, case.options),
    )
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
    """Each utterance of a batch has the tokens that it has alone, with more padding."""
    config = case.models()[1].generation.override(case.options)
    fill = config.pad_token_id or (
        config.eos_ids[0] if config.num_beams > 1 and config.eos_ids else 0
    )
    whole = generate_with_ours(case, waveforms, mask)
    for i, item in enumerate(items(waveforms, mask.sum(1))):
        alone = generate_with_ours(case, item, torch.ones_like(item))
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
    waveforms, mask = make_batch()
    if make_case(number).pair in BATCHED:
        assert_same(make_case(number), waveforms, mask)
    else:
        for item in items(waveforms, mask.sum(1)):
            assert_same(make_case(number), item, torch.ones_like(item))
    if "do_sample" not in make_case(number).options:  # draws depend on the rows that there are
        assert_batch_is_items(make_case(number), waveforms, mask)


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


def predicted_tokens(case: Case, options: dict) -> list[tuple[int, ...]]:
    """Return what transformers predicts for a batch, up to EOS."""
    rows = generate_with_theirs(case, *make_batch(), options).sequences[:, 1:].tolist()
    eos = replace(CONFIG, eos_token_id=options.get("eos_token_id", IDS["eos_token_id"])).eos_ids
    ends = [next((i for i, token in enumerate(row) if token in eos), len(row)) for row in rows]
    return [tuple(row[: end + 1]) for row, end in zip(rows, ends, strict=True)]


def first_of_each(rows: list) -> list:
    """Return the first row of each utterance."""
    return rows[:: len(rows) // len(LENGTHS)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "numbers", [range(50), pytest.param(range(50, 250), marks=pytest.mark.slow)], ids=["50", "200"]
)
def test_the_cases_above_have_something_to_compare(numbers):
    """In half of them rows end at different lengths; each option matters in 30 % of its cases."""
    ended, used, changed = 0, Counter(), Counter()
    for one in map(make_case, numbers):
        rows, eos = (
            predicted_tokens(one, one.options),
            CONFIG.override({"eos_token_id": 3, **one.options}).eos_ids,
        )
        ended += len({len(row) for row in rows if row[-1] in eos}) > 1
        for name in one.options.keys() - {
            "num_return_sequences",
            "pad_token_id",
        }:  # they do what they say
            gone = name, *ONLY_WITH.get(name, ())
            try:
                others = predicted_tokens(
                    one, {key: value for key, value in one.options.items() if key not in gone}
                )
            except (
                RuntimeError
            ):  # without it every token is forbidden, and transformers has none to draw
                continue
            used[name] += 1
            changed[name] += (
                first_of_each(rows) != first_of_each(others)
                if name in ONLY_WITH
                else rows != others
            )
    shares = {name: round(changed[name] / used[name], 2) for name in sorted(used)}
    print(f"of {len(numbers)}, {ended} end at different lengths; changed {shares} of {dict(used)}")
    assert ended >= len(numbers) / 2
    assert len(used) == 19
    assert min(used.values()) >= len(numbers) / 12
    assert min(shares.values()) >= 0.3
