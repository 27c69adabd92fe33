"""When each word was said: word times from the cross-attention of any encoder-decoder.

    tokens (T,), memory (1, S, H)
        -> run_decoder: attention weights (layers, N, T, S)
        -> find_heads: the heads that show where the words are; their mean (W, S)
        -> find_peaks: one frame for each token, in order by dynamic time warping (dtw)
        -> find_onsets, find_extents: start and end of each token in seconds (W, 2)
        -> group_words: words

The decoder runs once more over the finished hypothesis while its attention is observed. OpenAI's
Whisper times words in the same way (whisper/timing.py), with heads that were selected by hand for
each model. `align_tokens` is the only place that does it: `transcribe --words`, `align`, the page
of `report` and lesson 8 all show its result.

Shapes: T tokens, W tokens that are text, S source frames, H hidden_size, N heads, V vocab_size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanos2t.decoder import Decoder
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection.observer import observe_attention
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription.results import Word

# What a change of these numbers does is measured by tests/benchmarks/word_times.py: the errors of
# the beginnings of words, and the share of the parts of German numbers that are found.

# The attention around a peak: so many seconds before and after it.
REACH = 0.2

# A token begins when this share of the attention around its peak has passed ...
ONSET_SHARE = 0.1

# ... and so many seconds earlier: a word must have begun before it can be recognised.
LEAD = 0.06

# Seconds from the peak to the end of the token, unless the next one begins earlier.
TAIL = 0.4

# In a translation, tokens that begin within so many seconds of each other are of one spoken word:
# the later does not end the earlier.
MIN_GAP = 0.1

# The share of its attention that a token of a translation pays around its peak if it has a time of
# its own. To write "ty" after "for", a decoder need not look anywhere.
MIN_FOCUS = 0.35

# Languages whose text has the order of the sound (None: a monolingual model). A translation may
# put its words into another order.
MONOTONE_LANGUAGES = (None, "verbatim")


class AlignmentOptions(NamedTuple):
    """How the tokens of a text are timed."""

    # Whether the text has the order of the sound. If not, each token is timed by itself.
    monotone: bool = True

    # Pairs of layer and head that are stored with the model; None: they are chosen for each text.
    heads: Sequence[Sequence[int]] | None = None


class Alignment(NamedTuple):
    """Where the decoder looked when it chose each text token, and when the token was said."""

    heads: Tensor  # (count, 2): pairs of layer and head
    weights: np.ndarray  # (W, S): mean attention weights of these heads
    peaks: np.ndarray  # (W,): frames
    has_peak: np.ndarray  # (W,): False for a token that has the time of another one
    times: np.ndarray  # (W, 2): start and end in seconds


def choose_options(config: GenerationConfig, language: str | None) -> AlignmentOptions:
    """Return how a text in a language, one of the model's, is timed."""
    return AlignmentOptions(language in MONOTONE_LANGUAGES, config.alignment_heads)


@torch.no_grad()
def run_decoder(decoder: Decoder, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Decode known tokens (T,) once, and observe where the decoder looks in memory (1, S, H).

    Return logits (T, V) and cross-attention weights (layers, N, T, S). Row t of the weights sums to
    1 and shows the frames that the decoder attended to when it read token t and chose token t + 1.
    """
    with observe_attention(block.cross_attn for block in decoder.blocks) as weights:
        logits = decoder(tokens[None], decoder.project_memory(memory))  # (1, T, V)
    return logits[0], torch.cat(weights)


def find_heads(weights: Tensor, stored: Sequence[Sequence[int]] | None) -> Tensor:
    """Return the stored heads, or those that `choose_heads` chooses by weights (layers, N, T, S).

    In a translation, later words need not be later in the sound, and `choose_heads` is often wrong:
    such a model should store its heads as `alignment_heads` in generation_config.json. ValueError:
    the decoder has no such head.
    """
    if stored is None:
        return choose_heads(weights)
    num_layers, num_heads = weights.shape[:2]
    for layer, head in stored:
        if layer >= num_layers or head >= num_heads:
            raise ValueError(
                f"alignment_heads has layer {layer}, head {head}, "
                f"expected layers below {num_layers} and heads below {num_heads}"
            )
    return torch.tensor(stored)  # (count, 2)


def choose_heads(weights: Tensor, count: int = 2) -> Tensor:
    """Choose the heads of weights (layers, N, T, S) that move forward in time as the text does.

    Return (count, 2): pairs of layer and head, best first. The score of a head is Kendall's tau
    (1938) of frames that are drawn from its rows: the mean over all pairs of tokens of P(the later
    token has the later frame) - P(the later token has the earlier frame). A small bonus for sharp
    rows decides ties.
    """
    T = weights.shape[2]
    num_pairs = max(1, T * (T - 1) / 2)

    # P(the frame of token t is before s) and P(it is after s)
    before = weights.cumsum(3) - weights  # (layers, N, T, S)
    after = 1 - weights.cumsum(3)  # (layers, N, T, S)

    # Sum over the tokens up to t. (Token t itself is among them, and adds 0 to the score.)
    earlier_tokens = (before - after).cumsum(2)  # (layers, N, T, S)
    tau = (weights * earlier_tokens).sum((2, 3)) / num_pairs  # (layers, N)
    sharpness = weights.amax(3).mean(2)  # (layers, N)
    score = tau + 0.01 * sharpness  # (layers, N)

    count = min(count, score.numel())
    best = score.flatten().topk(count).indices  # (count,)
    num_heads = score.shape[1]
    return torch.stack([best // num_heads, best % num_heads], 1)  # (count, 2)


def dtw(cost: np.ndarray) -> np.ndarray:
    """Find the cheapest path through cost (T, S), from its first cell to its last.

    Return the cells of the path as rows (token, frame): (steps, 2), int. This is dynamic time
    warping: each step goes to the next token, to the next frame, or to both. The path is traced
    back from the last cell, where a step from both wins a tie.
    Sakoe & Chiba 1978, "Dynamic programming algorithm optimization for spoken word recognition".
    """
    T, S = cost.shape

    # total[t + 1, s + 1] is the cost of the cheapest path that ends in cell (t, s), this cell
    # included. The border of infinity keeps paths inside the table.
    total = np.full((T + 1, S + 1), np.inf)
    total[0, 0] = 0.0
    for t in range(T):
        # The cheaper way from the previous token to each cell: with the previous or the same frame.
        from_token = np.minimum(total[t, :-1], total[t, 1:])  # (S,)

        # The third way, from the previous frame of this token, needs a loop. Lists make it fast.
        row = []
        path_cost = np.inf
        for cell_cost, other_path in zip(cost[t].tolist(), from_token.tolist(), strict=True):
            path_cost = cell_cost + min(path_cost, other_path)
            row.append(path_cost)
        total[t + 1, 1:] = row

    # Walk back from the last cell, each time to the cheapest of the three cells before it. (argmin
    # returns the first of equals, the diagonal.)
    path = [(T - 1, S - 1)]
    while path[-1] != (0, 0):
        t, s = path[-1]
        cells = [(t - 1, s - 1), (t - 1, s), (t, s - 1)]
        totals = [total[t, s], total[t, s + 1], total[t + 1, s]]
        path.append(cells[np.argmin(totals)])
    return np.array(path[::-1])


def find_peaks(weights: np.ndarray, monotone: bool) -> np.ndarray:
    """Return for each token of weights (W, S) the frame with the largest weight: (W,).

    With `monotone`, only frames on the path of `dtw` count: then the frames are in order, too.
    """
    if monotone:
        token, frame = dtw(1 - weights).T  # 2 x (steps,)
        is_on_path = np.zeros(weights.shape, bool)  # (W, S)
        is_on_path[token, frame] = True
        weights = np.where(is_on_path, weights, -1.0)
    return weights.argmax(1)


def find_onsets(
    weights: np.ndarray, peaks: np.ndarray, seconds_per_frame: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return when tokens begin (W,), in seconds, from weights (W, S) and their peaks (W,), frames.

    The attention of a token is spread over its word, early and late: its peak is not the beginning.
    The second array (W,) is the share of its attention that each token pays around its peak.
    """
    reach = max(1, round(REACH / seconds_per_frame))
    onsets = []
    focus = []
    for row, peak in zip(weights, peaks.tolist()):
        first = max(0, peak - reach)
        # A path may lead through frames without any attention: then all of them count.
        near = row[first : peak + reach + 1] + 1e-9
        focus.append(near.sum() / row.sum())

        # The share that has passed at the edge of each frame, from 0 to 1
        edges = first + np.arange(len(near) + 1)
        passed = np.concatenate([[0.0], near.cumsum() / near.sum()])
        onset = np.interp(ONSET_SHARE, passed, edges)  # in frames, between two edges
        onsets.append(onset * seconds_per_frame - LEAD)
    return np.array(onsets), np.array(focus)


def borrow_times(times: np.ndarray, has_peak: np.ndarray) -> np.ndarray:
    """Return times (W, 2) for all tokens from those of the tokens that have a peak of their own.

    times: (P, 2), of the P tokens, at least one, where has_peak (W,) is True. The others have the
    time of the last token before them that has a peak, or of the first one.
    """
    number = has_peak.cumsum() - 1  # (W,): how many tokens with peaks come before
    return times[np.maximum(number, 0)]


def find_extents(
    onsets: np.ndarray, peak_times: np.ndarray, duration: float, min_gap: float = 0.0
) -> np.ndarray:
    """Return the start and end (W, 2) of tokens from their onsets and peaks (W,), all in seconds.

    A token ends where the next one starts that is more than `min_gap` later, and at most TAIL after
    its peak. All times are within 0 and the `duration` of the clip.
    """
    starts = np.clip(onsets, 0.0, duration)  # (W,)

    # Row i compares token i with all others: those that start later may end it.
    is_later = starts > starts[:, None] + min_gap  # (W, W)
    next_starts = np.where(is_later, starts, duration).min(1)  # (W,)
    ends = np.minimum(peak_times + TAIL, next_starts)  # (W,)
    return np.stack([starts, ends], 1)


def align_tokens(
    model: SpeechEncoderDecoder,
    tokens: Sequence[int],
    text_positions: Sequence[int],
    memory: Tensor,
    seconds: float,
    options: AlignmentOptions,
) -> Alignment:
    """Find when the text tokens of a hypothesis were said.

    tokens: (T,), the start token first. text_positions: (W,), at least one, the indices of the
    tokens that are text, not special. memory: (1, S, H), no padding, from a clip that lasts
    `seconds`.
    """
    # The decoder chooses token i in row i - 1, when it has read the tokens before it.
    decoder_input = torch.as_tensor(tokens[:-1], device=memory.device)  # (T - 1,)
    rows = [position - 1 for position in text_positions]  # (W,)
    _, weights = run_decoder(model.decoder, decoder_input, memory)  # (layers, N, T - 1, S)
    weights = weights[:, :, rows].cpu().double()  # (layers, N, W, S)

    heads = find_heads(weights, options.heads)  # (count, 2)
    layer, head = heads.T  # 2 x (count,)
    mean_weights = weights[layer, head].mean(0).numpy()  # (W, S)
    peaks = find_peaks(mean_weights, options.monotone)  # (W,)

    seconds_per_frame = seconds / memory.shape[1]
    onsets, focus = find_onsets(mean_weights, peaks, seconds_per_frame)  # 2 x (W,)
    if options.monotone:
        onsets = np.maximum.accumulate(onsets)
        has_peak = np.ones(len(peaks), bool)  # (W,)
        min_gap = 0.0
    else:
        has_peak = focus >= min(MIN_FOCUS, focus.max())  # (W,)
        min_gap = MIN_GAP

    # The middle of a frame
    peak_times = (peaks + 0.5) * seconds_per_frame  # (W,)
    times = find_extents(onsets[has_peak], peak_times[has_peak], seconds, min_gap)  # (P, 2)
    times = borrow_times(times, has_peak)  # (W, 2)
    return Alignment(heads, mean_weights, peaks, has_peak, times)


def find_words(
    model: SpeechEncoderDecoder,
    tokenizer: Tokenizer | None,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    memory: Tensor,
    seconds: float,
    options: AlignmentOptions,
) -> list[Word]:
    """Return the words of a hypothesis with their times and probabilities; [] without a tokenizer.

    tokens: (T,), the start token first. logprobs: (T - 1,), of the tokens after the start token.
    The other arguments are those of `align_tokens`.
    """
    if tokenizer is None:
        return []
    text_positions = find_text(tokenizer, tokens)  # (W,)
    if not text_positions:
        return []
    alignment = align_tokens(model, tokens, text_positions, memory, seconds, options)
    text_tokens = [tokens[i] for i in text_positions]
    text_logprobs = [logprobs[i - 1] for i in text_positions]
    return group_words(tokenizer, text_tokens, alignment.times, text_logprobs)


def find_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """Return the indices (W,) of the tokens (T,) that are text, start token left out."""
    return [i for i in range(1, len(tokens)) if not is_special(tokenizer, tokens[i])]


def group_words(
    tokenizer: Tokenizer, tokens: Sequence[int], times: np.ndarray, logprobs: Sequence[float]
) -> list[Word]:
    """Join text tokens (W,), with times (W, 2) and log-probabilities (W,), to words in order.

    The words, joined by spaces, are the decoded text. A word lasts from its first start to its last
    end; its probability is the geometric mean of its tokens' probabilities.
    """
    text_words = tokenizer.decode(tokens).split()
    if not text_words:
        return []
    numbers = np.array(number_words(tokenizer, tokens))  # (W,)
    logprobs = np.asarray(logprobs)  # (W,)

    words = []
    num_spelled = 0
    for number in np.unique(numbers).tolist():
        is_own = numbers == number  # (W,)
        # A token that holds several words has the number of the last one.
        spelled = " ".join(text_words[num_spelled : number + 1])
        num_spelled = number + 1
        start = float(times[is_own].min())
        end = float(times[is_own].max())
        probability = float(np.exp(logprobs[is_own].mean()))
        words.append(Word(start, end, spelled, probability))
    return words


def is_special(tokenizer: Tokenizer, token: int) -> bool:
    """Return whether a token, such as EOS or a language, is left out of the decoded text."""
    text = tokenizer.decode([token])
    full_text = tokenizer.decode([token], skip_special_tokens=False)
    return text == "" and full_text != ""


def number_words(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """Return the number of the word, from 0, that each text token (W,) belongs to.

    This works for every vocabulary, however it marks words: ever longer prefixes of the tokens are
    decoded, and their words counted. A token that adds only white space belongs to the next word.
    """
    numbers = []
    previous_text = ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end])
        number = len(text.split())
        if text.strip() != previous_text.strip():
            number -= 1
        numbers.append(number)
        previous_text = text

    # What looks like two words may become one as more tokens follow: no number exceeds a later one.
    smallest = len(previous_text.split()) - 1
    for i in reversed(range(len(numbers))):
        smallest = min(smallest, numbers[i])
        numbers[i] = smallest
    return numbers
