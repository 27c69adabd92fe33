"""Show how a recording becomes text, as one page that needs no network (`nanos2t report`).

    recording -> analyse_recording: all that is shown, as a dict
              -> render_page: an HTML page with the dict in it as JSON

A recording that is too long for the model is analysed in pieces, each with its own attention and
search. Attention weights are stored as bytes, 255 * sqrt(weight), so that small weights stay
visible, and are pooled until they take little room.

Shapes: L samples, S frames, T tokens that were written, W of them text, N heads, V vocab_size.
"""

import base64
import io
import json
import math
import zlib
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t import __version__
from nanos2t.beams import IMPOSSIBLE
from nanos2t.generate import decode_memory
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection.observer import observe_attention
from nanos2t.inspection.trace import count_numbers, trace_tensors
from nanos2t.search_trace import Candidate
from nanos2t.transcription import alignment
from nanos2t.transcription.hypotheses import trim_after_eos
from nanos2t.transcription.segmentation import split_recording
from nanos2t.transcription.transcriber import SpeechToText

# The version of the JSON: raised when a name in it changes or goes.
VERSION = 1

# Seconds of a recording that are shown unless an end is chosen: the page grows with them.
DEFAULT_SECONDS = 300.0

# Bytes that each kind of attention may take for a second of sound.
BYTES_PER_SECOND = 40_000

# The largest picture of attention: rows and columns of the encoder's, columns of the decoder's.
MAX_ENCODER_CELLS = 128
MAX_DECODER_CELLS = 1024

# The smallest number of beams: a tree needs several.
MIN_BEAMS = 4

# How many tokens are shown that the decoder might have chosen.
NUM_ALTERNATIVES = 6

TEMPLATE = Path(__file__).parents[1] / "assets" / "report.html"
OPENING = '<script type="application/json" id="report">'
CLOSING = "</script>"


@torch.no_grad()
def analyse_recording(
    stt: SpeechToText,
    source,
    title: str,
    language: str | None = None,
    num_beams: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> dict:
    """Collect all that the page shows of a recording, in JSON's types.

    `source` is what `SpeechToText.load_audio` takes. Of a longer recording, the part from `start`
    to `end` seconds is shown; without an end, DEFAULT_SECONDS from the start. ValueError: the audio
    cannot be read, has no such part, the language is unknown, the model is damaged.
    """
    if num_beams is None:
        num_beams = max(stt.model.generation.num_beams, MIN_BEAMS)
    options = {"num_beams": num_beams, "num_return_sequences": 1, "do_sample": False}
    options, config, language = stt.resolve_generation(language, options)
    waveform, total_seconds = load_part(stt, source, start, end)

    # The last piece is empty. A constant one is silence.
    *parts, _ = split_recording([waveform], stt.sample_rate, stt.limits)
    pieces = []
    for first_sample, part in parts:
        if part.min() < part.max():
            piece_start = first_sample / stt.sample_rate
            pieces.append(analyse_piece(stt, piece_start, part, options, config, language))

    # The times of the pieces and their words count from `start`.
    return {
        "title": title,
        "start": start,
        "seconds": len(waveform) / stt.sample_rate,
        "total_seconds": total_seconds,
        "rate": stt.sample_rate,
        "pieces": pieces,
        "audio": encode_wav(waveform, stt.sample_rate),
        **describe_model(stt),
        "language": language,
        "num_beams": num_beams,
        "length_penalty": config.length_penalty,
    }


def load_part(
    stt: SpeechToText, source, start: float, end: float | None
) -> tuple[np.ndarray, float]:
    """Load the part of a recording that is shown (L,), and measure the recording in seconds.

    All of it is decoded, but only the part is kept in memory.
    """
    if end is None:
        end = start + DEFAULT_SECONDS
    if not 0 <= start < end < math.inf:
        raise ValueError(f"the part from {start} s to {end} s, expected 0 <= start < end")
    first = round(start * stt.sample_rate)
    last = round(end * stt.sample_rate)

    blocks = []
    num_samples = 0
    for block in stt.read_blocks(source):
        shown = block[max(0, first - num_samples) : max(0, last - num_samples)]
        if len(shown):
            blocks.append(shown)
        num_samples += len(block)
    seconds = num_samples / stt.sample_rate
    if not blocks:
        raise ValueError(f"the part begins at {start} s, expected less than {seconds:.2f} s")
    return np.concatenate(blocks), seconds


def describe_part(run: dict) -> str:
    """Say which part of its recording a run shows; "" if it shows all of it."""
    end = run["start"] + run["seconds"]
    if run["seconds"] >= run["total_seconds"]:
        return ""
    return f"{run['start']:.2f} s to {end:.2f} s of {run['total_seconds']:.2f} s are shown"


def encode_wav(waveform: np.ndarray, rate: int) -> str:
    """Return a waveform (L,) as a WAV file in base64: a header of 44 bytes, then 16-bit samples."""
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, "PCM_16", format="WAV")
    return base64.b64encode(file.getvalue()).decode()


def describe_model(stt: SpeechToText) -> dict:
    """Return what the page says about the model."""
    encoder = stt.model.encoder.config
    return {
        "model": stt.folder.name if stt.folder else "",
        "families": stt.model.families,
        "parameters": count_numbers(stt.model),
        "versions": {"nanos2t": __version__, "torch": torch.__version__},
        "convolutions": {"kernels": encoder.conv_kernels, "strides": encoder.conv_strides},
        "adapter": {"layers": encoder.adapter_layers, "stride": encoder.adapter_stride},
    }


def analyse_piece(
    stt: SpeechToText,
    start: float,
    waveform: np.ndarray,
    options: dict,
    config: GenerationConfig,
    language: str | None,
) -> dict:
    """Collect what the page shows of a piece (L,), not silent, that starts at second `start`."""
    model = stt.model
    seconds = len(waveform) / stt.sample_rate
    memory, encoder_weights = encode_with_attention(stt, waveform)

    # Search as asked, with every candidate recorded, and greedily for comparison.
    records = []
    best = decode_memory(model, memory, None, options, trace=records)
    greedy = decode_memory(model, memory, None, options | {"num_beams": 1})
    start_token, *tokens = trim_after_eos(best.sequences[0].tolist(), config.eos_ids)
    greedy_tokens = trim_after_eos(greedy.sequences[0].tolist(), config.eos_ids)
    logprobs = best.token_logprobs[0, : len(tokens)]  # (T,)

    # Decode the result once more to see what else was likely, and where the decoder looked.
    decoder_input = torch.tensor([start_token, *tokens[:-1]], device=memory.device)  # (T,)
    logits, cross_weights = alignment.run_decoder(model.decoder, decoder_input, memory)
    alternatives = list_alternatives(logits)
    search = list_candidates(records)
    stages = trace_tensors(stt, waveform, decoder_input[None])

    hypothesis = [start_token, *tokens]  # (T + 1,)
    timing = alignment.choose_options(config, language)
    words = describe_words(
        stt, hypothesis, logprobs.tolist(), memory, cross_weights, seconds, timing
    )
    room = round(BYTES_PER_SECOND * max(1, seconds))
    return {
        "start": start,
        "seconds": seconds,
        "samples": len(waveform),
        "frames": memory.shape[1],
        "text": stt.decode_tokens(hypothesis),
        "greedy": stt.decode_tokens(greedy_tokens),
        "tokens": tokens,
        "probabilities": logprobs.exp().tolist(),
        "score": best.sequences_scores[0].item(),
        "forced": config.forced_bos_token_id is not None,
        "alternatives": alternatives,
        **words,
        "cross": quantise_attention(cross_weights, room, False),
        "encoder": quantise_attention(encoder_weights, room, True),
        "stages": [vars(facts) for facts in stages],
        "search": search,
        **spell_tokens(stt, tokens, alternatives, search),
    }


def encode_with_attention(stt: SpeechToText, waveform: np.ndarray) -> tuple[Tensor, Tensor]:
    """Encode a waveform (L,), and observe where the encoder looks.

    Return memory (1, S, H) and attention weights (layers, N, S, S), which are pooled if they are
    large.
    """

    def make_smaller(weights: Tensor) -> Tensor:
        return pool_weights(weights, MAX_ENCODER_CELLS, MAX_ENCODER_CELLS)

    input_values, _ = stt.prepare([waveform])  # (1, L)
    modules = [block.self_attn for block in stt.model.encoder.blocks]
    with observe_attention(modules, make_smaller) as weights:
        memory, _ = stt.model.encode(input_values)  # (1, S, H)
    return memory, torch.cat(weights)


def list_alternatives(logits: Tensor) -> list[list[tuple[int, float]]]:
    """Return for each row of logits (T, V) the likeliest tokens and their probabilities."""
    count = min(NUM_ALTERNATIVES, logits.shape[1])
    probabilities, tokens = logits.float().softmax(1).topk(count)  # 2 x (T, count)
    rows = zip(tokens.tolist(), probabilities.tolist())
    return [list(zip(*row)) for row in rows]


def list_candidates(records: list[Candidate]) -> list[dict]:
    """Return all candidates of the search, except those from beams that were not real yet."""
    candidates = []
    for record in records:
        if record.sum > IMPOSSIBLE / 2:
            candidates.append(record._asdict())
    return candidates


def describe_words(
    stt: SpeechToText,
    tokens: list[int],
    logprobs: list[float],
    memory: Tensor,
    cross_weights: Tensor,
    seconds: float,
    timing: alignment.AlignmentOptions,
) -> dict:
    """Describe the words of a hypothesis (T + 1,), start token first, and how they were timed.

    The arguments are those of `alignment.find_words`, and the weights (layers, N, T, S). "word_of"
    is the word of each token after the first, or -1; "heads" (count, 2) are the chosen heads;
    "peaks" are pairs of a text token and the frame where these heads look most, for tokens with a
    time of their own; "path" are pairs of token and frame, too: the path through the mean of the
    heads, if the text has the order of the sound.
    """
    word_of = [-1] * (len(tokens) - 1)
    positions = []
    if stt.tokenizer is not None:
        positions = alignment.find_text(stt.tokenizer, tokens)  # (W,)
    if not positions:
        heads = alignment.find_heads(cross_weights, timing.heads).tolist()
        return {"words": [], "word_of": word_of, "heads": heads, "peaks": [], "path": []}

    aligned = alignment.align_tokens(stt.model, tokens, positions, memory, seconds, timing)
    text_tokens = [tokens[i] for i in positions]  # (W,)
    text_logprobs = [logprobs[i - 1] for i in positions]  # (W,)
    words = alignment.group_words(stt.tokenizer, text_tokens, aligned.times, text_logprobs)

    # Row i of the weights chose token i + 1.
    rows = [position - 1 for position in positions]  # (W,)
    if words:
        numbers = alignment.number_words(stt.tokenizer, text_tokens)  # (W,)
        # A token with several words has the number of the last: count without gaps.
        _, word_indices = np.unique(numbers, return_inverse=True)  # (W,)
        for row, index in zip(rows, word_indices.tolist()):
            word_of[row] = index

    peaks = []
    for row, frame, has_peak in zip(rows, aligned.peaks.tolist(), aligned.has_peak.tolist()):
        if has_peak:
            peaks.append((row, frame))
    path = []
    if timing.monotone:
        steps = alignment.dtw(1 - aligned.weights)  # (steps, 2)
        path = [(rows[i], frame) for i, frame in steps.tolist()]
    return {
        "words": [vars(word) for word in words],
        "word_of": word_of,
        "heads": aligned.heads.tolist(),
        "peaks": peaks,
        "path": path,
    }


def spell_tokens(
    stt: SpeechToText,
    tokens: list[int],
    alternatives: list[list[tuple[int, float]]],
    search: list[dict],
) -> dict:
    """Return the text of all tokens on the page ("spelled"), and which are special ("special")."""
    shown = set(tokens)
    for row in alternatives:
        shown.update(token for token, _ in row)
    shown.update(record["token"] for record in search)

    special = []
    if stt.tokenizer is not None:
        special = [token for token in sorted(shown) if alignment.is_special(stt.tokenizer, token)]
    return {
        "spelled": {token: spell_token(stt, token) for token in sorted(shown)},
        "special": special,
    }


def spell_token(stt: SpeechToText, token: int) -> str:
    """Return the text of a token, or its id if there is no tokenizer or no text."""
    text = ""
    if stt.tokenizer is not None:
        text = stt.tokenizer.decode([token], skip_special_tokens=False)
    return text or str(token)


def pool_weights(weights: Tensor, rows: int, columns: int) -> Tensor:
    """Return weights (layers, N, T, S) with fewer rows, their means, and columns, their sums."""
    T, S = weights.shape[2:]
    rows = min(rows, T)
    columns = min(columns, S)
    means = F.adaptive_avg_pool2d(weights.float(), (rows, columns))  # (layers, N, rows, columns)
    return means * (S / columns)


def quantise_attention(weights: Tensor, room: int, square: bool) -> dict:
    """Store weights (layers, N, T, S) as compressed bytes, pooled until `room` bytes suffice.

    Return {"shape", "data"}, the data in base64. `square`: rows are pooled as columns are.
    """
    rows, columns = weights.shape[2:]
    columns = min(columns, MAX_DECODER_CELLS)
    if square:
        columns = min(columns, MAX_ENCODER_CELLS)
        rows = columns
    while True:
        pooled = pool_weights(weights, rows, columns)
        levels = 255 * pooled.clamp(0, 1).sqrt()
        data = zlib.compress(levels.round().byte().cpu().numpy().tobytes())
        if len(data) <= room or columns < 8:
            break

        # The size grows with the columns, or with their square: guess how many fit.
        share = room / len(data)
        if square:
            share = share**0.5
        columns = min(columns - 1, int(columns * share))
        if square:
            rows = columns
    text = base64.b64encode(data).decode()
    return {"shape": list(pooled.shape), "data": text}


def render_page(runs: list[dict]) -> str:
    """Return the page with one run, or with two side by side."""
    # Six digits suffice, and JSON has no NaN: read back what Python writes, and write it again.
    text = json.dumps(runs)
    runs = json.loads(text, parse_float=round_float, parse_constant=replace_constant)
    text = json.dumps({"version": VERSION, "runs": runs}, separators=(",", ":"))  # ASCII

    # Escape what could end the element that the text stands in.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    page = TEMPLATE.read_text("utf-8")
    return page.replace(OPENING + CLOSING, OPENING + text + CLOSING)


def round_float(text: str) -> float:
    return round(float(text), 6)


def replace_constant(name: str) -> None:
    """Return null for NaN and infinity."""


def read_page(path: str) -> dict:
    """Return the first run of a page that `render_page` made.

    Raises ValueError for any other file.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
        content = json.loads(text.split(OPENING)[1].split(CLOSING)[0])
        if content["version"] == VERSION:
            return content["runs"][0]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError(f"{path}: expected a page of `nanos2t report`, version {VERSION}")
