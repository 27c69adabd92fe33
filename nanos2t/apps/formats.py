"""A Result as a file: plain text, SubRip and WebVTT subtitles, tab-separated values, JSON.

Times are rounded once, to whole milliseconds, before they are split: 59.9996 s is one minute. A segment
without text is no cue; a Result without text is still a valid file. SubRip has no standard (players read
hh:mm:ss,mmm and a blank line behind each cue); WebVTT: www.w3.org/TR/webvtt1.
"""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanos2t.apps.transcribe import Result, Segment, Word

VERSION = 1  # of the JSON: raised when a name in it changes or goes


def render(result: "Result", format: str, audio: str = "") -> str:
    """`result` as the text of a file, one of FORMATS. `audio`: the input's name, which only JSON tells.

    ValueError for another format.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    return to_json(result, audio) if format == "json" else FORMATS[format](result)


def to_txt(result: "Result") -> str:
    """The bare text on one line: an empty line for silence."""
    return one_line(result.text) + "\n"


def to_srt(result: "Result") -> str:
    """SubRip: a number, the times, the text and a blank line per cue."""
    cues = [f"{timing(start, end, ',')}\n{text}\n" for start, end, text in cue_list(result)]
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1))


def to_vtt(result: "Result") -> str:
    """WebVTT: a header, then cues; what would be markup, or `-->`, is escaped."""
    cues = [f"\n{timing(start, end, '.')}\n{escape(text)}\n" for start, end, text in cue_list(result)]
    return "WEBVTT\n" + "".join(cues)


def to_tsv(result: "Result") -> str:
    """A header, then start and end in whole milliseconds, and the text, between tabs."""
    lines = [f"{start}\t{end}\t{text}\n" for start, end, text in cue_list(result)]
    return "start\tend\ttext\n" + "".join(lines)


def to_json(result: "Result", audio: str = "") -> str:
    """One object, UTF-8 as it is; times in seconds to the millisecond, `probability` to four places."""
    content = {
        "version": VERSION,
        "audio": audio,
        "language": result.language,
        "text": result.text,
        "segments": [segment_object(segment) for segment in result.segments],
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def segment_object(segment: "Segment") -> dict:
    words = [
        {**span(word), "word": word.word, "probability": round(word.probability, 4)} for word in segment.words
    ]
    return {**span(segment), "text": segment.text, "words": words}


def span(item: "Segment | Word") -> dict[str, float]:
    return {"start": round(item.start, 3), "end": round(item.end, 3)}


def cue_list(result: "Result") -> list[tuple[int, int, str]]:
    """(start, end, text) of each segment that has text: whole milliseconds, start <= end, one line."""
    cues = []
    for segment in result.segments:
        start = max(0, milliseconds(segment.start))
        end = max(start, milliseconds(segment.end))
        if text := one_line(segment.text):
            cues.append((start, end, text))
    return cues


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


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


FORMATS = {"txt": to_txt, "srt": to_srt, "vtt": to_vtt, "tsv": to_tsv, "json": to_json}
