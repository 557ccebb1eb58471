"""Bases and adapters to merge, made in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from hart_lite.config.sections import ModelSection
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.runs.run_dir import save_adapter
from hart_lite.toy.model import build, build_config, initialise, toy_tokenizer

PARTS = ["language", "vision", "projector"]


def make_base(folder: Path, dtype: torch.dtype = torch.float32, shards: int = 1, tied: bool = True, **text) -> Path:
    """An untrained checkpoint in the Hub's format and with its names, in `shards` files or a few more."""
    build(folder)
    tokenizer = toy_tokenizer()
    config = build_config(tokenizer)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    for name, value in text.items():
        setattr(config.text_config, name, value)
    config.vision_config.out_hidden_size = config.text_config.hidden_size
    if layers := text.get("num_hidden_layers"):
        config.text_config.layer_types = ["full_attention"] * layers
    model = Qwen2_5_VLForConditionalGeneration(config).to(dtype)
    initialise(model, tokenizer, 0)
    with torch.no_grad():  # the library starts biases at zero
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.02)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=size // shards if shards > 1 else 2 * size)
    return folder


def make_adapter(base: Path, folder: Path, std: float = 0.02, parts: list[str] | None = None, **section) -> Policy:
    """An adapter on it whose B is not zero, saved as a run saves it."""
    lora = {"parts": parts or PARTS, "r": 4, "alpha": 12}
    policy = load_policy(ModelSection(base=str(base), dtype="float32", device="cpu", lora=lora, **section))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, std, generator=generator)
    save_adapter(policy, folder)
    return policy


def peft_adapter(base: Path, folder: Path, targets: str, **config) -> None:
    """One that PEFT makes and hart-lite would not."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, **config))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    peft.peft_config["default"].base_model_name_or_path = str(base)
    peft.save_pretrained(folder, save_embedding_layers=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def hub_name(module: str) -> str:
    """The Hub's name of a weight, by hand."""
    name = module.removeprefix("base_model.model.")
    if name.startswith("model.visual."):
        return name.removeprefix("model.") + ".weight"
    return name.replace("model.language_model.", "model.") + ".weight"


def deltas(adapter: Path) -> dict[str, torch.Tensor]:
    """{the Hub's name: scale * B @ A in float64}, from the files by hand."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    return {
        hub_name(name.removesuffix(".lora_A.weight")): scale
        * (tensors[name.replace("lora_A", "lora_B")].double() @ tensors[name].double())
        for name in tensors
        if name.endswith("lora_A.weight")
    }


def edit_config(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def python(code: str, *arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Runs code in a process of its own; its output is kept."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=300)


# The stock processor class needs torchvision, for films, and so does AutoProcessor. Without it, the same class for
# pictures alone takes its place.
PLAIN_PROCESSOR = """
from transformers.utils import is_torchvision_available
if not is_torchvision_available():
    from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin
    from transformers.models.auto.image_processing_auto import AutoImageProcessor
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
    class Pictures(Qwen2_5_VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
    def made(folder, **more):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return Pictures(AutoImageProcessor.from_pretrained(folder), tokenizer, tokenizer.chat_template)
    AutoProcessor.from_pretrained = made
"""
