"""Checks of exercises 11 and 12: the cache, greedy search, beam search. See exercise.py."""

import torch

from exercises.inputs import BERT, ToyModel, draw, spread_weights
from nanos2t.beams import Beams
from nanos2t.decoder import Decoder, KVCache
from nanos2t.generate import DecoderSession
from nanos2t.generation_config import GenerationConfig

# Seeds of toy models on which the known mistakes show.
GREEDY_SEEDS = (1, 4)
BEAM_SEEDS = (28, 4, 17)


def check_cache_append(function):
    cache = KVCache(2, BERT, 6, draw(41, 1))
    for i, num_new in enumerate((2, 1, 1)):
        keys = draw(42 + i, 2, 3, num_new, 4)
        values = draw(52 + i, 2, 3, num_new, 4)
        filled = function(cache, keys, values)
        yield f"call {i + 1}: {num_new} new tokens", (filled, cache.length)


def check_decoder_session(function):
    # A session of two beams for each of two utterances.
    decoder = spread_weights(Decoder(BERT), 43)
    frame_lengths = torch.tensor([5, 3])
    session = DecoderSession(decoder, draw(44, 2, 5, 12), frame_lengths, rows=4, max_length=8)

    tokens = torch.tensor([[1, 5, 7, 5, 3], [1, 8, 3, 9, 4], [1, 4, 2, 6, 6], [1, 9, 9, 3, 8]])
    parents = torch.tensor([1, 1, 3, 2])
    moved = torch.cat([tokens[parents, :3], tokens[:, 3:]], 1)
    calls = {
        "first call: 2 tokens": (tokens[:, :2], None),
        "second call: 1 token more": (tokens[:, :3], None),
        "third call: rows change places": (moved[:, :4], parents),
        "fourth call": (moved, None),
    }
    for case, (rows, parent_rows) in calls.items():
        logits = function(session, rows, parent_rows)
        yield case, (logits, session.caches[0].length)


def check_greedy_search(function):
    start = torch.tensor([[1], [3], [4], [5]])
    config = GenerationConfig(max_length=9, eos_token_id=2, pad_token_id=6)
    for seed in GREEDY_SEEDS:
        yield f"model {seed}", function(ToyModel(seed), start, config)

    config = GenerationConfig(
        max_length=6, min_length=5, eos_token_id=2, pad_token_id=0, length_penalty=2.0
    )
    result = function(ToyModel(GREEDY_SEEDS[0]), start, config)
    yield "min_length=5, length_penalty=2", result


def check_cache_reorder(function):
    cache = KVCache(3, BERT, 5, draw(45, 1))
    cache.append(draw(46, 3, 3, 4, 4), draw(47, 3, 3, 4, 4))
    function(cache, torch.tensor([2, 0, 0]))
    yield "rows 2, 0, 0", (cache.keys[:, :, :4], cache.values[:, :, :4], cache.length)


def check_best_continuations(function):
    tokens = torch.tensor([[[1, 3, 4], [1, 3, 5], [1, 4, 4]], [[1, 5, 5], [1, 6, 4], [1, 3, 3]]])
    scores = torch.tensor([[-1.0, -1.5, -2.5], [-0.7, -0.9, -3.1]])
    logprobs = -draw(48, 2, 3, 2).abs().float()
    ended = torch.zeros(2, 3, dtype=torch.bool)
    beams = Beams(tokens, logprobs, scores, ended)

    ids = {"eos_token_id": 2, "pad_token_id": 0}
    config = GenerationConfig(max_length=9, num_beams=3, **ids)
    yield "2 utterances, 3 beams", function(beams, draw(49, 6, 7).float(), config)
    config = GenerationConfig(max_length=4, num_beams=3, **ids)
    yield "the last step before max_length", function(beams, draw(50, 6, 7).float(), config)


def check_beam_search(function):
    def search(seed: int, **options):
        options = {"max_length": 8, "num_beams": 3} | options
        config = GenerationConfig(eos_token_id=2, pad_token_id=6, **options)
        return function(ToyModel(seed), torch.tensor([[1], [3]]), config)

    for seed in BEAM_SEEDS:
        yield f"model {seed}, 3 beams", search(seed)
    first, second, third = BEAM_SEEDS
    several = search(first, num_beams=4, num_return_sequences=3, length_penalty=2.0)
    yield "length_penalty=2, 3 of 4 beams wanted", several
    yield "early_stopping=True", search(second, early_stopping=True)
    yield "length_penalty=3", search(third, max_length=12, length_penalty=3.0)
