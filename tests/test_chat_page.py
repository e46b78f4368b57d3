"""Stage 9: the chat page in a real browser, driven as a person would: mouse, keyboard, thumb."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from serving import ENDLESS, Served, serve, tiny_models

from deployment.api_keys import hash_key, new_key

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>\"><svg onload=window.hacked=1> &lt;b&gt; <|end|>"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    models = tiny_models()
    # The tiny model's random weights end an answer after a few tokens; here it has more to say.
    submit = models["tiny"].engine.submit
    models["tiny"].engine.submit = lambda ids, p, **rest: submit(ids, _endless(p), **rest)  # type: ignore[method-assign]
    with serve(models) as server:
        yield server


def _endless(parameters):
    import dataclasses

    return dataclasses.replace(parameters, logit_bias={int(token): bias for token, bias in ENDLESS.items()})


@pytest.fixture
def page(browser, served: Served) -> Iterator:
    yield from open_page(browser, served.url)


def open_page(browser, url: str, **options) -> Iterator:
    """A page of its own; whatever goes wrong in its scripts, and every foreign address, fails the test."""
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
    """Change parameters as a person would, by their fields."""
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


def test_a_conversation_streams_tinted_tokens_with_their_numbers(page, served: Served):
    settings(page, max_tokens=12)
    say(page, "hello")
    say(page, "and again")
    assert page.locator("#messages > li").count() == 4
    tokens = page.locator(".assistant").first.locator(".token")
    assert tokens.count() == 12
    tints = [
        float(t) for t in page.eval_on_selector_all(".token", "all => all.map(e => e.style.getPropertyValue('--t'))")
    ]
    assert all(0 <= tint <= 1 for tint in tints) and len(set(tints)) > 5
    assert "12 tokens · " in page.locator(".stats").first.inner_text()
    assert "tok/s" in page.locator(".stats").last.inner_text() and "entropy" in page.locator(".stats").last.inner_text()
    assert page.locator(".spark rect").count() == 24
    served.wait_until_idle()


def test_stop_keeps_what_came_and_frees_the_blocks(page, served: Served):
    settings(page, max_tokens=1000)
    say(page, "go on", wait=False)
    page.wait_for_function("() => document.querySelectorAll('.token').length > 5")
    page.evaluate("document.getElementById('stop').click()")  # at once: the tiny model is soon done
    page.wait_for_selector("#send:visible")
    served.wait_until_idle()
    count = page.locator(".token").count()
    assert 5 < count < 1000
    page.get_by_role("button", name="Continue", exact=True).click()
    page.wait_for_function(f"() => document.querySelectorAll('.token').length > {count}")
    page.keyboard.press("Escape")  # the same as Stop
    page.wait_for_selector("#send:visible")


def test_pointing_shows_alternatives_and_choosing_one_branches(page):
    settings(page, max_tokens=10)
    say(page, "hello")
    first = page.locator(".token").all_inner_texts()
    page.locator(".token").nth(4).hover()
    page.wait_for_selector("#popover:visible")
    rows = page.locator("#popover-list li")
    assert rows.count() >= 8 and page.locator("#popover-list .it").count() == 1
    button = page.locator("#popover-list button:enabled").first
    chosen = button.locator("b").inner_text()
    button.click()
    page.wait_for_selector("#send:visible")
    second = page.locator(".token").all_inner_texts()
    assert second[:4] == first[:4] and len(second) == 5 + 10
    assert page.locator(".token").nth(4).evaluate("e => e.classList.contains('chosen')")
    assert chosen.replace("␣", " ").replace("⏎", "\n") == page.locator(".token").nth(4).text_content() != first[4]
    assert "2 / 2" in page.locator(".versions").inner_text()
    page.get_by_label("Version before").click()
    assert page.locator(".token").all_inner_texts() == first


def test_regenerating_and_editing_keep_what_was_said(page):
    settings(page, max_tokens=6)
    say(page, "one")
    before = answer(page)
    page.get_by_role("button", name="Regenerate").click()
    page.wait_for_selector("#send:visible")
    assert "2 / 2" in page.locator(".assistant .versions").inner_text()
    page.get_by_role("button", name="Edit").click()
    page.locator(".edit textarea").fill("two")
    page.locator(".edit textarea").press("Enter")
    page.wait_for_selector("#send:visible")
    assert page.locator(".user .text").inner_text() == "two"
    assert "2 / 2" in page.locator(".user .versions").inner_text()
    page.locator(".user").get_by_label("Version before").click()
    page.locator(".assistant").get_by_label("Version before").click()
    page.wait_for_function("() => document.querySelector('.user .text').textContent === 'one'")
    assert answer(page) == before
    page.reload()
    page.wait_for_selector(".assistant .token")
    assert answer(page) == before


def test_clicking_a_token_shows_where_every_head_looked(page):
    settings(page, max_tokens=6)
    say(page, "hello")
    page.locator(".token").nth(3).click()
    page.wait_for_selector("#heads .layer button")
    assert page.locator("#heads button").count() == 2 * 4 + 1
    assert page.locator("#facts dt").all_inner_texts()[:2] == ["probability", "id"]
    spans = page.locator("#attention-text span")
    assert spans.count() == 5 + 4 + 3  # marks of the chat, what was said, the answer so far
    assert page.locator("#attention-text .special").count() == 4
    weights = "all => all.reduce((sum, e) => sum + Number(e.style.getPropertyValue('--w')) ** 2, 0)"
    for button in page.locator("#heads button").all():
        button.click()
        assert page.eval_on_selector_all("#attention-text span", weights) == pytest.approx(1, abs=0.02)
    assert "Layer 2, head 4" in page.locator("#attention-status").inner_text()
    page.keyboard.press("ArrowLeft")
    assert "Layer 2, head 3" in page.locator("#attention-status").inner_text()


def test_everything_can_be_done_with_the_keyboard(page):
    settings(page, max_tokens=6)
    page.keyboard.press("Tab")
    page.focus("#message")
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:visible")
    page.keyboard.press("Shift+Tab")
    for _ in range(12):  # back past the tools to the tokens
        if page.evaluate("document.activeElement.classList.contains('token')"):
            break
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#popover:visible")
    assert "likely" in page.locator("#announcer").inner_text()
    assert page.evaluate("document.activeElement === document.querySelectorAll('.token')[2]")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.getElementById('popover').contains(document.activeElement)")
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:visible")
    assert "2 / 2" in page.locator(".versions").inner_text()
    unnamed = "all => all.filter(e => !e.innerText.trim() && !e.getAttribute('aria-label') && !e.title).length"
    assert page.eval_on_selector_all("button", unnamed) == 0


def test_the_cuts_of_what_is_typed_are_shown_live(page, served: Served):
    page.locator("#message").press_sequentially("the sand <|end|>")
    tokenizer = served.state.model(None).tokenizer
    count = len(tokenizer.encode("the sand <|end|>"))
    page.wait_for_function(f"() => document.getElementById('cuts-count').textContent === '{count} tokens'")
    assert page.locator("#cuts span").first.inner_text() == "the"
    page.fill("#message", "")
    page.wait_for_function("() => document.getElementById('cuts').children.length === 0")


def test_hostile_text_stays_text(page):
    settings(page, max_tokens=4)
    page.click("#open-settings")
    page.fill("#system", HOSTILE[:35])
    page.click("#settings button[value=close]")
    say(page, HOSTILE[:48])
    page.locator(".token").first.click()
    page.wait_for_selector("#heads button")
    page.reload()
    page.wait_for_selector(".user .text")
    assert page.locator(".user .text").text_content() == HOSTILE[:48]
    assert page.evaluate("window.hacked") is None
    assert page.locator("#messages img, #messages script, #inspector img, #inspector script").count() == 0


def test_a_hostile_server_or_model_cannot_inject_either(page, served: Served):
    """Tokens, alternatives, model names and error messages that are markup."""

    def forge(route) -> None:
        token = {
            "id": 1,
            "text": HOSTILE,
            "logprob": -1,
            "entropy": 1,
            "top": [{"id": 2, "text": HOSTILE, "logprob": -2}],
        }
        events = [("start", {"prompt_ids": [1]}), ("token", token), ("error", {"error": {"message": HOSTILE}})]
        body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/generate", forge)
    page.route("**/attention", lambda r: r.fulfill(json={"tokens": [HOSTILE], "weights": [[[1.0]]]}))
    say(page, "x")
    page.locator(".token").first.click()
    page.wait_for_selector("#heads button")
    assert HOSTILE in page.locator(".problem").inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#messages img, #popover img, #inspector img, #messages svg:not(.spark)").count() == 0


def test_a_key_is_asked_for_and_forgotten_with_the_tab(browser):
    key = new_key()
    with serve(tiny_models(), api_keys={"me": hash_key(key)}) as locked:
        for page in open_page(browser, locked.url):
            page.wait_for_selector("#key-dialog[open]")
            page.fill("#key", "wrong")
            page.press("#key", "Enter")
            page.wait_for_selector("#key-dialog[open]")
            page.fill("#key", key)
            page.press("#key", "Enter")
            page.wait_for_function("() => document.getElementById('model-line').textContent.includes('tiny')")
            settings(page, max_tokens=3)
            say(page, "hi")
            assert page.locator(".token").count() <= 3 and page.locator(".problem").count() == 0
            assert key not in page.evaluate("JSON.stringify(localStorage)")
            assert page.locator("#key").input_value() == ""


def test_problems_are_told_and_can_be_tried_again(page, served: Served):
    settings(page, max_tokens=4)
    say(page, "x " * 200)
    assert "the model's context is 128: shorten it" in page.locator(".problem").inner_text()
    page.click("#new")
    page.route("**/generate", lambda route: route.abort())
    say(page, "hello")
    assert "cannot be reached" in page.locator(".problem").inner_text()
    page.unroute("**/generate")
    busy = {"error": {"message": "the server is busy", "type": "rate_limit_error", "param": None, "code": "queue_full"}}
    page.route("**/generate", lambda route: route.fulfill(status=429, headers={"Retry-After": "3"}, json=busy))
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => document.querySelector('.problem').textContent.includes('Try again in 3 s')")
    page.unroute("**/generate")
    cut = 'event: start\ndata: {"prompt_ids": [1]}\n\n'
    page.route("**/generate", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=cut))
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => document.querySelector('.problem').textContent.includes('connection was lost')")
    page.unroute("**/generate")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".token")
    page.wait_for_selector("#send:visible")
    assert page.locator(".problem").count() == 0


def test_two_hundred_messages_are_still_a_page(page):
    settings(page, max_tokens=40)
    page.check("input[value=complete] + span", force=True)
    page.fill("#message", "the")
    page.press("#message", "Enter")
    page.wait_for_selector("#send:visible")
    page.evaluate("""() => {
      const saved = JSON.parse(sessionStorage.getItem("nullm-conversation"));
      const turn = JSON.stringify(saved.root.children[0]);
      let at = saved.root;
      at.children = [];
      for (let i = 0; i < 100; i++) {
        at.children = [JSON.parse(turn)];
        at.active = 0;
        at = at.children[0].children[0];
      }
      saved.mode = "chat";
      sessionStorage.setItem("nullm-conversation", JSON.stringify(saved));
    }""")
    page.reload()
    page.wait_for_function("() => document.querySelectorAll('#messages > li').length === 200")
    assert page.locator(".token").count() == 4000
    at_end = "() => { const e = document.getElementById('transcript'); return e.scrollHeight - e.scrollTop - e.clientHeight < 80 }"
    page.wait_for_function(at_end)
    page.evaluate("document.getElementById('transcript').scrollTop = 0")
    page.wait_for_selector("#newest:visible")
    page.locator(".token").nth(2).click()
    page.wait_for_selector("#heads button")
    page.click("#newest")
    page.wait_for_function(at_end)


def test_a_phone_has_no_sideways_scrolling_and_the_inspector_slides_in(browser, served: Served):
    for page in open_page(browser, served.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True):
        settings(page, max_tokens=10)
        say(page, "hello " * 3)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not page.locator("#inspector").is_visible()
        page.locator(".token").nth(2).tap()
        page.wait_for_selector("#heads button")
        assert page.locator("#inspector").is_visible() and not page.locator("#popover").is_visible()
        page.locator("#alternatives button:enabled").first.tap()
        page.wait_for_selector("#send:visible")
        page.wait_for_selector("#inspector", state="hidden")
        assert "2 / 2" in page.locator(".versions").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_can_be_chosen(browser, served: Served, scheme: str):
    for page in open_page(browser, served.url, color_scheme=scheme):
        paper = "getComputedStyle(document.body).backgroundColor"
        dark = {"light": False, "dark": True}[scheme]
        assert (sum(json.loads("[" + page.evaluate(paper)[4:-1] + "]")) < 384) == dark
        page.click("#open-settings")
        page.select_option("#theme", "light" if dark else "dark")
        assert (sum(json.loads("[" + page.evaluate(paper)[4:-1] + "]")) < 384) != dark
        page.reload()
        assert (sum(json.loads("[" + page.evaluate(paper)[4:-1] + "]")) < 384) != dark


def test_the_conversation_can_be_exported(page):
    settings(page, max_tokens=5)
    say(page, "keep this")
    contents = {}
    for kind in ("md", "json"):
        page.click("#export")
        with page.expect_download() as download:
            page.click(f"#export-dialog button[value={kind}]")
        assert download.value.suggested_filename == f"conversation.{kind}"
        contents[kind] = download.value.path().read_text(encoding="utf-8")
    assert "**You:**\n\nkeep this" in contents["md"]
    saved = json.loads(contents["json"])
    assert saved["root"]["children"][0]["children"][0]["tokens"][0]["top"]


def test_a_model_that_cannot_converse_completes(browser):
    with serve(tiny_models(chat=False)) as server:
        for page in open_page(browser, server.url):
            assert page.locator("input[value=chat]").is_disabled()
            settings(page, max_tokens=5)
            page.locator("#starters button").first.click()
            page.wait_for_selector(".token")
            page.wait_for_selector("#send:visible")
            assert page.locator(".user .text").inner_text() == "Return the number of"
