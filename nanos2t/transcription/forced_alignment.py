"""Forced alignment: when each word of a given text was said in a recording (`nanos2t align`).

The decoder is given the text instead of searching for one; alignment.py then finds the words. The
result has every character of the text: spelling.py refuses a text that the vocabulary cannot spell.

Shapes: T tokens, S source frames, H hidden_size, V vocab_size.
"""

import torch
from torch import Tensor

from nanos2t.generation_config import GenerationConfig
from nanos2t.transcription import alignment, spelling
from nanos2t.transcription.results import Result, Segment
from nanos2t.transcription.transcriber import SpeechToText

# Seconds of a recording: the model processes it as a whole.
MAX_SECONDS = 60


@torch.no_grad()
def align_text(stt: SpeechToText, source, text: str, language: str | None = None) -> Result:
    """Find each word of `text` in a recording.

    `source` is what `SpeechToText.load_audio` takes, `language` one of `stt.languages` or its
    English name. The result has one segment for each word, as the text spells it. ValueError: the
    text is empty, has characters that the vocabulary lacks, or has too many tokens; the recording
    cannot be read, is silent, or is longer than MAX_SECONDS.
    """
    _, config, language = stt.resolve_generation(language, {})

    # The model writes one space between words: other white space has tokens that it never writes.
    text = " ".join(text.split())
    if not text:
        raise ValueError("the text is empty, expected words to find")
    tokens = encode_target(stt, config, text)
    waveform = stt.load_audio(source)
    if waveform.min() == waveform.max():
        raise ValueError("silence, expected speech to align the text with")
    seconds = len(waveform) / stt.sample_rate
    check_length(stt, tokens, seconds)

    input_values, _ = stt.prepare([waveform])  # (1, L)
    memory, _ = stt.model.encode(input_values)  # (1, S, H)
    logprobs = score_tokens(stt, tokens, memory)
    timing = alignment.choose_options(config, language)
    words = alignment.find_words(
        stt.model, stt.tokenizer, tokens, logprobs, memory, seconds, timing
    )
    words = spelling.restore_words(stt.tokenizer, text, words)

    segments = [Segment(word.start, word.end, word.word, (word,)) for word in words]
    score = sum(logprobs) / len(logprobs)
    return Result(text, score, tokens, logprobs, language, segments, words, [text])


def encode_target(stt: SpeechToText, config: GenerationConfig, text: str) -> list[int]:
    """Return what the model would write (T,): start token, forced language, text, EOS.

    Raises ValueError if the model has no tokenizer, the tokenizer lacks a character of the text, or
    the decoder's vocabulary lacks a token.
    """
    if stt.tokenizer is None:
        raise ValueError("the model has no tokenizer, expected one that encodes the text")
    tokens = [config.require_id("decoder_start_token_id")]
    if config.forced_bos_token_id is not None:
        tokens.append(config.forced_bos_token_id)
    tokens += spelling.encode_text(stt.tokenizer, text)
    tokens += config.eos_ids[:1]

    vocab_size = stt.model.decoder.config.vocab_size
    if not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise ValueError(f"tokens of {text!r} are {tokens}, expected tokens below {vocab_size}")
    return tokens


def check_length(stt: SpeechToText, tokens: list[int], seconds: float) -> None:
    """ValueError if the decoder has no room for the tokens, or if the recording is too long."""
    # The decoder never reads the last token.
    max_tokens = stt.model.decoder.config.max_positions + 1
    if len(tokens) > max_tokens or seconds > MAX_SECONDS:
        raise ValueError(
            f"{len(tokens)} tokens in {seconds:.1f} s, "
            f"expected {max_tokens} tokens and {MAX_SECONDS} s at most"
        )


def score_tokens(stt: SpeechToText, tokens: list[int], memory: Tensor) -> list[float]:
    """Return the log-probabilities (T - 1,) of all tokens (T,) but the first, given memory."""
    targets = torch.tensor(tokens, device=memory.device)  # (T,)
    logits, _ = alignment.run_decoder(stt.model.decoder, targets[:-1], memory)  # (T - 1, V)
    logprobs = logits.float().log_softmax(1)  # (T - 1, V)
    return logprobs.gather(1, targets[1:, None])[:, 0].tolist()
