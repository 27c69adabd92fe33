"""The result of a transcription. All times are in seconds from the start of the audio."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Word:
    """A word, when it is spoken, and the geometric mean of its tokens' probabilities."""

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of the audio and its text.

    repeated: how many times the model repeated the end of it in a loop; the text has it once.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    repeated: int = 0


@dataclass(frozen=True)
class Result:
    """The transcription of a recording; `str(result)` is its text.

    score: the sum of log-probabilities / length ** length_penalty.
    tokens: (T,), from the start token to EOS. token_logprobs: (T - 1,).
    nbest: num_return_sequences texts, the best first.

    Silence has no tokens and the text "". Long audio has a segment for each chunk: the tokens of
    all of them are joined, and `score` is their mean, weighted by the number of tokens.
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


def join_results(
    results: dict[int, Result], sample_rate: int, language: str | None, count: int
) -> Result:
    """Join the results of a recording's chunks to one with `count` texts in `nbest`.

    results: by the first sample of the chunk, at `sample_rate` Hz.
    """
    # Go through the chunks in the order of time.
    tokens = []
    logprobs = []
    segments = []
    weighted_score = 0.0
    nbest_parts = [[] for _ in range(count)]
    for first, result in sorted(results.items()):
        tokens += result.tokens
        logprobs += result.token_logprobs
        weighted_score += result.score * len(result.token_logprobs)
        segments += [shift_segment(segment, first / sample_rate) for segment in result.segments]

        # Silent chunks have no text.
        for parts, text in zip(nbest_parts, result.nbest):
            if text:
                parts.append(text)

    # A recording without speech has no tokens and the score 0.
    score = weighted_score / max(1, len(logprobs))
    words = [word for segment in segments for word in segment.words]
    nbest = [" ".join(parts) for parts in nbest_parts]
    return Result(nbest[0], score, tokens, logprobs, language, segments, words, nbest)


def shift_segment(segment: Segment, seconds: float) -> Segment:
    """Return the same segment `seconds` later."""
    words = []
    for word in segment.words:
        words.append(replace(word, start=word.start + seconds, end=word.end + seconds))
    start = segment.start + seconds
    end = segment.end + seconds
    return replace(segment, start=start, end=end, words=tuple(words))
