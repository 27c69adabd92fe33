"""What was heard: a Result of Segments of Words, in seconds from the start of the audio."""

from dataclasses import dataclass, field, replace
from itertools import chain


@dataclass(frozen=True)
class Word:
    """A word, when it is said, in seconds, and the mean probability of its tokens."""

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of the audio, in seconds, and what is said in it.
    `repeated`: how often the model said the end of it again, in a loop; it is kept once."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    repeated: int = 0


@dataclass(frozen=True)
class Result:
    """What was heard; str(result) is its text.
    `score`: sum of log-probabilities / length ** length_penalty. `tokens` (T,): start token to EOS, with
    `token_logprobs` (T - 1,). `nbest`: num_return_sequences texts, the best first. Silence has no tokens.
    Long audio has a segment for each piece; tokens stand one behind the other, `score` is their mean."""

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


def join_results(parts: dict[int, Result], rate: int, language: str | None, count: int) -> Result:
    """The results of a recording's pieces, by their first sample at `rate` Hz, as one, with `count` nbest."""
    ordered = [parts[first] for first in sorted(parts)]
    segments = [
        shift(item, first / rate) for first in sorted(parts) for item in parts[first].segments
    ]
    logprobs = list(chain(*(part.token_logprobs for part in ordered)))
    score = sum(part.score * len(part.token_logprobs) for part in ordered) / max(1, len(logprobs))
    nbest = [" ".join(filter(None, row)) for row in zip(*(part.nbest for part in ordered))] or [
        ""
    ] * count
    words = [word for item in segments for word in item.words]
    tokens = list(chain(*(part.tokens for part in ordered)))
    return Result(nbest[0], score, tokens, logprobs, language, segments, words, nbest)


def shift(item: Segment, seconds: float) -> Segment:
    """The same, that much later."""
    words = (
        replace(word, start=word.start + seconds, end=word.end + seconds) for word in item.words
    )
    return replace(item, start=item.start + seconds, end=item.end + seconds, words=tuple(words))
