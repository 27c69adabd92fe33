"""Tokens from a trained model: greedy, beam search and sampling, as plain functions. Read from the bottom up.
Options, tokens, scores are those of transformers (generation/utils.py, logits_process.py of 5.23). A search
knows no model: it calls `next_logits(tokens, parents)` for float32 logits (R, V) of the token after each row;
`parents` (R,) are the former rows that the rows go on from, None: themselves.
Shapes: B utterances, K beams or sequences of each, R = B * K rows, T tokens, V vocab_size, C candidates."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.decoder import Decoder
from nanos2t.generation_config import GenerationConfig
from nanos2t.logits_processing import process_logits, warp_logits
from nanos2t.wav2vec2 import valid_frames

NextLogits = Callable[[Tensor, Tensor | None], Tensor]
IMPOSSIBLE = -1e9  # a sum of log-probabilities that nothing real reaches


@dataclass
class Generated:
    sequences: Tensor  # (R, T), the start token first
    sequences_scores: Tensor  # (R,)
    token_logprobs: Tensor  # (R, T - 1)


Candidate = namedtuple("Candidate", "step row parent beam token logprob sum score status")


def record_candidates(
    trace: list, new: "Beams", source: Tensor, onward: Tensor, going: Tensor, penalty: float
) -> None:
    """Append the continuations (B, C) of beams `source` that a step looked at in rows that are `going` (B,),
    best first: "kept" as a beam, "finished" or "dropped". `sum` of log-probabilities, `score` if it ended."""
    step, K = new.tokens.shape[2] - 1, onward.shape[1]
    columns = new.tokens[..., -1], new.logprobs[..., -1], new.scores, new.scores / step**penalty
    for row in going.nonzero().flatten().tolist():
        beams, ended = onward[row].tolist(), new.ended[row].tolist()
        for i, parent in enumerate(source[row].tolist()):
            beam = beams.index(i) if i in beams and not ended[i] else None
            status = "kept" if beam is not None else "finished" if ended[i] and i < K else "dropped"
            values = [column[row, i].item() for column in columns]
            trace.append(Candidate(step, row, parent, beam, *values, status))


class DecoderSession:
    """`next_logits` for generate.py: the memory (B, S, H) of a batch is read once, past tokens are cached."""

    def __init__(
        self,
        decoder: Decoder,
        memory: Tensor,
        frame_lengths: Tensor | None,
        rows: int,
        max_length: int,
    ):
        self.decoder = decoder
        self.memory = decoder.project_memory(memory)
        self.mask = None
        if frame_lengths is not None:
            self.mask = valid_frames(frame_lengths, memory.shape[1])[:, None, None]  # (B, 1, 1, S)
        self.cache = decoder.new_caches(rows, min(max_length, decoder.config.max_positions))

    def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:  # (R, T), (R,)
        for cache in self.cache if parents is not None else ():
            cache.reorder(parents)
        new = tokens[:, self.cache[0].length :]  # (R, 1)
        logits = self.decoder(new, self.memory, self.mask, self.cache)[:, -1].float()  # (R, V)
        for row, token in (~logits.isfinite()).nonzero().tolist():
            raise ValueError(
                f"step {tokens.shape[1]}: token {token} has the logit {logits[row, token]}"
            )
        return logits


def greedy_search(
    next_logits: NextLogits, start: Tensor, config: GenerationConfig, trace=None
) -> Generated:
    """The likeliest next token, or with do_sample a drawn one, until each row (R, 1) has its EOS."""
    tokens, logprobs, eos = start, [], start.new_tensor(config.eos_ids)
    pad = config.pad_token_id if config.pad_token_id is not None else next(iter(config.eos_ids), 0)
    done = torch.zeros(len(start), dtype=torch.bool, device=start.device)  # (R,)
    length = torch.zeros(len(start), device=start.device)  # (R,) float, for any power
    while tokens.shape[1] < config.max_total_length and not done.all():
        scores = process_logits(next_logits(tokens, None), tokens, config)  # (R, V)
        if config.do_sample:
            scores = warp_logits(scores, config, keep=1)
            token = torch.multinomial(scores.softmax(1), 1)  # (R, 1)
        else:
            token = scores.argmax(1, keepdim=True)  # (R, 1)
        logprobs.append(scores.log_softmax(1).gather(1, token).masked_fill(done[:, None], 0.0))
        tokens = torch.cat([tokens, token.masked_fill(done[:, None], pad)], 1)  # (R, T + 1)
        length, going, done = length + ~done, ~done, done | torch.isin(token[:, 0], eos)
        if trace is not None:
            ended = done[:, None] | (tokens.shape[1] == config.max_total_length)  # (R, 1)
            new = Beams(tokens[:, None], logprobs[-1][:, None], sum(logprobs), ended)
            record_candidates(trace, new, token * 0, token * 0, going, config.length_penalty)
    logprobs = torch.cat(logprobs, 1)  # (R, T)
    return Generated(tokens, logprobs.sum(1) / length**config.length_penalty, logprobs)


@dataclass
class Beams:
    tokens: Tensor  # (B, K, T)
    logprobs: Tensor  # (B, K, T - 1), of each token but the first
    scores: Tensor  # (B, K)
    ended: Tensor  # (B, K)

    def pick(self, index: Tensor) -> "Beams":  # (B, C)
        along = index[..., None]  # (B, C, 1)
        return Beams(
            self.tokens.take_along_dim(along, 1),
            self.logprobs.take_along_dim(along, 1),
            self.scores.gather(1, index),
            self.ended.gather(1, index),
        )

    def join(self, others: "Beams", fill: int) -> "Beams":
        """These, filled up to be a token longer, and the others: (B, K + C)."""
        tokens = F.pad(self.tokens, (0, 1), value=fill)  # (B, K, T + 1)
        logprobs = F.pad(self.logprobs, (0, 1), value=torch.nan)  # (B, K, T)
        pairs = zip((tokens, logprobs, self.scores, self.ended), vars(others).values())
        return Beams(*(torch.cat(pair, 1) for pair in pairs))


def initial_beams(start: Tensor, K: int) -> tuple[Beams, Beams]:
    """Running beams, of which only the first counts as all are the same, and places for those that end."""
    tokens = start[:, None].expand(-1, K, -1)  # (B, K, 1)
    places = torch.full(tokens.shape[:2], IMPOSSIBLE, device=start.device)  # (B, K)
    scores = torch.cat([places[:, :1] * 0, places[:, 1:]], 1)  # (B, K)
    none, ended = places[..., None][..., :0], places > 0  # (B, K, 0), (B, K)
    return Beams(tokens, none, scores, ended), Beams(tokens, none, places, ended)


def best_continuations(
    running: Beams, logits: Tensor, config: GenerationConfig
) -> tuple[Beams, Tensor]:
    """The best, or drawn, one-token continuations of an utterance's beams, C in all, and their parents."""
    B, K, T = running.tokens.shape
    ends = len(config.eos_ids)
    logprobs = process_logits(logits.log_softmax(1), running.tokens.flatten(0, 1), config)  # (R, V)
    logprobs = (
        warp_logits(logprobs, config, keep=max(1, ends) + 1) if config.do_sample else logprobs
    )
    totals = (logprobs.view(B, K, -1) + running.scores[..., None]).flatten(1)  # (B, K * V)
    C, V = (
        max(2, 1 + ends) * K,
        logprobs.shape[1],
    )  # K of them can go on even if every beam has every EOS
    index = (
        torch.multinomial(totals.softmax(1), C) if config.do_sample else totals.topk(C)[1]
    )  # (B, C)
    parents, token = index // V, index % V  # 2 x (B, C)
    beams, logprob = running.pick(parents), logprobs.view(B, -1).gather(1, index)  # (B, C)
    beams.tokens = torch.cat([beams.tokens, token[..., None]], 2)  # (B, C, T + 1)
    beams.logprobs = torch.cat([beams.logprobs, logprob[..., None]], 2)  # (B, C, T)
    beams.scores = totals.gather(1, index)  # (B, C)
    beams.ended = torch.isin(token, token.new_tensor(config.eos_ids)) | (
        T + 1 == config.max_total_length
    )
    return beams, parents


def beam_search(
    next_logits: NextLogits, start: Tensor, config: GenerationConfig, trace=None
) -> Generated:
    """The num_beams best hypotheses at a time (Sutskever et al. 2014, section 3.2), from start (B, 1)."""
    B, K, penalty, eager = (
        len(start),
        config.num_beams,
        config.length_penalty,
        config.early_stopping is True,
    )
    fill = config.pad_token_id or next(iter(config.eos_ids), 0)  # pad 0: EOS, as HF has it
    running, done = initial_beams(start, K)
    improving = torch.ones_like(start, dtype=torch.bool)  # (B, 1)
    rows, parents = torch.arange(B, device=start.device)[:, None] * K, None  # (B, 1)
    while True:
        # STEP 1: the C best continuations of the running beams: more than K, because some end here
        logits = next_logits(running.tokens.flatten(0, 1), parents)  # (R, V)
        new, source = best_continuations(running, logits, config)  # (B, C)
        # STEP 2: the K best that did not end run on
        scores, onward = (new.scores + new.ended * IMPOSSIBLE).topk(K)  # 2 x (B, K)
        running = new.pick(onward)
        running.scores, parents = scores, (source.gather(1, onward) + rows).flatten()
        # STEP 3: those of the first K that ended compete with those that ended before, by score per length
        length, stuck = new.tokens.shape[2] - 1, new.ended.all()
        closed = ~improving | (done.ended.all(1, keepdim=True) & eager)  # (B, 1)
        if trace is not None:
            record_candidates(trace, new, source, onward, ~closed[:, 0], penalty)
        new.ended[:, K:] = False
        new.scores = new.scores / length**penalty + closed * IMPOSSIBLE + ~new.ended * IMPOSSIBLE
        done = done.join(new, fill)
        done = done.pick(done.scores.topk(K)[1])  # (B, K)
        # STEP 4: stop when no running beam can beat the worst that ended, or when none can go on
        room = (
            config.max_total_length - 1
            if config.early_stopping == "never" and penalty > 0
            else length
        )
        worst = torch.where(done.ended, done.scores.min(1, keepdim=True)[0], IMPOSSIBLE)  # (B, K)
        improving = improving & (running.scores[:, :1] / room**penalty > worst).any(1, keepdim=True)
        if stuck or not improving.any() or (eager and done.ended.all()):
            break
    count = config.num_return_sequences
    tokens, logprobs = done.tokens[:, :count].flatten(0, 1), done.logprobs[:, :count].flatten(0, 1)
    filled = logprobs.isnan()  # (R, T - 1)
    longest = int((~filled).sum(1).max())
    return Generated(
        tokens[:, : longest + 1],
        done.scores[:, :count].flatten(),
        logprobs.masked_fill(filled, 0.0)[:, :longest],
    )


@torch.no_grad()
def decode_memory(
    model, memory: Tensor, frame_lengths: Tensor | None, options: dict, trace=None
) -> Generated:
    """Decode encoder output: memory (B, S, H) with frame_lengths (B,), None if nothing is padded."""
    config = model.generation.override(options, model.decoder.config.vocab_size)
    rows = config.num_beams if config.num_beams > 1 else config.num_return_sequences
    start = torch.full(
        (len(memory), 1), config.require_id("decoder_start_token_id"), device=memory.device
    )
    next_logits = DecoderSession(
        model.decoder, memory, frame_lengths, len(memory) * rows, config.max_total_length
    )
    search, count = (beam_search, 1) if config.num_beams > 1 else (greedy_search, rows)
    return search(next_logits, start.repeat_interleave(count, 0), config, trace)


@torch.no_grad()
def generate(
    model,
    input_values: Tensor,
    attention_mask: Tensor | None = None,
    *,
    trace: list | None = None,
    return_dict_in_generate: bool = False,
    **options,
) -> Tensor | Generated:
    """Waveforms (B, L) -> tokens (B * num_return_sequences, T), start token first, padded on the right.
    `options`: fields of GenerationConfig, before those of `model.generation`; ValueError names a wrong one.
    With return_dict_in_generate the result is Generated, with scores. `trace` gets every Candidate."""
    model.generation.override(options, model.decoder.config.vocab_size)  # errors before the work
    if len(input_values) == 0:
        raise ValueError("input_values: expected at least one waveform, found none")
    found = decode_memory(model, *model.encode(input_values, attention_mask), options, trace)
    return found if return_dict_in_generate else found.sequences
