"""Tokens from a trained model: greedy search, sampling and beam search. Read it from the bottom up.

Tokens and scores are those of transformers (generation/utils.py of 5.23). A search does not know
the model: it calls a function `next_logits(tokens, parent_rows)`, which returns float32 logits
(R, V) of the token after each row of `tokens` (R, T). `parent_rows` (R,) says which row of the
previous call each row continues. With None, every row continues itself. An utterance whose rows
nobody continues has left the batch: its search is over.

Shapes: B utterances that are in the batch, K beams of each, R rows (sequences), M of which are in
the batch, T tokens so far, V vocab_size, C candidates of an utterance, S frames, H hidden_size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanos2t.beams import IMPOSSIBLE, Beams, demote, initial_beams
from nanos2t.decoder import Decoder
from nanos2t.generation_config import GenerationConfig
from nanos2t.inputs import check_waveforms
from nanos2t.logits_processing import process_logits, warp_logits
from nanos2t.search_trace import Candidate, record_candidates
from nanos2t.wav2vec2 import mask_padding

# In a greedy search, rows that have ended leave the batch when they are this share of it: each time
# the caches of all others are copied.
LEAVING_SHARE = 0.25

NextLogits = Callable[[Tensor, Tensor | None], Tensor]


@dataclass
class Generated:
    """The result of a search: R = B * num_return_sequences rows, those of an utterance together."""

    sequences: Tensor  # (R, T), the start token first, padded on the right
    sequences_scores: Tensor  # (R,), sum of log-probabilities / length ** length_penalty
    token_logprobs: Tensor  # (R, T - 1), one for each token but the start token; 0 for padding


class DecoderSession:
    """Incremental decoding of one batch: the `next_logits` of a decoder.

    Cross-attention keys and values are computed once for each utterance, and shared by its beams.
    Self-attention keys and values are cached, so that each call reads the new tokens only.
    """

    def __init__(
        self,
        decoder: Decoder,
        memory: Tensor,
        frame_lengths: Tensor | None,
        rows: int,
        max_length: int,
    ):
        """Prepare `rows` sequences of up to `max_length` tokens for memory (B, S, H).

        frame_lengths: (B,), or None if no frame is padding.
        """
        self.decoder = decoder
        self.rows_per_utterance = rows // max(1, len(memory))
        self.cross_keys_values = decoder.project_memory(memory)
        self.memory_mask = mask_padding(frame_lengths, memory.shape[1])  # (B, 1, 1, S) or None
        self.caches = decoder.new_caches(rows, min(max_length, decoder.config.max_positions))

    def __call__(self, tokens: Tensor, parent_rows: Tensor | None) -> Tensor:
        """Return the logits (R, V) after `tokens` (R, T), of which only the last ones are new."""
        if parent_rows is not None:
            for cache in self.caches:
                cache.reorder(parent_rows)
            self.keep_utterances(parent_rows)

        new_tokens = tokens[:, self.caches[0].length :]  # (R, 1)
        logits = self.decoder(new_tokens, self.cross_keys_values, self.memory_mask, self.caches)
        logits = logits[:, -1].float()  # (R, V)

        is_finite = logits.isfinite()
        if not is_finite.all():
            row, token = (~is_finite).nonzero()[0].tolist()
            raise ValueError(
                f"step {tokens.shape[1]}: token {token} has the logit {logits[row, token]}"
            )
        return logits

    def keep_utterances(self, parent_rows: Tensor) -> None:
        """Drop the memory of the utterances whose rows nobody continues; the others keep theirs.

        parent_rows: (R,), as in `__call__`, with the rows of one utterance together.
        """
        utterances = parent_rows[:: self.rows_per_utterance] // self.rows_per_utterance
        if len(utterances) == len(self.cross_keys_values[0][0]):
            return
        self.cross_keys_values = [
            (keys[utterances], values[utterances]) for keys, values in self.cross_keys_values
        ]
        if self.memory_mask is not None:
            self.memory_mask = self.memory_mask[utterances]


def greedy_search(
    next_logits: NextLogits,
    start: Tensor,
    config: GenerationConfig,
    trace: list[Candidate] | None = None,
) -> Generated:
    """Extend each row of start (R, 1) by the likeliest token, again and again, until EOS.

    With do_sample, tokens are drawn instead, from the distribution that `warp_logits` leaves.
    """
    R = len(start)
    pad_id = config.pad_token_id
    if pad_id is None:
        pad_id = first_eos(config)

    tokens = start  # (R, T), here T is 1
    logprobs = []  # T - 1 times (R, 1)
    lengths = torch.zeros(R, device=start.device)  # (R,), without the start token
    ended = torch.zeros(R, dtype=torch.bool, device=start.device)  # (R,)
    running = torch.arange(R, device=start.device)  # (M,), the rows that are still in the batch
    parent_rows = None

    while tokens.shape[1] < config.max_total_length and not ended.all():
        # Choose the next token of every row that is in the batch.
        logits = next_logits(tokens[running], parent_rows)  # (M, V)
        token, logprob = choose_tokens(logits, tokens[running], config)  # (M, 1) both

        # A row that has ended gets padding, which costs nothing.
        was_ended = ended
        next_token = torch.zeros_like(start)  # (R, 1)
        next_token[running] = token
        next_logprob = torch.zeros(R, 1, device=start.device)
        next_logprob[running] = logprob
        tokens = torch.cat([tokens, next_token.masked_fill(was_ended[:, None], pad_id)], dim=1)
        logprobs.append(next_logprob.masked_fill(was_ended[:, None], 0.0))
        lengths = torch.where(was_ended, lengths, lengths + 1)
        ended = was_ended | torch.isin(next_token[:, 0], start.new_tensor(config.eos_ids))

        if trace is not None:
            record_greedy_step(trace, tokens, logprobs, was_ended, ended, config)

        # Rows that have ended leave the batch. With do_sample, random numbers are drawn for
        # them as long as others run, as in transformers: so those get the same tokens.
        parent_rows = None
        if not config.do_sample:
            running, parent_rows = keep_running(running, ended)

    logprobs = torch.cat(logprobs, dim=1)  # (R, T - 1)
    scores = logprobs.sum(dim=1) / lengths**config.length_penalty  # (R,)
    return Generated(tokens, scores, logprobs)


def choose_tokens(
    logits: Tensor, tokens: Tensor, config: GenerationConfig
) -> tuple[Tensor, Tensor]:
    """Return the token that follows each row of tokens (M, T), and its log-probability, (M, 1)."""
    scores = process_logits(logits, tokens, config)  # (M, V)
    if config.do_sample:
        scores = warp_logits(scores, config, min_tokens_to_keep=1)
        token = draw_tokens(scores, 1)  # (M, 1)
    else:
        token = scores.argmax(dim=1, keepdim=True)  # (M, 1)
    return token, scores.log_softmax(dim=1).gather(1, token)


def draw_tokens(scores: Tensor, count: int) -> Tensor:
    """Draw `count` places in each row of scores (M, N), in proportion to exp(score)."""
    probabilities = scores.softmax(dim=1)  # (M, N)
    # Where a row allows nothing they are NaN. Draw anything: its score is what check_result sees,
    # unless the row has ended and only waits for others.
    probabilities = probabilities.nan_to_num(nan=1.0)
    return torch.multinomial(probabilities, count)  # (M, count)


def keep_running(running: Tensor, ended: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return those of the rows `running` (M,) that have not ended, and their places in `running`.

    ended: (R,), of all rows. The places are None if too few have ended to make it worth while:
    the caches and the memory of those that stay are copied.
    """
    is_running = ~ended[running]  # (M,)
    num_ended = len(running) - int(is_running.sum())
    if num_ended < LEAVING_SHARE * len(running):
        return running, None
    places = is_running.nonzero()[:, 0]
    return running[places], places


def record_greedy_step(
    trace: list[Candidate],
    tokens: Tensor,
    logprobs: list[Tensor],
    was_ended: Tensor,
    ended: Tensor,
    config: GenerationConfig,
) -> None:
    """Record a step of greedy search as that of a beam search with one beam and one candidate."""
    if tokens.shape[1] == config.max_total_length:
        ended = torch.ones_like(ended)
    logprobs = torch.cat(logprobs, dim=1)  # (R, T - 1)
    candidates = Beams(
        tokens=tokens[:, None, :],  # (R, 1, T)
        logprobs=logprobs[:, None, :],  # (R, 1, T - 1)
        scores=logprobs.sum(dim=1, keepdim=True),  # (R, 1)
        ended=ended[:, None],  # (R, 1)
    )
    only_beam = torch.zeros_like(tokens[:, :1])  # (R, 1)
    rows = torch.arange(len(tokens), device=tokens.device)  # (R,)
    record_candidates(
        trace, candidates, only_beam, only_beam, ~was_ended, rows, config.length_penalty
    )


def beam_search(
    next_logits: NextLogits,
    start: Tensor,
    config: GenerationConfig,
    trace: list[Candidate] | None = None,
) -> Generated:
    """Extend start (B, 1), keeping the num_beams best hypotheses of each utterance at every step.

    Sutskever et al. 2014, section 3.2; scores and stopping rules are those of transformers.
    """
    K = config.num_beams
    stop_when_full = config.early_stopping is True

    running, finished = initial_beams(start, K)
    utterances = torch.arange(len(start), device=start.device)  # (B,), those still in the batch
    is_searching = torch.ones_like(utterances, dtype=torch.bool)  # (B,)
    parent_rows = None

    while True:
        # STEP 1: find the C best continuations of the running beams.
        logits = next_logits(running.tokens.flatten(0, 1), parent_rows)  # (B * K, V)
        candidates, parent_beams = best_continuations(running, logits, config)  # (B, C) both

        # STEP 2: the K best candidates that have not ended run on. Hypotheses are dropped in three
        # places: beyond the C candidates in STEP 1; here, unless they finish in STEP 3; and when
        # better ones push them out of the finished hypotheses.
        running_scores, kept = demote(candidates.scores, candidates.ended).topk(K)  # (B, K) both
        running = candidates.select(kept)
        running.scores = running_scores
        first_rows = torch.arange(len(utterances), device=start.device)[:, None] * K  # (B, 1)
        parent_rows = first_rows + parent_beams.gather(1, kept)  # (B, K)

        # STEP 3: candidates that have ended compete with the finished hypotheses for K places.
        if trace is not None:
            record_candidates(
                trace,
                candidates,
                parent_beams,
                kept,
                is_searching,
                utterances,
                config.length_penalty,
            )
        best = update_finished(
            finished.keep(utterances), candidates, is_searching[:, None], config
        )  # (B, K)
        finished = finished.pad(padding_id(config))
        finished.replace(utterances, best)

        # STEP 4: an utterance leaves the batch when it cannot get a better result. With do_sample,
        # random numbers are drawn for all until the last one is done, as in transformers.
        is_searching = is_searching & can_beat_finished(running, best, config)[:, 0]
        if stop_when_full:
            is_searching = is_searching & ~best.ended.all(dim=1)
        if candidates.ended.all() or not is_searching.any():
            return best_hypotheses(finished, config.num_return_sequences)
        if not config.do_sample:
            utterances = utterances[is_searching]
            running = running.keep(is_searching)
            parent_rows = parent_rows[is_searching]
            is_searching = is_searching[is_searching]
        parent_rows = parent_rows.flatten()  # (B * K,)


def best_continuations(
    running: Beams, logits: Tensor, config: GenerationConfig
) -> tuple[Beams, Tensor]:
    """Return the C best continuations of each utterance by one token, and their parents.

    The parents (B, C) are the beams that they continue. logits: (B * K, V), of the token after each
    of the K running beams. The best comes first. C is so large that K candidates have not ended,
    even if every beam proposes every EOS token. With do_sample, candidates are drawn instead.
    """
    B, K, T = running.tokens.shape
    V = logits.shape[1]
    num_eos = len(config.eos_ids)
    C = K * max(2, 1 + num_eos)

    # Scores of all continuations: the sum of log-probabilities up to here, and of the next token.
    rows = running.tokens.flatten(0, 1)  # (B * K, T)
    logprobs = process_logits(logits.log_softmax(dim=1), rows, config)  # (B * K, V)
    if config.do_sample:
        logprobs = warp_logits(logprobs, config, min_tokens_to_keep=max(1, num_eos) + 1)
    logprobs = logprobs.view(B, K, V)
    scores = (running.scores[:, :, None] + logprobs).flatten(1)  # (B, K * V)

    # Choose C of them: over all beams of an utterance together.
    if config.do_sample:
        index = draw_tokens(scores, C)  # (B, C)
    else:
        _, index = scores.topk(C)  # (B, C)
    parent_beams = index // V  # (B, C)
    token = index % V  # (B, C)

    # A candidate ends by EOS, or because it is as long as allowed.
    ended = torch.isin(token, token.new_tensor(config.eos_ids))  # (B, C)
    if config.max_total_length == T + 1:
        ended = torch.ones_like(ended)
    candidates = running.select(parent_beams).append(
        token,
        logprob=logprobs.flatten(1).gather(1, index),
        scores=scores.gather(1, index),
        ended=ended,
    )
    return candidates, parent_beams


def update_finished(
    finished: Beams, candidates: Beams, is_searching: Tensor, config: GenerationConfig
) -> Beams:
    """Return the K best of the finished hypotheses and the candidates that end in this step.

    is_searching: (B, 1), False for utterances whose result is final.
    """
    K = config.num_beams
    length = candidates.tokens.shape[2] - 1

    # Only the K best candidates may finish. The others are there to run on.
    ended = candidates.ended.clone()
    ended[:, K:] = False

    # Finished hypotheses have different lengths: they are compared by score per length.
    scores = candidates.scores / length**config.length_penalty  # (B, C)
    scores = demote(scores, ~is_searching)
    scores = demote(scores, ~ended)
    endings = Beams(candidates.tokens, candidates.logprobs, scores, ended)

    finished = finished.pad(padding_id(config)).merge(endings)  # (B, K + C)
    best = finished.scores.topk(K).indices  # (B, K)
    return finished.select(best)


def can_beat_finished(running: Beams, finished: Beams, config: GenerationConfig) -> Tensor:
    """Return (B, 1): True if a running beam may still become better than a finished hypothesis."""
    # The best running beam counts as if it ended now. With early_stopping="never", it counts as if
    # it got as long as allowed at no further cost: no continuation of it can have a better score.
    length = running.tokens.shape[2] - 1
    if config.early_stopping == "never" and config.length_penalty > 0:
        length = config.max_total_length - 1
    best_possible_score = running.scores[:, :1] / length**config.length_penalty  # (B, 1)

    # A place that is still empty is beaten by any real hypothesis.
    worst_score = finished.scores.min(dim=1, keepdim=True).values  # (B, 1)
    score_to_beat = torch.where(finished.ended, worst_score, IMPOSSIBLE)  # (B, K)
    return (best_possible_score > score_to_beat).any(dim=1, keepdim=True)


def best_hypotheses(finished: Beams, count: int) -> Generated:
    """Return the `count` best hypotheses of each utterance, as short as the longest one allows."""
    tokens = finished.tokens[:, :count].flatten(0, 1)  # (R, T)
    logprobs = finished.logprobs[:, :count].flatten(0, 1)  # (R, T - 1)
    scores = finished.scores[:, :count].flatten()  # (R,)

    is_padding = logprobs.isnan()  # (R, T - 1)
    max_length = int((~is_padding).sum(dim=1).max())
    logprobs = logprobs.masked_fill(is_padding, 0.0)
    return Generated(tokens[:, : max_length + 1], scores, logprobs[:, :max_length])


def padding_id(config: GenerationConfig) -> int:
    """Return the id after the end of a hypothesis. As in transformers, a pad id of 0 is none."""
    return config.pad_token_id or first_eos(config)


def first_eos(config: GenerationConfig) -> int:
    """Return the first EOS id, which replaces a missing pad id; 0 if there is no EOS either."""
    return next(iter(config.eos_ids), 0)


@torch.no_grad()
def decode_memory(
    model,
    memory: Tensor,
    frame_lengths: Tensor | None,
    options: dict,
    trace: list[Candidate] | None = None,
) -> Generated:
    """Generate tokens from encoder output: all that `generate` does after the encoder.

    model: a SpeechEncoderDecoder. memory: (B, S, H). frame_lengths: (B,), or None if no frame is
    padding. options, trace, errors: see `generate`.
    """
    B = len(memory)
    config = model.generation.override(options, model.decoder.config.vocab_size)
    start_id = config.require_id("decoder_start_token_id")
    start = torch.full((B, 1), start_id, device=memory.device)  # (B, 1)

    # With beams, num_return_sequences of them are returned. Without, each sequence is a row.
    rows_per_item = config.num_return_sequences
    if config.num_beams > 1:
        rows_per_item = config.num_beams
    next_logits = DecoderSession(
        model.decoder, memory, frame_lengths, B * rows_per_item, config.max_total_length
    )
    if config.num_beams > 1:
        result = beam_search(next_logits, start, config, trace)
    else:
        rows = start.repeat_interleave(rows_per_item, 0)  # (B * num_return_sequences, 1)
        result = greedy_search(next_logits, rows, config, trace)
    check_result(result, B)
    return result


def check_result(result: Generated, num_utterances: int) -> None:
    """Raise ValueError if the options left no token to choose: then the tokens mean nothing."""
    # The best of each utterance: NaN if there is one, IMPOSSIBLE if no beam came to an end.
    scores = result.sequences_scores.view(num_utterances, -1).amax(dim=1)  # (B,)
    if (scores.isfinite() & (scores != IMPOSSIBLE)).all():
        return
    raise ValueError(
        f"no sequence of {result.sequences.shape[1]} tokens is allowed, expected at least one: see "
        "suppress_tokens, bad_words_ids, no_repeat_ngram_size, min_length, temperature, "
        "length_penalty"
    )


@torch.no_grad()
def generate(
    model,
    input_values: Tensor,
    attention_mask: Tensor | None = None,
    *,
    trace: list[Candidate] | None = None,
    return_dict_in_generate: bool = False,
    **options,
) -> Tensor | Generated:
    """Generate tokens (B * num_return_sequences, T) from waveforms (B, L).

    The start token comes first, padding is on the right.

    model: a SpeechEncoderDecoder. attention_mask: (B, L), 1 for real samples, 0 for padding.
    options: fields of GenerationConfig, which replace those of `model.generation`. trace: a list
    to which every Candidate of the search is appended. With return_dict_in_generate, the result is
    a Generated, with scores. Raises ValueError for an unknown or wrong option, or a missing token
    id.
    """
    # Arguments are checked before the encoder's long work.
    check_waveforms(input_values)
    model.generation.override(options, model.decoder.config.vocab_size)
    memory, frame_lengths = model.encode(input_values, attention_mask)
    result = decode_memory(model, memory, frame_lengths, options, trace)
    if return_dict_in_generate:
        return result
    return result.sequences
