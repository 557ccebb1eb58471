"""A demo that runs, with an adapter on the embedded base, and a headless Chromium to look at it: $CHROMIUM, or the one
on the path."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from hart_lite.inference.load import open_model
from hart_lite.runs.run_dir import save_adapter
from tests.reliability.demo import Server, serving

WAIT = 120_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="session")
def adapter(tmp_path_factory) -> Path:
    """Changes what the base says."""
    policy = open_model("embedded", device="cpu").engine.policy
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.03, generator=generator)
    folder = tmp_path_factory.mktemp("run") / "adapter"
    save_adapter(policy, folder)
    return folder


@pytest.fixture(scope="session")
def demo(adapter) -> Iterator[Server]:
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
def page(browser, demo) -> Iterator[Page]:
    """The demo's page. No script error may come, no dialog, and no request to another place."""
    page = browser.new_page(viewport={"width": 1100, "height": 900}, reduced_motion="reduce")
    page.set_default_timeout(WAIT)
    here, faults = f"http://127.0.0.1:{demo.port}/", []
    page.on("request", lambda r: r.url.startswith((here, "data:", "blob:")) or faults.append(r.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.goto(here)
    page.wait_for_selector("#examples button")
    yield page
    page.close()
    assert not faults
