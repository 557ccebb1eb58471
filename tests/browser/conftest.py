"""A headless Chromium ($CHROMIUM, or the one on the path), and a demo that runs with an adapter on the toy base."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from hart_lite.inference.load import open_model
from hart_lite.runs.run_dir import save_adapter
from tests.demo_server import DemoServer, serving

WAIT = 120_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="session")
def adapter(tmp_path_factory) -> Path:
    """Changes what the base says."""
    policy = open_model("toy", device="cpu").engine.policy
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.03, generator=generator)
    folder = tmp_path_factory.mktemp("run") / "adapter"
    save_adapter(policy, folder)
    return folder


@pytest.fixture(scope="session")
def demo(adapter) -> Iterator[DemoServer]:
    with serving(str(adapter)) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.fail("no Chromium: install the package `chromium`, or set CHROMIUM to the path of one")
    with sync_playwright() as playwright:
        # Root may not have the sandbox; the pages shown are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Page]]:
    """Opens an address. No script error may come, no dialog, no refusal by a policy, no request to another place."""
    pages, faults = [], []

    def open_at(address: str, own: str, **options) -> Page:
        viewport = {"width": options.pop("width", 1200), "height": options.pop("height", 850)}
        page = browser.new_page(viewport=viewport, reduced_motion="reduce", **options)
        pages.append(page)
        page.set_default_timeout(WAIT)
        page.on("request", lambda r: r.url.startswith((own, "data:")) or faults.append(r.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        refusals = "Failed to load resource"  # an answer that is not 200, which the page says in words
        page.on("console", lambda m: m.type == "error" and not m.text.startswith(refusals) and faults.append(m.text))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.goto(address)
        return page

    yield open_at
    for page in pages:
        page.close()
    assert not faults


@pytest.fixture
def page(open_page, demo) -> Page:
    """The demo's page."""
    here = f"http://127.0.0.1:{demo.port}/"
    return open_page(here, here)
