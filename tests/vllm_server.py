"""vLLM's HTTP interface as far as rollouts use it, on loopback and answered by the tiny base: a stand-in for tests,
which can have the faults that servers have."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from peft import set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

from hart_lite.config.sections import Lora, ModelSection
from hart_lite.models.generation import Sampling, generate
from hart_lite.models.loading import load_policy
from hart_lite.models.packing import pack
from hart_lite.types import ImageView, Tokens


@dataclass(frozen=True)
class Sent:
    """An image as it came over HTTP."""

    key: str
    image: Image.Image = field(compare=False)

    def size(self) -> tuple[int, int]:
        return self.image.size

    def load(self) -> Image.Image:
        return self.image


SLOW = 2.5  # seconds


class StandIn:
    """`fault` is what is wrong with it, from the completion on that `healthy` says:

    no-adapter, no-tower   what it loads it does not apply, or not to the vision tower and projector
    stale                  under any later name it goes on with the first weights of the kind
    other-words            its chat template adds words
    no-loading, unreadable it loads no adapters while it runs; it sees no such folder
    500, 400, lost, slow, hang-up, no-ids   what comes of a completion
    """

    def __init__(
        self, base: Path, lora: dict, most: int = 16 * 784, least: int = 784, fault: str = "", healthy: int = 0
    ) -> None:
        section = ModelSection(base=str(base), dtype="float32", device="cpu", lora=Lora(**lora))
        self.policy, self.most, self.least = load_policy(section), most, least
        self.fault, self.healthy = fault, healthy
        self.adapters: dict[str, dict[str, torch.Tensor]] = {}
        self.asked: list[dict] = []  # bodies of completions
        self.loaded: list[str] = []
        self.lock = threading.Lock()

    @property
    def failing(self) -> str:
        return self.fault if len(self.asked) > self.healthy else ""

    # -- adapters ----------------------------------------------------------------------------------------------------

    def load(self, name: str, folder: str) -> tuple[int, str]:
        if self.fault == "no-loading":
            return 404, json.dumps({"detail": "Not Found"})
        if self.fault == "unreadable" or not (Path(folder) / "adapter_model.safetensors").is_file():
            return 404, json.dumps({"error": {"message": f"No adapter found for {folder}"}})
        if name in self.adapters:
            return 400, json.dumps({"error": {"message": f"The lora adapter '{name}' has already been loaded."}})
        kind = name.rpartition("-")[0]
        old = [weights for known, weights in self.adapters.items() if known.rpartition("-")[0] == kind]
        weights = load_file(Path(folder) / "adapter_model.safetensors")
        self.adapters[name] = old[0] if self.fault == "stale" and old else weights
        self.loaded.append(name)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> tuple[int, str]:
        if self.adapters.pop(name, None) is None:
            return 404, json.dumps({"error": {"message": f"The lora adapter '{name}' cannot be found."}})
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def models(self) -> tuple[int, str]:
        listed = [{"id": name, "parent": "base"} for name in self.adapters]
        return 200, json.dumps({"data": [{"id": "base", "parent": None}, *listed]})

    @contextmanager
    def wearing(self, name: str) -> Iterator[None]:
        """The model with this adapter, as far as its fault lets it."""
        weights = dict(self.adapters[name])
        if self.fault == "no-tower":
            weights = {n: w * (0 if "visual" in n else 1) for n, w in weights.items()}
        set_peft_model_state_dict(self.policy.peft, weights)
        self.policy.forget_images()
        with self.policy.peft.disable_adapter() if self.fault == "no-adapter" else nullcontext():
            yield

    # -- completions -------------------------------------------------------------------------------------------------

    def prompt(self, messages: list[dict]) -> Tokens:
        *system, user = messages
        content = [self.view(part) if "image_url" in part else part["text"] for part in user["content"]]
        words = system[0]["content"] if system else ""
        return self.policy.family.chat(content, "You are another." if self.failing == "other-words" else words)

    def view(self, part: dict) -> ImageView:
        data = part["image_url"]["url"].partition(",")[2]
        image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        return ImageView(Sent(data, image), self.policy.family.fit(image.size, self.most, self.least))

    def complete(self, body: dict) -> tuple[int, str]:
        if self.failing in ("500", "400"):
            return int(self.failing), json.dumps({"error": {"message": "out of luck"}})
        if self.failing == "lost":
            self.adapters.clear()
        if body["model"] not in self.adapters:
            return 404, json.dumps({"error": {"message": f"The model `{body['model']}` does not exist."}})
        greedy, prompt = body["temperature"] == 0, self.prompt(body["messages"])
        sampling = Sampling(body["max_tokens"], body["temperature"], body["top_p"], body["seed"])
        with self.wearing(body["model"]):
            drawn = generate(self.policy, [prompt] * body["n"], sampling)
        ids = {} if self.failing == "no-ids" else {"prompt_token_ids": list(prompt.ids)}
        choices = [
            {
                "token_ids": list(response.ids),
                "message": {"role": "assistant", "content": self.policy.family.text(response.ids)},
                "logprobs": None if greedy else {"content": [{"logprob": value} for value in response.logps]},
                "finish_reason": "stop" if response.ids[-1] in self.policy.family.eos_ids else "length",
            }
            for response in drawn
        ]
        return 200, json.dumps({**ids, "choices": choices, "usage": {"prompt_tokens": len(prompt)}})

    def logps(self, name: str, sequence: Tokens) -> torch.Tensor:
        """What it would give the sampled tokens of a sequence."""
        [packed] = pack([sequence], self.policy.family.positions, len(sequence))
        with self.lock, self.wearing(name), torch.no_grad():
            return self.policy.logps(packed)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self.send(*self.server.stand_in.models())

    def do_POST(self) -> None:
        stand_in: StandIn = self.server.stand_in
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/chat/completions" and stand_in.fault == "slow":
            time.sleep(SLOW)
        with stand_in.lock:
            if self.path == "/v1/load_lora_adapter":
                return self.send(*stand_in.load(body["lora_name"], body["lora_path"]))
            if self.path == "/v1/unload_lora_adapter":
                return self.send(*stand_in.unload(body["lora_name"]))
            stand_in.asked.append(body)
            if stand_in.failing == "hang-up":
                return None
            return self.send(*stand_in.complete(body))

    def send(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def serving(stand_in: StandIn) -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stand_in = stand_in
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
