# pytest tests/cli/test_align.py
"""nanos2t/cli/align.py: times of the words of a given text."""

import json

from nanos2t.transcription.loading import BUNDLED


def test_align(run, model, clips):
    sample = BUNDLED.parent / "sample.wav"
    code, out, err = run("align", sample, "two four seven", tiny=False)
    assert run("align", sample, " two  four\n\tseven\n", tiny=False) == (code, out, err)
    rows = [line.split("\t") for line in out]
    assert (code, err, rows[0]) == (0, [], ["start", "end", "text"])
    assert [row[2] for row in rows[1:]] == ["two", "four", "seven"]
    assert 0 < int(rows[1][0]) < int(rows[2][0]) < int(rows[3][0]) < 3300
    code, out, err = run(
        "align",
        sample,
        "zweihundertsiebenundvierzig",
        "--language",
        "German",
        "--format",
        "json",
        tiny=False,
    )
    [segment] = json.loads("\n".join(out))["segments"]
    assert (code, err) == (0, []) and segment["words"][0]["probability"] > 0.5
    monkey = run("align", "gone.wav", "w7", "--model", model, tiny=False)
    assert monkey[0] == 1 and monkey[2][0].startswith("nanos2t: gone.wav")
    for text in "two four seven" * 20, "語", " ":
        code, out, [line] = run("align", sample, text, tiny=False)
        assert (code, out) == (1, []) and line.startswith(f"nanos2t: {sample}: ")


def test_a_text_that_the_vocabulary_cannot_spell(run):
    sample = BUNDLED.parent / "sample.wav"
    for text, missing in [
        ("Two four seven", "'T' of 'Two'"),
        ("two four seven.", "'.' of 'seven.'"),
        ("two <de> four", "'<' and '>' of '<de>'"),
    ]:
        code, out, [line] = run("align", sample, text, tiny=False)
        assert (code, out) == (1, []) and line.endswith(f"it lacks {missing}")
