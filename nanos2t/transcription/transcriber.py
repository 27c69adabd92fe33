"""Speech in, text out: a model, its tokenizer and the rate of its audio, behind `transcribe`.
    sources -> segment: pieces (L,), sorted by length -> prepare: (B, L) -> encode: memory (B, S, H)
        -> decode: tokens (B * K, T) -> a Result for each piece -> join: one for each source
B pieces of a batch, L samples, K hypotheses of each (num_return_sequences), T tokens, start token first."""

import ctypes
import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanos2t import audio
from nanos2t import files as atomic
from nanos2t.generate import decode_memory
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription import alignment, languages
from nanos2t.transcription import segmentation as segment
from nanos2t.transcription.hypotheses import cut_loop, trim_after_eos
from nanos2t.transcription.results import Result, Segment, join_results

PROCESSOR_FILES = """preprocessor_config.json processor_config.json tokenizer.json tokenizer_config.json
    special_tokens_map.json vocab.txt vocab.json merges.txt sentencepiece.bpe.model""".split()
log = logging.getLogger("nanos2t")
BLOCK = 30.0  # seconds of a recording that are read at a time


@dataclass(frozen=True)
class Call:
    """What a call of `transcribe_many` asks for, resolved once."""

    words: bool
    progress: Callable[[float], None]
    options: dict
    config: GenerationConfig
    language: str | None


@dataclass
class Job:
    """A source on its way: results by first sample, and how many are to come, one more while it is read."""

    source: object
    open: int = 1
    results: dict[int, Result] = field(default_factory=dict)
    error: ValueError | None = None


@dataclass(frozen=True)
class Piece:
    """A waveform (L,) from the sample `first` of a source; `seconds` since the piece before ended."""

    job: Job
    first: int
    waveform: np.ndarray
    seconds: float


class SpeechToText:
    """A model with what it needs to hear and to write. Without a tokenizer the text is the token ids."""

    def __init__(
        self,
        model: SpeechEncoderDecoder,
        tokenizer: Tokenizer | None,
        sample_rate: int,
        normalise: bool,
        limits: segment.Limits | None = None,
        folder: Path | None = None,
    ):
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self.sample_rate, self.normalise, self.limits = (
            sample_rate,
            normalise,
            limits or segment.Limits(),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, and the tokenizer and the rate from the folder that it came from, beside it."""
        self.model.save_pretrained(folder)
        for name in PROCESSOR_FILES if self.folder else ():
            if (file := self.folder / name).exists():
                atomic.copy_file(file, Path(folder) / name)

    @property
    def languages(self) -> tuple[str, ...]:
        """What `language=` accepts; () for a model that writes one language."""
        ids = self.model.generation.lang_to_id or {}
        return tuple(sorted(ids, key=ids.get))

    def generation_options(self, language: str | None, generation: dict) -> dict:
        """The options of a call, with its language among them; ValueError if one is wrong or unknown."""
        known = self.model.generation.lang_to_id or {}
        if language is not None:
            code = languages.find_language(language, known)
            generation = {**generation, "forced_bos_token_id": known[code]}
        max_positions = self.model.decoder.config.max_positions
        return self.model.generation.fit_to_positions(generation, max_positions)

    def resolve_generation(
        self, language: str | None, generation: dict
    ) -> tuple[dict, GenerationConfig, str | None]:
        """The options of a call, these and the model's own, and the code of the language they ask for."""
        options = self.generation_options(language, generation)
        config = self.model.generation.override(options, self.model.decoder.config.vocab_size)
        names = {token: name for name, token in (config.lang_to_id or {}).items()}
        return options, config, names.get(config.forced_bos_token_id)

    def prepare(self, waveforms: Sequence[np.ndarray | Tensor]) -> tuple[Tensor, Tensor]:
        """Waveforms (L,) at the model's rate, normalised and padded: input_values, attention_mask (B, L)."""
        rate = self.sample_rate
        waveforms = [audio.from_array(waveform, rate, rate) for waveform in waveforms]
        waveforms = (
            [audio.normalise(waveform) for waveform in waveforms] if self.normalise else waveforms
        )
        values, mask = audio.pad(waveforms, self.model.encoder.config.min_samples)
        weight = self.model.decoder.embed.tokens.weight
        return values.to(weight.device, weight.dtype), mask.to(weight.device)

    def load_audio(self, source, sample_rate: int | None = None) -> np.ndarray:
        """What `transcribe` takes -> waveform (L,) at the model's rate."""
        return np.concatenate(list(self.read_blocks(source, sample_rate)))

    def read_blocks(self, source, sample_rate: int | None = None) -> Iterator[np.ndarray]:
        """What `read` returns, BLOCK seconds at a time; an error may come after some."""
        if isinstance(source, (np.ndarray, Tensor)):
            pieces = [audio.from_array(source, sample_rate, self.sample_rate)]
        else:
            pieces = audio.read_blocks(source, self.sample_rate)
        size, held = round(BLOCK * self.sample_rate), np.zeros(0, np.float32)
        for piece in pieces:
            held = np.concatenate([held, piece])
            while len(held) >= size:
                yield held[:size]
                held = held[size:]
        if len(held):
            yield held

    def transcribe(
        self,
        source,
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        words: bool = False,
        progress: Callable[[float], None] | None = None,
        **generation,
    ) -> Result:
        """What is said in `source`: a path, bytes, a binary file object, or a 1-D array or tensor.
        `sample_rate`: of an array; files know theirs. `language`: one of `languages`, or its English name.
        `words`: find when each word is said. `progress`: called with the seconds of audio that are done since
        it was called last. `generation`: options of nanos2t.generate.GenerationConfig, as num_beams.
        ValueError for audio that cannot be read, an unknown language, a wrong or unknown option."""
        [result] = self.transcribe_many(
            [source],
            sample_rate=sample_rate,
            language=language,
            words=words,
            progress=progress,
            **generation,
        )
        return result

    def transcribe_many(
        self,
        sources: Iterable,
        batch_size: int = 8,
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        words: bool = False,
        return_errors: bool = False,
        progress: Callable[[float], None] | None = None,
        **generation,
    ) -> Iterator[Result | ValueError]:
        """Results in the order of `sources`: see `transcribe`. One that fails raises its ValueError when its
        turn comes, or with `return_errors` gives it in the place of a result.
        `batch_size` pieces go through the model at a time, of similar length: some batches are read ahead."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        if isinstance(sources, (str, bytes, os.PathLike)):
            raise ValueError(f"sources: found {str(sources)[:99]!r}, expected a list of files")
        call = Call(
            words,
            progress or (lambda seconds: None),
            *self.resolve_generation(language, generation),
        )
        jobs: deque[Job] = deque()
        waiting: list[Piece] = []
        for source in sources:
            jobs.append(Job(source))
            for piece in self.cut(jobs[-1], sample_rate, call):
                waiting.append(piece)
                if len(waiting) == batch_size * min(batch_size, 4):  # alone, none waits for others
                    self.run(waiting, batch_size, call)
            yield from self.finished(jobs, call, return_errors)
        self.run(waiting, batch_size, call)
        yield from self.finished(jobs, call, return_errors)

    def cut(self, job: Job, sample_rate: int | None, call: Call) -> Iterator[Piece]:
        """The pieces of a source as it is read; if that fails the job has the error."""
        done, rate = 0, self.sample_rate
        with errors_of([job]):
            blocks = self.read_blocks(job.source, sample_rate)
            for first, waveform in segment.split_recording(blocks, rate, self.limits):
                before, done = done, first + len(waveform)
                if len(waveform):
                    job.open += 1
                    yield Piece(job, first, waveform, (done - before) / rate)
            call.progress((done - before) / rate)  # the silence at the end
        job.open -= 1

    def run(self, waiting: list[Piece], batch_size: int, call: Call) -> None:
        """Transcribe the pieces, long ones first, and empty the list."""
        waiting.sort(key=lambda piece: -len(piece.waveform))
        many = len(waiting) >= 16
        while batch := waiting[:batch_size]:
            del waiting[:batch_size]
            with errors_of([piece.job for piece in batch]):
                results = self.transcribe_batch([piece.waveform for piece in batch], call)
                for piece, result in zip(batch, results):
                    piece.job.results[piece.first] = result
            for piece in batch:
                piece.job.open -= 1
            call.progress(sum(piece.seconds for piece in batch))
        if many:  # each time would take a tenth of the time of a short clip
            release_memory()

    def finished(
        self, jobs: deque[Job], call: Call, return_errors: bool
    ) -> Iterator[Result | ValueError]:
        """The outcomes of the first jobs, as far as they are done, which leave the queue."""
        while jobs and not jobs[0].open:
            job = jobs.popleft()
            if job.error and not return_errors:
                raise job.error
            result = join_results(
                job.results, self.sample_rate, call.language, call.config.num_return_sequences
            )
            for item in result.segments if not job.error else ():
                if item.repeated:
                    loop = f"the model said the end of {item.text!r} {item.repeated} times more"
                    name = job.source if isinstance(job.source, (str, os.PathLike)) else "audio"
                    warnings.warn(f"{os.fsdecode(name)}: {item.start:.1f} s: {loop}", stacklevel=2)
            yield job.error or result

    @torch.no_grad()
    def transcribe_batch(self, waveforms: list[np.ndarray], call: Call) -> list[Result]:
        """Results for waveforms (L,) at the model's rate, as one batch; a constant one is silence."""
        config, count, results = call.config, call.config.num_return_sequences, []
        values, mask = self.prepare(waveforms)  # 2 x (B, L)
        memory, frames = self.model.encode(values, mask)  # (B, S, H), (B,)
        found = decode_memory(self.model, memory, frames, call.options)
        scores = found.sequences_scores.tolist()  # B * K
        if not np.isfinite(scores).all():
            raise ValueError(f"scores are {min(scores)}, not finite: the model is damaged")
        for i, waveform in enumerate(waveforms):
            if waveform.min() == waveform.max():
                results.append(Result("", 0.0, [], [], call.language, nbest=[""] * count))
                continue
            rows = sorted(
                range(i * count, (i + 1) * count), key=lambda row: -scores[row]
            )  # best first
            hypotheses = [
                trim_after_eos(found.sequences[row].tolist(), config.eos_ids) for row in rows
            ]
            hypotheses[0], repeated = cut_loop(hypotheses[0], config.eos_ids)
            tokens, nbest = hypotheses[0], [self.decode_tokens(tokens) for tokens in hypotheses]
            logprobs = found.token_logprobs[rows[0], : len(tokens) - 1].tolist()
            text, seconds, said = nbest[0], len(waveform) / self.sample_rate, []
            if call.words and text:
                heard = memory[i : i + 1, : None if frames is None else frames[i]]  # (1, S, H)
                monotone = call.language in alignment.MONOTONE_LANGUAGES
                said = alignment.find_words(
                    self.model, self.tokenizer, tokens, logprobs, heard, seconds, monotone
                )
            whole = [Segment(0.0, seconds, text, tuple(said), repeated)] if text else []
            score = scores[rows[0]]
            results.append(Result(text, score, tokens, logprobs, call.language, whole, said, nbest))
        return results

    def decode_tokens(self, tokens: list[int]) -> str:
        return (
            " ".join(map(str, tokens)) if self.tokenizer is None else self.tokenizer.decode(tokens)
        )


def release_memory() -> None:
    """Give the system what is free: else glibc keeps it, in pieces, and the process grows for an hour."""
    with suppress(AttributeError, OSError, TypeError):  # on another system
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def errors_of(jobs: list[Job]) -> Iterator[None]:
    """A ValueError in the block is the error of these jobs, and so is want of memory."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        if not isinstance(error, ValueError):
            if "memory" not in repr(error).lower():
                raise
            error = ValueError(
                "not enough memory: expected shorter audio, a smaller batch or fewer beams"
            )
        for job in jobs:
            job.error = job.error or error
