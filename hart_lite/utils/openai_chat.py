"""Chat completions of one model behind an OpenAI-compatible server, greedily: the text, and what the server counted."""

from __future__ import annotations

from dataclasses import dataclass

from hart_lite.utils.openai_client import Client, RequestError

NEW_LIMIT = "max_completion_tokens"  # what some models want `max_tokens` to be called, and say so
MAX_COUNT = 2**31  # what says it took more is no count


@dataclass(frozen=True)
class Completion:
    """Tokens are None where the server says nothing of them."""

    text: str
    prompt_tokens: int | None
    response_tokens: int | None


class Chat:
    """Threads may share it."""

    def __init__(self, client: Client, model: str) -> None:
        self.client, self.model = client, model
        self._limit = "max_tokens"

    def complete(self, messages: list[dict], max_tokens: int) -> Completion:
        """Raises `RequestError` when this request fails, `ModelError` when any would."""
        body, limit = {"model": self.model, "messages": messages, "temperature": 0}, self._limit
        try:
            answer = self.client.post(body | {limit: max_tokens})
        except RequestError as error:
            if NEW_LIMIT not in str(error) or limit == NEW_LIMIT:
                raise
            self._limit = NEW_LIMIT
            answer = self.client.post(body | {NEW_LIMIT: max_tokens})
        content = _content(answer)
        if content is None:
            said = self.client.complaint(answer)
            raise RequestError("the server's response is no chat completion" + (f": {said}" if said else ""))
        counts = (_tokens(answer, name) for name in ("prompt_tokens", "completion_tokens"))
        return Completion(self.client.clean(content).strip(), *counts)


def _content(answer: dict) -> str | None:
    """The text of a chat completion, in one piece or in parts; a refusal may have none. None for what is none."""
    match answer:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
        case {"choices": [{"message": {"content": None}}, *_]}:
            return ""
        case {"choices": [{"message": {"content": [*parts]}}, *_]}:
            texts = [part for part in map(_text, parts) if part is not None]
            return "".join(texts) if texts else None
    return None


def _text(part: object) -> str | None:
    """Of a part that is text, and not a thought or an image."""
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    return None


def _tokens(answer: dict, name: str) -> int | None:
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < MAX_COUNT else None
