"""The client against a real HTTP server in a process of its own: retries, limits, and the key that is never shown."""

import ssl
import threading
import traceback

import pytest
from chat_server import KEY

from hart_lite.errors import ConfigError, ModelError
from hart_lite.utils import openai_client
from hart_lite.utils.openai_client import Client, RequestError, SilentError

pytestmark = pytest.mark.usefixtures("no_proxy")


def ask(client: Client, model: str) -> str:
    question = {"role": "user", "content": [{"type": "text", "text": "What?"}]}
    answer = client.post({"model": model, "messages": [question]})
    return answer["choices"][0]["message"]["content"]


# -- another try ---------------------------------------------------------------------------------------------------


def test_500_and_then_an_answer(client, slept):
    assert ask(client, "500-once/client") == "The answer is (B)."
    assert slept == [0.01]


def test_retry_after_is_honoured(client, slept):
    ask(client, "429-seconds/client")
    assert slept == [7.0]
    ask(client, "429-date/client")
    assert 0 < slept[1] <= 30


def test_an_odd_retry_after(server, slept):
    """ "soon" and "nan" say nothing, a negative wait is none, and more than a day is too long."""
    with pytest.raises(SilentError) as failed:
        ask(Client(server.url, KEY, attempts=9, pause=0.01, sleep=slept.append), "429-odd/client")
    assert slept == [0.01, 0.0, 0.04]
    assert str(failed.value) == "HTTP 429: slow down; the server asks to wait 99999 s"


def test_a_timeout_is_tried_again(client, slept):
    assert ask(client, "slow-once/client") == "The answer is (B)."
    assert slept == [0.01]
    with pytest.raises(SilentError, match="timed out, 3 times"):
        ask(client, "slow/client")


def test_a_response_that_drips_ends_at_the_timeout(client):
    with pytest.raises(SilentError) as failed:
        ask(Client(client.url, KEY, timeout=0.5, attempts=1), "drip/client")
    assert str(failed.value) == "TimeoutError: the response took over 0.5 s, 1 times"


def test_no_server(slept):
    with pytest.raises(SilentError, match=r"Connection refused.*, 2 times"):
        ask(Client("http://127.0.0.1:9/v1", KEY, attempts=2, sleep=slept.append), "ok")
    assert slept == [1.0]


# -- what fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "error", "failure"),
    [
        ("500", SilentError, "HTTP 503: overloaded, Bearer [key], 3 times"),
        ("always-500", RequestError, "HTTP 500: this image is too much for me, 3 times"),
        ("hang-up", SilentError, "RemoteDisconnected: Remote end closed connection without response, 3 times"),
        ("not-json", SilentError, "the server's response is not a JSON object, 3 times"),
        ("deep", SilentError, "the server's response is not a JSON object, 3 times"),
        ("list", SilentError, "the server's response is not a JSON object, 3 times"),
        ("long", RequestError, "the response is over 1,000,000 bytes long"),
        ("echo-error", RequestError, "HTTP 400: bad header Bearer [key]  [31m"),
        ("redirect", RequestError, "HTTP 307: Temporary Redirect"),
        ("gibberish", SilentError, f"BadStatusLine: [key]{'x' * 93} .. {'x' * 98}, 3 times"),
    ],
)
def test_a_failure_says_what_happened_and_whether_another_request_may_fare_better(
    client, model, error, failure, monkeypatch
):
    monkeypatch.setattr(openai_client, "MAX_BYTES", 1_000_000)
    with pytest.raises(RequestError) as failed:
        ask(client, f"{model}/client")
    assert type(failed.value) is error and str(failed.value) == failure


def test_a_redirect_is_not_followed_with_the_key(client, server):
    with pytest.raises(RequestError, match="307"):
        ask(client, "redirect/once")
    assert len(server.get("requests", "redirect/once")) == 1


def test_what_no_request_can_mend_is_an_error_of_the_model(client):
    with pytest.raises(ModelError) as refused:
        ask(client, "keyed/client")
    message = str(refused.value)
    assert message.startswith(f"{client.url} refuses: HTTP 401: Incorrect API key provided: [key]. Long story.")
    assert message.endswith("; check OPENAI_API_KEY, OPENAI_BASE_URL and the model's name")
    assert len(message) < 400
    assert ask(Client(client.url, "right-key-123456"), "keyed/client") == "The answer is (B)."
    with pytest.raises(ModelError, match="HTTP 404: no /v1/v2/chat/completions"):
        ask(Client(f"{client.url}/v2", KEY), "ok")


# -- the key -------------------------------------------------------------------------------------------------------


def test_the_key_is_in_one_header_and_in_nothing_that_is_shown(client, server, caplog, capfd):
    caplog.set_level("DEBUG")
    answered = client.clean(ask(client, "echo/client"))
    assert answered == "(B). So said the bearer of Bearer [key], ?"
    shown = [answered, repr(client)]
    for model in ("500", "not-json", "echo-error", "gibberish"):
        with pytest.raises(RequestError) as failed:
            ask(client, f"{model}/key")
        told = traceback.TracebackException.from_exception(failed.value, capture_locals=True)
        shown.append("".join(told.format()))
    assert not any(KEY in text for text in (*shown, caplog.text, *capfd.readouterr()))
    assert f"Bearer {KEY}" in server.get("secrets")


@pytest.mark.parametrize(("key", "shown"), [("EMPTY", "EMPTY"), ("abc", "abc"), ("hush", "[key]")])
def test_placeholders_are_no_secrets(server, key, shown):
    """A server of one's own takes any key; its name must stay in the answers."""
    client = Client(server.url, key)
    assert client.clean(ask(client, "echo")) == f"(B). So said the bearer of Bearer {shown}, ?"


# -- many requests -------------------------------------------------------------------------------------------------


def test_certificates_are_read_once_for_all_requests_and_threads(server, monkeypatch):
    read = []
    make = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *how, **more: read.append(1) or make(*how, **more))
    client, answers = Client(server.url, KEY), []
    threads = [threading.Thread(target=lambda: answers.append(ask(client, "ok/threads"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["The answer is (B)."] * 8 and len(read) == 1


# -- the environment -----------------------------------------------------------------------------------------------


def test_address_and_key_come_from_the_environment():
    client = Client.from_environment({"OPENAI_BASE_URL": "http://localhost:8000/v1/", "OPENAI_API_KEY": " k \n"})
    assert (client.url, client.key) == ("http://localhost:8000/v1", "k")
    assert Client.from_environment({"OPENAI_API_KEY": "k"}).url == "https://api.openai.com/v1"
    assert Client.from_environment({"OPENAI_BASE_URL": "http://localhost:8000/v1"}).key == ""


NO_ADDRESS = "OPENAI_BASE_URL is no address such as"
NO_KEY = "OPENAI_API_KEY holds characters that no key has"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "OPENAI_API_KEY is not set; set it, or set OPENAI_BASE_URL"),
        ({"OPENAI_API_KEY": f"{KEY}\nX-Evil: 1"}, NO_KEY),
        ({"OPENAI_API_KEY": f"{KEY}é"}, NO_KEY),
        *(
            ({"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}, NO_ADDRESS)
            for url in (
                "file:///etc/passwd",
                f"http://user:{KEY}@host/v1",
                f"http://:{KEY}@host/v1",
                "http://@host/v1",
                f"http://host/v1?key={KEY}",
                "http://host/v1?",
                f"http://host/v1#{KEY}",
                "http://host/v 1",
                "localhost:8000/v1",
            )
        ),
        *(
            ({"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}, "OPENAI_BASE_URL holds the key")
            for url in (f"https://gateway.example/{KEY}/v1", f"https://gateway.example/{KEY.replace('s', '%73')}/v1")
        ),
    ],
)
def test_an_environment_that_is_wrong_is_refused_without_showing_the_key(environment, message):
    with pytest.raises(ConfigError) as refused:
        Client.from_environment(environment)
    assert message in str(refused.value)
    assert KEY not in str(refused.value)
