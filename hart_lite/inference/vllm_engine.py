"""Protocols on vLLM servers that hold the policy's adapter: conversations go on together as on the local engine, and
what waits for an answer is drawn over HTTP, spread over the servers.

The samples of a prompt are one request. Each conversation's message begins it anew: one that goes on would have its
response read again from text (`hart_lite.config.schema` refuses such loops).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from hart_lite.config.schema import Recipe
from hart_lite.errors import HartError
from hart_lite.inference.engine import GREEDY, Conversation, Decoding
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine, Talk
from hart_lite.inference.protocols.base import ProtocolRun
from hart_lite.inference.served_adapters import ServedAdapters
from hart_lite.inference.vllm_server import Request, VllmServer
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.models.generation import Response
from hart_lite.models.prompt_cache import PromptCache

REQUESTS = 32  # under way at one time on each server, which computes them together


def serve_model(model: OpenModel, recipe: Recipe, folder: Path, **settings) -> OpenModel:
    """The same model on the servers of its recipe; adapters are handed over in `folder`. Raises `HartError` for a
    family whose prompts a chat server does not read as we do."""
    local: LocalEngine = model.engine
    if not isinstance(local.interface, Qwen25VL):
        raise HartError(
            f"rollout.engine = 'vllm' serves Qwen2.5-VL and Qwen3-VL, and the base is {local.interface.name}: vLLM "
            "takes no adapters for LLaVA-OneVision, and cuts InternVL's tiles by another rule; use rollout.engine=local"
        )
    servers = [VllmServer.at(address, local.interface, **settings) for address in recipe.rollout.servers]
    adapters = ServedAdapters(local.policy, servers, folder, recipe.pixels, recipe.rollout.temperature)
    return replace(model, engine=VllmEngine(local, adapters))


class VllmEngine(LocalEngine):
    """`adapters.sync` is to be called after the weights have changed, by all processes of a run in turn, the first
    process first; the engine calls it, too."""

    def __init__(self, local: LocalEngine, adapters: ServedAdapters) -> None:
        super().__init__(local.policy, local.budget.value, REQUESTS * len(adapters.servers))
        self.adapters = adapters

    def sync(self) -> None:
        self.adapters.sync()

    def close(self) -> None:
        self.adapters.close()

    def answer(self, runs: Sequence[ProtocolRun], decoding: Decoding = GREEDY) -> Iterator[tuple[int, Conversation]]:
        self.sync()
        yield from super().answer(runs, decoding)

    def sample(self, talks: dict[int, Talk], cache: PromptCache, decoding: Decoding, seed: int) -> dict[int, Response]:
        """A response for each. The first error ends them all."""
        groups: dict[tuple, list[int]] = {}
        for n, talk in talks.items():
            groups.setdefault(talk.asked, []).append(n)
        servers, name, processes = self.adapters.servers, self.adapters.name, PartialState()
        first = processes.process_index * len(servers) // processes.num_processes  # each begins with another server
        threads = ThreadPoolExecutor(min(len(groups), REQUESTS * len(servers)), "vllm")
        try:
            drawn: list[Future[list[Response]]] = []
            for k, numbers in enumerate(groups.values()):
                request = _request([talks[n] for n in numbers], decoding, f"{seed}/{decoding.first + numbers[0]}")
                drawn.append(threads.submit(servers[(first + k) % len(servers)].draw, name, request))
            wait(drawn, return_when=FIRST_EXCEPTION)
            failed = [future for future in drawn if future.done() and future.exception()]
            responses = [future.result() for future in failed or drawn]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        return {
            n: response.up_to(talks[n].say.max_tokens)
            for numbers, group in zip(groups.values(), responses, strict=True)
            for n, response in zip(numbers, group * (1 if decoding.temperature else len(numbers)), strict=True)
        }


def _request(talks: Sequence[Talk], decoding: Decoding, seed: str) -> Request:
    """What talks with one prompt ask for: a sample each, or one greedy response for all."""
    say = talks[0].say
    return Request(
        talks[0].prompt,
        say.content,
        say.system,
        max(talk.say.max_tokens for talk in talks),
        decoding.temperature,
        len(talks) if decoding.temperature else 1,
        decoding.top_p,
        random.Random(seed).getrandbits(48),
    )
