"""The playground in a real browser: chat, colours, keyboard, race, faults, a narrow screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from halfbyte import LLM
from tests.server.running import NAME, Served, serving

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'halfbyte[browser]'")
if CHROMIUM is None:
    pytest.skip("no chromium on the PATH", allow_module_level=True)

KEY = "sesame-1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def locked(talking_llm: LLM) -> Iterator[Served]:
    with serving(talking_llm, api_keys=frozenset({KEY})) as server:
        yield server


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    yield from _page(browser, served, 1280, 800)


def _page(browser: Any, served: Served, width: int, height: int) -> Iterator[Any]:
    """A page that must not have logged an error of its own."""
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda m: faults.append(m.text) if "Content Security" in m.text else None)
    opened.goto(served.url)
    opened.locator("#model", has_text=NAME).wait_for()
    yield opened
    assert faults == []
    context.close()


def _ask(page: Any, text: str, max_tokens: int = 40) -> None:
    page.locator("summary").click()
    page.fill("#max-tokens", str(max_tokens))
    page.locator("summary").click()
    page.fill("#prompt", text)
    page.keyboard.press("Enter")
    page.locator("article .byline", has_text="tokens/s").last.wait_for()


def _text(page: Any) -> str:
    return str(page.locator("article .text").last.text_content())


def test_an_answer_is_coloured_by_fate_and_measured(page: Any) -> None:
    _ask(page, "the thing")
    assert page.locator("article .t.accepted").count() > 0
    assert page.locator("article .t.plain").count() <= 1  # the last step may have no room to draft
    assert float(page.locator("#tau").text_content()) > 1
    assert page.locator("#alpha .column").count() == 3


def test_plain_and_speculative_give_the_same_text(page: Any) -> None:
    _ask(page, "the thing")
    text = _text(page)
    page.click("#clear")
    page.locator("#mode label", has_text="Plain").click()
    _ask(page, "the thing")
    assert _text(page) == text
    assert page.locator("article .t.accepted").count() == 0


def test_the_keyboard_is_enough(page: Any) -> None:
    page.keyboard.type("in the")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("end")
    assert page.input_value("#prompt") == "in the\nend"
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.locator("#send", has_text="Send").wait_for()
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.locator("#view-race").is_visible()


def test_a_race_finds_both_outputs_identical(page: Any) -> None:
    page.click("#tab-race")
    page.locator("summary").click()
    page.fill("#max-tokens", "30")
    page.locator("summary").click()
    page.fill("#prompt", "the thing")
    page.click("#send")
    page.locator("#verdict .same").wait_for()
    page.locator("#send", has_text="Race").wait_for()
    first, second = page.locator(".lane .text").all_text_contents()
    assert first == second != ""


def test_a_fault_is_told_and_the_prompt_kept(page: Any) -> None:
    page.locator("summary").click()
    page.fill("#temperature", "-3")
    page.locator("summary").click()
    page.fill("#prompt", "keep me")
    page.keyboard.press("Enter")
    page.locator("#notice-text", has_text="temperature").wait_for()
    assert page.input_value("#prompt") == "keep me"


def test_a_narrow_screen_shows_everything_without_sideways_scrolling(
    browser: Any, served: Served
) -> None:
    for page in _page(browser, served, 360, 640):
        _ask(page, "the thing")
        for view in ("#tab-chat", "#tab-race"):
            page.click(view)
            width = page.locator("html").evaluate("node => node.scrollWidth")
            assert width <= 360
            assert page.locator("#send").is_visible()


def test_a_key_is_asked_for_and_used(browser: Any, locked: Served) -> None:
    page = browser.new_page()
    page.goto(locked.url)
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.locator("#model", has_text=NAME).wait_for()
    _ask(page, "the thing", 5)
    page.close()
