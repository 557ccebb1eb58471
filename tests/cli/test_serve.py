"""The command that starts a vLLM server for a recipe."""

import json
import shlex

import pytest

from hart_lite.cli.main import main
from hart_lite.config.recipe import load_recipe
from hart_lite.config.resources import TOY_BASE
from hart_lite.inference.serve_command import serve_command

SERVERS = "rollout.servers=['http://10.0.0.1:8000', 'http://10.0.0.2:8001']"


def option(words: list[str], name: str) -> str | None:
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else None


def command(name: str, *overrides: str, address: str = "http://127.0.0.1:8000") -> tuple[dict[str, str], list[str]]:
    return serve_command(load_recipe(name, overrides), address)


def test_it_prints_the_command_of_the_server_that_is_asked_for(capsys):
    assert main(["serve", "tiny_cpu", SERVERS, "--server", "2"]) == 0
    words = shlex.split(capsys.readouterr().out)
    program = words.index("python")
    assert set(words[:program]) == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "TORCHDYNAMO_DISABLE=1"}
    assert words[program + 1 : program + 3] == ["-m", "vllm.entrypoints.openai.api_server"]
    expected = {
        "model": str(TOY_BASE),
        "host": "10.0.0.2",
        "port": "8001",
        "dtype": "float32",
        "block-size": "32",
        "max-lora-rank": "16",
        "generation-config": "vllm",
        "max-model-len": str(1024 + 16 + 4 * 6 + 24),
    }
    assert {name: option(words, name) for name in expected} == expected
    assert json.loads(option(words, "mm-processor-kwargs")) == {"min_pixels": 784, "max_pixels": 12544}
    assert "--no-enable-chunked-prefill" in words and option(words, "max-num-batched-tokens") == "4096"
    assert "--enable-lora" in words and "--enable-tower-connector-lora" not in words
    assert option(words, "quantization") is option(words, "revision") is option(words, "logprobs-mode") is None


def test_what_the_recipe_says_is_what_the_server_does():
    overrides = [
        "model.lora.parts=[language,projector]",
        "model.lora.r=20",
        "rollout.temperature=0.9",
        "pixels.crop=2000000",
        "model.revision=abc",
        "model.dtype=bfloat16",
    ]
    _, words = command("qwen7b_lora", *overrides)
    assert "--enable-tower-connector-lora" in words and option(words, "max-lora-rank") == "32"
    assert option(words, "logprobs-mode") == "processed_logprobs"  # those at the temperature that is drawn at
    assert (option(words, "quantization"), option(words, "dtype")) == ("bitsandbytes", "bfloat16")
    assert json.loads(option(words, "mm-processor-kwargs"))["max_pixels"] == 2_000_000
    assert option(words, "revision") == "abc"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--server", "3"], "--server 3: rollout.servers has 2; give 1 to 2"),
        (["--run"], "this environment has no vLLM; run the command that `hart-lite serve` prints"),
    ],
)
def test_what_it_cannot_start(words, message, capsys):
    assert main(["serve", "tiny_cpu", SERVERS, *words]) == 1
    assert message in capsys.readouterr().err
