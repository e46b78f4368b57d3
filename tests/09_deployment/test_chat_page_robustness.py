"""Stage 9: the chat page with hostile text, keys, problems, long conversations, small screens."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.browsing import needs_browser, open_page, say, serve_talkative, settings, start_browser
from support.serving import Served, serve, tiny_models

from deployment.gate.api_keys import hash_key, new_key

pytestmark = [pytest.mark.slow, needs_browser]
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>\"><svg onload=window.hacked=1> &lt;b&gt; <|end|>"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with start_browser() as started:
        yield started


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve_talkative() as server:
        yield server


@pytest.fixture
def page(browser, served: Served) -> Iterator:
    yield from open_page(browser, served.url)


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
    """Tokens, alternatives, model names and error messages that contain markup."""

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
    look = {"tokens": [HOSTILE], "mean": [1.0], "weights": [[[1.0]]], "places": None, "left_out": [[0.0]]}
    page.route("**/attention", lambda r: r.fulfill(json=look))
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
    page.wait_for_function("() => document.querySelector('.problem')?.textContent.includes('Try again in 3 s')")
    page.unroute("**/generate")
    cut = 'event: start\ndata: {"prompt_ids": [1]}\n\n'
    page.route("**/generate", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=cut))
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => document.querySelector('.problem')?.textContent.includes('connection was lost')")
    page.unroute("**/generate")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".token", state="attached")
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
            page.wait_for_selector("input[value=chat]:disabled", state="attached", timeout=10_000)  # after /v1/models
            settings(page, max_tokens=5)
            page.locator("#starters button").first.click()
            page.wait_for_selector(".token", state="attached")
            page.wait_for_selector("#send:visible")
            assert page.locator(".user .text").inner_text() == "Once upon a time,"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_in_the_way_of_a_screen_reader(browser, served: Served, scheme: str, width: int):
    """No violation of axe's rules (WCAG A and AA among them): names, roles, order, contrast."""
    from axe_playwright_python.sync_playwright import Axe

    for page in open_page(browser, served.url, color_scheme=scheme, viewport={"width": width, "height": 844}):
        violations = {"empty": Axe().run(page).response["violations"]}
        settings(page, max_tokens=6)
        say(page, "hello")
        page.locator(".token").nth(3).click()
        page.wait_for_selector("#heads .layer button")
        # Elements that slide in or fade have other colours during the change.
        page.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
        violations["after an answer, looking inside"] = Axe().run(page).response["violations"]
        page.click("#open-settings")
        page.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
        violations["settings"] = Axe().run(page).response["violations"]
        found = [
            (where, one["id"], one["help"], [node["html"][:120] for node in one["nodes"]][:3])
            for where, some in violations.items()
            for one in some
        ]
        assert not found
