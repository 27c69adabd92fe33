# pytest tests/test_report.py
"""nanos2t/inspection/report.py and the page: its numbers are the model's, and it works in a browser, alone."""

import base64
import io
import json
import re
import shutil
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
from helpers.pairs import spread_
from helpers.tiny import DECODER, ENCODER, RATE, save_tiny, sound
from safetensors.torch import load_file

import nanos2t
from nanos2t import wav2vec2
from nanos2t.cli import main as cli
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection import info, report
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription import alignment as align
from nanos2t.transcription import loading
from nanos2t.transcription import transcriber as transcribe

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


@pytest.fixture(scope="module")
def stt():
    return nanos2t.load()


@pytest.fixture(scope="module")
def run(stt) -> dict:
    return report.analyse_recording(stt, SAMPLE, "sample.wav")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return nanos2t.load(save_tiny(tmp_path_factory.mktemp("tiny")))


# what the page is told


def test_the_run_is_what_transcribe_hears(stt, run):
    result = stt.transcribe(SAMPLE, num_beams=4, words=True)
    [piece] = run["pieces"]
    assert piece["text"] == result.text == piece["greedy"] == "two four seven"
    assert piece["score"] == pytest.approx(result.score, abs=1e-5)
    assert piece["tokens"] == result.tokens[1:] and run["language"] == result.language
    assert piece["probabilities"] == pytest.approx(np.exp(result.token_logprobs), abs=1e-5)
    for word, found in zip(piece["words"], result.words, strict=True):
        assert word == pytest.approx(vars(found), abs=1e-5)
    assert piece["word_of"] == [-1, 0, 1, 2, -1] and piece["forced"]
    weights = load_file(loading.BUNDLED / "model.safetensors").values()
    assert run["seconds"] == pytest.approx(3.31, abs=0.01)
    assert run["parameters"] == sum(x.numel() for x in weights) > 4e6


def test_the_alternatives_are_the_likeliest_tokens(run, stt):
    [piece] = run["pieces"]
    for token, probability, others in list(
        zip(piece["tokens"], piece["probabilities"], piece["alternatives"])
    )[1:]:
        assert dict(others)[token] == pytest.approx(
            probability, abs=1e-4
        )  # no options change the scores
        assert [p for _, p in others] == sorted((p for _, p in others), reverse=True) and len(
            others
        ) == 6
    for token, text in piece["spelled"].items():
        assert text == stt.tokenizer.decode([token], skip_special_tokens=False)
        assert (token in piece["special"]) == (stt.tokenizer.decode([token]) == "")


def test_the_recording_can_be_heard(run, stt):
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(run["audio"])))
    assert rate == run["rate"] == 8000
    np.testing.assert_allclose(waveform, stt.load_audio(SAMPLE), atol=1 / 32768)
    assert (
        base64.b64decode(run["audio"])[36:40] == b"data"
    )  # the page reads samples from byte 44 on


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_attention_is_the_model_s(pre_norm, monkeypatch):
    encoder = replace(ENCODER, pre_norm=pre_norm, num_layers=2)
    model = SpeechEncoderDecoder.from_configs(
        encoder, DECODER, GenerationConfig(decoder_start_token_id=1)
    )
    stt = transcribe.SpeechToText(spread_(model).eval(), None, RATE, True)
    waveform, seen, attend = sound(0.9), [], wav2vec2.attend

    def spy(queries, keys, *rest):
        seen.append((queries @ keys.transpose(2, 3) / queries.shape[3] ** 0.5).softmax(3))
        return attend(queries, keys, *rest)

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(wav2vec2, "attend", spy)
        model.encode(stt.prepare([waveform])[0])
    stages, weights = report.encoder_attention(stt, waveform, torch.tensor([[1, 7, 8]]))
    assert weights.shape == (2, 3, 44, 44) and len(seen) == 2
    torch.testing.assert_close(weights, torch.cat(seen))
    np.testing.assert_allclose(
        unpack(report.quantise_attention(weights, 10**6, True)), weights.detach(), atol=0.005
    )
    facts = [row for row, _ in info.observed_tensors(stt, waveform, torch.tensor([[1, 7, 8]]))]
    assert [row["stage"] for row in stages] == [row["stage"] for row in facts]


def test_cross_attention_times_the_words(run, stt):
    [piece] = run["pieces"]
    memory, _ = stt.model.encode(stt.prepare([stt.load_audio(SAMPLE)[: piece["samples"]]])[0])
    read = torch.tensor([stt.model.generation.decoder_start_token_id, *piece["tokens"][:-1]])
    _, weights = align.run_decoder(stt.model.decoder, read, memory)
    np.testing.assert_allclose(unpack(piece["cross"]), weights, atol=0.005)
    assert piece["heads"] == align.choose_heads(weights[:, :, 1:4]).tolist()
    frame = piece["seconds"] / piece["frames"]
    for (row, peak), word in zip(piece["peaks"], piece["words"], strict=True):
        assert piece["word_of"][row] == piece["words"].index(word)
        assert word["start"] == pytest.approx((peak + 0.5) * frame - align.LEAD, abs=1e-4)
    path = np.array(piece["path"])
    assert path[0].tolist() == [1, 0] and path[-1].tolist() == [3, piece["frames"] - 1]
    assert (np.diff(path, axis=0) >= 0).all() and {tuple(peak) for peak in piece["peaks"]} <= set(
        map(tuple, path)
    )


def test_a_translation_has_no_path(stt):
    [piece] = report.analyse_recording(stt, SAMPLE, "a", "de")["pieces"]
    assert piece["text"] == "zweihundertsiebenundvierzig" and piece["path"] == []
    assert len(piece["peaks"]) > 3 and set(piece["word_of"]) == {-1, 0} and len(piece["words"]) == 1


def test_the_search_adds_up(run):
    [piece] = run["pieces"]
    kept = {(0, 0): (0.0, [])}
    ended = []
    for record in piece["search"]:
        total, path = kept[record["step"] - 1, record["parent"]]
        assert record["sum"] == pytest.approx(total + record["logprob"], abs=1e-4)
        here = record["sum"], [*path, record["token"]]
        if record["status"] == "kept":
            kept[record["step"], record["beam"]] = here
        if record["status"] == "finished":
            assert record["score"] == pytest.approx(
                record["sum"] / record["step"] ** run["length_penalty"], abs=1e-4
            )
            ended.append((record["score"], here[1]))
    assert max(ended)[1] == piece["tokens"] and max(ended)[0] == pytest.approx(
        piece["score"], abs=1e-4
    )
    assert {record["status"] for record in piece["search"]} == {"kept", "dropped", "finished"}


def test_pooling_keeps_what_is_listened_to():
    weights = torch.rand(2, 3, 12, 20).softmax(3)
    pooled = report.pool(weights, 4, 5)
    assert pooled.shape == (2, 3, 4, 5)
    torch.testing.assert_close(
        pooled, weights.unflatten(3, (5, 4)).sum(4).unflatten(2, (4, 3)).mean(3)
    )
    torch.testing.assert_close(report.pool(weights, 99, 99), weights)


@pytest.mark.parametrize("shape, square", [((4, 6, 30, 999), False), ((6, 8, 96, 96), True)])
def test_attention_takes_no_more_than_its_room(shape, square):
    noise = torch.rand(shape) / shape[3]  # nothing deflates less
    packed = report.quantise_attention(noise, 150_000, square)
    assert 100_000 < len(base64.b64decode(packed["data"])) <= 150_000
    assert packed["shape"][:2] == list(shape[:2]) and (packed["shape"][2] == shape[2]) != square


def test_without_a_tokenizer_and_without_languages(tmp_path):
    stt = nanos2t.load(save_tiny(tmp_path, tokenizer=False))
    [piece] = report.analyse_recording(stt, as_wav(sound(0.7)), "a")["pieces"]
    assert piece["words"] == piece["path"] == [] and set(piece["word_of"]) == {-1}
    assert set(piece["spelled"].values()) == set(map(str, piece["spelled"]))


def test_silence_pieces_and_lengths(stt, monkeypatch):
    assert report.analyse_recording(stt, as_wav(np.zeros(30000, "f4")), "a")["pieces"] == []
    assert report.analyse_recording(stt, as_wav(np.zeros(3000, "f4")), "a")["pieces"] == []
    clip = stt.load_audio(SAMPLE)
    noise = np.random.default_rng(0).normal(0, 1e-4, 16000).astype("f4")
    found = report.analyse_recording(stt, as_wav(np.concatenate([clip, noise, clip])), "a")[
        "pieces"
    ]
    assert [piece["text"] for piece in found] == ["two four seven"] * 2
    assert found[1]["start"] == pytest.approx(found[0]["start"] + len(clip) / 8000 + 2, abs=0.5)
    monkeypatch.setattr(report, "LONGEST", 3)
    with pytest.raises(ValueError, match="^3 s of sound, expected 3 s at most$"):
        report.analyse_recording(stt, SAMPLE, "a")


# the file


def test_the_page_is_closed(run):
    page = report.render_page([run])
    inline = "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    policy = f"default-src 'none'; {inline}; img-src data:; media-src data:"
    assert page.count(f'content="{policy}"') == 1
    links = re.findall(r"https?://[\w.]+", page)
    assert set(links) == {"http://www.w3.org"}  # a name of SVG, which is not loaded
    assert "innerHTML" not in page and "eval(" not in page and len(page) < 500_000
    assert content(page)["runs"][0]["pieces"][0]["text"] == "two four seven"


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


def test_hostile_text_stays_in_its_element(run, tmp_path):
    page = report.render_page([hostile(run)])
    assert (
        page.count("</script>") == report.render_page([run]).count("</script>")
        and "onerror" in page
    )
    assert "<img" not in page and page.isascii() == report.TEMPLATE.read_text("utf-8").isascii()
    [back] = content(page)["runs"]
    assert back["title"] == EVIL[0] + EVIL[2] and set(back["pieces"][0]["spelled"].values()) == set(
        EVIL
    )
    (tmp_path / "page.html").write_text(page, "utf-8")
    assert report.read_page(tmp_path / "page.html") == back


def test_numbers_that_json_has_not(run):
    odd = run | {"seconds": float("nan"), "rate": float("-inf"), "length_penalty": 1 / 3}
    [back] = content(report.render_page([odd]))["runs"]
    assert back["seconds"] is None and back["rate"] is None and back["length_penalty"] == 0.333333


@pytest.mark.parametrize("text", [None, "", "{}", report.OPENING + "{]" + report.CLOSING, "other"])
def test_what_is_no_page_is_named(text, tmp_path):
    path = tmp_path / "page.html"
    if text == "other":
        text = report.render_page([]).replace('"version":1', '"version":9')
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        report.read_page(path)
    assert "\n" not in str(caught.value) and "None" not in str(caught.value)


def test_command(capsys, tmp_path):
    page, pair = tmp_path / "a.html", tmp_path / "b.html"
    assert cli.main(["report", str(SAMPLE), "-o", str(page)]) == 0
    more = ["--compare", str(page), "--language", "German", "--num-beams", "2"]
    assert cli.main(["report", str(SAMPLE), "-o", str(pair), *more]) == 0
    assert capsys.readouterr() == ("", "") and sorted(tmp_path.iterdir()) == [page, pair]
    left, right = content(pair.read_text("utf-8"))["runs"]
    assert (left["language"], left["num_beams"]) == ("de", 2) and right["title"] == "sample.wav"
    assert right == content(page.read_text("utf-8"))["runs"][0]
    for arguments, code, text in [
        ([str(SAMPLE)], 2, "-o"),
        ([str(SAMPLE), "-o", "x", "--compare", str(SAMPLE)], 2, "sample.wav"),
        ([str(SAMPLE), "-o", "x", "--language", "Klingon"], 2, "Klingon"),
        (["missing.wav", "-o", str(tmp_path / "c.html")], 1, "missing.wav"),
        ([str(SAMPLE), "-o", str(tmp_path / "no" / "c.html")], 1, "c.html"),
    ]:
        assert cli.main(["report", *arguments]) == code
        out, err = capsys.readouterr()
        assert out == "" and text in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [page, pair]


# in a browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright, which is not installed"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium, which is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page of runs from disk; at the end nothing was loaded, and nothing complained of."""
    contexts, complaints, file = [], [], tmp_path / "page.html"

    def show(*runs: dict, width: int = 1180, **media):
        file.write_text(report.render_page(list(runs)), "utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, **media
        )
        contexts.append(context)
        context.set_default_timeout(120_000)
        context.on("request", lambda request: complaints.append(request.url[:99]))
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(file.as_uri())
        for article in page.locator("article").all():
            page.wait_for_function("node => node.dataset.ready", arg=article.element_handle())
        return page

    yield show
    for context in contexts:
        context.close()
    assert {text for text in complaints if not text.startswith("data:audio/wav")} == {file.as_uri()}


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


def test_a_word_lights_up_all_that_is_its_own(show, run):
    page = show(run)
    assert page.locator(".text").inner_text() == "two four seven" and chosen(page) == NONE
    page.locator(".lane button", has_text="four").click()
    assert chosen(page) == ONE
    assert page.locator(".rows .chosen").inner_text() == "four"
    assert page.locator(".tree .node.chosen text").first.text_content() == "four"
    assert page.locator(".tree .node.branch").count() == 5  # the language, the words, the end
    assert page.locator(".region.chosen").evaluate(
        "node => parseFloat(node.style.left)"
    ) == pytest.approx(
        100 * run["pieces"][0]["words"][1]["start"] / run["pieces"][0]["seconds"], abs=0.1
    )
    page.locator(".wave svg").evaluate(
        "node => node.dispatchEvent(new MouseEvent('click'))"
    )  # harmless
    page.locator(".region").nth(2).click()
    assert chosen(page) == ONE and page.locator(".rows .chosen").inner_text() == "seven"
    page.locator(".sure button", has_text="two").click()
    assert chosen(page) == ONE and page.locator(".text .chosen").inner_text() == "two"


def test_the_keyboard_is_enough(show, run):
    page = show(run)
    right, left = "ArrowRight", "ArrowLeft"
    for key, word in [
        *[(right, "two"), (right, "four"), (left, "two"), (left, "two"), ("Escape", None)],
        *[(left, "seven"), (right, "seven"), ("Escape", None), (right, "two"), ("Escape", None)],
    ]:
        page.keyboard.press(key)
        assert chosen(page) == (ONE if word else NONE)
        assert word is None or page.locator(".text .chosen").inner_text() == word
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "two"
    page.keyboard.press("Enter")
    assert chosen(page) == ONE
    names = page.evaluate(
        "[...document.querySelectorAll('button, input, canvas[role], svg[role]')]"
        ".filter(node => !node.ariaHidden)"
        ".map(node => node.ariaLabel || node.textContent || node.closest('label')?.textContent)"
    )
    assert all(names) and len(names) > 40


def test_the_slider_ranks_again(show, run):
    [piece] = run["pieces"]
    ended, paths = [], {(0, 0): []}
    for record in piece["search"]:
        path = [*paths[record["step"] - 1, record["parent"]], record["token"]]
        if record["status"] == "kept":
            paths[record["step"], record["beam"]] = path
        if record["status"] == "finished":
            ended.append((record["sum"], len(path), path))
    assert len({length for _, length, _ in ended}) > 1  # else no penalty changes the order
    page, orders = show(run), set()
    for penalty in -1.0, 0.0, 1.0, 2.5:
        slider = page.get_by_label("length_penalty", exact=True).and_(page.locator("input"))
        slider.evaluate(
            "(node, x) => { node.value = x; node.dispatchEvent(new Event('input')); }", penalty
        )
        ranked = sorted(ended, key=lambda one: -one[0] / one[1] ** penalty)
        rows = [
            row.split("\t") for row in page.locator("tbody tr:has(td button)").all_inner_texts()
        ]
        scores = [float(row[-1].replace("\u2212", "-")) for row in rows]
        assert scores == pytest.approx(
            [total / length**penalty for total, length, _ in ranked], abs=2e-4
        )
        assert [int(row[3]) for row in rows] == [length for _, length, _ in ranked]
        orders.add(tuple(row[2] for row in rows))
        assert page.locator("tr.best").inner_text().split("\t")[2].split()[0] in piece["text"]
    assert len(orders) > 1


def test_the_tree_has_every_score(show, run):
    page, records = show(run), run["pieces"][0]["search"]
    nodes = page.locator(".tree .node")
    assert nodes.count() == len(records) == page.locator(".tree .edge").count()
    sums = {
        float(text.replace("\u2212", "-"))
        for text in page.locator(".tree .sum").all_text_contents()
    }
    assert sums == {round(record["sum"], 2) + 0.0 for record in records}
    nodes.last.click()
    detail = page.locator(".detail").inner_text()
    assert all(name in detail for name in ("log-probability", "sum", "score", "step"))
    dropped = sum(record["status"] == "dropped" for record in records)
    visible = page.locator(".tree .node:visible").count()
    page.get_by_label("show what was dropped").uncheck()
    assert visible - page.locator(".tree .node:visible").count() == dropped > 0


def test_it_plays(show, run):
    page = show(run)
    page.locator("button", has_text="Play").first.click()
    page.wait_for_function("() => document.querySelector('audio').currentTime > 0.3")
    assert page.locator(".bar button").first.inner_text() == "Pause"
    assert page.locator(".wave .head").is_visible() and page.locator(".text .now").count() == 1
    page.keyboard.press("Escape")
    page.locator(".bar button").first.click()
    assert page.evaluate("document.querySelector('audio').paused")
    page.locator(".text button").nth(1).click()
    page.locator("button", has_text="Play the word").click()
    page.wait_for_function("() => document.querySelector('audio').paused")
    end = page.evaluate("document.querySelector('audio').currentTime")
    assert end == pytest.approx(run["pieces"][0]["words"][1]["end"], abs=0.3)


OPACITIES = """canvas => {
    const {width, height} = canvas, {data} = canvas.getContext('2d').getImageData(0, 0, width, height);
    const row = y => Array.from({length: width}, (_, x) => data[4 * (y * width + x) + 3]);
    return Array.from({length: height}, (_, y) => row(y));
}"""


def test_pictures_show_the_weights(show, run):
    page, [piece] = show(run), run["pieces"]
    cross = unpack(piece["cross"])
    page.get_by_label("layer 1, head 4", exact=True).first.click()
    shown = np.array(page.locator(".map canvas").evaluate(OPACITIES))
    assert shown.shape == cross[1, 4].shape and (shown.argmax(1) == cross[1, 4].argmax(1)).all()
    assert page.locator(".grid button").count() == 2 * 6 + 5 * 6
    assert page.locator(".grid button.aligned").count() == 2
    page.get_by_label("layer 3, head 1", exact=True).last.click()
    shown, encoder = (
        np.array(page.locator(".large canvas").evaluate(OPACITIES)),
        unpack(piece["encoder"]),
    )
    assert (shown.argmax(1) == encoder[3, 1].argmax(1)).all() and shown.max() == 255


def test_the_ruler_measures_frames(show, run):
    page = show(run)
    page.get_by_label("frame", exact=True).and_(page.locator("input")).evaluate(
        "node => { node.value = 10; node.dispatchEvent(new Event('input')); }"
    )
    text = page.locator("section", has=page.locator(".ruler")).inner_text()
    assert "10: samples 3,200 to 3,599, 0.400 s to 0.450 s" in text and "so 77 frames" in text
    assert "10 s make 249, not 250" in text and "400 (50 ms)" in text and "320 (40 ms)" in text


def test_every_stage_is_there(show, run):
    page, stages = show(run), run["pieces"][0]["stages"]
    rows = [
        row.split("\t")
        for row in page.locator("section").last.locator("tbody tr").all_inner_texts()
    ]
    assert [row[0] for row in rows] == [stage["stage"] for stage in stages]
    assert [row[1] for row in rows] == [" × ".join(map(str, stage["shape"])) for stage in stages]
    assert {row[2] for row in rows} == {"float32", "int64"}


def overlaps(page) -> list[tuple[str, str]]:
    boxes = [
        (label.inner_text(), label.bounding_box()) for label in page.locator(".lane button").all()
    ]
    return [
        (name, other)
        for i, (name, a) in enumerate(boxes)
        for other, b in boxes[:i]
        if a["x"] < b["x"] + b["width"]
        and b["x"] < a["x"] + a["width"]
        and a["y"] < b["y"] + b["height"]
        and b["y"] < a["y"] + a["height"]
    ]


@pytest.mark.parametrize("width", [390, 700, 1180])
def test_nothing_sticks_out_or_overlaps(width, show, run, stt):
    for one in run, report.analyse_recording(stt, SAMPLE, "name" * 30, "en"), hostile(run):
        page = show(one, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert overlaps(page) == []


GROUNDS = """() => {
    const clear = node => /, 0\\)$|0\\.[0-9]+\\)$/.test(getComputedStyle(node).backgroundColor);
    const ground = node => node.parentElement && clear(node) ? ground(node.parentElement) : node;
    const nodes = document.querySelectorAll('h1, h2, p, button, dd, dt, td, th, .labels span, .axis span');
    return [...nodes].map(node => [getComputedStyle(node).color,
        getComputedStyle(ground(node)).backgroundColor, node.textContent]);
}"""  # colours of texts and what is behind them


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(scheme, show, run):
    page = show(run, color_scheme=scheme)
    page.locator(".text button").nth(1).click()
    colours = page.evaluate(GROUNDS)
    assert len(colours) > 100

    def light(colour: str) -> float:
        parts = np.array(re.findall(r"[\d.]+", colour)[:3], float) / 255
        parts = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(parts @ [0.2126, 0.7152, 0.0722])

    for ink, ground, text in colours:
        high, low = sorted((light(ink), light(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground, text)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light(paper) > 0.5) == (scheme == "light")


def test_hostile_text_is_shown_and_not_run(show, run):
    page = show(hostile(run))
    assert page.locator("h1").inner_text() == EVIL[0] + EVIL[2]
    assert page.locator(".text button").all_inner_texts() == EVIL[:3]
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    assert EVIL[0] in page.title()
    for word in range(3):
        page.locator(".text button").nth(word).click()
        assert chosen(page) == ONE
    for node in page.locator(".tree .node").all()[:6]:
        node.click()
    assert (
        EVIL[3] in page.locator(".tree").text_content()
        or "<!--" in page.locator(".tree").text_content()
    )


def test_the_policy_forbids_the_network(browser, run, tmp_path):
    (tmp_path / "page.html").write_text(report.render_page([run]), "utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    told = page.evaluate(
        """async () => {
        const told = [];
        document.addEventListener('securitypolicyviolation', event => told.push(event.effectiveDirective));
        try { await fetch('data:,x'); } catch { told.push('fetch'); }
        const image = new Image();
        image.src = 'file:///x.png';
        document.body.append(image, Object.assign(document.createElement('iframe'), {src: 'data:,x'}));
        await new Promise(resolve => setTimeout(resolve, 200));
        return told;
        }"""
    )
    assert {"connect-src", "fetch", "img-src", "frame-src"} <= set(told)


def test_two_runs_side_by_side(show, run, stt):
    german = report.analyse_recording(stt, SAMPLE, "sample.wav", "de")
    page = show(run, german, width=1600)
    left, right = (page.locator("article").nth(i).bounding_box() for i in range(2))
    assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"]
    differs = [row.split("\t")[0] for row in page.locator("tr.differs").all_inner_texts()]
    assert "text" in differs and "language" in differs and "recording" not in differs
    page.locator("article").nth(1).locator(".text button").click()
    assert page.locator("article").first.locator(".chosen").count() == 0
    page.set_viewport_size({"width": 390, "height": 900})
    left, right = (page.locator("article").nth(i).bounding_box() for i in range(2))
    assert left["x"] == right["x"] and left["y"] + left["height"] <= right["y"]


def test_pieces_are_shown_one_at_a_time(show, stt):
    clip = stt.load_audio(SAMPLE)
    noise = np.random.default_rng(0).normal(0, 1e-4, 16000).astype("f4")
    page = show(
        report.analyse_recording(stt, as_wav(np.concatenate([clip, noise, clip])), "two.wav")
    )
    assert page.locator(".text button").count() == 6 and page.locator(".region").count() == 3
    page.locator(".text button").nth(4).click()
    page.wait_for_function("() => document.querySelectorAll('.band.chosen').length == 3")
    assert chosen(page) == ONE
    assert (
        page.get_by_label("pieces").locator("[aria-pressed=true]").inner_text().startswith("4.87 s")
    )


def test_silence_has_a_page(show, stt):
    page = show(report.analyse_recording(stt, as_wav(np.zeros(30000, "f4")), "silence.wav"))
    assert "No speech was found" in page.locator("article").inner_text()
    page.keyboard.press("ArrowRight")


def test_it_prints(show, run):
    page = show(run, color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator(".bar").first.is_visible() and page.locator(".tree").is_visible()
    assert (
        page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 39, 51)"
    )  # ink, not light
    assert page.evaluate("getComputedStyle(document.querySelector('canvas')).filter") == "none"
    assert page.pdf(format="A4").count(b"/Type /Page\n") >= 3


@pytest.mark.slow
def test_half_a_minute_of_an_official_size(show, tmp_path):
    """The attention of wav2vec2-base and a decoder of 12 layers, at random, over 30 s at 16 kHz."""
    sizes = {"hidden_size": 48, "num_layers": 12, "num_heads": 12, "intermediate_size": 48}
    encoder = nanos2t.EncoderConfig(**sizes, conv_channels=(8,) * 7, pre_norm=True)
    decoder = nanos2t.DecoderConfig.bert(40, **sizes)
    ids = {"decoder_start_token_id": 1, "max_length": 100, "num_beams": 5}
    model = SpeechEncoderDecoder.from_configs(encoder, decoder, GenerationConfig(**ids))
    stt = transcribe.SpeechToText(spread_(model).eval(), None, 16000, True)
    noise = np.random.default_rng(0).normal(0, 0.1, 16000 * 30).astype("f4")
    waveform = noise * np.where(np.sin(np.arange(len(noise)) / 2000) > 0, 1, 0.01).astype("f4")
    run = report.analyse_recording(stt, as_wav(waveform, 16000), "30.wav")
    assert run["pieces"][0]["frames"] > 1400 and len(run["pieces"][0]["tokens"]) == 99
    assert len(report.render_page([run])) < 5_000_000
    page = show(run, width=390)
    assert page.locator(".grid button").count() == 2 * 144
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
