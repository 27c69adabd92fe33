"""Shared by tests."""

import torch
from torch import Tensor

from nanos2t.generation_config import GenerationConfig


def ban_repeated_ngrams(scores: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Forbid the token that would complete an n-gram of `size` tokens that a row (R, T) already has."""
    if size == 0 or tokens.shape[1] < size:
        return scores
    grams = tokens.unfold(1, size, 1)  # (R, T - size + 1, size)
    suffix = tokens[:, tokens.shape[1] - size + 1 :]  # (R, size - 1)
    rows, at = (grams[..., :-1] == suffix[:, None]).all(2).nonzero(as_tuple=True)
    return scores.index_put((rows, grams[rows, at, -1]), scores.new_tensor(-torch.inf))


def ban_bad_words(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """Forbid the last token of each bad word (an EOS is none) whose other tokens end a row."""
    for *start, last in config.bad_words_ids or []:
        if len(start) <= tokens.shape[1] and (start or last not in config.eos_ids):
            suffix = tokens[:, tokens.shape[1] - len(start) :]  # (R, len(start))
            rows = (suffix == suffix.new_tensor(start)).all(1).nonzero()[:, 0]
            scores = scores.index_put((rows, rows.new_tensor(last)), scores.new_tensor(-torch.inf))
    return scores


def process_logits(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """Scores (R, V) of the next token after penalties, bans and forced tokens; transformers' order."""
    length = tokens.shape[1]
    if config.repetition_penalty != 1.0:
        seen = scores.gather(1, tokens)  # (R, T)
        seen = torch.where(
            seen < 0, seen * config.repetition_penalty, seen / config.repetition_penalty
        )
        scores = scores.scatter(1, tokens, seen)
    scores = ban_bad_words(
        ban_repeated_ngrams(scores, tokens, config.no_repeat_ngram_size), tokens, config
    )
    if length < config.min_total_length and config.eos_ids:
        scores = scores.index_fill(
            1, torch.tensor(config.eos_ids, device=scores.device), -torch.inf
        )
    for forced, at in (
        (config.forced_bos_token_id, 1),
        (config.forced_eos_token_id, config.max_total_length - 1),
    ):
        if forced is not None and length == at:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, forced] = 0.0
    if config.suppress_tokens:
        scores = scores.index_fill(
            1, torch.tensor(config.suppress_tokens, device=scores.device), -torch.inf
        )
    return scores


def warp_logits(scores: Tensor, config: GenerationConfig, keep: int) -> Tensor:
    """Sharpen and cut the distribution to sample from: temperature, top_k, top_p (Holtzman et al. 2020)."""
    if config.temperature != 1.0:
        scores = scores / config.temperature
    if config.top_k:
        least = scores.topk(min(max(config.top_k, keep), scores.shape[1]))[0][:, -1:]  # (R, 1)
        scores = scores.masked_fill(scores < least, -torch.inf)
    if config.top_p is not None and config.top_p < 1.0:
        ascending, order = scores.sort()  # 2 x (R, V)
        cut = ascending.softmax(1).cumsum(1) <= 1 - config.top_p
        cut[:, -keep:] = False
        scores = scores.masked_fill(cut.scatter(1, order, cut), -torch.inf)
    return scores
