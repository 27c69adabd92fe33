"""What happens to the scores of the next token before it is chosen: penalties, bans, forced tokens.

`process_logits` is for every search, `warp_logits` for sampling only. Both follow transformers
(generation/logits_process.py of 5.23), in its order.

`scores` are logits in greedy search, log-probabilities in beam search. No function modifies them.

Shapes: R rows (sequences), T tokens of each so far, V vocab_size.
"""

import torch
from torch import Tensor

from nanos2t.generation_config import GenerationConfig


def process_logits(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """Return the scores (R, V) of the token after `tokens` (R, T), changed as the options ask."""
    # To add a score processor: write a function that returns new scores, and call it here (or in
    # warp_logits if it is only for sampling), in transformers' order. Its option needs a field and
    # a rule in generation_config.py, and a row in weights_map/speech-encoder-decoder.txt, in place
    # of the row that refuses it, if there is one. CONTRIBUTING.md lists all steps.
    scores = penalize_repetition(scores, tokens, config.repetition_penalty)
    scores = ban_repeated_ngrams(scores, tokens, config.no_repeat_ngram_size)
    scores = ban_bad_words(scores, tokens, config)
    scores = ban_early_eos(scores, tokens, config)
    scores = force_first_token(scores, tokens, config)
    scores = force_last_token(scores, tokens, config)
    return suppress_tokens(scores, config)


def warp_logits(scores: Tensor, config: GenerationConfig, min_tokens_to_keep: int) -> Tensor:
    """Return the scores (R, V) to sample from: sharpened, and -inf for unlikely tokens."""
    # To add a step, do as in process_logits.
    scores = apply_temperature(scores, config.temperature)
    scores = keep_top_k(scores, config.top_k, min_tokens_to_keep)
    return keep_top_p(scores, config.top_p, min_tokens_to_keep)


def penalize_repetition(scores: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Make tokens that a row already has less likely (Keskar et al. 2019, section 4.1)."""
    if penalty == 1.0:
        return scores

    # A negative score grows when it is multiplied, a positive one shrinks when it is divided.
    seen = scores.gather(1, tokens)  # (R, T)
    penalized = torch.where(seen < 0, seen * penalty, seen / penalty)  # (R, T)
    return scores.scatter(1, tokens, penalized)


def ban_repeated_ngrams(scores: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Ban each token that would complete an n-gram of `size` tokens that its row already has."""
    T = tokens.shape[1]
    if size == 0 or size > T:
        return scores

    # An n-gram is repeated if its first tokens are the last tokens of the row.
    ngrams = tokens.unfold(1, size, 1)  # (R, T - size + 1, size)
    last_tokens = tokens[:, T - size + 1 :]  # (R, size - 1)
    is_match = (ngrams[:, :, :-1] == last_tokens[:, None, :]).all(dim=2)  # (R, T - size + 1)
    rows, places = is_match.nonzero(as_tuple=True)
    banned = ngrams[rows, places, -1]
    return scores.index_put((rows, banned), scores.new_tensor(-torch.inf))


def ban_bad_words(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """Ban the last token of a bad word in each row that ends with the word's other tokens."""
    T = tokens.shape[1]
    for *beginning, last in config.bad_words_ids or []:
        # As in transformers, a single EOS token is not a bad word.
        is_single_eos = not beginning and last in config.eos_ids
        if is_single_eos or len(beginning) > T:
            continue
        row_ends = tokens[:, T - len(beginning) :]  # (R, len(beginning))
        is_match = (row_ends == row_ends.new_tensor(beginning)).all(dim=1)  # (R,)
        rows = is_match.nonzero()[:, 0]
        scores = scores.index_put((rows, rows.new_tensor(last)), scores.new_tensor(-torch.inf))
    return scores


def ban_early_eos(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """Ban EOS until a sequence has its minimum length."""
    if tokens.shape[1] >= config.min_total_length:
        return scores
    # A checkpoint may name EOS ids that its vocabulary lacks.
    return ban_tokens(scores, [token for token in config.eos_ids if 0 <= token < scores.shape[1]])


def force_first_token(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """Allow only `forced_bos_token_id` after the start token."""
    token = config.forced_bos_token_id
    if token is not None and tokens.shape[1] == 1:
        return force_token(scores, token)
    return scores


def force_last_token(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """Allow only `forced_eos_token_id` at the last place of the longest sequence."""
    token = config.forced_eos_token_id
    if token is not None and tokens.shape[1] == config.max_total_length - 1:
        return force_token(scores, token)
    return scores


def suppress_tokens(scores: Tensor, config: GenerationConfig) -> Tensor:
    """Ban the tokens of `suppress_tokens` everywhere."""
    return ban_tokens(scores, config.suppress_tokens or [])


def ban_tokens(scores: Tensor, token_ids: list[int]) -> Tensor:
    """Return scores that are -inf for some tokens in every row."""
    if not token_ids:
        return scores
    return scores.index_fill(1, torch.tensor(token_ids, device=scores.device), -torch.inf)


def force_token(scores: Tensor, token: int) -> Tensor:
    """Return scores that are 0 for one token, -inf for all others."""
    forced = torch.full_like(scores, -torch.inf)
    forced[:, token] = 0.0
    return forced


def apply_temperature(scores: Tensor, temperature: float) -> Tensor:
    """Sharpen the distribution (temperature below 1) or flatten it (above 1)."""
    if temperature == 1.0:
        return scores
    return scores / temperature


def keep_top_k(scores: Tensor, top_k: int | None, min_tokens_to_keep: int) -> Tensor:
    """Keep the `top_k` likeliest tokens of each row (Fan et al. 2018); None or 0 keeps all."""
    if not top_k:
        return scores
    count = min(max(top_k, min_tokens_to_keep), scores.shape[1])
    threshold = scores.topk(count).values[:, -1:]  # (R, 1), the lowest score to keep
    return scores.masked_fill(scores < threshold, -torch.inf)


def keep_top_p(scores: Tensor, top_p: float | None, min_tokens_to_keep: int) -> Tensor:
    """Keep the fewest tokens whose probabilities sum to `top_p` (Holtzman et al. 2020, 3.1)."""
    if top_p is None or top_p == 1.0:
        return scores

    # In ascending order, the tokens to ban are the first ones, up to a sum of 1 - top_p.
    ascending, order = scores.sort()  # 2 x (R, V)
    is_banned = ascending.softmax(dim=1).cumsum(dim=1) <= 1 - top_p  # (R, V)
    is_banned[:, -min_tokens_to_keep:] = False

    # Back to the order of the vocabulary.
    is_banned = is_banned.scatter(1, order, is_banned)
    return scores.masked_fill(is_banned, -torch.inf)
