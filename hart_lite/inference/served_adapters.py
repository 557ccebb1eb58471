"""The policy's adapter on vLLM servers: a fresh name for each state of its weights, and whether a server applies it.

A name that is loaded anew keeps the server's old caches (measured: log-probs off by up to 1.4), so each state of the
weights has a name of its own, made of their digest. Two faults pass every other check in silence: names of tensors
that the server does not know, and a server without `--enable-tower-connector-lora`. Both leave the base's answers. A
young adapter hardly differs from the base, so a strong one is tried first, for each part that carries adapters.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image

from hart_lite.config.sections import PixelBudgets
from hart_lite.errors import ServerError
from hart_lite.inference.vllm_server import START, Request, VllmServer
from hart_lite.models.generation import Response
from hart_lite.models.packing import pack
from hart_lite.models.policy import Policy
from hart_lite.types import ImageView, Tokens
from hart_lite.utils.files import move_whole

log = logging.getLogger(__name__)
PREFIX = "hart-lite-"
CHECKED = 8  # tokens that a check draws
# Nats by which one of them may be off ours. bfloat16 server against bfloat16 policy: 0.2 at most; float32: 1e-5, and
# what is never sampled takes up to 0.007 of an untrained base's words.
TOLERANCE = {torch.float32: 0.01}
TOLERANCE_16 = 0.5
STRONG = 8.0  # times the tolerance: by so much a strong adapter moves a log-prob
DOUBLINGS = 14


class _Picture:
    """Implements `hart_lite.types.ImageSource`: colours that change from pixel to pixel."""

    key = "hart-lite-check"

    def size(self) -> tuple[int, int]:
        return 64, 48

    def load(self) -> Image.Image:
        width, height = self.size()
        places = ((x, y) for y in range(height) for x in range(width))
        return Image.frombytes(
            "RGB", (width, height), bytes(n * (x + 2 * y) % 256 for x, y in places for n in (5, 7, 11))
        )


class ServedAdapters:
    """`folder` is on a disk that trainer and servers share. Of several processes the first one loads and unloads."""

    def __init__(
        self, policy: Policy, servers: Sequence[VllmServer], folder: Path, pixels: PixelBudgets, temperature: float
    ) -> None:
        self.policy, self.servers, self.folder, self.temperature = policy, servers, folder.absolute(), temperature
        self.mark = PREFIX + hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]  # of this run
        self.tolerance = TOLERANCE.get(policy.model.get_input_embeddings().weight.dtype, TOLERANCE_16)
        family, picture, most = policy.family, _Picture(), max(pixels.full, pixels.crop)
        side = 2 * most  # an image that has to be scaled down, and one that has to be enlarged
        self.smallest = ImageView(picture, family.fit((1, 1), most, pixels.min))
        self.largest = ImageView(picture, family.fit((side, side), most, pixels.min))
        self.name = ""

    def sync(self) -> str:
        """The name under which every server holds the weights as they are now."""
        name = f"{self.mark}-{self._digest()}"
        if name == self.name:
            return name
        if not PartialState().is_main_process:
            for server in self.servers:
                if name not in server.adapters():
                    raise ServerError(f"vLLM server {server.address} does not hold adapter {name} of this process")
        else:
            views = [self.smallest]
            if not self.name:
                self._connect()
                views.append(self.largest)
            with self._on_servers(name):
                for server in self.servers:
                    self._check(server, name, views)
            if self.name:
                self._drop(self.name)
        self.name = name
        return name

    def close(self) -> None:
        """Leave the servers as they were found. One that is away is named: its adapter goes when it is started anew."""
        if self.name and PartialState().is_main_process:
            try:
                self._drop(self.name)
            except ServerError as error:
                log.warning("%s", error)
        self.name = ""

    # -- names and files -------------------------------------------------------------------------------------------

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for parameter in self.policy.adapter_parameters:
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:12]

    @contextmanager
    def _on_servers(self, name: str) -> Iterator[None]:
        """The weights as they are now, saved and loaded; taken away again where that or the block fails."""
        partial = self.folder / f"{name}.part"
        shutil.rmtree(partial, ignore_errors=True)
        self.policy.peft.save_pretrained(partial)
        move_whole(partial, self.folder / name)
        try:
            for server in self.servers:
                server.load(name, self.folder / name)
            yield
        except ServerError:
            with suppress(ServerError):  # the first error is the one to tell
                self._drop(name)
            raise

    def _drop(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        for server in self.servers:
            if name in server.adapters():
                server.unload(name)

    # -- checks ----------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Whether the servers are there and no other run's, and what they do with each part of an adapter."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for server in self.servers:
            for name in server.adapters():
                if name.startswith(self.mark):  # left by this run when it was killed
                    server.unload(name)
                elif name.startswith(PREFIX):
                    raise ServerError(
                        f"vLLM server {server.address} holds adapter {name} of another run. Give each run a server of "
                        "its own (rollout.servers). If that run is over, take its adapter away: curl -H "
                        f"'Content-Type: application/json' -d '{{\"lora_name\": \"{name}\"}}' "
                        f"{server.address}/v1/unload_lora_adapter"
                    )
        for part in self.policy.lora.parts:
            with self._strong(part), self._on_servers(name := f"{self.mark}-{part}-{self._digest()}"):
                for server in self.servers:
                    self._check_part(server, name, part)
                self._drop(name)

    def _check(self, server: VllmServer, name: str, views: Sequence[ImageView]) -> None:
        """One answer of the server's under our forward pass."""
        prompt, response = self._drawn(server, name, views)
        ours = self._logps(prompt, response.ids)
        theirs = torch.tensor(response.logps)
        at = int((ours - theirs).abs().argmax())
        if not abs(ours[at] - theirs[at]) <= self.tolerance:
            raise ServerError(
                f"vLLM server {server.address} gives a token of adapter {name} the log-prob {theirs[at]:.4f}, our own "
                f"forward pass {ours[at]:.4f}; {self.tolerance:g} apart at most is usual. Its base, its precision or "
                f"its adapter is another, or an old one; {START}"
            )

    def _check_part(self, server: VllmServer, name: str, part: str) -> None:
        """Whether the server's log-probs follow the strong adapter most of the way from those of the base."""
        prompt, response = self._drawn(server, name, [self.smallest])
        strong, theirs = self._logps(prompt, response.ids), torch.tensor(response.logps)
        with self.policy.reference():
            base = self._logps(prompt, response.ids)
        shift, gap = ((strong - others).abs().mean() for others in (base, theirs))
        if not gap <= max(shift / 2, self.tolerance):
            flag = "" if part == "language" else " (--enable-tower-connector-lora)"
            raise ServerError(
                f"vLLM server {server.address} does not answer by the {part} part of an adapter: that moves our "
                f"log-probs by {shift:.4f}, and its own are {gap:.4f} off. Either it does not know the names of the "
                f"tensors, or it was not told to apply that part; {START}{flag}"
            )

    def _drawn(self, server: VllmServer, name: str, views: Sequence[ImageView]) -> tuple[Tokens, Response]:
        content = [*views, "What is this?"]
        prompt = self.policy.family.chat(content)
        [response] = server.draw(name, Request(prompt, content, "", CHECKED, self.temperature))
        return prompt, response

    @torch.no_grad()
    def _logps(self, prompt: Tokens, ids: Sequence[int]) -> torch.Tensor:
        self.policy.model.eval()
        sequence = prompt + Tokens.response(ids)
        [packed] = pack([sequence], self.policy.family.positions, len(sequence))
        return self.policy.logps(packed, self.temperature).cpu()

    @contextmanager
    def _strong(self, part: str) -> Iterator[None]:
        """Inside, adapters on this part alone move log-probs by much. The weights come back as they were."""
        modules = re.compile(self.policy.family.lora_targets([part]))
        ours = {n: p for n, p in self.policy.model.named_parameters() if p.requires_grad and ".lora_B." in n}
        before = {n: p.detach().clone() for n, p in ours.items()}
        prompt = self.policy.family.chat([self.smallest, "What is this?"])
        ids = self.policy.family.response_ids("It is this area here.")[:CHECKED]
        generator = torch.Generator().manual_seed(0)
        drawn = {
            n: torch.randn(p.shape, generator=generator) * bool(modules.fullmatch(n.partition(".lora_B.")[0]))
            for n, p in ours.items()
        }
        with self.policy.reference():
            base = self._logps(prompt, ids)
        try:
            for doubling in range(DOUBLINGS):
                self._set({n: 1e-3 * 2**doubling * values for n, values in drawn.items()})
                if (self._logps(prompt, ids) - base).abs().mean() > STRONG * self.tolerance:
                    break
            yield
        finally:
            self._set(before)

    @torch.no_grad()
    def _set(self, values: dict[str, torch.Tensor]) -> None:
        parameters = dict(self.policy.model.named_parameters())
        for name, value in values.items():
            parameters[name].copy_(value)
        self.policy.forget_images()
