# pytest tests/inspection/test_report_keyboard.py
"""The page of nanos2t/inspection/report.py by keyboard alone, with playwright and chromium."""

from helpers.report import NONE, ONE, chosen


def test_the_keyboard_is_enough(show, sample_run):
    page = show(sample_run)
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


FOCUS = """() => {
    const node = document.activeElement;
    return node.getAttribute('aria-label') || node.textContent;
}"""


def walk(page, count: int) -> list[str]:
    """The names of the next controls that Tab reaches, to the end of the page."""
    names = []
    for _ in range(count):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        names.append(page.evaluate(FOCUS))
    return names


def test_lists_grids_and_the_tree_are_one_stop_each(show, sample_run):
    """In the order of the page. (Of the finished hypotheses each has a button.)"""
    page = show(sample_run)
    names = walk(page, 60)
    ranking = page.locator("td button").count()
    # The encoder's map shows the head that looks nearest by, and Tab reaches this one.
    nearest = page.locator(".grid").last.locator("[aria-pressed=true]").get_attribute("aria-label")
    expected = ["two", "Play", "position", "two", "two", "the heads that align", "layer 0, head 0"]
    assert names[:7] == expected and names[8].startswith("step 5: ")
    assert names[9] == "length_penalty" and names[10 + ranking] == "two"
    assert names[11 + ranking :] == ["frame", nearest]


def test_arrow_keys_choose_a_head(show, sample_run):
    page = show(sample_run)
    for grid, last in (page.locator(".grid").first, (1, 5)), (page.locator(".grid").last, (4, 5)):
        grid.locator("[tabindex='0']").focus()
        for key, name in [
            ("Home", "layer 0, head 0"),
            ("ArrowRight", "layer 0, head 1"), ("ArrowDown", "layer 1, head 1"),
            ("ArrowLeft", "layer 1, head 0"), ("ArrowLeft", "layer 1, head 0"),
            ("ArrowUp", "layer 0, head 0"), ("ArrowUp", "layer 0, head 0"),
            ("End", f"layer {last[0]}, head {last[1]}"), ("Home", "layer 0, head 0"),
        ]:  # fmt: skip
            page.keyboard.press(key)
            assert page.evaluate(FOCUS) == name
        assert grid.locator("[aria-pressed=true]").get_attribute("aria-label") == name
        assert grid.locator("[tabindex='0']").count() == 1
    assert chosen(page) == NONE  # arrow keys in a grid choose no word


def test_arrow_keys_choose_a_word_of_a_list(show, sample_run):
    page = show(sample_run)
    for selector in ".text", ".lane", ".rows", ".sure":
        page.locator(f"{selector} [tabindex='0']").focus()
        page.keyboard.press("End")
        assert chosen(page) == ONE and page.locator(".text .chosen").inner_text() == "seven"
        page.keyboard.press("ArrowUp")
        assert page.locator(".text .chosen").inner_text() == "four"
        page.keyboard.press("Escape")
        page.locator(f"{selector} button").first.focus()


def test_arrow_keys_walk_the_tree(show, sample_run):
    page = show(sample_run)
    page.locator(".tree [tabindex='0']").focus()
    assert page.evaluate(FOCUS).startswith("step 5: ")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(FOCUS).startswith("step 4: ")
    assert page.locator(".detail").inner_text().startswith("step 4: ")
    page.keyboard.press("ArrowRight")
    best = page.evaluate(FOCUS)
    page.keyboard.press("ArrowDown")
    below = page.evaluate(FOCUS)
    assert best.startswith("step 5: ") and below.startswith("step 5: ") and best != below
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    assert page.evaluate("document.querySelector('audio').paused")

    # Dropped nodes are passed over while they are hidden, and the tree can still be reached.
    page.get_by_label("show dropped nodes").uncheck()
    page.locator(".tree [tabindex='0']").focus()
    for key in ["ArrowLeft"] * 5 + ["ArrowDown"] * 9 + ["ArrowRight", "End"] * 4:
        page.keyboard.press(key)
        assert "dropped;" not in page.evaluate(FOCUS) and page.evaluate(FOCUS).startswith("step ")


def test_the_position_can_be_chosen_without_a_mouse(show, sample_run):
    page = show(sample_run)
    page.get_by_label("position").focus()
    page.keyboard.press("End")
    assert page.evaluate("document.querySelector('audio').currentTime") > 3
    assert page.locator(".bar .number").first.inner_text() == "3.31 of 3.31 s"
    assert chosen(page) == NONE
