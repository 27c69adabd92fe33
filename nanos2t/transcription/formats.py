"""A Result as a file: plain text, SubRip and WebVTT subtitles, tab-separated values, JSON.
Times are rounded once, to whole milliseconds, before they are split: 59.9996 s is one minute. A segment
without text is no cue; a Result without text is still a valid file. SubRip has no standard (players read
hh:mm:ss,mmm and a blank line behind each cue); WebVTT: www.w3.org/TR/webvtt1."""

import json
from dataclasses import dataclass

from nanos2t.transcription.results import Result, Segment, Word

Timed = tuple[int, int, str]  # a word from and to a millisecond
VERSION = 1  # of the JSON: raised when a name in it changes or goes


@dataclass(frozen=True)
class Layout:
    """Of subtitles: `width` characters of a line, if no word is longer, and `lines` of a cue at most; without
    a width a cue is a segment. `highlight`: tell when each word begins (WebVTT). Both need word times."""

    width: int | None = None
    lines: int = 2
    highlight: bool = False


def render(result: Result, format: str, audio: str = "", layout: Layout | None = None) -> str:
    """`result` as the text of a file, in one of FORMATS. `audio`: the input's name, which only JSON tells."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    return (
        to_json(result, audio) if format == "json" else FORMATS[format](result, layout or Layout())
    )


def to_txt(result: Result, layout: Layout) -> str:
    return one_line(result.text) + "\n"


def to_srt(result: Result, layout: Layout) -> str:
    cues = [f"{timing(start, end, ',')}\n{text}\n" for start, end, text in cue_list(result, layout)]
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1))


def to_vtt(result: Result, layout: Layout) -> str:
    """WebVTT: a header, then cues; what would be markup, or `-->`, is escaped."""
    cues = [
        f"\n{timing(start, end, '.')}\n{text}\n"
        for start, end, text in cue_list(result, layout, True)
    ]
    return "WEBVTT\n" + "".join(cues)


def to_tsv(result: Result, layout: Layout) -> str:
    lines = [f"{start}\t{end}\t{one_line(text)}\n" for start, end, text in cue_list(result, layout)]
    return "start\tend\ttext\n" + "".join(lines)


def to_json(result: Result, audio: str = "") -> str:
    """One object, UTF-8 as it is; times in seconds to the millisecond, `probability` to four places."""
    content = {
        "version": VERSION,
        "audio": audio,
        "language": result.language,
        "text": result.text,
        "segments": [segment_object(segment) for segment in result.segments],
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def segment_object(item: Segment) -> dict:
    words = [
        {**span(one), "word": one.word, "probability": round(one.probability, 4)}
        for one in item.words
    ]
    return {**span(item), "text": item.text, "words": words}


def span(item: Segment | Word) -> dict[str, float]:
    return {"start": round(item.start, 3), "end": round(item.end, 3)}


def cue_list(result: Result, layout: Layout, is_vtt: bool = False) -> list[tuple[int, int, str]]:
    """(start, end, text) of each cue: whole milliseconds, start <= end, text on one line or on `lines`."""
    cues = []
    for segment in result.segments:
        rows: list[list[Timed]] = []
        for word in timed_words(segment):
            used = sum(len(other) + 1 for _, _, other in rows[-1]) if rows else 0
            if not rows or (layout.width and used + len(word[2]) > layout.width):
                rows.append([])
            rows[-1].append(word)
        for i in range(0, len(rows), layout.lines):
            part = rows[i : i + layout.lines]
            start = max(0, milliseconds(segment.start) if i == 0 else part[0][0][0])
            end = milliseconds(segment.end) if part[-1] is rows[-1] else part[-1][-1][1]
            texts = mark(part, start, end, layout.highlight) if is_vtt else part
            text = "\n".join(" ".join(word for _, _, word in row) for row in texts)
            cues.append((start, max(start, end), text))
    return cues


def timed_words(segment: Segment) -> list[Timed]:
    """The words of a segment with their times; if these are not known, all of it as one."""
    texts = segment.text.split()
    if [word.word for word in segment.words] == texts:
        return [
            (milliseconds(word.start), milliseconds(word.end), word.word) for word in segment.words
        ]
    return (
        [(milliseconds(segment.start), milliseconds(segment.end), " ".join(texts))] if texts else []
    )


def mark(rows: list[list[Timed]], start: int, end: int, highlight: bool) -> list[list[Timed]]:
    """Words as WebVTT has them, each behind the time at which it begins; these must rise within the cue."""
    marked = []
    for row in rows:
        marked.append([])
        for begin, until, word in row:
            word = word.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            if highlight and start < begin < end:
                start, word = begin, f"<{clock(begin, '.')}>{word}"
            marked[-1].append((begin, until, word))
    return marked


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def timing(start: int, end: int, mark: str) -> str:
    """The times of a cue; WebVTT wants the end behind the start, so a cue lasts 1 ms at least."""
    return f"{clock(start, mark)} --> {clock(max(start + 1, end), mark)}"


def clock(total: int, mark: str) -> str:
    """Milliseconds -> hh:mm:ss and the milliseconds behind `mark`; the hours grow as they must."""
    minutes, rest = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def one_line(text: str) -> str:
    """Text with every run of white space as one space: a tab ends a field, a blank line a cue."""
    return " ".join(text.split())


FORMATS = {"txt": to_txt, "srt": to_srt, "vtt": to_vtt, "tsv": to_tsv, "json": to_json}
