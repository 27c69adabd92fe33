# pytest tests/transcription/test_formats.py
"""nanos2t/transcription/formats.py, read back by parsers that follow the formats' descriptions."""

import html
import io
import json
import re

import pytest

from nanos2t.transcription.formats import Layout, render
from nanos2t.transcription.results import Result, Segment, Word

FORMATS = ("txt", "srt", "vtt", "tsv", "json")
WORDS = (Word(0.1, 0.52, "zwei", 0.98765), Word(0.52, 1.0, "hundert", 0.5))


def result(*segments: tuple, words: tuple[Word, ...] = (), language: str | None = "de") -> Result:
    """Segments as (start, end, text)."""
    text = " ".join(segment[2] for segment in segments)
    return Result(
        text=text,
        score=-0.5,
        tokens=[1, 5, 2],
        token_logprobs=[-0.1, -0.4],
        language=language,
        segments=[Segment(*segment, words) for segment in segments],
        words=list(words),
        nbest=[text],
    )


def seconds(stamp: str, mark: str) -> float:
    actual = re.fullmatch(rf"(\d\d+):([0-5]\d):([0-5]\d){re.escape(mark)}(\d\d\d)", stamp)
    assert actual, stamp
    hours, minutes, whole, thousandths = map(int, actual.groups())
    return hours * 3600 + minutes * 60 + whole + thousandths / 1000


def cues(blocks: list[str], mark: str) -> list[tuple[float, float, str]]:
    actual = []
    for block in blocks:
        times, *lines = block.split("\n")
        start, end = times.split(" --> ")
        assert lines and all(lines)
        actual.append((seconds(start, mark), seconds(end, mark), "\n".join(lines)))
    return actual


def read_srt(text: str) -> list[tuple[float, float, str]]:
    if not text:
        return []
    assert text.endswith("\n") and not text.endswith("\n\n")
    blocks = [block.split("\n", 1) for block in text[:-1].split("\n\n")]
    assert [number for number, _ in blocks] == [str(i + 1) for i in range(len(blocks))]
    return cues([block for _, block in blocks], ",")


def read_vtt(text: str) -> list[tuple[float, float, str]]:
    header, *blocks = text[:-1].split("\n\n")
    assert header == "WEBVTT" and text.endswith("\n")
    for block in blocks:
        assert block.count("-->") == 1 and "<" not in block
        assert re.fullmatch(r"(?:[^&]|&(?:amp|lt|gt);)*", block)
    return [(start, end, html.unescape(words)) for start, end, words in cues(blocks, ".")]


def read_tsv(text: str) -> list[tuple[float, float, str]]:
    header, *lines = text.split("\n")
    assert header == "start\tend\ttext" and lines.pop() == ""
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == 3 for row in rows)
    return [(int(start) / 1000, int(end) / 1000, words) for start, end, words in rows]


READERS = {"srt": read_srt, "vtt": read_vtt, "tsv": read_tsv}
PLAIN = result(
    (0.0, 1.25, "zero seven"), (1.25, 3.5, "drei & <vier>"), (3600.0, 360000.5, "größer 語")
)


@pytest.mark.parametrize("format", READERS)
def test_cues_are_read_back(format: str):
    expected = [(segment.start, segment.end, segment.text) for segment in PLAIN.segments]
    assert READERS[format](render(PLAIN, format)) == expected


def test_the_bytes():
    """What a player gets, once, to the letter."""
    two = result((0.0, 1.25, "a < b & c"), (61.0, 62.0, "d"))
    assert render(two, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,250\na < b & c\n\n2\n00:01:01,000 --> 00:01:02,000\nd\n"
    )
    assert render(two, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\na &lt; b &amp; c\n\n"
        "00:01:01.000 --> 00:01:02.000\nd\n"
    )
    assert render(two, "tsv") == "start\tend\ttext\n0\t1250\ta < b & c\n61000\t62000\td\n"
    assert render(two, "txt") == "a < b & c d\n"


@pytest.mark.parametrize(
    "time, stamp",
    [
        (0.0, "00:00:00,000"),
        (0.0004, "00:00:00,000"),
        (0.0006, "00:00:00,001"),
        (0.9996, "00:00:01,000"),
        (1.001, "00:00:01,001"),
        (4.35, "00:00:04,350"),
        (59.9994, "00:00:59,999"),
        (59.9996, "00:01:00,000"),
        (3599.9996, "01:00:00,000"),
        (3661.0625, "01:01:01,062"),
        (359999.9996, "100:00:00,000"),
    ],
)
def test_rounding_is_carried(time: float, stamp: str):
    assert f"\n{stamp} --> " in render(result((time, time + 1, "a")), "srt")
    assert f"\n{stamp.replace(',', '.')} --> " in render(result((time, time + 1, "a")), "vtt")
    assert f"--> {stamp}\n" in render(result((0.0, time, "a")), "srt") or time < 0.0006


@pytest.mark.parametrize("format", READERS)
@pytest.mark.parametrize(
    "start, end", [(2.0, 1.0), (1.0, 1.0), (1.0001, 1.0), (-0.2, 0.3), (-2.0, -1.0)]
)
def test_no_cue_ends_before_it_starts(format: str, start: float, end: float):
    [(first, last, text)] = READERS[format](render(result((start, end, "a")), format))
    assert 0 <= first <= last and text == "a"
    assert format == "tsv" or first < last
    assert first == max(0.0, round(start, 3))


@pytest.mark.parametrize("format", READERS)
def test_a_cue_is_one_line(format: str):
    text = " a\tb\n\nc\r\nd\u2028e --> f\x85g\x0b "
    [(_, _, found)] = READERS[format](render(result((0.0, 1.0, text)), format))
    assert found == "a b c d e --> f g"


@pytest.mark.parametrize("segments", [(), ((0.0, 2.0, ""),), ((0.0, 2.0, " \n"), (2.0, 3.0, ""))])
def test_silence_is_a_valid_file(segments: tuple):
    silence = result(*segments, language=None)
    for format, reader in READERS.items():
        assert reader(render(silence, format)) == []
    assert render(silence, "txt") == "\n"
    assert render(silence, "vtt") == "WEBVTT\n"
    content = json.loads(render(silence, "json"))
    assert content["language"] is None and len(content["segments"]) == len(segments)


def test_blank_segments_do_not_count():
    some = result((0.0, 1.0, ""), (1.0, 2.0, "a"), (2.0, 3.0, " "), (3.0, 4.0, "b"))
    for format, reader in READERS.items():
        assert [text for _, _, text in reader(render(some, format))] == ["a", "b"]


def test_markup_is_escaped_in_vtt_only():
    text = "<v Bob>1 --> 2 &amp; <00:01.000>"
    hostile = result((0.0, 1.0, text))
    assert read_vtt(render(hostile, "vtt")) == [(0.0, 1.0, text)]
    assert read_tsv(render(hostile, "tsv")) == [(0.0, 1.0, text)]


def test_json_is_the_documented_object():
    rendered = render(
        result((0.0, 1.0006, "zwei hundert größer 語 </script>"), words=WORDS), "json", "a/b ü.wav"
    )
    assert json.loads(rendered) == {
        "version": 1,
        "audio": "a/b ü.wav",
        "language": "de",
        "text": "zwei hundert größer 語 </script>",
        "segments": [
            {
                "start": 0.0,
                "end": 1.001,
                "text": "zwei hundert größer 語 </script>",
                "words": [
                    {"start": 0.1, "end": 0.52, "word": "zwei", "probability": 0.9877},
                    {"start": 0.52, "end": 1.0, "word": "hundert", "probability": 0.5},
                ],
            }
        ],
    }
    assert list(json.loads(rendered)) == ["version", "audio", "language", "text", "segments"]
    assert "größer 語" in rendered and rendered.endswith("}\n") and "\\u" not in rendered
    assert json.loads(render(result((0.0, 1.0, "a\tb\n")), "json"))["text"] == "a\tb\n"


def test_json_never_holds_what_is_not_json():
    with pytest.raises(ValueError):
        render(result((0.0, float("nan"), "a")), "json")


@pytest.mark.parametrize("format", FORMATS)
def test_rendering_is_pure(format: str):
    before = repr(PLAIN)
    assert render(PLAIN, format) == render(PLAIN, format)
    assert repr(PLAIN) == before and "\r" not in render(PLAIN, format)


@pytest.mark.parametrize("format", ["", "TXT", "docx", ".srt"])
def test_an_unknown_format_is_named(format: str):
    with pytest.raises(
        ValueError, match=rf"format is '{format}', expected one of txt, srt, vtt, tsv, json"
    ):
        render(PLAIN, format)


def timed(text: str, start: float = 10.0, seconds: float = 0.5) -> Result:
    """One segment whose words follow each other, `seconds` each."""
    words = tuple(
        Word(start + i * seconds, start + (i + 1) * seconds, word, 0.5)
        for i, word in enumerate(text.split())
    )
    return Result(
        text, 0.0, [], [], None, [Segment(start - 1, words[-1].end + 1, text, words)], list(words)
    )


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_lines_have_a_width_and_cues_a_number_of_lines(format: str):
    results = timed("one two three four five incomprehensibilities six")
    actual = READERS[format](render(results, format, layout=Layout(9, 2)))
    assert actual[0] in ((9.0, 12.0, "one two\nthree"), (9.0, 11.5, "one two\nthree"))
    assert actual[1:] == [
        (11.5, 13.0, "four five\nincomprehensibilities"),
        (13.0, 14.5, "six"),
    ]
    assert [text for *_, text in READERS[format](render(results, format, layout=Layout(9, 1)))] == [
        "one two", "three", "four five", "incomprehensibilities", "six",
    ]  # fmt: skip
    assert READERS[format](render(results, format, layout=Layout(99))) == [
        (9.0, 14.5, results.text)
    ]
    assert [end for _, end, _ in READERS["tsv"](render(results, "tsv", layout=Layout(9, 2)))] == [
        11.5,
        13.0,
        14.5,
    ]


def test_lines_without_words_are_not_cut():
    actual = READERS["srt"](
        render(result((2.0, 12.0, "aaaa bbbb cccc")), "srt", layout=Layout(9, 1))
    )
    assert actual == [(2.0, 12.0, "aaaa bbbb cccc")]


def test_words_are_highlighted():
    assert render(timed("one <two> three"), "vtt", layout=Layout(highlight=True)) == (
        "WEBVTT\n\n00:00:09.000 --> 00:00:12.500\n"
        "<00:00:10.000>one <00:00:10.500>&lt;two&gt; <00:00:11.000>three\n"
    )
    assert "<" not in render(timed("one two"), "srt", layout=Layout(highlight=True))
    still = timed("one two three", seconds=0.0)  # times in a cue rise: the later ones go
    assert render(still, "vtt", layout=Layout(highlight=True)).count("<") == 1


@pytest.mark.parametrize(
    "layout", [Layout(), Layout(12, 2), Layout(12, 2, True), Layout(6, 1, True)]
)
def test_other_parsers_read_every_layout(layout: Layout):
    srt, webvtt = pytest.importorskip("srt"), pytest.importorskip("webvtt")
    results = timed("zwei & drei <vier> fünf sechs sieben acht", 3599.7)
    actual = list(srt.parse(render(results, "srt", layout=layout), ignore_errors=False))
    assert " ".join(cue.content for cue in actual).split() == results.text.split()
    assert all(
        len(line) <= (layout.width or 99) for cue in actual for line in cue.content.split("\n")
    )
    assert all(cue.content.count("\n") < layout.lines for cue in actual)
    cues = webvtt.from_buffer(io.StringIO(render(results, "vtt", layout=layout))).captions
    assert " ".join(html.unescape(cue.text) for cue in cues).split() == results.text.split()
    assert [cue.start_in_seconds for cue in cues] == [
        int(cue.start.total_seconds()) for cue in actual
    ]


def test_another_srt_parser_agrees():
    srt = pytest.importorskip("srt")
    actual = list(srt.parse(render(PLAIN, "srt"), ignore_errors=False))
    assert [
        (cue.start.total_seconds(), cue.end.total_seconds(), cue.content) for cue in actual
    ] == [(segment.start, segment.end, segment.text) for segment in PLAIN.segments]


def test_another_vtt_parser_agrees():
    webvtt = pytest.importorskip("webvtt")
    actual = webvtt.from_buffer(io.StringIO(render(PLAIN, "vtt")))
    assert [html.unescape(cue.text) for cue in actual] == [
        segment.text for segment in PLAIN.segments
    ]
    assert [cue.start_in_seconds for cue in actual] == [
        int(segment.start) for segment in PLAIN.segments
    ]
