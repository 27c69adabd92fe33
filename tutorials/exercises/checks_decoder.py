"""Checks of exercises 7 to 10: the decoder's parts, and what training needs. See exercise.py."""

from dataclasses import replace

import torch
from torch import Tensor

from exercises.inputs import BERT, GPT2, MBART, draw, memory_mask, replace_end, spread_weights
from nanos2t.decoder import Block, Embedding, KVCache


def check_embedding(function):
    tokens = torch.tensor([[1, 5, 7, 5], [1, 8, 3, 0]])
    for name, config in ("BERT", BERT), ("GPT-2", GPT2), ("mBART", MBART):
        embedding = spread_weights(Embedding(config), 28)
        yield name, function(embedding, tokens, 0)
        yield f"{name}, 3 tokens in the cache", function(embedding, tokens[:, :2], 3)
    without_norm = spread_weights(Embedding(replace(MBART, embed_norm=False)), 28)
    yield "mBART without its norm", function(without_norm, tokens, 0)


def check_causal_mask(function):
    for T, past in (4, 0), (3, 2), (1, 5):
        yield f"{T} new tokens, {past} past ones", function(T, past, torch.device("cpu"))


# The block


def keys_values(block: Block, memory: Tensor) -> tuple[Tensor, Tensor]:
    return block.cross_attn.project_keys_values(memory)


def check_attend_memory(function):
    block = spread_weights(Block(BERT), 29)
    memory = keys_values(block, draw(31, 2, 5, 12))
    mask = memory_mask(5, 3)
    yield "no padding", function(block, draw(30, 2, 3, 12), memory, None)
    yield "with padding", function(block, draw(30, 2, 3, 12), memory, mask)
    yield "3 beams of each utterance", function(block, draw(32, 6, 2, 12), memory, mask)


def attend_memory_ignores_padding(function) -> bool:
    block = spread_weights(Block(BERT), 29)
    x = draw(30, 1, 3, 12)
    memory = draw(31, 1, 5, 12)
    mask = memory_mask(5, 3)[1:]
    result = function(block, x, keys_values(block, memory), mask)
    other_result = function(block, x, keys_values(block, replace_end(memory, 3)), mask)
    return torch.allclose(result, other_result)


def check_decoder_block(function):
    mask = memory_mask(5, 3)
    for name, config in ("BERT", BERT), ("GPT-2", GPT2):
        block = spread_weights(Block(config), 33)
        memory = keys_values(block, draw(35, 2, 5, 12))
        result = function(block, draw(34, 2, 4, 12), memory, mask, None)
        yield f"{name}, with padding", result

        cache = KVCache(2, config, 6, draw(36, 1))
        steps = [function(block, x, memory, mask, cache) for x in draw(37, 3, 2, 1, 12)]
        yield f"{name}, token by token with a cache", steps


def decoder_block_is_causal(function) -> bool:
    block = spread_weights(Block(BERT), 33)
    memory = keys_values(block, draw(35, 2, 5, 12))
    x = draw(34, 2, 4, 12)
    result = function(block, x, memory, None, None)
    other_result = function(block, replace_end(x, 2), memory, None, None)
    return torch.allclose(result[:, :2], other_result[:, :2])


# Training


def check_shift_right(function):
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])
    yield "start 1, pad 0", function(labels, 1, 0)
    yield "start 2, pad 9", function(labels.clone(), 2, 9)


def check_cross_entropy(function):
    labels = torch.tensor([[5, 6, 4, 2, 3], [1, 2, -100, -100, -100]])
    yield "5 and 2 real labels", function(3 * draw(38, 2, 5, 7), labels)
    yield "all labels real", function(3 * draw(39, 2, 2, 7), labels[:, :2])
    yield "all labels ignored", function(draw(40, 1, 3, 7), labels[1:, 2:])
