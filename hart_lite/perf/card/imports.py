"""What the machine has: versions, every library by name, the card as the driver sees it."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import time
from importlib.util import find_spec
from typing import Any

import torch

from hart_lite.perf.card.stages import part

GIB = 2**30
# As training imports them, and the libraries beneath.
MODULES = (
    *("numpy", "PIL", "pyarrow", "pandas", "packaging", "safetensors", "tokenizers", "huggingface_hub", "transformers"),
    *("accelerate", "peft", "pydantic", "typing_extensions", "datasets", "trl", "bitsandbytes", "tensorboard"),
    *("matplotlib", "triton", "torchvision", "flash_attn", "kernels"),
    *("hart_lite.training.rl_trainer", "hart_lite.training.sft_trainer", "hart_lite.training.train"),
    *("hart_lite.export.merge", "hart_lite.cli.main"),
)
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def imports(found: dict[str, Any]) -> None:
    found["python"] = platform.python_version()
    found["torch"] = {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    found["cpus"] = {"count": os.cpu_count(), "torch threads": torch.get_num_threads()}
    versions = found["modules"] = {}
    for name in MODULES:
        start = time.perf_counter()
        try:
            module = importlib.import_module(name)
            versions[name] = f"{getattr(module, '__version__', 'ok')} ({time.perf_counter() - start:.1f} s)"
        except Exception as error:  # an installed library that is broken raises anything
            versions[name] = f"NOT THERE: {type(error).__name__}: {error}"
    found["not there"] = [name for name, said in versions.items() if said.startswith("NOT THERE")]
    found["attention"] = _attention()
    if torch.cuda.is_available():
        part(found, "card", _properties)
        part(found, "nvidia_smi", _nvidia_smi)
        part(found, "bitsandbytes", _bitsandbytes)
    broken = [name for name in found["not there"] if name.startswith("hart_lite")]
    if broken:
        raise ImportError(f"{', '.join(broken)}: see the table of modules")


def _attention() -> dict[str, Any]:
    backends = torch.backends.cuda
    return {
        "cudnn": backends.cudnn_sdp_enabled(),
        "flash": backends.flash_sdp_enabled(),
        "efficient": backends.mem_efficient_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
        "varlen": find_spec("torch.nn.attention.varlen") is not None,
    }


def _properties() -> dict[str, Any]:
    p = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    return {
        "name": p.name,
        "capability": f"{p.major}.{p.minor}",
        "multiprocessors": p.multi_processor_count,
        "gib": total / GIB,
        "free_gib": free / GIB,
    }


def _nvidia_smi() -> str:
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _bitsandbytes() -> str:
    """Which of its libraries it took, and that a matrix goes through it."""
    from bitsandbytes import cextension, functional

    weight = torch.randn(256, 256, device="cuda", dtype=torch.bfloat16)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    error = (functional.dequantize_4bit(packed, state) - weight).norm() / weight.norm()
    return f"{type(cextension.lib).__name__}, error of NF4 {error.item():.4f} (0.09 is its own)"
