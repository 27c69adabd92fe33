"""Fixtures of the tests of nanos2t/inspection: the bundled model, and its report of the sample."""

import shutil

import pytest
from helpers.report import SAMPLE

import nanos2t
from nanos2t.inspection import report


@pytest.fixture(scope="package")
def stt():
    return nanos2t.load()


@pytest.fixture(scope="package")
def sample_run(stt) -> dict:
    return report.analyse_recording(stt, SAMPLE, "sample.wav")


@pytest.fixture(scope="package")
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
