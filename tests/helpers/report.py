"""Shared by the tests of the report: a recording, its bytes, and the JSON of a page."""

import base64
import io
import json
import zlib
from html.parser import HTMLParser

import numpy as np
import soundfile

from helpers.tiny import RATE
from nanos2t.transcription import loading

SAMPLE = loading.BUNDLED.parent / "sample.wav"
EVIL = [
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\u202eevil \u05e9\u05dc\u05d5\u05dd",  # turns what stands behind it around
    "<!--<script>",
    "\u2028\n\t&amp;",
    "a" * 300,
]


def as_wav(waveform: np.ndarray, rate: int = RATE) -> bytes:
    soundfile.write(file := io.BytesIO(), waveform, rate, "FLOAT", format="WAV")
    return file.getvalue()


def unpack(packed: dict) -> np.ndarray:
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    return (values.reshape(packed["shape"]) / 255) ** 2


def content(page: str) -> dict:
    """The JSON of a page, as HTML says where its element ends."""

    class Parser(HTMLParser):
        inside, text = False, ""

        def handle_starttag(self, tag, attributes):
            self.inside = ("id", "report") in attributes

        def handle_endtag(self, tag):
            self.inside = False

        def handle_data(self, data):
            self.text += data if self.inside else ""

    parser = Parser()
    parser.feed(page)
    return json.loads(parser.text)


def hostile(run: dict) -> dict:
    run = json.loads(json.dumps(run))
    [piece] = run["pieces"]
    run |= {
        "title": EVIL[0] + EVIL[2],
        "model": EVIL[1],
        "language": EVIL[0],
        "families": [EVIL[3]],
    }
    piece |= {"text": EVIL[0], "greedy": EVIL[1]}
    piece["spelled"] = {token: EVIL[i % len(EVIL)] for i, token in enumerate(piece["spelled"])}
    for i, word in enumerate(piece["words"]):
        word["word"] = EVIL[i]
    return run


def chosen(page) -> dict[str, int]:
    """What is lit up: how many of each kind."""
    kinds = {
        "text": ".text button",
        "region": ".region",
        "label": ".lane button",
        "row": ".rows button",
        "branch": ".tree .node",
        "sure": ".sure li",
        "bands": ".band",
    }
    return {name: page.locator(f"{kind}.chosen").count() for name, kind in kinds.items()}


ONE = {"text": 1, "region": 1, "label": 1, "row": 1, "branch": 1, "sure": 1, "bands": 3}
NONE = dict.fromkeys(ONE, 0)
