"""Write a Result as a file: plain text, SubRip or WebVTT subtitles, tab-separated values, JSON.

Times are rounded once, to whole milliseconds, before they are split into hours, minutes and
seconds: 59.9996 s is one minute. A segment without text has no cue; a result without text is still
a valid file. SubRip has no standard: players read hh:mm:ss,mmm and a blank line after each cue.
WebVTT: www.w3.org/TR/webvtt1.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from nanos2t.transcription.results import Result, Segment, Word

FORMATS = ("txt", "srt", "vtt", "tsv", "json")
JSON_VERSION = 1  # raised when a name in the JSON changes or is removed


@dataclass(frozen=True)
class Layout:
    """The layout of subtitles.

    width: characters of a line, exceeded only by a longer word; None: a cue is a whole segment.
    lines: the most lines of a cue. highlight: mark the time at which each word starts (WebVTT).
    Width and highlight need the times of words.
    """

    width: int | None = None
    lines: int = 2
    highlight: bool = False


class TimedText(NamedTuple):
    """A word, a cue or a whole segment, from and to a millisecond."""

    start: int
    end: int
    text: str


def render(result: Result, format: str, audio: str = "", layout: Layout | None = None) -> str:
    """Return the content of a file in one of FORMATS.

    audio: the name of the input, which only JSON contains. Raises ValueError for another format.
    """
    layout = layout or Layout()
    if format == "txt":
        return to_txt(result)
    if format == "srt":
        return to_srt(result, layout)
    if format == "vtt":
        return to_vtt(result, layout)
    if format == "tsv":
        return to_tsv(result, layout)
    if format == "json":
        return to_json(result, audio)
    raise ValueError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")


def to_txt(result: Result) -> str:
    return join_whitespace(result.text) + "\n"


def to_srt(result: Result, layout: Layout) -> str:
    blocks = []
    for number, cue in enumerate(make_cues(result, layout), start=1):
        blocks.append(f"{number}\n{format_timing(cue, ',')}\n{cue.text}\n")
    return "\n".join(blocks)


def to_vtt(result: Result, layout: Layout) -> str:
    """Return WebVTT: a header, then cues, in which markup characters are escaped."""
    blocks = ["WEBVTT\n"]
    for cue in make_cues(result, layout, is_vtt=True):
        blocks.append(f"\n{format_timing(cue, '.')}\n{cue.text}\n")
    return "".join(blocks)


def to_tsv(result: Result, layout: Layout) -> str:
    rows = ["start\tend\ttext\n"]
    for cue in make_cues(result, layout):
        rows.append(f"{cue.start}\t{cue.end}\t{join_whitespace(cue.text)}\n")
    return "".join(rows)


def to_json(result: Result, audio: str = "") -> str:
    """Return one object; times in seconds to the millisecond, probabilities to four places."""
    segments = []
    for segment in result.segments:
        words = []
        for word in segment.words:
            probability = round(word.probability, 4)
            words.append({**round_times(word), "word": word.word, "probability": probability})
        segments.append({**round_times(segment), "text": segment.text, "words": words})
    content = {
        "version": JSON_VERSION,
        "audio": audio,
        "language": result.language,
        "text": result.text,
        "segments": segments,
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def round_times(span: Segment | Word) -> dict[str, float]:
    return {"start": round(span.start, 3), "end": round(span.end, 3)}


# Cues of subtitles.


def make_cues(result: Result, layout: Layout, is_vtt: bool = False) -> list[TimedText]:
    """Return the cues of all segments, in order; the text of a cue has one or several lines."""
    cues = []
    for segment in result.segments:
        cues += make_segment_cues(segment, layout, is_vtt)
    return cues


def make_segment_cues(segment: Segment, layout: Layout, is_vtt: bool) -> Iterator[TimedText]:
    """Yield the cues of a segment: together they last as long as the segment does."""
    # A cue has as many of the lines as the layout allows.
    lines = break_lines(time_words(segment), layout.width)
    for i in range(0, len(lines), layout.lines):
        cue_lines = lines[i : i + layout.lines]
        is_first = i == 0
        is_last = i + layout.lines >= len(lines)

        # Within a segment, a cue lasts from its first word to its last.
        start = to_milliseconds(segment.start) if is_first else cue_lines[0][0].start
        start = max(0, start)
        end = to_milliseconds(segment.end) if is_last else cue_lines[-1][-1].end

        # Only WebVTT has markup.
        if is_vtt:
            cue_lines = mark_words(cue_lines, start, end, layout.highlight)
        texts = []
        for line in cue_lines:
            texts.append(" ".join(word.text for word in line))
        yield TimedText(start, max(start, end), "\n".join(texts))


def time_words(segment: Segment) -> list[TimedText]:
    """Return the words of a segment with their times; if these are unknown, all of it as one."""
    texts = segment.text.split()
    if not texts:
        return []
    # The times belong to the text only if the words are the same.
    if [word.word for word in segment.words] != texts:
        start = to_milliseconds(segment.start)
        return [TimedText(start, to_milliseconds(segment.end), " ".join(texts))]
    words = []
    for word in segment.words:
        start = to_milliseconds(word.start)
        words.append(TimedText(start, to_milliseconds(word.end), word.word))
    return words


def break_lines(words: list[TimedText], width: int | None) -> list[list[TimedText]]:
    """Break words into lines of at most `width` characters; without a width there is one line."""
    lines: list[list[TimedText]] = []
    used = 0  # characters of the last line, with a space after each word
    for word in words:
        # A word that is longer than a line has a line of its own.
        is_full = width and used + len(word.text) > width
        if not lines or is_full:
            lines.append([])
            used = 0
        lines[-1].append(word)
        used += len(word.text) + 1
    return lines


def mark_words(
    lines: list[list[TimedText]], start: int, end: int, highlight: bool
) -> list[list[TimedText]]:
    """Escape words for WebVTT; with `highlight`, put the time at which it starts before each word.

    WebVTT wants these times to rise within the cue, from `start` to `end`; others are left out.
    """
    # `previous` is the time of the last mark, at first that of the cue itself.
    previous = start
    marked = []
    for line in lines:
        marked_line = []
        for word in line:
            text = word.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            if highlight and previous < word.start < end:
                previous = word.start
                text = f"<{format_clock(word.start, '.')}>{text}"
            marked_line.append(word._replace(text=text))
        marked.append(marked_line)
    return marked


def to_milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def format_timing(cue: TimedText, decimal_mark: str) -> str:
    """Return the times of a cue, at least 1 ms apart: WebVTT wants the end after the start."""
    end = max(cue.start + 1, cue.end)
    return f"{format_clock(cue.start, decimal_mark)} --> {format_clock(end, decimal_mark)}"


def format_clock(milliseconds: int, decimal_mark: str) -> str:
    """Return milliseconds as hh:mm:ss and three decimals; from 100 hours on, hh has more digits."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{decimal_mark}{milliseconds:03}"


def join_whitespace(text: str) -> str:
    """Make one space of all white space: a tab would end a field, and a blank line a cue."""
    return " ".join(text.split())
