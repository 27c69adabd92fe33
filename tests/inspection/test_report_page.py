# pytest tests/inspection/test_report_page.py
"""The page of nanos2t/inspection/report.py in a browser, with playwright and chromium."""

import re

import numpy as np
import pytest
from helpers.pairs import spread_
from helpers.report import EVIL, NONE, ONE, SAMPLE, as_wav, chosen, hostile, unpack

import nanos2t
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection import report
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.transcriber import SpeechToText


def test_a_word_lights_up_all_that_is_its_own(show, sample_run):
    page = show(sample_run)
    assert page.locator(".text").inner_text() == "two four seven" and chosen(page) == NONE
    page.locator(".lane button", has_text="four").click()
    assert chosen(page) == ONE
    assert page.locator(".rows .chosen").inner_text() == "four"
    assert page.locator(".tree .node.chosen text").first.text_content() == "four"
    assert page.locator(".tree .node.branch").count() == 5  # the language, the words, the end
    assert page.locator(".region.chosen").evaluate(
        "node => parseFloat(node.style.left)"
    ) == pytest.approx(
        100 * sample_run["pieces"][0]["words"][1]["start"] / sample_run["pieces"][0]["seconds"],
        abs=0.1,
    )
    page.locator(".wave svg").evaluate(
        "node => node.dispatchEvent(new MouseEvent('click'))"
    )  # harmless
    page.locator(".region").nth(2).click()
    assert chosen(page) == ONE and page.locator(".rows .chosen").inner_text() == "seven"
    page.locator(".sure button", has_text="two").click()
    assert chosen(page) == ONE and page.locator(".text .chosen").inner_text() == "two"


def test_tables_scroll_on_a_phone(show, sample_run):
    """By touch, and by arrow keys once Tab reaches them; a table that fits is no stop."""
    page = show(sample_run, width=390)
    tables = page.locator(".table")
    assert tables.count() == 3
    for table in tables.all():
        table.focus()
        assert table.evaluate("node => document.activeElement === node")
        table.evaluate("node => node.scrollTo({left: 999})")
        left, room = table.evaluate(
            "node => [node.scrollLeft, node.scrollWidth - node.clientWidth]"
        )
        assert left == pytest.approx(room, abs=1) and room > 0
        cell = table.locator("tbody tr").first.locator("td").last.bounding_box()
        assert cell["x"] + cell["width"] <= 390
    assert show(sample_run).locator(".table[tabindex]").count() == 0


def test_a_part_of_a_recording_says_so(show, sample_run, stt):
    part = report.analyse_recording(stt, SAMPLE, "sample.wav", start=0.9, end=1.9)
    page = show(part)
    assert "This page shows 0.90 s to 1.90 s of the 3.31 s" in page.locator("header").inner_text()
    assert page.locator(".axis span").first.inner_text() == "0.9"
    assert page.locator(".bar .number").first.inner_text() == "0.90 of 1.90 s"
    assert show(sample_run).locator(".part").count() == 0

    # Pages of older versions have neither a start nor a total.
    old = {name: sample_run[name] for name in sample_run if name not in ("start", "total_seconds")}
    assert show(old).locator(".part").count() == 0


def test_the_slider_ranks_again(show, stt):
    run = report.analyse_recording(stt, SAMPLE, "sample.wav", "fr")
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


def test_the_tree_has_every_score(show, sample_run):
    page, records = show(sample_run), sample_run["pieces"][0]["search"]
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
    page.get_by_label("show dropped nodes").uncheck()
    assert visible - page.locator(".tree .node:visible").count() == dropped > 0


def test_it_plays(show, sample_run):
    page = show(sample_run)
    page.locator("button", has_text="Play").first.click()
    page.wait_for_function("() => document.querySelector('audio').currentTime > 0.3")
    assert page.locator(".bar button").first.inner_text() == "Pause"
    assert page.locator(".wave .head").is_visible()
    # Between two words none is marked, so wait for the one that is said now or comes next.
    page.wait_for_function("() => document.querySelectorAll('.text .now').length === 1")
    page.keyboard.press("Escape")
    page.locator(".bar button").first.click()
    assert page.evaluate("document.querySelector('audio').paused")
    page.locator(".text button").nth(1).click()
    page.locator("button", has_text="Play the word").click()
    page.wait_for_function("() => document.querySelector('audio').paused")
    end = page.evaluate("document.querySelector('audio').currentTime")
    assert end == pytest.approx(sample_run["pieces"][0]["words"][1]["end"], abs=0.3)


OPACITIES = """canvas => {
    const {width, height} = canvas;
    const {data} = canvas.getContext('2d').getImageData(0, 0, width, height);
    const row = y => Array.from({length: width}, (_, x) => data[4 * (y * width + x) + 3]);
    return Array.from({length: height}, (_, y) => row(y));
}"""


def test_pictures_show_the_weights(show, sample_run):
    page, [piece] = show(sample_run), sample_run["pieces"]
    cross = unpack(piece["cross"])
    page.get_by_label("layer 1, head 4", exact=True).first.click()
    shown = np.array(page.locator(".map canvas").evaluate(OPACITIES))
    assert shown.shape == cross[1, 4].shape and (shown.argmax(1) == cross[1, 4].argmax(1)).all()
    assert page.locator(".grid button").count() == 2 * 6 + 5 * 6
    assert page.locator(".grid button.aligned").count() == len(piece["heads"]) > 0
    page.get_by_label("layer 3, head 1", exact=True).last.click()
    shown, encoder = (
        np.array(page.locator(".large canvas").evaluate(OPACITIES)),
        unpack(piece["encoder"]),
    )
    assert (shown.argmax(1) == encoder[3, 1].argmax(1)).all() and shown.max() == 255


def test_the_ruler_measures_frames(show, sample_run):
    page = show(sample_run)
    page.get_by_label("frame", exact=True).and_(page.locator("input")).evaluate(
        "node => { node.value = 10; node.dispatchEvent(new Event('input')); }"
    )
    text = page.locator("section", has=page.locator(".ruler")).inner_text()
    assert "10: samples 3,200 to 3,599, 0.400 s to 0.450 s" in text and "so 77 frames" in text
    assert "10 s make 249, not 250" in text and "400 (50 ms)" in text and "320 (40 ms)" in text


def test_every_stage_is_there(show, sample_run):
    page, stages = show(sample_run), sample_run["pieces"][0]["stages"]
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
def test_nothing_sticks_out_or_overlaps(width, show, sample_run, stt):
    for one in (
        sample_run,
        report.analyse_recording(stt, SAMPLE, "name" * 30, "en"),
        hostile(sample_run),
    ):
        page = show(one, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert overlaps(page) == []


GROUNDS = """() => {
    const clear = node => /, 0\\)$|0\\.[0-9]+\\)$/.test(getComputedStyle(node).backgroundColor);
    const ground = node => node.parentElement && clear(node) ? ground(node.parentElement) : node;
    const nodes = document.querySelectorAll(
        'h1, h2, p, button, dd, dt, td, th, .labels span, .axis span');
    return [...nodes].map(node => [getComputedStyle(node).color,
        getComputedStyle(ground(node)).backgroundColor, node.textContent]);
}"""  # colours of texts and what is behind them


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(scheme, show, sample_run):
    page = show(sample_run, color_scheme=scheme)
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


def test_hostile_text_is_shown_and_not_run(show, sample_run):
    page = show(hostile(sample_run))
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


def test_the_policy_forbids_the_network(browser, sample_run, tmp_path):
    (tmp_path / "page.html").write_text(report.render_page([sample_run]), "utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    value = page.evaluate(
        """async () => {
        const told = [];
        document.addEventListener('securitypolicyviolation',
            event => told.push(event.effectiveDirective));
        try { await fetch('data:,x'); } catch { told.push('fetch'); }
        const image = new Image();
        image.src = 'file:///x.png';
        const frame = Object.assign(document.createElement('iframe'), {src: 'data:,x'});
        document.body.append(image, frame);
        await new Promise(resolve => setTimeout(resolve, 200));
        return told;
        }"""
    )
    assert {"connect-src", "fetch", "img-src", "frame-src"} <= set(value)


def test_two_runs_side_by_side(show, sample_run, stt):
    german = report.analyse_recording(stt, SAMPLE, "sample.wav", "de")
    page = show(sample_run, german, width=1600)
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


def test_it_prints(show, sample_run):
    page = show(sample_run, color_scheme="dark")
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
    stt = SpeechToText(spread_(model).eval(), None, 16000, True)
    noise = np.random.default_rng(0).normal(0, 0.1, 16000 * 30).astype("f4")
    waveform = noise * np.where(np.sin(np.arange(len(noise)) / 2000) > 0, 1, 0.01).astype("f4")
    run = report.analyse_recording(stt, as_wav(waveform, 16000), "30.wav")
    assert run["pieces"][0]["frames"] > 1400 and len(run["pieces"][0]["tokens"]) == 99
    assert len(report.render_page([run])) < 5_000_000
    page = show(run, width=390)
    assert page.locator(".grid button").count() == 2 * 144
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
