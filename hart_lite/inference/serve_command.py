"""The command that starts a vLLM server for a recipe's rollouts: same base, precision and pixels, room for adapters."""

from __future__ import annotations

import json
import urllib.parse

from hart_lite.config.limits import SERVED_RANKS
from hart_lite.config.resources import TOY_BASE
from hart_lite.config.schema import Recipe
from hart_lite.models.loading import pick_device, pick_dtype

TEXT = 1024  # tokens of words that a prompt has room for
BATCHED = 4096  # tokens of prompts that a server on a CPU reads at one time
BLOCK = 32  # tokens: a longer block finds less of a short prompt in the cache, and a CPU takes multiples of 32 alone


def serve_command(recipe: Recipe, address: str) -> tuple[dict[str, str], list[str]]:
    """(variables of the environment, arguments of python) for the server at `address`. Precision is what the recipe
    means on this machine."""
    model, pixels, rollout = recipe.model, recipe.pixels, recipe.rollout
    device, place = pick_device(model.device), urllib.parse.urlsplit(address)
    environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    if device.type == "cpu":  # the first request would compile, for longer than the engine waits
        environment["TORCHDYNAMO_DISABLE"] = "1"
    options: dict[str, object] = {
        "model": str(TOY_BASE) if model.base == "toy" else model.base,
        "revision": model.revision,
        "host": place.hostname,
        "port": place.port or 80,
        "dtype": str(pick_dtype(model.dtype, device)).removeprefix("torch."),
        "quantization": "bitsandbytes" if model.quant == "nf4" else None,
        "max-model-len": longest_sequence(recipe),
        "block-size": BLOCK,
        "generation-config": "vllm",  # not the base's own, which may punish repetition
        "logprobs-mode": "processed_logprobs" if rollout.temperature != 1 else None,
        "mm-processor-kwargs": json.dumps({"min_pixels": pixels.min, "max_pixels": max(pixels.full, pixels.crop)}),
        "limit-mm-per-prompt": json.dumps({"video": 0}),
        "max-lora-rank": min(rank for rank in SERVED_RANKS if rank >= model.lora.r),
    }
    flags = ["enable-lora"] + ["enable-tower-connector-lora"] * (set(model.lora.parts) != {"language"})
    if device.type == "cpu":  # a prompt that is read in parts rewinds its generator, which ends a server on a CPU
        flags.append("no-enable-chunked-prefill")
        options["max-num-batched-tokens"] = max(BATCHED, options["max-model-len"])
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return environment, ["-m", "vllm.entrypoints.openai.api_server", *given, *(f"--{flag}" for flag in flags)]


def longest_sequence(recipe: Recipe) -> int:
    """Tokens of the image, all crops, words and a response."""
    pixels, rollout = recipe.pixels, recipe.rollout
    images = (pixels.full + rollout.max_boxes * pixels.crop) // 784
    return TEXT + images + max(rollout.max_tokens_locate, rollout.max_tokens_answer)
