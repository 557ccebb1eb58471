"""Teach a vision-language model where to look, on one GPU, from final answers alone.

    import hart_lite

    print(hart_lite.plan("qwen7b_lora").peak_gib)  # what it needs, before any download
    run = hart_lite.train("tiny_cpu", "output=runs/mine")
    model = hart_lite.load(run.folder)
    answer = hart_lite.ask(model, "photo.jpg", "What does the sign say?")
    print(answer.answer, answer.boxes)  # boxes in original pixels
    evaluation = hart_lite.evaluate(model, {"rows": "my/rows.jsonl"}, out="runs/eval")
    print(hart_lite.compare(run.evaluation("before"), run.evaluation("after-1-rl")))
    hart_lite.merge(run.folder, "merged")
    hart_lite.push("merged", "me/where-to-look")

Importing it loads neither torch nor transformers. It prints nothing unless logging is switched on:
`logging.basicConfig(level=logging.INFO)` shows messages and progress bars.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "APGRPOTrainer": "hart_lite.rl.trl_trainer",
    "CheckpointError": "hart_lite.errors",
    "ConfigError": "hart_lite.errors",
    "DataError": "hart_lite.errors",
    "HartError": "hart_lite.errors",
    "ModelError": "hart_lite.errors",
    "ask": "hart_lite.api",
    "compare": "hart_lite.api",
    "evaluate": "hart_lite.api",
    "load": "hart_lite.api",
    "load_recipe": "hart_lite.config.recipe",
    "merge": "hart_lite.api",
    "plan": "hart_lite.api",
    "push": "hart_lite.api",
    "train": "hart_lite.api",
}

__version__ = "0.1.0"
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hart_lite' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
