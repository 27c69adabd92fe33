"""Transcribe audio: a model together with its tokenizer and the sample rate of its audio.

`SpeechToText.transcribe_many` reads recordings and splits them into chunks (segmentation.py),
sorts chunks by length, and for each batch: prepares it, encodes it, searches for the best tokens,
and makes a result of each chunk's. The results of a recording's chunks are joined to one.

Shapes: B chunks of a batch, L samples, S source frames, H hidden_size, K hypotheses of a
chunk (num_return_sequences), T tokens, start token first.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanos2t import audio
from nanos2t.files import copy_file
from nanos2t.generate import Generated, decode_memory
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.recordings.decoding import AudioSource
from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription import alignment
from nanos2t.transcription.hypotheses import cut_loop, trim_after_eos
from nanos2t.transcription.languages import find_language
from nanos2t.transcription.recordings import (
    Chunk,
    Recording,
    Request,
    ResolvedOptions,
    record_errors,
    release_memory,
)
from nanos2t.transcription.results import Result, Segment, join_results
from nanos2t.transcription.segmentation import Limits, split_recording

AudioInput = AudioSource | np.ndarray | Tensor

# The files of a checkpoint's folder that say how audio is read and text is written.
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)

# Seconds of a recording that are read at a time: enough to tell speech from its background.
BLOCK_SECONDS = 30.0

# Batches that are read ahead, so that chunks of similar length share a batch.
READ_AHEAD_BATCHES = 4

# Waveforms of a variance below or above are scaled before they are normalised: the 1e-7 that
# audio.normalise adds to a variance is not small compared with theirs, or it would be infinite.
QUIET_VARIANCE = 1e-6
LOUD_VARIANCE = 1e12

# Release memory after at least this many chunks; more often would cost too much time.
MANY_CHUNKS = 16


class SpeechToText:
    """A model with all that it takes to transcribe audio.

    tokenizer: None if the model has none: then texts are token ids.
    sample_rate: in Hz, of the model's audio. normalise: whether to normalise each waveform.
    limits: how much audio the model processes at once. folder: where the model was loaded from.
    """

    def __init__(
        self,
        model: SpeechEncoderDecoder,
        tokenizer: Tokenizer | None,
        sample_rate: int,
        normalise: bool,
        limits: Limits | None = None,
        folder: Path | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.sample_rate = sample_rate
        self.normalise = normalise
        self.limits = limits or Limits()
        self.folder = folder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to a folder, with the processor files of the folder that it came from."""
        self.model.save_pretrained(folder)
        if self.folder is None:
            return
        for name in PROCESSOR_FILES:
            file = self.folder / name
            if file.exists():
                copy_file(file, Path(folder) / name)

    # Options.

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes that `language=` accepts; () for a monolingual model."""
        ids = self.model.generation.lang_to_id or {}
        return tuple(sorted(ids, key=ids.get))

    def generation_options(self, language: str | None, generation: dict) -> dict:
        """Return a call's options of generation with the token of its language.

        Raises ValueError for an unknown language or option, or a wrong value.
        """
        if language is not None:
            language_ids = self.model.generation.lang_to_id or {}
            code = find_language(language, language_ids)
            generation = {**generation, "forced_bos_token_id": language_ids[code]}
        max_positions = self.model.decoder.config.max_positions
        return self.model.generation.fit_to_positions(generation, max_positions)

    def resolve_generation(self, language: str | None, generation: dict) -> ResolvedOptions:
        """Combine a call's options with the model's; raises ValueError as `generation_options`."""
        options = self.generation_options(language, generation)
        vocab_size = self.model.decoder.config.vocab_size
        config = self.model.generation.override(options, vocab_size)

        # The language of the model's default may be forced as well.
        codes = {token: code for code, token in (config.lang_to_id or {}).items()}
        return ResolvedOptions(options, config, codes.get(config.forced_bos_token_id))

    # Audio to the model's input, the model's output to text.

    def load_audio(self, source: AudioInput, sample_rate: int | None = None) -> np.ndarray:
        """Load what `transcribe` takes as a waveform (L,) at the model's sample rate."""
        return np.concatenate(list(self.read_blocks(source, sample_rate)))

    def read_blocks(
        self, source: AudioInput, sample_rate: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield what `load_audio` returns in blocks (L,) of BLOCK_SECONDS; the last may be shorter.

        Raises ValueError if the source cannot be read, possibly after some blocks.
        """
        if isinstance(source, (np.ndarray, Tensor)):
            decoded = [audio.from_array(source, sample_rate, self.sample_rate)]
        else:
            decoded = audio.read_blocks(source, self.sample_rate)

        block_size = round(BLOCK_SECONDS * self.sample_rate)
        pending = np.zeros(0, np.float32)
        for piece in decoded:
            pending = np.concatenate([pending, piece])
            while len(pending) >= block_size:
                yield pending[:block_size]
                pending = pending[block_size:]
        if len(pending) > 0:
            yield pending

    def prepare(self, waveforms: Sequence[np.ndarray | Tensor]) -> tuple[Tensor, Tensor]:
        """Make the model's input of waveforms (L_i,) at its sample rate: normalised and padded.

        Returns input_values (B, L) and attention_mask (B, L), 1 for samples, on the model's device.
        Raises ValueError as audio.from_array and audio.pad do.
        """
        # Each waveform is normalised alone: padding must not change its mean.
        checked = []
        for waveform in waveforms:
            samples = audio.from_array(waveform, self.sample_rate, self.sample_rate)
            if self.normalise:
                samples = audio.normalise(scale_extreme(samples))
            checked.append(samples)

        # Even the shortest has one frame.
        values, mask = audio.pad(checked, self.model.encoder.config.min_samples)
        weight = self.model.decoder.embed.tokens.weight
        return values.to(weight.device, weight.dtype), mask.to(weight.device)

    def decode_tokens(self, tokens: list[int]) -> str:
        """Return the text of tokens (T,), without special ones; without a tokenizer, their ids."""
        if self.tokenizer is None:
            return " ".join(map(str, tokens))
        return self.tokenizer.decode(tokens)

    # Transcription.

    def transcribe(
        self,
        audio: AudioInput,
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        words: bool = False,
        progress: Callable[[float], None] | None = None,
        **generation,
    ) -> Result:
        """Transcribe one recording of any length.

        audio: a path, the bytes of a file, a binary file object, or a 1-D array or tensor.
        sample_rate: in Hz, of an array or tensor; files know theirs.
        language: one of `languages` or its English name; None is the model's default.
        words: also find when each word is spoken.
        progress: called with the seconds of audio that were done since it was called before.
        generation: the fields of nanos2t.GenerationConfig, such as num_beams.

        Raises ValueError for audio that cannot be read, an unknown language, an unknown option, or
        a wrong value.
        """
        [result] = self.transcribe_many(
            [audio],
            sample_rate=sample_rate,
            language=language,
            words=words,
            progress=progress,
            **generation,
        )
        return result

    def transcribe_many(
        self,
        sources: Iterable[AudioInput],
        batch_size: int = 8,
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        words: bool = False,
        return_errors: bool = False,
        progress: Callable[[float], None] | None = None,
        **generation,
    ) -> Iterator[Result | ValueError]:
        """Transcribe recordings in batches and yield a result for each, in the order of `sources`.

        batch_size: how many chunks go through the model at a time. They are sorted by length, for
            which up to READ_AHEAD_BATCHES batches are read before the first result.
        return_errors: yield the ValueError of a recording that fails in place of its result; by
            default it is raised when its turn comes.

        The other arguments are those of `transcribe`.
        """
        check_batch_size(batch_size)
        if isinstance(sources, (str, bytes, os.PathLike)):
            raise ValueError(f"sources: found {str(sources)[:99]!r}, expected a list of files")
        request = Request(words, progress, self.resolve_generation(language, generation))

        # Read ahead up to READ_AHEAD_BATCHES batches, fewer when batches are small: with a batch
        # size of 1, each chunk is transcribed as soon as it is read.
        max_waiting = batch_size * min(batch_size, READ_AHEAD_BATCHES)
        recordings: deque[Recording] = deque()
        waiting: list[Chunk] = []
        for source in sources:
            recording = Recording(source)
            recordings.append(recording)
            blocks = self.read_blocks(source, sample_rate)
            for chunk in self.split_blocks(recording, blocks, request):
                waiting.append(chunk)
                if len(waiting) == max_waiting:
                    self.transcribe_chunks(waiting, batch_size, request)
            yield from self.pop_finished(recordings, request, return_errors)

        self.transcribe_chunks(waiting, batch_size, request)
        yield from self.pop_finished(recordings, request, return_errors)

    def transcribe_stream(
        self,
        source: AudioInput,
        receive: Callable[[Segment], None],
        batch_size: int = 8,
        *,
        language: str | None = None,
        progress: Callable[[float], None] | None = None,
        **generation,
    ) -> None:
        """Transcribe a recording while its source is read, as a pipe while it is written.

        receive: called with each segment, in order, about BLOCK_SECONDS after it was spoken at the
            latest.

        The other arguments, and the texts, are those of `transcribe`. Raises ValueError as that
        does, possibly after some segments.
        """
        check_batch_size(batch_size)
        request = Request(False, progress, self.resolve_generation(language, generation))
        recording = Recording(source)
        waiting: list[Chunk] = []

        def finish_waiting() -> None:
            self.transcribe_chunks(waiting, batch_size, request)
            for segment in self.pop_segments(recording):
                receive(segment)

        def read_blocks() -> Iterator[np.ndarray]:
            # The next block may be long in coming: nothing waits for it.
            for block in self.read_blocks(source):
                yield block
                finish_waiting()

        for chunk in self.split_blocks(recording, read_blocks(), request):
            waiting.append(chunk)
        finish_waiting()
        if recording.error is not None:
            raise recording.error

    def pop_segments(self, recording: Recording) -> Iterator[Segment]:
        """Remove the results of a recording, and yield their segments in the order of time."""
        for first, result in sorted(recording.results.items()):
            del recording.results[first]
            shifted = join_results({first: result}, self.sample_rate, result.language, 1)
            warn_about_loops(recording, shifted)
            yield from shifted.segments

    def split_blocks(
        self, recording: Recording, blocks: Iterable[np.ndarray], request: Request
    ) -> Iterator[Chunk]:
        """Yield the chunks of a recording as its blocks come; a failure becomes its error."""
        with record_errors([recording]):
            samples_done = 0
            for first, waveform in split_recording(blocks, self.sample_rate, self.limits):
                end = first + len(waveform)
                seconds = (end - samples_done) / self.sample_rate
                samples_done = end
                if len(waveform) > 0:
                    recording.open_chunks += 1
                    yield Chunk(recording, first, waveform, seconds)
                else:
                    request.report_progress(seconds)  # silence at the end

        # The source is read to its end: only chunks keep the recording open now.
        recording.open_chunks -= 1

    def transcribe_chunks(self, waiting: list[Chunk], batch_size: int, request: Request) -> None:
        """Transcribe all chunks, the longest first, and empty the list."""
        waiting.sort(key=lambda chunk: len(chunk.waveform), reverse=True)
        is_many = len(waiting) >= MANY_CHUNKS
        while waiting:
            batch = waiting[:batch_size]
            del waiting[:batch_size]

            with record_errors([chunk.recording for chunk in batch]):
                results = self.transcribe_batch([chunk.waveform for chunk in batch], request)
                for chunk, result in zip(batch, results):
                    chunk.recording.results[chunk.first] = result

            for chunk in batch:
                chunk.recording.open_chunks -= 1
            request.report_progress(sum(chunk.seconds for chunk in batch))
        if is_many:
            release_memory()

    def pop_finished(
        self, recordings: deque[Recording], request: Request, return_errors: bool
    ) -> Iterator[Result | ValueError]:
        """Remove the finished recordings at the head of the queue and yield their outcomes."""
        while recordings and recordings[0].open_chunks == 0:
            recording = recordings.popleft()
            if recording.error is not None:
                if not return_errors:
                    raise recording.error
                yield recording.error
                continue

            count = request.generation.config.num_return_sequences
            result = join_results(
                recording.results, self.sample_rate, request.generation.language, count
            )
            warn_about_loops(recording, result)
            yield result

    @torch.no_grad()
    def transcribe_batch(self, waveforms: list[np.ndarray], request: Request) -> list[Result]:
        """Transcribe waveforms (L_i,) at the model's sample rate as one batch.

        A constant waveform is silence and has an empty result. Raises ValueError if the model's
        scores are not finite.
        """
        # Encode the batch and search for the best tokens of each chunk.
        input_values, attention_mask = self.prepare(waveforms)  # 2 x (B, L)
        memory, frame_lengths = self.model.encode(input_values, attention_mask)  # (B, S, H), (B,)
        generated = decode_memory(self.model, memory, frame_lengths, request.generation.options)
        scores = generated.sequences_scores  # (B * K,)
        if not scores.isfinite().all():
            raise ValueError(f"scores are {scores.min()}, not finite: the model is damaged")

        # Make a result of each chunk's hypotheses and its real frames.
        results = []
        for i, waveform in enumerate(waveforms):
            if waveform.min() == waveform.max():
                nbest = [""] * request.generation.config.num_return_sequences
                results.append(Result("", 0.0, [], [], request.generation.language, nbest=nbest))
                continue
            num_frames = memory.shape[1] if frame_lengths is None else frame_lengths[i]
            item_memory = memory[i : i + 1, :num_frames]  # (1, S, H)
            results.append(self.build_result(request, generated, i, waveform, item_memory))
        return results

    def build_result(
        self,
        request: Request,
        generated: Generated,
        item: int,
        waveform: np.ndarray,
        memory: Tensor,
    ) -> Result:
        """Make the result of one item of a batch from the sequences that were generated for it.

        waveform: (L,). memory: its real frames (1, S, H).
        """
        # Beams come best first, but samples are in the order in which they were drawn.
        config = request.generation.config
        scores = generated.sequences_scores.tolist()  # B * K
        first_row = item * config.num_return_sequences
        rows = range(first_row, first_row + config.num_return_sequences)
        rows = sorted(rows, key=lambda row: scores[row], reverse=True)

        # Tokens become texts, the best without the repetitions of a loop.
        hypotheses = []
        for row in rows:
            sequence = generated.sequences[row].tolist()
            hypotheses.append(trim_after_eos(sequence, config.eos_ids))
        tokens, repeated = cut_loop(hypotheses[0], config.eos_ids)
        hypotheses[0] = tokens
        nbest = [self.decode_tokens(hypothesis) for hypothesis in hypotheses]
        text = nbest[0]

        # The start token has no probability.
        logprobs = generated.token_logprobs[rows[0], : len(tokens) - 1].tolist()  # T - 1
        seconds = len(waveform) / self.sample_rate
        words = []
        if request.words and text:
            timing = alignment.choose_options(
                request.generation.config, request.generation.language
            )
            words = alignment.find_words(
                self.model, self.tokenizer, tokens, logprobs, memory, seconds, timing
            )
        segments = []
        if text:
            segments.append(Segment(0.0, seconds, text, tuple(words), repeated))
        score = scores[rows[0]]
        return Result(
            text, score, tokens, logprobs, request.generation.language, segments, words, nbest
        )


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError unless a batch size is a whole number, at least 1."""
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r:.40}, expected a whole number, 1 or more")


def scale_extreme(waveform: np.ndarray) -> np.ndarray:
    """Scale a very quiet or very loud waveform (L,) to variance 1, to be heard like any other.

    Others, and constant ones, are returned as they are.
    """
    spread = waveform.std(dtype=np.float64)
    if spread == 0 or QUIET_VARIANCE <= spread**2 <= LOUD_VARIANCE:
        return waveform
    return ((waveform - waveform.mean(dtype=np.float64)) / spread).astype(np.float32)


def warn_about_loops(recording: Recording, result: Result) -> None:
    """Warn about each segment from which repetitions were removed."""
    name = "audio"
    if isinstance(recording.source, (str, os.PathLike)):
        name = os.fsdecode(recording.source)
    for segment in result.segments:
        if segment.repeated:
            warnings.warn(
                f"{name}: {segment.start:.1f} s: the model repeated the end of {segment.text!r} "
                f"{segment.repeated} times",
                stacklevel=3,
            )
