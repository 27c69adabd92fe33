"""When each word was said, read off the cross-attention of any encoder-decoder.

    tokens (T,), memory (1, S, H) -> cross_attention (layers, N, T, S) -> choose_heads -> their mean (T, S)
        -> peaks, in order by dtw -> align: seconds of each token -> words

The decoder runs once more over the finished hypothesis, part by part, so that its weights come into sight:
nothing is hooked into the model. Whisper times words so, with heads that are known to align (timing.py).

Shapes: T tokens, S source frames, H hidden_size, N heads, D head_size, V vocab_size, W text tokens.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from nanos2t import wav2vec2
from nanos2t.apps import transcribe  # which imports this file: name nothing of it before a call
from nanos2t.decoder import Decoder
from nanos2t.generate import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer

LEAD = 0.1  # seconds from the start of a word to the frame where the decoder hears it: a word is not known at once
TAIL = 0.4  # seconds after that frame in which a word is over, if no other begins before


def run_decoder(decoder: Decoder, tokens: Tensor, memory: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Decoder.forward over tokens (T,), with its parts in sight: logits (T, V) and weights (layers, N, T, S)."""
    x, weights = decoder.embed(tokens[None], 0), []  # (1, T, H)
    for block in decoder.blocks:
        keys, values = block.cross_attn.keys_values(memory)  # 2 x (1, N, S, D)
        if block.pre_norm:
            x = x + block.attend_past(block.self_attn_norm(x), None)
            asking = block.cross_attn_norm(x)  # (1, T, H)
            x = x + block.attend_memory(asking, (keys, values), mask)
            x = x + block.mlp(block.mlp_norm(x))
        else:
            asking = block.self_attn_norm(x + block.attend_past(x, None))  # (1, T, H)
            x = block.cross_attn_norm(asking + block.attend_memory(asking, (keys, values), mask))
            x = block.mlp_norm(x + block.mlp(x))
        queries = block.cross_attn.split(block.cross_attn.q_proj(asking))  # (1, N, T, D)
        weights.append(wav2vec2.attention_weights(queries, keys, mask)[0])  # (N, T, S)
    return decoder.head(decoder.norm(x), decoder.embed.tokens.weight)[0], torch.stack(weights)


@torch.no_grad()
def cross_attention(model: SpeechEncoderDecoder, tokens: Tensor, memory: Tensor,
                    mask: Tensor | None = None) -> Tensor:  # fmt: skip
    """Decoder input (T,), memory (1, S, H), its real frames (1, 1, 1, S) -> weights (layers, N, T, S).

    Each row sums to 1: where a head listened when the decoder had read token t and chose token t + 1.
    """
    return run_decoder(model.decoder, tokens, memory, mask)[1]


def choose_heads(weights: Tensor, count: int = 2) -> Tensor:
    """The `count` heads of weights (layers, N, T, S) that move on in time as the text does: (count, 2).

    A row is (layer, head), the best first. The score is Kendall's tau of a head: the mean over pairs of tokens of
    P(the later one is heard later) - P(it is heard earlier), if each is heard in a frame drawn from its row.
    Of equals, as when there is one token, the sharper head is better.
    """
    pairs = max(1, weights.shape[2] * (weights.shape[2] - 1) // 2)
    after = 2 * weights.cumsum(3) - weights - 1  # (layers, N, T, S)  P(heard before s) - P(heard after s)
    earlier_tokens = after.cumsum(2)[:, :, :-1]  # (layers, N, T - 1, S)
    tau = (weights[:, :, 1:] * earlier_tokens).sum((2, 3)) / pairs  # (layers, N)
    score = tau + 0.01 * weights.amax(3).mean(2)  # (layers, N)
    best = score.flatten().topk(min(count, score.numel()))[1]  # (count,)
    return torch.stack([best // score.shape[1], best % score.shape[1]], 1)


def dtw(cost: np.ndarray) -> np.ndarray:
    """The cheapest path through cost (T, S) from the first token and frame to the last: (steps, 2), int.

    Dynamic time warping. A step goes to the next token, to the next frame, or to both, so that every token and
    every frame is on the path, in order. Of equal ways the one through both is taken.
    Sakoe & Chiba 1978, "Dynamic programming algorithm optimization for spoken word recognition".
    """
    T, S = cost.shape
    total = np.full((T + 1, S + 1), np.inf)  # (T + 1, S + 1)  the cheapest way to each cell, and that cell
    total[0, 0] = 0.0
    for t in range(T):
        above = np.minimum(total[t, :-1], total[t, 1:])  # (S,)  from the token before, in the frame before or here
        left, row = np.inf, []
        for here, other in zip(cost[t].tolist(), above.tolist(), strict=True):
            left = here + min(left, other)
            row.append(left)
        total[t + 1, 1:] = row
    path = [(T - 1, S - 1)]
    while path[-1] != (0, 0):
        t, s = path[-1]
        total_before = (total[t, s], total[t, s + 1], total[t + 1, s])
        path.append(((t - 1, s - 1), (t - 1, s), (t, s - 1))[int(np.argmin(total_before))])
    return np.array(path[::-1])


def peaks(weights: np.ndarray, monotone: bool) -> np.ndarray:
    """The frame where each token of weights (T, S) is heard (T,): its peak, if monotone its peak on the path of dtw."""
    if monotone:
        t, s = dtw(1 - weights).T  # 2 x (steps,)
        on_path = np.zeros(weights.shape, bool)  # (T, S)
        on_path[t, s] = True
        weights = np.where(on_path, weights, -1.0)
    return weights.argmax(1)


def special_ids(generation: GenerationConfig) -> set[int]:
    """The ids that stand for no sound: start, end, padding, languages."""
    names = "decoder_start_token_id", "bos_token_id", "pad_token_id", "forced_bos_token_id"
    ids = {getattr(generation, name) for name in names} | {*generation.eos_ids}
    return ids | {*(generation.lang_to_id or {}).values()}


def align(model: SpeechEncoderDecoder, tokens: Sequence[int] | Tensor, memory: Tensor, frames: int, seconds: float,
          monotone: bool = True, special: Collection[int] = ()) -> np.ndarray:  # fmt: skip
    """Start and end in seconds of each token after the first: (T - 1, 2), in the order of `token_logprobs`.

    `tokens` (T,): a hypothesis as `generate` returns it, start token first. `memory` (1, S, H), of which `frames`
    are real and last `seconds`. `monotone`: the text follows the sound; False for translations, where each token
    is timed by itself. Ids in `special`, and those that the model knows to be, take no time.
    """
    tokens = torch.as_tensor(tokens, device=memory.device)  # (T,)
    silent = special_ids(model.generation) | {*special}
    spoken = [i for i, token in enumerate(tokens[1:].tolist()) if token not in silent]
    times = np.zeros((len(tokens) - 1, 2))  # (T - 1, 2)
    if spoken:
        weights = cross_attention(model, tokens[:-1], memory[:, :frames])[:, :, spoken]  # (layers, N, W, S)
        layer, head = choose_heads(weights.double()).T  # 2 x (count,)
        mean = weights.double()[layer, head].mean(0).cpu().numpy()  # (W, S)
        times[spoken] = extents((peaks(mean, monotone) + 0.5) * seconds / frames, seconds)
    for i in sorted({*range(len(times))} - {*spoken}):
        times[i] = times[i - 1, 1] if i else 0.0
    return times


def extents(heard: np.ndarray, seconds: float) -> np.ndarray:
    """Seconds at which tokens are heard (W,) -> when they start and end (W, 2), from 0 to `seconds`.

    One ends TAIL after it is heard, or where the next one in time starts.
    """
    starts = np.clip(heard - LEAD, 0.0, seconds)  # (W,)
    later = np.where(starts > starts[:, None], starts, seconds).min(1)  # (W,)
    return np.stack([starts, np.minimum(heard + TAIL, later)], 1)


def words(tokenizer: Tokenizer, tokens: Sequence[int] | Tensor, times: np.ndarray,
          logprobs: Sequence[float]) -> tuple["transcribe.Word", ...]:  # fmt: skip
    """The words of a hypothesis (T,), start token first, from times (T - 1, 2) and log-probabilities (T - 1,).

    Joined by spaces they are its text. The probability is the geometric mean over a word's tokens.
    """
    rows = zip((int(token) for token in tokens[1:]), times, logprobs, strict=True)
    rows = [row for row in rows if not is_special(tokenizer, row[0])]
    spelling = tokenizer.decode([token for token, _, _ in rows]).split()
    numbers, found, done = word_numbers(tokenizer, [token for token, _, _ in rows]), [], 0
    for number in sorted(set(numbers)) if spelling else ():
        _, spans, logs = zip(*(row for row, its in zip(rows, numbers, strict=True) if its == number), strict=True)
        start, end = float(np.min(spans)), float(np.max(spans))
        probability = float(np.exp(np.mean([float(log) for log in logs])))
        found.append(transcribe.Word(start, end, " ".join(spelling[done : number + 1]), probability))
        done = number + 1
    return tuple(found)


def is_special(tokenizer: Tokenizer, token: int) -> bool:
    """Whether decoding may leave it out, as it does an end or a language."""
    return tokenizer.decode([token]) == "" != tokenizer.decode([token], skip_special_tokens=False)


def word_numbers(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """Which word of the text each token (W,) belongs to, from 0, whatever marks a word's start in its vocabulary.

    Ever longer beginnings are decoded and their words counted; a token that adds white space alone belongs to the
    next word. What looks like two words may become one ("it '" -> "it's"): the smallest later number holds.
    """
    numbers, before = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end])
        numbers.append(len(text.split()) - (text.strip() != before.strip()))
        before = text
    last = len(before.split()) - 1
    return [min(last, *numbers[i:]) for i in range(len(numbers))]
