"""What this machine can do for a recipe, told before a model is loaded."""

from __future__ import annotations

from importlib.util import find_spec

from hart_lite.config.schema import Recipe
from hart_lite.errors import HartError


def check_machine(recipe: Recipe) -> None:
    """Refuse what this machine cannot do, before a model is loaded: one `HartError` with every reason and way out."""
    import torch

    model, problems = recipe.model, []
    cuda = torch.cuda.is_available() and model.device != "cpu"
    capability = torch.cuda.get_device_capability() if cuda else (0, 0)
    if model.device == "cuda" and not cuda:
        problems.append(
            "model.device = 'cuda', but torch sees no CUDA card; use model.device=auto or a CUDA build of torch"
        )
    if model.dtype == "bfloat16" and cuda and capability < (8, 0):
        name = torch.cuda.get_device_name()
        problems.append(f"model.dtype = 'bfloat16', but {name} cannot compute in it; use model.dtype=float16")
    if model.attention == "flash_attention_2":
        if not cuda or capability < (8, 0):
            card = torch.cuda.get_device_name() if cuda else "no CUDA card"
            problems.append(
                f"model.attention = 'flash_attention_2' needs a CUDA card of capability 8.0 or newer, and this run has "
                f"{card}; use model.attention=sdpa"
            )
        elif find_spec("flash_attn") is None:
            problems.append(
                "model.attention = 'flash_attention_2', but flash-attn is not installed; "
                "`pip install flash-attn --no-build-isolation`, or use model.attention=sdpa"
            )
    if model.quant == "nf4" and find_spec("bitsandbytes") is None:
        problems.append(
            "model.quant = 'nf4' needs bitsandbytes, not installed; `pip install bitsandbytes`, or use model.quant=none"
        )
    if model.backend == "unsloth":
        if not cuda:
            problems.append("model.backend = 'unsloth' needs a CUDA card; use model.backend=transformers")
        if find_spec("unsloth") is None:
            problems.append(
                "model.backend = 'unsloth', but unsloth is not installed; it wants older libraries, so give it an "
                "environment of its own, `python -m venv .venv-unsloth && .venv-unsloth/bin/pip install -e "
                "'.[unsloth]'`, or use model.backend=transformers"
            )
    for tracker in recipe.report_to:
        if find_spec(tracker) is None:
            problems.append(
                f"report_to names {tracker!r}, which is not installed; `pip install {tracker}`, or leave it out"
            )
    if problems:
        raise HartError(
            "\n".join([f"Recipe {recipe.name!r} does not fit this machine:", *(f"  - {p}" for p in problems)])
        )
