import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before a library reads it, as the command line does

import pytest
import torch
from chat_server import KEY, Server, running
from hypothesis import HealthCheck, settings

from hart_lite.config.sections import ModelSection
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.utils.openai_client import Client

# The same examples on every machine, however slow. `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile(
    "tests",
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("search", settings.get_profile("tests"), max_examples=2000, derandomize=False)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """An untrained tiny checkpoint in the Hub's format."""
    from hart_lite.toy.model import build

    folder = tmp_path_factory.mktemp("tiny_base")
    build(folder)
    return folder


@pytest.fixture(scope="session")
def new_policy(tiny_base):
    """Loads policies on the tiny base; `new_policy(quant="nf4")`. Their adapters change what the model says."""

    def load(adapter_std: float = 0.05, **section) -> Policy:
        policy = load_policy(ModelSection(base=str(tiny_base), **section))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, adapter_std, generator=generator)
        return policy

    return load


@pytest.fixture(scope="session")
def _shared_policy(new_policy) -> Policy:
    return new_policy()


@pytest.fixture
def policy(_shared_policy) -> Policy:
    """In float32, shared by tests that do not train it."""
    _shared_policy.forget_images()
    _shared_policy.model.eval()
    return _shared_policy


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A chat-completion server in a process of its own."""
    with running() as server:
        yield server


@pytest.fixture
def no_proxy(monkeypatch):
    """Servers of the tests are on loopback, whatever the machine's proxy is."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def slept() -> list[float]:
    """The pauses that `client` would have made, in seconds."""
    return []


@pytest.fixture
def client(server, slept) -> Client:
    return Client(server.url, KEY, timeout=1.0, attempts=3, pause=0.01, sleep=slept.append)
