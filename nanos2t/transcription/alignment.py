"""When each word was said, read off the cross-attention of any encoder-decoder.
    tokens (T,), memory (1, S, H) -> cross_attention (layers, N, T, S) -> choose_heads -> their mean (T, S)
        -> peaks, in order by dtw -> align: seconds of each token -> group: words
The decoder runs once more over the finished hypothesis, block by block. Whisper times words so (timing.py),
with heads that are known to align.
Shapes: T tokens, S source frames, H hidden_size, N heads, D head_size, V vocab_size, W text tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nanos2t import wav2vec2
from nanos2t.decoder import Decoder
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription.results import Result, Segment, Word

if TYPE_CHECKING:
    from nanos2t.transcription.transcriber import SpeechToText

LEAD = 0.1  # seconds from a word's start to the frame where the decoder hears it: it is not known at once
LONGEST = 60  # seconds of a recording that a given text is found in: it is heard as a whole
TAIL = 0.4  # seconds from that frame to the word's end, if no other begins before
MONOTONE = (
    None,
    "verbatim",
)  # languages whose text follows the sound: in a translation words change places


def run_decoder(decoder: Decoder, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Decoder.forward over tokens (T,) and memory (1, S, H) -> logits (T, V), weights (layers, N, T, S)."""
    x, weights = decoder.embed(tokens[None], 0), []  # (1, T, H)
    for block, (keys, values) in zip(
        decoder.blocks, decoder.project_memory(memory)
    ):  # 2 x (1, N, S, D)
        if block.pre_norm:
            asking = block.cross_attn_norm(x + block.attend_past(block.self_attn_norm(x), None))
        else:
            asking = block.self_attn_norm(x + block.attend_past(x, None))  # (1, T, H)
        queries = block.cross_attn.split_heads(block.cross_attn.q_proj(asking))  # (1, N, T, D)
        weights.append(wav2vec2.attention_weights(queries, keys)[0])  # (N, T, S)
        x = block(x, (keys, values), None, None)
    return decoder.head(decoder.norm(x), decoder.embed.tokens.weight)[0], torch.stack(weights)


@torch.no_grad()
def cross_attention(model: SpeechEncoderDecoder, tokens: Tensor, memory: Tensor) -> Tensor:
    """Decoder input (T,), memory (1, S, H), all of it real -> weights (layers, N, T, S).
    Each row sums to 1: where a head listened when the decoder had read token t and chose token t + 1."""
    return run_decoder(model.decoder, tokens, memory)[1]


def choose_heads(weights: Tensor, count: int = 2) -> Tensor:
    """The `count` heads of weights (layers, N, T, S) that move on in time as the text does: (count, 2).
    Rows are (layer, head), the best first, of equals the sharper. The score is Kendall's tau of frames drawn
    from a head: the mean over pairs of tokens of P(the later one is heard later) - P(it is heard earlier)."""
    pairs = weights.shape[2] * (weights.shape[2] - 1) / 2
    after = (
        2 * weights.cumsum(3) - weights - 1
    )  # (layers, N, T, S)  P(heard before s) - P(heard after s)
    tau = (weights * after.cumsum(2)).sum((2, 3)) / max(
        1, pairs
    )  # (layers, N)  a token with itself counts 0
    score = tau + 0.01 * weights.amax(3).mean(2)  # (layers, N)
    best = score.flatten().topk(min(count, score.numel()))[1]  # (count,)
    return torch.stack([best // score.shape[1], best % score.shape[1]], 1)


def dtw(cost: np.ndarray) -> np.ndarray:
    """The cheapest path through cost (T, S) from the first token and frame to the last: (steps, 2), int.
    Dynamic time warping: a step goes to the next token, to the next frame, or to both, which wins a tie.
    Sakoe & Chiba 1978, "Dynamic programming algorithm optimization for spoken word recognition"."""
    T, S = cost.shape
    total = np.full(
        (T + 1, S + 1), np.inf
    )  # (T + 1, S + 1)  the cheapest way to each cell, and that cell
    total[0, 0] = 0.0
    for t in range(T):
        above = np.minimum(total[t, :-1], total[t, 1:])  # (S,)  from the token before
        left, row = np.inf, []
        for here, other in zip(cost[t].tolist(), above.tolist(), strict=True):
            left = here + min(left, other)
            row.append(left)
        total[t + 1, 1:] = row
    path = [(T - 1, S - 1)]
    while path[-1] != (0, 0):
        t, s = path[-1]
        before = (t - 1, s - 1), (t - 1, s), (t, s - 1)
        path.append(before[np.argmin([total[t, s], total[t, s + 1], total[t + 1, s]])])
    return np.array(path[::-1])


def peaks(weights: np.ndarray, monotone: bool) -> np.ndarray:
    """The frame (W,) where each token of weights (W, S) is heard: its peak, if monotone on dtw's path."""
    if monotone:
        token, frame = dtw(1 - weights).T  # 2 x (steps,)
        on_path = np.zeros(weights.shape, bool)  # (W, S)
        on_path[token, frame] = True
        weights = np.where(on_path, weights, -1.0)
    return weights.argmax(1)


def token_extents(heard: np.ndarray, seconds: float) -> np.ndarray:
    """Seconds at which tokens are heard (W,) -> from when to when they last (W, 2), within the clip.
    A token ends where the next one in time starts, and TAIL after it is heard at the latest."""
    starts = np.clip(heard - LEAD, 0.0, seconds)  # (W,)
    next_start = np.where(starts > starts[:, None], starts, seconds).min(1)  # (W,)
    return np.stack([starts, np.minimum(heard + TAIL, next_start)], 1)


def align_tokens(
    model: SpeechEncoderDecoder,
    tokens: Sequence[int],
    timed: Sequence[int],
    memory: Tensor,
    seconds: float,
    monotone: bool,
) -> np.ndarray:
    """Start and end in seconds of W tokens of a hypothesis (T,) that has its start token first: (W, 2).
    `timed`: their indices, without those that stand for no sound. `memory` (1, S, H) lasts `seconds`.
    `monotone`: the text follows the sound, and so do the times; else each token is timed by itself."""
    if not timed:
        return np.zeros((0, 2))
    read, rows = (
        torch.as_tensor(tokens[:-1], device=memory.device),
        [i - 1 for i in timed],
    )  # (T - 1,), (W,)
    weights = cross_attention(model, read, memory)[:, :, rows].cpu().double()  # (layers, N, W, S)
    layer, head = choose_heads(weights).T  # 2 x (count,)
    heard = peaks(weights[layer, head].mean(0).numpy(), monotone)  # (W,)
    return token_extents((heard + 0.5) * seconds / memory.shape[1], seconds)


def find_words(
    stt: "SpeechToText",
    memory: Tensor,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    seconds: float,
    monotone: bool,
) -> list[Word]:
    """Tokens (T,), start token first, log-probabilities (T - 1,), memory (1, S, H), all real -> words."""
    if stt.tokenizer is None:
        return []
    timed = [i for i in range(1, len(tokens)) if not is_special(stt.tokenizer, tokens[i])]
    times = align_tokens(stt.model, tokens, timed, memory, seconds, monotone)
    return group_words(
        stt.tokenizer, [tokens[i] for i in timed], times, [logprobs[i - 1] for i in timed]
    )


def spell(stt: "SpeechToText", text: str) -> list[int]:
    """A text as tokens, without special ones around it."""
    if stt.tokenizer is None:
        raise ValueError("the model has no tokenizer to read the text with")
    try:
        return [
            token for token in stt.tokenizer.encode(text) if not is_special(stt.tokenizer, token)
        ]
    except Exception as error:  # the Rust side raises no narrower class
        raise ValueError(f"the tokenizer can not read {text!r} ({error})") from None


@torch.no_grad()
def align_text(stt: "SpeechToText", source, text: str, language: str | None = None) -> Result:
    """A given text in a recording, as `SpeechToText.read` takes it: a segment for each of its words.
    The decoder is made to say it, in one piece. ValueError if there is no room for it, or no tokens."""
    (_, config, language), sizes = stt.resolve(language, {}), stt.model.decoder.config
    text = " ".join(
        text.split()
    )  # as the model writes it: other white space has tokens that it never says
    if not text:
        raise ValueError("the text is empty, expected words to find")
    start, first = config.require_id("decoder_start_token_id"), config.forced_bos_token_id
    tokens = [start, first, *spell(stt, text), *config.eos_ids[:1]]
    tokens = [token for token in tokens if token is not None]
    if not 0 <= min(tokens) <= max(tokens) < sizes.vocab_size:
        raise ValueError(
            f"tokens of {text!r} are {tokens}, expected tokens below {sizes.vocab_size}"
        )
    most, waveform = sizes.max_positions + 1, stt.load_audio(source)
    seconds = len(waveform) / stt.sample_rate
    if waveform.min() == waveform.max():
        raise ValueError("silence, expected speech to align the text with")
    if len(tokens) > most or seconds > LONGEST:
        found = f"{len(tokens)} tokens in {seconds:.1f} s"
        raise ValueError(f"{found}, expected {most} tokens and {LONGEST} s at most")
    memory, _ = stt.model.encode(stt.prepare([waveform])[0])  # (1, S, H)
    said = torch.tensor(tokens, device=memory.device)  # (T,)
    logits, _ = run_decoder(stt.model.decoder, said[:-1], memory)  # (T - 1, V)
    logprobs = logits.float().log_softmax(1).gather(1, said[1:, None])[:, 0].tolist()  # (T - 1,)
    found = find_words(stt, memory, tokens, logprobs, seconds, language in MONOTONE)
    if len(found) != len(text.split()):
        spelled = " ".join(word.word for word in found)
        raise ValueError(
            f"the tokenizer reads {text!r} as {spelled!r}, expected words that it can spell"
        )
    segments = [Segment(word.start, word.end, word.word, (word,)) for word in found]
    return Result(
        text, sum(logprobs) / len(logprobs), tokens, logprobs, language, segments, found, [text]
    )


def group_words(
    tokenizer: Tokenizer, tokens: Sequence[int], times: np.ndarray, logprobs: Sequence[float]
) -> list[Word]:
    """Tokens (W,), none of them special, with times (W, 2) and log-probabilities (W,) -> words in order.
    Joined by spaces they are the text. The probability is the geometric mean over a word's tokens."""
    text, found, done = tokenizer.decode(tokens).split(), [], 0
    numbers = np.array(word_numbers(tokenizer, tokens))  # (W,)
    for number in np.unique(numbers).tolist() if text else ():
        own = numbers == number  # (W,)
        spelled = " ".join(text[done : number + 1])
        probability = float(np.exp(np.asarray(logprobs)[own].mean()))
        found.append(Word(float(times[own].min()), float(times[own].max()), spelled, probability))
        done = number + 1
    return found


def is_special(tokenizer: Tokenizer, token: int) -> bool:
    """Whether decoding may leave it out, as it does an end or a language."""
    return tokenizer.decode([token]) == "" != tokenizer.decode([token], skip_special_tokens=False)


def word_numbers(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """Which word of the text each token (W,) belongs to, from 0, whatever marks words in the vocabulary.
    Ever longer beginnings are decoded and their words counted; a token that adds only white space belongs to
    the next word. What looks like two words may turn out to be one: the smallest later number holds."""
    numbers, before = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end])
        numbers.append(len(text.split()) - (text.strip() != before.strip()))
        before = text
    last = len(before.split()) - 1
    return [min(last, *numbers[i:]) for i in range(len(numbers))]
