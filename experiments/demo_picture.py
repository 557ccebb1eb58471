"""experiments/results/demo.jpg: the demo of a trained toy run. Its first example is asked, then the base's box
is dragged to what was asked about.

    pip install -e '.[demo,browser]' && python -m experiments.demo_picture runs/tiny_cpu
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from hart_lite.demo.examples import find_examples
from hart_lite.demo.server import listening, serve
from hart_lite.demo.session import Demo
from hart_lite.inference.load import open_model

PLACE = Path(__file__).parent / "results" / "demo.jpg"
SIZE = {"width": 1100, "height": 720}
WAIT = 120_000  # milliseconds
AXES = (("x", "width"), ("y", "height"))


def picture(page: Page) -> Image.Image:
    """Of the page down to the end of the answers."""
    page.locator("[data-example]").first.click()
    page.locator("#result .answer").nth(1).wait_for()
    base = page.locator("#result article[data-who=base]")
    base.locator("[data-box]").first.click()
    asked, small = base.locator("rect.frame.truth").first.bounding_box(), base.locator("svg").bounding_box()
    page.locator("#stage svg").scroll_into_view_if_needed()

    def drag(grip: Locator, share: float) -> None:
        """The middle of `grip` to the point that lies at this share of both sides of what was asked about."""
        page.wait_for_load_state("networkidle")  # answers below may push the photo to another place
        held, photo = grip.bounding_box(), page.locator("#stage svg").bounding_box()
        scale = photo["width"] / small["width"]
        page.mouse.move(*(held[a] + held[s] / 2 for a, s in AXES))
        page.mouse.down()
        page.mouse.move(*(photo[a] + scale * (asked[a] + share * asked[s] - small[a]) for a, s in AXES), steps=5)
        page.mouse.up()

    drag(page.locator("#box .frame"), 0.5)
    drag(page.locator("#box .corner").nth(3), 1.1)
    drag(page.locator("#box .corner").nth(0), -0.1)
    page.wait_for_load_state("networkidle")
    page.locator("#yours .answer").nth(1).wait_for()
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    end = page.locator("#result").bounding_box()
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    return shot.crop((0, 0, shot.width, round(end["y"] + end["height"])))


def main(run: str) -> None:
    model = open_model(run, device="cpu")
    demo = Demo(model, find_examples(model))
    about = f"{run} answers, beside its base: the same weights without the adapter."
    with listening(None) as listener, sync_playwright() as playwright:
        threading.Thread(target=serve, args=(demo, about, listener), daemon=True).start()
        # Root may not have the sandbox; the page shown is our own.
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, reduced_motion="reduce", color_scheme="light")
        page.set_default_timeout(WAIT)
        page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        picture(page).save(PLACE, quality=82, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
