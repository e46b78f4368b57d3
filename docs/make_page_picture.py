"""Make the picture of the chat page: a conversation with SmolLM2, a token inspected, its alternatives beside it.

    make smollm2
    python docs/make_page_picture.py      # needs Chromium, and playwright and Pillow from requirements-test.txt

The answers are greedy, so that the picture is the same every time.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that returns the sum of a list. Use a code block.",
)
INSPECTED = " calculate"  # the word is a token of the second answer
HEAD = "Layer 5, head 1"
COLOURS = 256  # a quarter of the size of the full picture, without a difference that can be seen


def main() -> None:
    """Serve the checkpoint, talk to it in a browser, and save what is seen."""
    parser = argparse.ArgumentParser(description="Make the picture of the chat page.")
    parser.add_argument("--checkpoint", default="checkpoints/smollm2")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "figures" / "chat_page.png")
    options = parser.parse_args()
    command = [sys.executable, str(ROOT / "09_deployment/api/main.py"), "--checkpoint", options.checkpoint]
    command += ["--model-name", "smollm2", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        if address is None:
            raise SystemExit("the server did not start")
        draw(address.group(), options.output)
    finally:
        server.terminate()
        server.wait()


def draw(address: str, output: Path) -> None:
    """Talk, inspect, and save a picture of few colours."""
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        page.set_default_timeout(600_000)
        page.goto(address)
        page.wait_for_selector("#starters button")
        for question in QUESTIONS:
            ask(page, question)
        token = page.locator(".assistant").last.locator(".token").filter(has_text=re.compile(f"^{INSPECTED}$")).first
        token.click()
        page.wait_for_selector("#heads .layer button")
        page.get_by_role("radio", name=HEAD, exact=True).click()
        token.hover()
        page.wait_for_selector("#popover:visible")
        page.screenshot(path=Path(folder) / "page.png")
        browser.close()
        picture = Image.open(Path(folder) / "page.png").convert("RGB")
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(output, optimize=True)
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB")


def ask(page: Page, question: str) -> None:
    """Ask, with greedy answers of moderate length."""
    for name, value in (("temperature", 0), ("max_tokens", 56)):
        page.evaluate("([name, value]) => (document.getElementById(name).value = value)", [name, value])
    page.fill("#message", question)
    page.press("#message", "Enter")
    page.wait_for_selector("#stop:visible")
    page.wait_for_selector("#send:visible")


if __name__ == "__main__":
    main()
