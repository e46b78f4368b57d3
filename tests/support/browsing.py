"""A browser on the chat page, and what a person does with it."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator

import pytest

from support.serving import ENDLESS, Served, serve, tiny_models

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")


@contextlib.contextmanager
def start_browser() -> Iterator:
    """The system's browser, without a window."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def serve_talkative() -> Iterator[Served]:
    """A server whose answers do not end by themselves. The tiny model's random answers would end soon."""
    models = tiny_models()
    submit = models["tiny"].engine.submit
    models["tiny"].engine.submit = lambda request, **rest: submit(_endless(request), **rest)  # type: ignore[method-assign]
    with serve(models) as server:
        yield server


def _endless(request):
    bias = {int(token): bias for token, bias in ENDLESS.items()}
    return dataclasses.replace(request, parameters=dataclasses.replace(request.parameters, logit_bias=bias))


def open_page(browser, url: str, **options) -> Iterator:
    """A new page. Any error in its scripts and any request to a foreign address fails the test."""
    context = browser.new_context(**options)
    page = context.new_page()
    problems, foreign = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    page.on(
        "request", lambda request: foreign.append(request.url) if not request.url.startswith((url, "blob:")) else None
    )
    page.goto(url)
    page.wait_for_selector("#starters button")
    yield page
    context.close()
    assert not problems and not foreign, (problems, foreign)


def settings(page, **values) -> None:
    """Change parameters through their fields, as a person does."""
    page.click("#open-settings")
    for name, value in values.items():
        page.locator(f"#{name}").fill(str(value))
    page.click("#settings button[value=close]")


def say(page, text: str, wait: bool = True) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")
    if wait:
        page.wait_for_selector("#send:visible")


def answer(page, which: int = -1) -> str:
    """The text of an answer without the caret."""
    texts = page.locator(".assistant .text")
    return texts.nth(texts.count() - 1 if which < 0 else which).text_content()
