"""One request to an OpenAI-compatible server at a time: retries, limits, and a key that is never shown.

The key goes into one header and nowhere else. It is taken out of whatever a server says, since servers quote requests
in their errors.

This is the standard library's client, not httpx. Most of the module decides which failures are worth another try and
what may be shown of them, so it is no shorter on httpx. And httpx logs the status line of each response (level INFO),
in which a server may quote the key, and does not start where ALL_PROXY names a SOCKS proxy, for local servers either.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from hart_lite.errors import ConfigError, ModelError
from hart_lite.utils.text import cut

DEFAULT_URL = "https://api.openai.com/v1"
MAX_BYTES = 16 * 2**20  # of a response; a chat completion of 10,000 tokens has about 40 KB
MAX_WAIT = 300.0  # seconds that a server may ask us to wait
NOT_SECRET = ("EMPTY", "none")  # keys for servers that need none; they would be found in ordinary answers
SHORT = 4  # so would keys below that many characters
T = TypeVar("T")
_REFUSED = (401, 403, 404)  # no request will fare better
_AGAIN = (408, 409, 425, 429)


class RequestError(Exception):
    """A request that got no answer, after all retries."""


class SilentError(RequestError):
    """The same for a reason that lies in no request: the server is not there, is something else, or refuses for now."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points."""

    def redirect_request(self, *arguments: object) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    """Made once for a client: reading the system's certificates takes some 40 ms."""
    return urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=ssl.create_default_context()))


@dataclass(frozen=True)
class Client:
    """Of one server; threads may share it.

    `url` ends before /chat/completions. `timeout` is for one attempt, in seconds; pauses between attempts double.
    `advice` is what to check where the server refuses whatever it is asked.
    """

    url: str
    key: str = field(repr=False)
    timeout: float = 300.0
    attempts: int = 6
    pause: float = 1.0
    advice: str = "check OPENAI_API_KEY, OPENAI_BASE_URL and the model's name"
    sleep: Callable[[float], object] = field(default=time.sleep, repr=False)
    opener: urllib.request.OpenerDirector = field(default_factory=_opener, init=False, repr=False, compare=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **settings) -> Client:
        """OPENAI_BASE_URL and OPENAI_API_KEY. A server of one's own may need no key."""
        url = environment.get("OPENAI_BASE_URL", "").strip().rstrip("/") or DEFAULT_URL
        key = environment.get("OPENAI_API_KEY", "").strip()
        parts = urllib.parse.urlsplit(url)
        plain = url.isascii() and url.isprintable() and not set(" @?#") & set(url)
        if not plain or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "OPENAI_BASE_URL is no address such as https://api.openai.com/v1 or http://localhost:8000/v1 "
                "(without a password or a query)"
            )
        if not key and url == DEFAULT_URL:
            raise ConfigError("OPENAI_API_KEY is not set; set it, or set OPENAI_BASE_URL to a server that needs none")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError("OPENAI_API_KEY holds characters that no key has; set it anew")
        if len(key) >= SHORT and key in urllib.parse.unquote(url):
            raise ConfigError(
                "OPENAI_BASE_URL holds the key; evaluations record the address, so leave the key out of it"
            )
        return cls(url, key, **settings)

    def post(self, body: dict, path: str = "/chat/completions") -> dict:
        """The server's JSON answer. Raises `RequestError` when this request fails, `ModelError` when any would."""
        return self._request(path, json.dumps(body).encode(), _json_object)

    def get(self, path: str) -> dict:
        """The same without a body."""
        return self._request(path, None, _json_object)

    def tell(self, body: dict, path: str) -> str:
        """`post` where the server answers with a text."""
        return self._request(path, json.dumps(body).encode(), bytes.decode)

    def _request(self, path: str, data: bytes | None, read: Callable[[bytes], T]) -> T:
        for attempt in range(1, self.attempts + 1):
            wait, failure = self.pause * 2 ** (attempt - 1), SilentError
            try:
                return read(self._once(path, data))
            except urllib.error.HTTPError as error:
                reason = self._reason(error)
                if error.code in _REFUSED:
                    raise ModelError(f"{self.url} refuses: {reason}; {self.advice}") from None
                if error.code not in _AGAIN and error.code < 500:
                    raise RequestError(reason) from None
                if error.code == 500:  # it may be the request that is too much for the server
                    failure = RequestError
                wait = _retry_after(error.headers.get("Retry-After"), wait)
            except (OSError, http.client.HTTPException) as error:  # no connection, broken off, timed out
                reason = f"{type(error).__name__}: {self._quoted(str(error))}"
            except (ValueError, RecursionError):
                reason = "the server's response is not a JSON object"
            if wait > MAX_WAIT:
                raise failure(f"{reason}; the server asks to wait {wait:.0f} s")
            if attempt < self.attempts:
                self.sleep(wait)
        raise failure(f"{reason}, {self.attempts} times")

    def clean(self, text: str) -> str:
        """A text of the server's as it may be shown or kept: without the key, and without what UTF-8 cannot hold."""
        if len(self.key) >= SHORT and self.key not in NOT_SECRET:
            text = text.replace(self.key, "[key]")
        return text.encode("utf-8", "replace").decode()

    def _once(self, path: str, data: bytes | None) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        with self.opener.open(request, timeout=self.timeout) as response:
            return self._read(response)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The whole body, within the limits of size and time: a server may send one byte at a time for ever."""
        deadline, body = time.monotonic() + self.timeout, bytearray()
        while chunk := response.read1(2**16):
            body += chunk
            if len(body) > MAX_BYTES:
                raise RequestError(f"the response is over {MAX_BYTES:,} bytes long")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the response took over {self.timeout:g} s")
        return bytes(body)

    def _reason(self, error: urllib.error.HTTPError) -> str:
        """`HTTP 400: the server's words`, at most 200 characters of them."""
        try:
            answer = json.loads(self._read(error))
        except (OSError, http.client.HTTPException, ValueError, RecursionError, RequestError):
            answer = None
        return f"HTTP {error.code}: {self.complaint(answer) or http.client.responses.get(error.code, '')}"

    def complaint(self, answer: object) -> str:
        """The server's own words on an error, as far as its JSON answer has any."""
        inner = answer.get("error", answer) if isinstance(answer, dict) else None
        words = inner.get("message") if isinstance(inner, dict) else inner
        return self._quoted(words) if isinstance(words, str) else ""

    def _quoted(self, words: str) -> str:
        """A server's words in a message: one line without control characters, of at most 200 characters."""
        return cut("".join(c if c.isprintable() else " " for c in self.clean(words)).strip())


def _json_object(data: bytes) -> dict:
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise ValueError
    return answer


def _retry_after(value: str | None, otherwise: float) -> float:
    """Seconds that a Retry-After header asks for, given as such or as a date; `otherwise` where it says nothing."""
    if value is None:
        return otherwise
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return otherwise
    return max(seconds, 0.0) if math.isfinite(seconds) else otherwise
