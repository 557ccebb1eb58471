"""One vLLM server: the adapters that it holds, and samples with the ids that it read and drew.

What goes beyond OpenAI's chat completions is vLLM's own (0.32, 0.33): adapters that are loaded while it runs,
`return_token_ids`, `stop_token_ids`, `top_k`, `repetition_penalty`. Ids are taken as they come and never made of text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from hart_lite.errors import ModelError, ServerError
from hart_lite.inference.openai_engine import data_url, joined
from hart_lite.models.families.base import Content, Family
from hart_lite.models.generation import Response
from hart_lite.types import Tokens
from hart_lite.utils.openai_client import Client, RequestError
from hart_lite.utils.text import shown

ATTEMPTS = 4
START = "start it with the command that `hart-lite serve RECIPE` prints"
NEVER = -100.0  # the bias of what is never sampled: the lowest that the API takes


@dataclass(frozen=True)
class Request:
    """`count` responses after one message; `prompt` is that message as we read it. What is drawn follows from `seed`;
    `temperature` 0 is greedy and tells no log-probs."""

    prompt: Tokens
    content: Content
    system: str
    max_tokens: int
    temperature: float
    count: int = 1
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class VllmServer:
    """At `address`, which ends before /v1. Threads may share it. Everything raises `ServerError`, which names the
    server, what was found and what to do, after a bounded number of attempts."""

    address: str
    family: Family
    client: Client = field(repr=False)

    @classmethod
    def at(cls, address: str, family: Family, **settings) -> VllmServer:
        """With the key in VLLM_API_KEY, where the server wants one."""
        key = os.environ.get("VLLM_API_KEY", "").strip()
        how = {"attempts": ATTEMPTS, "advice": "check VLLM_API_KEY"} | settings
        return cls(address, family, Client(f"{address}/v1", key, **how))

    def adapters(self) -> list[str]:
        """Names of those it holds."""
        with self._named("asked for its models", f"{START}, or correct rollout.servers"):
            answer = self.client.get("/models")
            models = answer.get("data")
            if not isinstance(models, list) or not all(isinstance(m, dict) and "id" in m for m in models):
                raise RequestError(f"this is no list of models: {shown(answer)}")
        return [str(model["id"]) for model in models if model.get("parent")]

    def load(self, name: str, folder: Path) -> None:
        way_out = (
            f"it has to see {folder} on its own disk under the same path, and to load adapters while it runs: {START}"
        )
        with self._named(f"told to load adapter {name}", way_out):
            try:
                self.client.tell({"lora_name": name, "lora_path": str(folder)}, "/load_lora_adapter")
            except RequestError:
                if name not in self.adapters():  # else an attempt whose answer was lost has loaded it
                    raise

    def unload(self, name: str) -> None:
        with self._named(f"told to unload adapter {name}", START):
            self.client.tell({"lora_name": name}, "/unload_lora_adapter")

    def draw(self, model: str, request: Request) -> list[Response]:
        """As many responses as asked for, by the adapter of this name. What the server read is what we read, id by id,
        or `ServerError` names the first that differs."""
        with self._named(f"asked to sample with adapter {model}", "mend that, or start it again"):
            answer = self.client.post({"model": model, **self._body(request)})
            ids, responses = _read(answer, request)
        if ids != request.prompt.ids:
            raise ServerError(f"vLLM server {self.address} {self._difference(ids, request.prompt.ids)}")
        return responses

    @contextmanager
    def _named(self, doing: str, way_out: str) -> Iterator[None]:
        try:
            yield
        except (RequestError, ModelError) as error:
            raise ServerError(f"vLLM server {self.address}, {doing}: {error}. Way out: {way_out}") from error

    def _body(self, request: Request) -> dict:
        family, greedy = self.family, request.temperature == 0
        parts = [
            {"type": "text", "text": family.plain(part)}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": data_url(part)}}
            for part in joined(request.content)
        ]
        system = [{"role": "system", "content": family.plain(request.system)}] if request.system else []
        return {
            "messages": [*system, {"role": "user", "content": parts}],
            "n": request.count,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": -1,  # this and the next: whatever generation_config.json of the base says
            "repetition_penalty": 1.0,
            "seed": request.seed,
            "logprobs": not greedy,
            "logit_bias": {str(banned): NEVER for banned in family.banned_ids},
            "stop_token_ids": list(family.eos_ids),
            "return_token_ids": True,
        }

    def _difference(self, theirs: Sequence[int], ours: Sequence[int]) -> str:
        """What to say of two prompts: where they part, and what most likely makes them."""
        pairs = zip_longest(theirs, ours)
        at, there, here = next((n, a, b) for n, (a, b) in enumerate(pairs) if a != b)
        counts = [list(ids).count(self.family.image_id) for ids in (theirs, ours)]
        if counts[0] != counts[1]:
            why = (
                f"It sees {counts[0]} image tokens where we see {counts[1]}: its limits of pixels are others, so it "
                f"scales the images that are sent; {START} (--mm-processor-kwargs)"
            )
        else:
            why = f"Its base, tokenizer or chat template is another; {START}"
        return (
            f"reads another prompt than we do: of {len(theirs)} and {len(ours)} ids the first that differs is number "
            f"{at}, {there} there and {here} here. {why}"
        )


def _read(answer: dict, request: Request) -> tuple[tuple[int, ...], list[Response]]:
    """(ids of the prompt, the responses) of a chat completion. Raises `RequestError` for what is none, or lacks ids."""
    try:
        ids, choices = answer["prompt_token_ids"], answer["choices"]
        responses = [_response(choice, request) for choice in choices]
        if not _are_ids(ids) or len(responses) != request.count:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise RequestError(
            f"its answer is no chat completion of {request.count} responses with their ids and log-probs, as vLLM 0.32 "
            f"gives it: {shown(answer)}"
        ) from None
    return tuple(ids), responses


def _response(choice: dict, request: Request) -> Response:
    ids = choice["token_ids"]
    logps = [float(token["logprob"]) for token in choice["logprobs"]["content"]] if request.temperature else []
    ended = choice["finish_reason"] in ("stop", "length")
    if not _are_ids(ids) or not ended or (request.temperature and len(logps) != len(ids)):
        raise ValueError
    return Response(tuple(ids), tuple(logps))


def _are_ids(ids: object) -> bool:
    return isinstance(ids, list) and all(type(i) is int for i in ids)
