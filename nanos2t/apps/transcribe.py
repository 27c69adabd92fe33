"""Speech in, text out: a model, its tokenizer and the rate of its audio, behind `transcribe`.

    sources -> read: waveforms (L,) -> prepare: (B, L) -> model.generate: tokens (B * K, T) -> Results

B utterances of a batch, L samples, K hypotheses of each (num_return_sequences), T tokens, start token first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanos2t import audio, pretrained, tokenizer
from nanos2t.apps import align, sound_files  # align imports this file: name nothing of it before a call
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
    """What was heard; str(result) is its text.

    `score`: sum of log-probabilities / length ** length_penalty. `tokens` (T,): start token to EOS, with
    `token_logprobs` (T - 1,). `nbest`: num_return_sequences texts, the best first. Silence has no tokens.
    """

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

    def __init__(self, model: SpeechEncoderDecoder, tokenizer: Tokenizer | None, sample_rate: int,
                 normalise: bool):  # fmt: skip
        self.model, self.tokenizer = model, tokenizer
        self.sample_rate, self.normalise = sample_rate, normalise

    @property
    def languages(self) -> tuple[str, ...]:
        """What `language=` accepts; () for a model that writes one language."""
        ids = self.model.generation.lang_to_id or {}
        return tuple(sorted(ids, key=ids.get))

    def options(self, language: str | None, generation: dict) -> dict:
        """The options of a call, with its language among them; ValueError if one is wrong or unknown."""
        config, known = self.model.generation, self.model.generation.lang_to_id or {}
        if language is not None and language not in known:
            raise ValueError(f"unknown language {language!r}, the model's are: {', '.join(known) or 'none'}")
        if language is not None:
            generation = {**generation, "forced_bos_token_id": known[language]}
        most = self.model.decoder.config.max_positions + 1  # the last token is written, but never read
        if config.longest > most and generation.keys().isdisjoint(("max_length", "max_new_tokens")):
            generation = {**generation, "max_length": most}
        if (longest := with_options(config, generation).longest) > most:
            raise ValueError(f"max_length is {longest}, expected {most} at most: the decoder's positions")
        return generation

    def prepare(self, waveforms: Sequence[np.ndarray | Tensor]) -> tuple[Tensor, Tensor]:
        """Waveforms (L,) at the model's rate, normalised and padded: input_values, attention_mask (B, L)."""
        rate = self.sample_rate
        waveforms = [sound_files.from_array(waveform, rate, rate) for waveform in waveforms]
        waveforms = [audio.normalise(waveform) for waveform in waveforms] if self.normalise else waveforms
        values, mask = audio.pad(waveforms, self.model.encoder.config.min_samples)
        weight = self.model.decoder.embed.tokens.weight
        return values.to(weight.device, weight.dtype), mask.to(weight.device)

    def read(self, source, sample_rate: int | None = None) -> np.ndarray:
        """What `transcribe` takes -> waveform (L,) at the model's rate."""
        if isinstance(source, (np.ndarray, Tensor)):
            return sound_files.from_array(source, sample_rate, self.sample_rate)
        return sound_files.load(source, self.sample_rate)

    def transcribe(self, source, *, sample_rate: int | None = None, language: str | None = None,
                   words: bool = False, **generation) -> Result:  # fmt: skip
        """What is said in `source`: a path, bytes, a binary file object, or a 1-D array or tensor.

        `sample_rate`: of an array; files know theirs. `language`: one of `languages`. `words`: find when each
        word is said. `generation`: options of nanos2t.generate.GenerationConfig, as num_beams.
        ValueError for audio that cannot be read, an unknown language, a wrong or unknown option.
        """
        return self.transcribe_waveforms([self.read(source, sample_rate)], language, words, generation)[0]

    def transcribe_many(self, sources: Iterable, batch_size: int = 8, *, sample_rate: int | None = None,
                        language: str | None = None, words: bool = False, return_errors: bool = False,
                        **generation) -> Iterator[Result | ValueError]:  # fmt: skip
        """Results in the order of `sources`, `batch_size` at a time: see `transcribe`. One that fails raises
        its ValueError when its turn comes, or with `return_errors` gives it in the place of a result.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.options(language, generation)
        sources = iter(sources)
        while batch := [attempt(self.read, source, sample_rate) for source in islice(sources, batch_size)]:
            waveforms = [item for item in batch if not isinstance(item, ValueError)]
            results = attempt(self.transcribe_waveforms, waveforms, language, words, generation)
            results = repeat(results) if isinstance(results, ValueError) else iter(results)
            for item in batch:
                outcome = item if isinstance(item, ValueError) else next(results)
                if isinstance(outcome, ValueError) and not return_errors:
                    raise outcome
                yield outcome

    @torch.no_grad()
    def transcribe_waveforms(self, waveforms: list[np.ndarray], language: str | None, words: bool,
                             generation: dict) -> list[Result]:  # fmt: skip
        """Results for waveforms (L,) at the model's rate, as one batch; a constant one is silence."""
        options = self.options(language, generation)
        config = with_options(self.model.generation, options)
        names = {token: name for name, token in (config.lang_to_id or {}).items()}
        language, count, results = names.get(config.forced_bos_token_id), config.num_return_sequences, []
        values, mask = self.prepare(waveforms)  # 2 x (B, L)
        found = self.model.generate(values, mask, return_dict_in_generate=True, **options)
        scores = found.sequences_scores.tolist()  # B * K
        for i, waveform in enumerate(waveforms):
            if waveform.min() == waveform.max():
                results.append(Result("", 0.0, [], [], language, nbest=[""] * count))
                continue
            rows = sorted(range(i * count, (i + 1) * count), key=lambda row: -scores[row])  # best first
            hypotheses = [trim(found.sequences[row].tolist(), config.eos_ids) for row in rows]
            tokens, nbest = hypotheses[0], [self.text(tokens) for tokens in hypotheses]
            logprobs = found.token_logprobs[rows[0], : len(tokens) - 1].tolist()
            text, seconds, said = nbest[0], len(waveform) / self.sample_rate, []
            if words and text:
                memory, _ = self.model.encode(values[i : i + 1, : mask[i].sum()])  # (1, S, H)
                monotone = language in (None, "verbatim")  # in a translation words change places
                said = align.words(self, memory, tokens, logprobs, seconds, monotone)
            segments = [Segment(0.0, seconds, text, tuple(said))] if text else []
            results.append(Result(text, scores[rows[0]], tokens, logprobs, language, segments, said, nbest))
        return results

    def text(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens)) if self.tokenizer is None else self.tokenizer.decode(tokens)


def trim(tokens: list[int], eos: list[int]) -> list[int]:
    """Tokens (T,), start token first, up to the first EOS behind it: padding goes."""
    end = next((i for i, token in enumerate(tokens) if i and token in eos), len(tokens))
    return tokens[: end + 1]


def attempt(function: Callable, *arguments):
    """What a call returns, or the ValueError that it raises; want of memory becomes one."""
    try:
        return function(*arguments)
    except ValueError as error:
        return error
    except (MemoryError, RuntimeError) as error:
        if "memory" not in repr(error).lower():
            raise
        return ValueError("not enough memory: expected shorter audio, a smaller batch or fewer beams")


def choose_device(name: str | torch.device) -> str:
    """A device of this machine, "auto" for its GPU if it has one; ValueError if it is not there."""
    possible = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    possible += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    found = {"auto": possible[0], "cuda": "cuda:0"}.get(str(name), str(name))
    if found not in possible:
        raise ValueError(f"device is {str(name)!r}, expected one of auto, {', '.join(possible)}")
    return found


def choose_dtype(name: str | torch.dtype) -> torch.dtype:
    """float32 or "float32", as any of DTYPES; ValueError for another."""
    if (dtype := DTYPES.get(str(name).removeprefix("torch."))) is None:
        raise ValueError(f"dtype is {str(name)!r}, expected one of {', '.join(DTYPES)}")
    return dtype


def read_preprocessor(folder: Path) -> tuple[int, bool]:
    """Samples per second, and whether the model wants them normalised; 16000 and True if no file says it."""
    names = "preprocessor_config.json", "processor_config.json"
    file = next((folder / name for name in names if (folder / name).exists()), None)
    config = pretrained.read_json(file) if file else {}
    config = inner if isinstance(inner := config.get("feature_extractor"), dict) else config  # in the second
    rate, normalise = config.get("sampling_rate", 16000), config.get("do_normalize", True)
    if type(rate) is not int or rate < 1000 or type(normalise) is not bool:
        raise ValueError(f"{file}: {rate!r} Hz, normalised: {normalise!r}, expected 1000+ Hz, true or false")
    return rate, normalise


def load(name_or_path: str | Path | None = None, *, device: str | torch.device = "cpu",
         dtype: torch.dtype | str = torch.float32, revision: str | None = None,
         local_files_only: bool = False) -> SpeechToText:  # fmt: skip
    """A transcriber from a folder or hub id in transformers' layout, None: the bundled model; on a device
    that choose_device knows, in one of DTYPES. ValueError, in one line, for what is missing or broken.
    """
    device, dtype = choose_device(device), choose_dtype(dtype)
    name = BUNDLED if name_or_path is None else name_or_path
    folder = pretrained.find_folder(name, revision, local_files_only)
    model = pretrained.from_pretrained(folder, dtype=dtype, device=device)
    return SpeechToText(model, tokenizer.load(folder), *read_preprocessor(folder))
