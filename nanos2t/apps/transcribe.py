"""Speech in, text out: a model, its tokenizer and the rate of its audio, behind `transcribe`."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanos2t import audio, pretrained, tokenizer
from nanos2t.generate import with_options
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer

BUNDLED = Path(__file__).parents[1] / "assets" / "spoken-numbers"
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


@dataclass(frozen=True)
class Word:
    """A word, when it is said, in seconds, and the mean probability of its tokens."""

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of the audio, in seconds, and what is said in it."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Result:
    """What was heard. `score`: sum of log-probabilities / length ** length_penalty; `nbest`: best text first."""

    text: str
    score: float
    tokens: list[int]
    token_logprobs: list[float]
    language: str | None
    segments: list[Segment] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    nbest: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text


class SpeechToText:
    """A model with what it needs to hear and to write. Without a tokenizer the text is the token ids."""

    def __init__(self, model: SpeechEncoderDecoder, tokenizer: Tokenizer | None, sample_rate: int, normalise: bool):
        self.model, self.tokenizer = model, tokenizer
        self.sample_rate, self.normalise = sample_rate, normalise

    @property
    def languages(self) -> tuple[str, ...]:
        """What `language=` accepts; () for a model that writes one language."""
        return tuple(self.model.generation.lang_to_id or ())

    def options(self, language: str | None, generation: dict) -> tuple[str | None, dict]:
        """The language that will be written and all generation options; ValueError if one of them is wrong."""
        languages = self.model.generation.lang_to_id or {}
        if language is not None and language not in languages:
            known = ", ".join(languages) or "none: the model writes one language"
            raise ValueError(f"unknown language {language!r}, expected one of {known}")
        if language is not None:
            generation = {**generation, "forced_bos_token_id": languages[language]}
        config = with_options(self.model.generation, generation)
        names = {token: name for name, token in languages.items()}
        return names.get(config.forced_bos_token_id), generation

    def prepare(self, waveforms: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Waveforms (L,) at the model's rate -> input_values (B, L), normalised and padded, attention_mask (B, L)."""
        if self.normalise:
            waveforms = [audio.normalise(waveform) for waveform in waveforms]
        values, mask = audio.pad(waveforms, self.model.encoder.config.min_samples)
        weight = self.model.decoder.embed.tokens.weight
        return values.to(weight.device, weight.dtype), mask.to(weight.device)

    def read(self, source, sample_rate: int | None = None) -> np.ndarray:
        """A path, bytes, file object, or 1-D array or tensor with its rate -> waveform (L,) at the model's rate."""
        if isinstance(source, (np.ndarray, Tensor)):
            if sample_rate is None:
                raise ValueError("an array needs sample_rate=, its samples per second")
            return audio.from_array(source, sample_rate, self.sample_rate)
        return audio.load(source, self.sample_rate)

    def transcribe(self, source, *, sample_rate: int | None = None, language: str | None = None,
                   words: bool = False, **generation) -> Result:  # fmt: skip
        """What is said in `source` (see `read`). `generation`: options of nanos2t.generate.GenerationConfig.

        ValueError for audio that cannot be read, an unknown language or a wrong option.
        """
        return self.transcribe_waveforms([self.read(source, sample_rate)], language, words, generation)[0]

    def transcribe_many(self, sources: Iterable, batch_size: int = 8, *, language: str | None = None,
                        words: bool = False, on_error: Callable[[object, ValueError], None] | None = None,
                        **generation) -> Iterator[Result]:  # fmt: skip
        """Results in the order of `sources`, read and transcribed `batch_size` at a time.

        A source that cannot be read raises ValueError, or, with `on_error(source, error)`, is told to it and
        has no result.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.options(language, generation)
        batch = []
        for source in sources:
            try:
                batch.append(self.read(source))
            except ValueError as error:
                if on_error is None:
                    raise
                on_error(source, error)
            if len(batch) == batch_size:
                yield from self.transcribe_waveforms(batch, language, words, generation)
                batch = []
        if batch:
            yield from self.transcribe_waveforms(batch, language, words, generation)

    def transcribe_waveforms(self, waveforms: list[np.ndarray], language: str | None, words: bool,
                             generation: dict) -> list[Result]:  # fmt: skip
        """Results for waveforms (L,) at the model's rate, as one batch."""
        language, generation = self.options(language, generation)
        values, mask = self.prepare(waveforms)
        found = self.model.generate(values, mask, return_dict_in_generate=True, **generation)
        count = len(found.sequences) // len(waveforms)  # sequences of each utterance
        texts = self.text(found.sequences.tolist())
        results = []
        for i, waveform in enumerate(waveforms):
            text, row = texts[i * count], i * count
            tokens, logprobs = trim(found.sequences[row], found.token_logprobs[row], self.model.generation.eos_ids)
            seconds = len(waveform) / self.sample_rate
            said = []
            if words and text:
                samples = mask[i].sum()
                memory, frames = self.model.encode(values[i : i + 1, :samples])
                monotone = language in (None, "verbatim")
                said = align.words(self, memory, tokens, logprobs, seconds, monotone)
            segments = [Segment(0.0, seconds, text, tuple(said))] if text else []
            results.append(Result(text, found.sequences_scores[row].item(), tokens, logprobs, language, segments,
                                  said, texts[row : row + count]))  # fmt: skip
        return results

    def text(self, rows: list[list[int]]) -> list[str]:
        if self.tokenizer is None:
            return [" ".join(map(str, row)) for row in rows]
        return self.tokenizer.batch_decode(rows)


def trim(tokens: Tensor, logprobs: Tensor, eos: list[int]) -> tuple[list[int], list[float]]:
    """A row without the padding behind its EOS: tokens (T,) with the start token, log-probabilities (T - 1,)."""
    tokens, logprobs = tokens.tolist(), logprobs.tolist()
    end = next((i for i, token in enumerate(tokens) if i and token in eos), len(tokens) - 1)
    return tokens[: end + 1], logprobs[:end]


def load(name_or_path: str | os.PathLike | None = None, *, device: str = "cpu",
         dtype: torch.dtype | str = torch.float32, revision: str | None = None,
         local_files_only: bool = False) -> SpeechToText:  # fmt: skip
    """A transcriber from a folder or hub id in transformers' layout; None is the bundled model.

    device "auto" is the GPU if there is one. Without preprocessor_config.json audio is normalised, at 16 kHz.
    ValueError in one line for what is missing or broken.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    folder = pretrained.find_folder(name_or_path or BUNDLED, revision, local_files_only)
    model = pretrained.from_pretrained(folder, dtype=dtype, device=device)
    file = folder / "preprocessor_config.json"
    config = pretrained.read_json(file) if file.exists() else {}
    rate, normalise = config.get("sampling_rate", 16000), config.get("do_normalize", True)
    if not isinstance(rate, int) or rate < 1:
        raise ValueError(f"{file}: sampling_rate is {rate!r}, expected a number of samples per second")
    return SpeechToText(model, tokenizer.load(folder), rate, bool(normalise))
