"""How a recording became text, as one page that needs no network: `nanos2t report`.
    source -> hear: a run, all that is shown, as a dict -> render: assets/report.html with runs in it as JSON
A recording longer than the model hears is heard in pieces, each with its own attention and search. Attention
is kept as bytes, 255 * sqrt(weight), so that small weights show, and pooled until it takes little room.
Shapes: L samples, S frames, T tokens that were written, W of them text, N heads, D head_size, V vocab_size"""

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t import __version__
from nanos2t.generate import IMPOSSIBLE, decode_memory
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection import info
from nanos2t.transcription import alignment as align
from nanos2t.transcription import segmentation as segment
from nanos2t.transcription.hypotheses import trim_after_eos
from nanos2t.transcription.transcriber import SpeechToText
from nanos2t.wav2vec2 import attention_weights

VERSION = 1  # of the JSON: raised when a name in it changes or goes
LONGEST = 300  # seconds of a recording: the page grows with them
ROOM = 40_000  # bytes for each kind of attention in a second of sound
CELLS = 128  # of a picture of the encoder's attention, in each direction, at most
BEAMS = 4  # at least: a tree needs some
TEMPLATE = Path(__file__).parents[1] / "assets" / "report.html"
OPENING, CLOSING = '<script type="application/json" id="report">', "</script>"


@torch.no_grad()
def analyse_recording(
    stt: SpeechToText, source, title: str, language: str | None = None, num_beams: int | None = None
) -> dict:
    """All that the page shows of a recording, as `SpeechToText.read` takes it, in JSON's types.
    ValueError for audio that cannot be read or is too long, an unknown language, a damaged model."""
    beams = num_beams or max(stt.model.generation.num_beams, BEAMS)
    options = {"num_beams": beams, "num_return_sequences": 1, "do_sample": False}
    options, config, language = stt.resolve_generation(language, options)
    waveform, rate, encoder = stt.load_audio(source), stt.sample_rate, stt.model.encoder.config
    if (seconds := len(waveform) / rate) > LONGEST:
        raise ValueError(f"{seconds:.0f} s of sound, expected {LONGEST} s at most")
    *parts, _ = segment.split_recording([waveform], rate, stt.limits)  # the last is empty
    pieces = [
        analyse_piece(stt, first / rate, part, options, config, language)
        for first, part in parts
        if part.min() < part.max()
    ]
    soundfile.write(
        file := io.BytesIO(), waveform, rate, "PCM_16", format="WAV"
    )  # behind 44 bytes of header
    return {
        "title": title,
        "seconds": seconds,
        "rate": rate,
        "pieces": pieces,
        "audio": base64.b64encode(file.getvalue()).decode(),
        "model": stt.folder.name if stt.folder else "",
        "families": stt.model.families,
        "parameters": sum(x.numel() for x in stt.model.parameters()),
        "versions": {"nanos2t": __version__, "torch": torch.__version__},
        "language": language,
        "num_beams": beams,
        "length_penalty": config.length_penalty,
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
    """What the page shows of a piece (L,), not silent, that starts at the second `start`."""
    model, seconds, records = stt.model, len(waveform) / stt.sample_rate, []
    memory, _ = model.encode(stt.prepare([waveform])[0])  # (1, S, H)
    found = decode_memory(model, memory, None, options, trace=records)
    greedy = decode_memory(model, memory, None, options | {"num_beams": 1}).sequences[0].tolist()
    start_token, *tokens = trim_after_eos(found.sequences[0].tolist(), config.eos_ids)
    read = torch.tensor([[start_token, *tokens[:-1]]], device=memory.device)  # (1, T)
    logits, cross = align.run_decoder(model.decoder, read[0], memory)  # (T, V), (layers, N, T, S)
    likely, ids = logits.float().softmax(1).topk(min(6, logits.shape[1]))  # 2 x (T, 6)
    stages, encoder = encoder_attention(stt, waveform, read)
    search = [record._asdict() for record in records if record.sum > IMPOSSIBLE / 2]
    shown = {*tokens, *ids.flatten().tolist(), *(record["token"] for record in search)}
    logprobs = found.token_logprobs[0, : len(tokens)]  # (T,)
    return {
        "start": start,
        "seconds": seconds,
        "samples": len(waveform),
        "frames": memory.shape[1],
        "text": stt.decode_tokens([start_token, *tokens]),
        "greedy": stt.decode_tokens(trim_after_eos(greedy, config.eos_ids)),
        "tokens": tokens,
        "probabilities": logprobs.exp().tolist(),
        "score": found.sequences_scores[0].item(),
        "forced": config.forced_bos_token_id is not None,
        "alternatives": [[*zip(*row)] for row in zip(ids.tolist(), likely.tolist())],
        **find_words(
            stt, memory, [start_token, *tokens], logprobs.tolist(), cross, seconds, language
        ),
        "cross": quantise_attention(cross, round(ROOM * max(1, seconds)), False),
        "encoder": quantise_attention(encoder, round(ROOM * max(1, seconds)), True),
        "stages": stages,
        "search": search,
        "spelled": {token: spell_token(stt, token) for token in sorted(shown)},
        "special": [
            token for token in shown if stt.tokenizer and align.is_special(stt.tokenizer, token)
        ],
    }


def find_words(
    stt: SpeechToText,
    memory: Tensor,
    tokens: list[int],
    logprobs: list[float],
    cross: Tensor,
    seconds: float,
    language: str | None,
) -> dict:
    """The words, and the word that each token (T + 1,) behind the start belongs to, -1: none; how they were
    found: heads (count, 2) of cross (layers, N, T, S), where each token peaks in them, and, if the text
    follows the sound, the path, as (token, frame)."""
    monotone = language in align.MONOTONE_LANGUAGES
    words = align.find_words(stt.model, stt.tokenizer, tokens, logprobs, memory, seconds, monotone)
    rows = [
        i
        for i, token in enumerate(tokens[1:])
        if words and not align.is_special(stt.tokenizer, token)
    ]
    numbers = align.number_words(stt.tokenizer, [tokens[row + 1] for row in rows]) if rows else []
    owner = dict(zip(rows, np.unique(numbers, return_inverse=True)[1].tolist()))
    heads = align.choose_heads(cross[:, :, rows or [0]])  # (count, 2)
    mean = cross[heads[:, 0], heads[:, 1]].double().mean(0)[rows].cpu().numpy()  # (W, S)
    peaks = zip(rows, align.find_peaks(mean, monotone).tolist()) if rows else ()
    path = (
        [(rows[i], frame) for i, frame in align.dtw(1 - mean).tolist()] if rows and monotone else []
    )
    return {
        "words": [*map(vars, words)],
        "word_of": [owner.get(i, -1) for i in range(len(tokens) - 1)],
        "heads": heads.tolist(),
        "peaks": [*peaks],
        "path": path,
    }


def encoder_attention(
    stt: SpeechToText, waveform: np.ndarray, read: Tensor
) -> tuple[list[dict], Tensor]:
    """The stages for a waveform (L,) and decoder input (1, T), and where the encoder looks, pooled to
    (layers, N, S, S) or less."""
    stages, weights, x = [], [], None
    for facts, y in info.observed_tensors(stt, waveform, read):
        stages.append(facts)
        if facts["stage"].startswith("encoder block"):
            block = stt.model.encoder.blocks[len(weights)]
            attn, x = block.self_attn, block.self_attn_norm(x) if block.pre_norm else x
            queries, keys = (
                attn.split_heads(attn.q_proj(x)),
                attn.split_heads(attn.k_proj(x)),
            )  # 2 x (1, N, S, D)
            weights.append(pool(attention_weights(queries, keys), CELLS, CELLS))
        x = x + y if facts["stage"] == "positions" else y  # what the next block reads, (1, S, H)
    return stages, torch.cat(weights)


def pool(weights: Tensor, rows: int, columns: int) -> Tensor:
    """Weights (layers, N, T, S) with fewer rows, their means, and columns, their sums."""
    T, S = weights.shape[2:]
    rows, columns = min(rows, T), min(columns, S)
    return F.adaptive_avg_pool2d(weights.float(), (rows, columns)) * (S / columns)


def quantise_attention(weights: Tensor, room: int, square: bool) -> dict:
    """Weights (layers, N, T, S), pooled until they take `room` bytes: shape and data. `square`: rows, too."""
    cells = min(weights.shape[3], CELLS if square else 8 * CELLS)
    while True:
        small = pool(weights, cells if square else weights.shape[2], cells)
        data = zlib.compress(
            (255 * small.clamp(0, 1).sqrt()).round().byte().cpu().numpy().tobytes()
        )
        if len(data) <= room or cells < 8:
            return {"shape": list(small.shape), "data": base64.b64encode(data).decode()}
        cells = min(cells - 1, int(cells * (room / len(data)) ** (0.5 if square else 1)))


def spell_token(stt: SpeechToText, token: int) -> str:
    """A token as text, a special one too; its id if there is no tokenizer, or if it has no text."""
    return stt.tokenizer and stt.tokenizer.decode([token], skip_special_tokens=False) or str(token)


def render_page(runs: list[dict]) -> str:
    """The page with one run, or two side by side. No character of the JSON can end its element."""
    brief = {"parse_float": lambda text: round(float(text), 6), "parse_constant": lambda text: None}
    runs = json.loads(json.dumps(runs), **brief)  # fewer digits, and null for what is not finite
    text = json.dumps({"version": VERSION, "runs": runs}, separators=(",", ":"))  # ASCII
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return TEMPLATE.read_text("utf-8").replace(OPENING + CLOSING, OPENING + text + CLOSING)


def read_page(path: str) -> dict:
    """The first run of a page that `render` made; ValueError if it is none."""
    try:
        content = json.loads(Path(path).read_text("utf-8").split(OPENING)[1].split(CLOSING)[0])
        if content["version"] == VERSION:
            return content["runs"][0]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError(f"{path}: expected a page of `nanos2t report`, version {VERSION}")
