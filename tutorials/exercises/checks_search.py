"""Checks of exercises 11 and 12: the cache, greedy search, beam search. See exercise.py."""

import torch
from torch import Tensor

from exercises.exercise import Facts
from exercises.inputs import BERT, Draw, ToyModel
from nanos2t.beams import Beams, initial_beams
from nanos2t.decoder import Decoder, KVCache
from nanos2t.generate import DecoderSession
from nanos2t.generation_config import GenerationConfig

# Seeds of toy models on which the known mistakes show.
GREEDY_SEEDS = (1, 4)
BEAM_SEEDS = (28, 4, 17)


# The cache


def fill_cache(cache: KVCache) -> KVCache:
    """Give a new cache the same numbers in each run, where it has what was in the memory before."""
    cache.keys.fill_(7.0)
    cache.values.fill_(8.0)
    return cache


def check_cache_append(function, draw: Draw):
    cache = fill_cache(KVCache(2, BERT, 6, draw(41, 1)))
    buffers = (cache.keys, cache.values)
    for i, num_new in enumerate((2, 1, 1)):
        keys = draw(42 + i, 2, 3, num_new, 4)
        values = draw(52 + i, 2, 3, num_new, 4)
        filled = function(cache, keys, values)
        yield f"call {i + 1}: {num_new} new tokens", (filled, cache.length)

    is_stored = shares_memory((cache.keys, cache.values), buffers)
    yield "the buffers", Facts({"self.keys and self.values are filled, not replaced": is_stored})
    is_view = shares_memory(filled, (cache.keys, cache.values))
    yield "the result", Facts({"it is views of self.keys and self.values, not copies": is_view})


def shares_memory(results: object, buffers: tuple[Tensor, Tensor]) -> bool:
    """Return whether the two results are the buffers, or parts of them."""
    try:
        first, second = results
        results = (first.untyped_storage(), second.untyped_storage())
    except (TypeError, ValueError, AttributeError):
        return False
    places = [result.data_ptr() for result in results]
    return places == [buffer.untyped_storage().data_ptr() for buffer in buffers]


def check_decoder_session(function, draw: Draw):
    # A session of two beams for each of two utterances.
    decoder = draw.weights(Decoder(BERT), 43)
    frame_lengths = torch.tensor([5, 3])
    session = DecoderSession(decoder, draw(44, 2, 5, 12), frame_lengths, rows=4, max_length=9)
    for cache in session.caches:
        fill_cache(cache)

    tokens = torch.tensor([[1, 5, 7, 5, 3], [1, 8, 3, 9, 4], [1, 4, 2, 6, 6], [1, 9, 9, 3, 8]])
    parents = torch.tensor([1, 1, 3, 2])
    moved = torch.cat([tokens[parents, :3], tokens[:, 3:]], 1)
    longer = torch.cat([moved, tokens[:, 1:2]], 1)
    longest = torch.cat([longer, tokens[:, 2:3]], 1)
    calls = {
        "first call: 2 tokens": (tokens[:, :2].contiguous(), None),
        "second call: 1 token more": (tokens[:, :3].contiguous(), None),
        "third call: rows change places": (moved[:, :4].contiguous(), parents),
        "fourth call": (moved, None),
        # Only beams of the second utterance go on, with frames that are padding.
        "fifth call: an utterance leaves": (longer[[3, 2]], torch.tensor([3, 2])),
        "sixth call: with what is left": (longest[[2, 2]], torch.tensor([1, 1])),
    }
    for case, (rows, parent_rows) in calls.items():
        logits = function(session, rows, parent_rows)
        yield case, (logits, [cache.length for cache in session.caches])


def check_cache_reorder(function, draw: Draw):
    cache = fill_cache(KVCache(3, BERT, 5, draw(45, 1)))
    cache.append(draw(46, 3, 3, 4, 4), draw(47, 3, 3, 4, 4))
    function(cache, torch.tensor([2, 0, 0]))
    yield "rows 2, 0, 0", (cache.keys[:, :, :4], cache.values[:, :, :4], cache.length)

    function(cache, torch.tensor([1, 2, 0]))
    yield "then rows 1, 2, 0", (cache.keys[:, :, :4], cache.values[:, :, :4], cache.length)

    function(cache, torch.tensor([2, 0]))
    yield "then rows 2, 0 only", (cache.keys[:, :, :4], cache.values[:, :, :4], cache.length)
    has_room = [len(buffer[0, 0]) >= 5 for buffer in (cache.keys, cache.values)]
    yield "the buffers", Facts({"there is room for as many tokens as before": all(has_room)})


# The searches


def check_greedy_search(function, draw: Draw):
    def search(seed: int, **options):
        options = {"max_length": 9, "eos_token_id": 2, "pad_token_id": 6} | options
        start = torch.tensor([[1], [3], [4], [5]])
        return function(draw.toy_model(seed), start, GenerationConfig(**options))

    for seed in GREEDY_SEEDS:
        yield f"model {seed}", search(seed)
    first, second = GREEDY_SEEDS
    few = {"max_length": 6, "min_length": 5, "pad_token_id": 0}
    yield "min_length=5, length_penalty=2", search(first, length_penalty=2.0, **few)
    yield "two EOS ids", search(second, eos_token_id=[2, 4])
    yield "no pad id", search(second, pad_token_id=None)
    yield "two EOS ids, no pad id", search(second, eos_token_id=[2, 4], pad_token_id=None)
    yield "pad id 0", search(second, pad_token_id=0)
    yield "no EOS id, no pad id", search(first, eos_token_id=None, pad_token_id=None)
    yield "max_new_tokens=3", search(first, max_new_tokens=3)
    yield "no_repeat_ngram_size=2", search(second, no_repeat_ngram_size=2)
    yield "repetition_penalty=2", search(first, repetition_penalty=2.0)


def some_beams(draw: Draw) -> Beams:
    """Return three running beams of three tokens for each of two utterances."""
    tokens = torch.tensor([[[1, 3, 4], [1, 3, 5], [1, 4, 4]], [[1, 5, 5], [1, 6, 4], [1, 3, 3]]])
    scores = torch.tensor([[-1.0, -1.5, -2.5], [-0.7, -0.9, -3.1]])
    logprobs = -draw(48, 2, 3, 2).abs().float()
    ended = torch.zeros(2, 3, dtype=torch.bool)
    return Beams(tokens, logprobs, scores, ended)


def check_best_continuations(function, draw: Draw):
    def continue_beams(seed: int, **options):
        ids = {"eos_token_id": 2, "pad_token_id": 0}
        config = GenerationConfig(**({"max_length": 9, "num_beams": 3} | ids | options))
        return function(some_beams(draw), draw(seed, 6, 7).float(), config)

    yield "2 utterances, 3 beams", continue_beams(49)
    yield "the last step before max_length", continue_beams(50, max_length=4)
    yield "the last step of max_new_tokens", continue_beams(50, max_new_tokens=3)
    yield "two EOS ids", continue_beams(68, eos_token_id=[2, 5])
    yield "no EOS id", continue_beams(68, eos_token_id=None)
    yield "EOS is not allowed yet (min_length=6)", continue_beams(49, min_length=6)
    yield "no_repeat_ngram_size=2", continue_beams(69, no_repeat_ngram_size=2)

    # All beams are the same in the first step, and only one of them counts.
    first, _ = initial_beams(torch.tensor([[1], [3]]), 3)
    config = GenerationConfig(max_length=9, num_beams=3, eos_token_id=2, pad_token_id=0)
    yield "the first step", function(first, draw(70, 2, 7).float().repeat_interleave(3, 0), config)


def check_beam_search(function, draw: Draw):
    def search(seed: int, **options):
        ids = {"eos_token_id": 2, "pad_token_id": 6}
        config = GenerationConfig(**({"max_length": 8, "num_beams": 3} | ids | options))
        return function(draw.toy_model(seed), torch.tensor([[1], [3]]), config)

    for seed in BEAM_SEEDS:
        yield f"model {seed}, 3 beams", search(seed)
    first, second, third = BEAM_SEEDS
    several = search(first, num_beams=4, num_return_sequences=3, length_penalty=2.0)
    yield "length_penalty=2, 3 of 4 beams wanted", several
    yield "early_stopping=True", search(second, early_stopping=True)
    yield "length_penalty=3", search(third, max_length=12, length_penalty=3.0)
    yield "two EOS ids", search(first, eos_token_id=[2, 4])
    yield "3 of 3 beams wanted", search(12, num_return_sequences=3)
    yield "no pad id", search(16, pad_token_id=None, num_return_sequences=3)
    yield "two EOS ids, no pad id", search(first, eos_token_id=[2, 4], pad_token_id=None)
    yield "pad id 0", search(16, pad_token_id=0, num_return_sequences=3)
    without_end = {"eos_token_id": None, "pad_token_id": None}
    yield "no EOS id, no pad id", search(first, num_return_sequences=2, **without_end)
    yield "max_new_tokens=4", search(third, max_new_tokens=4)
    yield "min_length=4", search(second, min_length=4)
    early = {"early_stopping": True, "num_return_sequences": 3}
    yield "early_stopping=True, 3 of 3 wanted", search(19, **early)
    yield "early_stopping=True, 10 tokens", search(8, max_length=10, **early)
    two = {"num_beams": 2, "num_return_sequences": 2, "max_length": 10}
    yield "2 beams, length_penalty=1.5", search(7, length_penalty=1.5, **two)
    yield "2 beams, length_penalty=0.5", search(14, length_penalty=0.5, **two)
    config = GenerationConfig(eos_token_id=2, pad_token_id=6, **two)
    yield "a draw", function(model_of_draw(), torch.tensor([[1]]), config)


def model_of_draw() -> ToyModel:
    """Return a model whose best running beam is once as good as the worst that has finished.

    The tokens 1 3 2 and 1 3 4 have the same score, and 1 2 a better one. 1 3 4 2 would be better
    than 1 3 2, but comes too late.
    """
    size = ToyModel.vocab_size
    table = torch.arange(-20.0, -20.0 - size, -1).expand(size, size, size).clone()
    table[0, 1, [2, 3]] = torch.tensor([0.5, 0.0])
    table[1, 3, [2, 4]] = 0.0
    table[3, 4, [2, 3]] = torch.tensor([0.0, -2.0])
    return ToyModel(table)
