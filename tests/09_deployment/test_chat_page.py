"""Stage 9: the chat page in a real browser, used as a person uses it: chatting, branching, looking inside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.browsing import answer, needs_browser, open_page, say, serve_talkative, settings, start_browser
from support.serving import Served, serve, tiny_models

pytestmark = [pytest.mark.slow, needs_browser]


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
    settings(page, max_tokens=10, temperature=0)  # the answer and the alternatives are then the same every time
    say(page, "hello")
    first = page.locator(".token").all_text_contents()
    page.locator(".token").nth(4).hover()
    page.wait_for_selector("#popover:visible")
    rows = page.locator("#popover-list li")
    assert rows.count() >= 8 and page.locator("#popover-list .it").count() == 1
    # Choose one that is shown without change: the tiny model also writes control characters and halves of letters.
    button = page.locator("#popover-list button:enabled").filter(has_not_text="⟨").first
    chosen = button.locator("b").inner_text()
    button.click()
    page.wait_for_selector("#send:visible")
    second = page.locator(".token").all_text_contents()
    assert second[:4] == first[:4] and len(second) == 5 + 10
    assert page.locator(".token").nth(4).evaluate("e => e.classList.contains('chosen')")
    assert chosen.replace("␣", " ").replace("⏎", "\n") == page.locator(".token").nth(4).text_content() != first[4]
    assert "2 / 2" in page.locator(".versions").inner_text()
    page.get_by_label("Previous version").click()
    assert page.locator(".token").all_text_contents() == first


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
    page.locator(".user").get_by_label("Previous version").click()
    page.locator(".assistant").get_by_label("Previous version").click()
    page.wait_for_function("() => document.querySelector('.user .text').textContent === 'one'")
    assert answer(page) == before
    page.reload()
    page.wait_for_selector(".assistant .token")
    assert answer(page) == before


def test_clicking_a_token_shows_where_every_head_looked(page):
    settings(page, max_tokens=6, temperature=0)  # sampled, one token in hundreds is a fifth mark
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


def test_of_a_long_text_the_part_that_is_not_sent_is_named_beside_each_head(browser, monkeypatch):
    monkeypatch.setattr("deployment.routes.model_routes.MAX_WEIGHTS", 0)  # 16 of each row
    with serve_talkative() as server:
        for page in open_page(browser, server.url):
            settings(page, max_tokens=50, temperature=0)
            say(page, "hello")
            page.locator(".token").nth(45).click()
            page.wait_for_selector("#heads .layer button")
            assert page.locator("#attention-text span").count() == 5 + 4 + 45
            sums = "all => all.reduce((sum, e) => sum + Number(e.style.getPropertyValue('--w')) ** 2, 0)"
            note = page.locator("#attention-left-out")
            assert page.eval_on_selector_all("#attention-text span", sums) == pytest.approx(1, abs=0.03)
            assert not note.is_visible()  # the average of all heads is whole
            page.locator("#heads button").nth(3).click()
            shown = page.eval_on_selector_all("#attention-text span", sums)
            missing = float(note.inner_text().split(" %")[0])
            assert shown < 0.98 and missing == pytest.approx(100 * (1 - shown), abs=3)


def test_the_sliders_begin_where_the_models_authors_recommend_and_keep_what_a_user_changes(browser):
    models = tiny_models()
    models["tiny"].recommended.update(temperature=0.25, top_k=300)
    with serve(models) as server:
        for page in open_page(browser, server.url):
            values = "() => ['temperature', 'top_p', 'top_k'].map(name => document.getElementById(name).value)"
            assert page.evaluate(values) == ["0.25", "0.95", "300"]
            settings(page, top_p=0.5)
            page.reload()
            page.wait_for_function("() => document.getElementById('model-line').textContent.includes('tiny')")
            assert page.evaluate(values) == ["0.25", "0.5", "300"]
            assert page.evaluate("Object.keys(JSON.parse(localStorage.getItem('nullm-settings')))") == ["top_p"]
            page.click("#open-settings")
            page.click("#reset")
            assert page.evaluate(values) == ["0.25", "0.95", "300"]


def test_everything_can_be_done_with_the_keyboard(page):
    settings(page, max_tokens=6)
    page.keyboard.press("Tab")
    page.focus("#message")
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:visible")
    page.keyboard.press("Shift+Tab")
    for _ in range(12):  # back over the tools to the tokens
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
