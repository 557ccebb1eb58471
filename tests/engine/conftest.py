"""A vLLM server on loopback with the tiny base, in the environment that `make engine-tests` makes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hart_lite.config.recipe import load_recipe
from hart_lite.config.schema import Recipe
from hart_lite.inference.serve_command import serve_command

PYTHON = Path(os.environ.get("VLLM_PYTHON", ".venv-vllm/bin/python")).absolute()
SECONDS, TRIES = 600, 2
KV_CACHE_GIB = "1"


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Iterator[Recipe]:
    """`tiny_cpu` with adapters on all parts and more pixels than the base's own files allow, and a server for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    changes = ["rollout.engine=vllm", f"rollout.servers=['{address}']", "pixels.full=19600"]
    changes.append("model.lora.parts=[language,vision,projector]")
    recipe = load_recipe("tiny_cpu", changes)
    folder = tmp_path_factory.mktemp("vllm")
    for attempt in range(1, TRIES + 1):
        with started(recipe, address, folder / f"server-{attempt}.log") as ready:
            if ready:
                yield recipe
                return
    pytest.fail(f"no server after {TRIES} tries: " + (folder / f"server-{TRIES}.log").read_text()[-3000:])


@contextmanager
def started(recipe: Recipe, address: str, log: Path) -> Iterator[bool]:
    """Whether the server answers within the time that starting may take."""
    environment, words = serve_command(recipe, address)
    environment |= {"VLLM_CPU_KVCACHE_SPACE": KV_CACHE_GIB, "HF_HUB_OFFLINE": "1", "NO_PROXY": "*"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [str(PYTHON), *words], env=environment, stdout=file, stderr=file, start_new_session=True, cwd=log.parent
        ) as process,
    ):
        try:
            yield answers(process, address)
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)  # with its own processes


def answers(process: subprocess.Popen, address: str) -> bool:
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    return False
