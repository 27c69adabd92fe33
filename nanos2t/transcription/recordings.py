"""Recordings on their way through the model: what is asked for, and what is done already.

`SpeechToText.transcribe_many` splits each recording into chunks and transcribes chunks of several
recordings as one batch. A recording is finished when its source is read and no chunk is open.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nanos2t.generation_config import GenerationConfig
from nanos2t.transcription.results import Result


class ResolvedOptions(NamedTuple):
    """How a call generates: checked options."""

    options: dict  # those of the call itself
    config: GenerationConfig  # these and the model's defaults
    language: str | None  # the code of the language that `config` forces


@dataclass(frozen=True)
class Request:
    """What one call of `transcribe_many` asks for.

    words: also find word times. progress: called with the seconds of audio that were done.
    """

    words: bool
    progress: Callable[[float], None] | None
    generation: ResolvedOptions

    def report_progress(self, seconds: float) -> None:
        if self.progress is not None:
            self.progress(seconds)


@dataclass
class Recording:
    """A source and the results of its chunks so far, each by the chunk's first sample."""

    source: object
    # Chunks without a result, and one more until the source is read to its end.
    open_chunks: int = 1
    results: dict[int, Result] = field(default_factory=dict)
    error: ValueError | None = None


@dataclass(frozen=True)
class Chunk:
    """A part (L,) of a recording that the model can process at once.

    first: its first sample in the recording. seconds: of the recording since the end of the chunk
    before, silence included: what is done when this chunk is done.
    """

    recording: Recording
    first: int
    waveform: np.ndarray
    seconds: float


@contextmanager
def record_errors(recordings: list[Recording]) -> Iterator[None]:
    """Keep a ValueError of the `with` block as the error of these recordings.

    A lack of memory is treated alike: other recordings may be shorter. A recording keeps its first
    error.
    """
    try:
        yield
    except ValueError as error:
        failure = error
    except (MemoryError, RuntimeError) as error:
        # torch raises RuntimeError for many reasons: only this one depends on the recording.
        if "memory" not in repr(error).lower():
            raise
        failure = ValueError(
            "not enough memory: expected shorter audio, a smaller batch or fewer beams"
        )
    else:
        return

    # Of several failures the first is the cause.
    for recording in recordings:
        if recording.error is None:
            recording.error = failure


def release_memory() -> None:
    """Return free memory to the system.

    glibc keeps freed memory in fragments of many sizes: in a run of hours the process would grow.
    Where there is no glibc nothing happens.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
