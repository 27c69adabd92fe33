"""Checks of exercises 7 to 10: the decoder's parts, and what training needs. See exercise.py."""

from dataclasses import replace

import torch
from torch import Tensor

from exercises.exercise import Facts, Raised, type_fact
from exercises.inputs import (
    BERT,
    GPT2,
    MBART,
    STORED,
    Draw,
    drop_all,
    memory_mask,
    replace_end,
)
from nanos2t.decoder import Block, Embedding, KVCache


def check_embedding(function, draw: Draw):
    tokens = torch.tensor([[1, 5, 7, 5], [1, 8, 3, 0]])
    for name, config in ("BERT", BERT), ("GPT-2", GPT2), ("mBART", MBART):
        embedding = draw.weights(Embedding(config), 28)
        yield name, function(embedding, tokens, 0)
        yield f"{name}, 3 tokens in the cache", function(embedding, tokens[:, :2].contiguous(), 3)
    without_norm = draw.weights(Embedding(replace(MBART, embed_norm=False)), 28)
    yield "mBART without its norm", function(without_norm, tokens, 0)

    scaled = draw.weights(Embedding(replace(BERT, embed_scale=2.5)), 28)
    yield "BERT, embed_scale=2.5", function(scaled, tokens, 0)

    # There are 9 positions.
    yield "the last position", function(embedding, tokens, 5)
    yield "one token more than positions", function(embedding, tokens, 6)
    gpt2 = draw.weights(Embedding(GPT2), 28)
    yield "GPT-2, the last position", function(gpt2, tokens, 5)
    yield "GPT-2, more tokens than positions", function(gpt2, tokens, 8)
    yield "dropout of all numbers", function(drop_all(scaled), tokens, 0)
    yield "10 new tokens", function(gpt2, tokens[:, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]], 0)


def check_causal_mask(function, draw: Draw):
    for T, past in (4, 0), (3, 2), (1, 5), (1, 0), (5, 1):
        yield f"{T} new tokens, {past} past ones", function(T, past, torch.device("cpu"))
    # What does not ask for `device` gets the default one, here one without memory.
    with torch.device("meta"):
        result = function(2, 1, torch.device("cpu"))
    is_there = getattr(result, "device", None) == torch.device("cpu")
    yield "another default device", Facts({"the mask is on `device`": is_there})


# The block


def keys_values(block: Block, memory: Tensor) -> tuple[Tensor, Tensor]:
    return block.cross_attn.project_keys_values(memory)


def check_attend_memory(function, draw: Draw):
    block = draw.weights(Block(BERT), 29)
    memory = keys_values(block, draw(31, 2, 5, 12))
    mask = memory_mask(5, 3)
    yield "no padding", function(block, draw(30, 2, 3, 12), memory, None)
    yield "with padding", function(block, draw(30, 2, 3, 12), memory, mask)
    yield "3 beams of each utterance", function(block, draw(32, 6, 2, 12), memory, mask)
    yield "3 beams, no padding", function(block, draw(32, 6, 2, 12), memory, None)
    shorter = memory_mask(3, 5)
    yield "the first utterance is shorter", function(block, draw(30, 2, 3, 12), memory, shorter)


def attend_memory_ignores_padding(function) -> bool:
    block = STORED.weights(Block(BERT), 29)
    x = STORED(30, 1, 3, 12)
    memory = STORED(31, 1, 5, 12)
    mask = memory_mask(5, 3)[1:]
    result = function(block, x, keys_values(block, memory), mask)
    other_result = function(block, x, keys_values(block, replace_end(memory, 3)), mask)
    return torch.allclose(result, other_result)


def check_decoder_block(function, draw: Draw):
    mask = memory_mask(5, 3)
    for config in BERT, GPT2:
        name = f"pre_norm={config.pre_norm}"
        block = draw.weights(Block(config), 33)
        memory = keys_values(block, draw(35, 2, 5, 12))
        result = function(block, draw(34, 2, 4, 12), memory, mask, None)
        yield f"{name}, with padding", result

        cache = KVCache(2, config, 6, draw(36, 1))
        steps = [function(block, x, memory, mask, cache) for x in draw(37, 3, 2, 1, 12)]
        yield f"{name}, token by token with a cache", (steps, cache.length)
        beams = function(block, draw(71, 6, 3, 12), memory, mask, None)
        yield f"{name}, 3 beams of each utterance", beams
        yield f"{name}, no padding", function(block, draw(34, 2, 4, 12), memory, None, None)


def decoder_block_is_causal(function) -> bool:
    block = STORED.weights(Block(BERT), 33)
    memory = keys_values(block, STORED(35, 2, 5, 12))
    x = STORED(34, 2, 4, 12)
    result = function(block, x, memory, None, None)
    other_result = function(block, replace_end(x, 2), memory, None, None)
    return torch.allclose(result[:, :2], other_result[:, :2])


# Training


def check_shift_right(function, draw: Draw):
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])
    yield "start 1, pad 0", function(labels.clone(), 1, 0)
    yield "start 2, pad 9", function(labels.clone(), 2, 9)
    yield "a label 0", function(torch.tensor([[0, 4, 0, 2], [0, 0, 2, -100]]), 3, 9)
    yield "a label among others is IGNORED", function(torch.tensor([[5, -100, 4, 2]]), 1, 0)
    yield "one label", function(torch.tensor([[7], [-100]]), 1, 0)
    yield "labels of 32 bits", type_fact(function(labels.int(), 1, 0), torch.int)


def check_cross_entropy(function, draw: Draw):
    labels = torch.tensor([[5, 6, 4, 2, 3], [1, 2, -100, -100, -100]])
    yield "5 and 2 real labels", function(3 * draw(38, 2, 5, 7), labels)
    yield "all labels real", function(3 * draw(39, 2, 2, 7), labels[:, :2].contiguous())
    yield "all labels ignored", function(draw(40, 1, 3, 7), labels[1:, 2:].contiguous())
    with_zero = torch.tensor([[0, 6, 0, 2], [3, 0, 2, -100]])
    yield "a label 0", function(3 * draw(72, 2, 4, 7), with_zero)
    yield "no label in one row", function(3 * draw(73, 2, 3, 7), labels[:, 2:].contiguous())
    yield "logits of 1000", function(1000 * draw(74, 2, 2, 7), labels[:, :2].contiguous())

    high = draw(89, 2, 2, 7)
    high[0] += 1000
    yield "1000 more in one row", function(high, labels[:, :2].contiguous())

    logits = 3 * draw(75, 2, 5, 7)
    logits[labels == -100] = torch.nan
    yield "NaN where labels are ignored", function(logits, labels)

    ignored = torch.full((2, 3), -100)
    nothing = torch.full((2, 3, 7), torch.nan).double()
    yield "all labels ignored, NaN", function(nothing, ignored)

    yield "the gradient", gradient(function, 3 * draw(38, 2, 5, 7), labels)
    yield "the gradient, all labels ignored", gradient(function, draw(40, 2, 3, 7), ignored)


def gradient(function, logits: Tensor, labels: Tensor):
    """Return a fact, the loss, and its gradient with respect to the logits: NaN if it has none."""
    logits.requires_grad_()
    loss = function(logits, labels)
    if isinstance(loss, Raised):
        return loss
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad:
        loss.backward()
    fact = "the loss has a gradient with respect to the logits"
    if logits.grad is None:
        return Facts({fact: False}), loss, torch.full_like(logits, torch.nan)
    return Facts({fact: True}), loss, logits.grad
