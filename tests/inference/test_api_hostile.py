"""Servers that are not there, are something else, or answer in a form of their own."""

import pytest

from hart_lite.errors import HartError
from hart_lite.inference.engine import Conversation
from hart_lite.inference.openai_engine import SILENCE, AbsoluteInterface, ApiEngine
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say
from hart_lite.types import Tokens, Turn
from hart_lite.utils.openai_client import Client

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def client(server) -> Client:
    return Client(server.url, KEY, timeout=5.0, attempts=3, sleep=lambda seconds: None)


def conversation() -> ProtocolRun:
    return Outcome((yield Say(["What?"])))


def answers(client: Client, model: str, times: int = 1, threads: int = 4) -> list[Conversation]:
    runs = [conversation() for _ in range(times)]
    return [done for _, done in ApiEngine(model, client, AbsoluteInterface(), threads).answer(runs)]


# -- answers of other forms ----------------------------------------------------------------------------------------


def test_an_answer_in_parts_is_its_text_without_its_thoughts(client):
    [done] = answers(client, "parts")
    assert done.outcome.text == "The answer is (B)."


@pytest.mark.parametrize(
    ("model", "failure"),
    [
        ("thought-only", "the server's response is no chat completion"),
        ("error-200", "the server's response is no chat completion: no credit left, Bearer [key]"),
    ],
)
def test_what_is_no_answer_is_said(client, model, failure):
    assert answers(client, model) == [Conversation((), None, failure)]


def test_numbers_of_tokens_that_count_nothing_are_unknown(client):
    """Kept as they are they would break every mean that is taken over the rows."""
    [done] = answers(client, "countless")
    assert done.turns == (Turn("answer", Tokens(), (), "B", None, None, 0),)


# -- silence -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_not_asked_to_the_end():
    waited = []
    client = Client("http://127.0.0.1:9/v1", KEY, attempts=3, sleep=waited.append)
    with pytest.raises(HartError) as caught:
        answers(client, "ok", 200)
    assert str(caught.value).startswith(f"http://127.0.0.1:9/v1 had no answer to {SILENCE} questions in a row: ")
    assert "Connection refused" in str(caught.value) and "the same command goes on" in str(caught.value)
    assert len(waited) < 2 * (SILENCE + 8)


def test_a_page_is_no_server_of_models(client, server):
    with pytest.raises(HartError, match="questions in a row: the server's response is not a JSON object, 3 times"):
        answers(client, "not-json", 200)
    assert len(server.get("requests", "not-json")) <= 3 * (SILENCE + 8)


def test_a_server_that_fails_over_a_request_is_asked_the_next(client):
    """One image that is too large may be asked about in many modes."""
    failures = {done.failure for done in answers(client, "always-500", 3 * SILENCE)}
    assert failures == {"HTTP 500: this image is too much for me, 3 times"}


def test_an_answer_ends_the_silence(server):
    client = Client(server.url, KEY, attempts=1)
    done = answers(client, "silent-then-ok", 60, threads=1)
    assert sum(conversation.outcome is not None for conversation in done) == 4
