"""The paper's tables as printed, what is known of where their figures come from, and how to run their systems.

`paper_tables.json` holds the numbers of arXiv 2602.23615 v2.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from hart_lite.errors import HartError

NUMBERS = range(1, 9)

# Names of the benchmarks on the command line, by the prefix of the paper's column keys.
BENCHMARKS = {
    "mme_realworld_lite": "mme-realworld-lite",
    "treebench": "treebench",
    "visual_cot": "visual-cot",
    "vstar": "vstar",
    "hrbench_4k": "hrbench4k",
    "hrbench_8k": "hrbench8k",
    "mmstar": "mmstar",
}
OF_TABLE = {  # which of them a table is about
    1: ("visual_cot",),
    2: ("mme_realworld_lite",),
    3: ("treebench",),
    4: ("mmstar", "vstar", "hrbench_4k", "hrbench_8k"),
    5: ("mme_realworld_lite", "treebench"),
    6: ("treebench", "visual_cot"),
    7: ("mme_realworld_lite", "treebench"),
    8: (),
}

_MODELS = {  # transformers-native checkpoints
    "Qwen2.5-VL-7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen2.5-VL-32B": "Qwen/Qwen2.5-VL-32B-Instruct",
    "Qwen2.5-VL-72B": "Qwen/Qwen2.5-VL-72B-Instruct",
    "InternVL3-7B": "OpenGVLab/InternVL3-8B-hf",  # so the paper's table 4 calls it
    "InternVL3-8B": "OpenGVLab/InternVL3-8B-hf",
    "InternVL3-38B": "OpenGVLab/InternVL3-38B-hf",
    "LLaVA-OneVision-7B": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "LLaVA-OneVision-72B": "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    "GPT-4o": "api:gpt-4o",
    "GPT-4o-mini": "api:gpt-4o-mini",
    "o3": "api:o3",
    "Gemini-1.5-Pro": "api:gemini-1.5-pro",
    "Gemini-2.5-Flash": "api:gemini-2.5-flash",
    "Gemini-2.5-Pro": "api:gemini-2.5-pro",
    "Claude 3.5 Sonnet": "api:claude-3-5-sonnet-20241022",
}
_PEERS = {  # checkpoint, and the protocol it was trained for
    "DeepEyes-7B": ("ChenShawn/DeepEyes-7B", "deepeyes"),
    "Pixel-Reasoner-7B": ("TIGER-Lab/PixelReasoner-RL-v1", "pixel-reasoner"),
}
_GRPO = "loop=direct objective=grpo stages.1.context=full output=runs/grpo"
_MGPO = "loop=mgpo objective=grpo output=runs/mgpo"
_HART = "k={k} output=runs/hart-k{k}"
_SFT = "{kind: sft, lr_scheduler: cosine, warmup_steps: 10}"
_TRAINED = {  # method -> overrides of the recipe, what of the run is evaluated, and how it answers
    "SFT": (f"'stages=[{_SFT}]' output=runs/sft", "runs/sft", "full"),
    "GRPO": (_GRPO, "runs/grpo/stages/1-rl/adapter", "full"),
    "GRPO + SFT": (_GRPO, "runs/grpo", "full"),
    "MGPO": (_MGPO, "runs/mgpo/stages/1-rl/adapter", "mgpo"),
    "MGPO + SFT": (_MGPO, "runs/mgpo", "full+crops"),
    "AP-GRPO": (_HART, "runs/hart-k{k}/stages/1-rl/adapter", "full+crops"),
    "AP-GRPO + SFT": (_HART, "runs/hart-k{k}", "full+crops"),
    "SFT + AP-GRPO": (
        f"k={{k}} 'stages=[{_SFT}, {{kind: rl, warmup_steps: 10}}]' output=runs/sft-hart-k{{k}}",
        "runs/sft-hart-k{k}",
        "full+crops",
    ),
}
_TRAINED["HART"] = _TRAINED["HART-7B"] = _TRAINED["AP-GRPO + SFT"]
_RECIPES = {"InternVL3-8B": "internvl3_8b"}  # which of the shipped recipes trains what is not Qwen2.5-VL-7B
TRAINING_DATA = (
    "The paper's training data: add data.format=mme_realworld data.train=MME_RealWorld.json "
    "data.lite=MME-RealWorld-Lite.json data.image_dir=imgs"
)


def paper_table(number: int) -> dict:
    """Table 1 to 8 with its `caption`, `unit`, `columns` and `rows`. Raises `HartError` for another number."""
    if number not in NUMBERS:
        raise HartError(f"There is no table {number} in the paper; choose one of {NUMBERS[0]} to {NUMBERS[-1]}")
    return next(table for table in _paper()["tables"] if table["id"] == f"table{number}")


def provenance(number: int) -> list[str]:
    """What must be known before the figures of a table are compared with, and on what basis it is said."""
    return [f"{n['text']} ({n['basis']})" for n in _paper()["notes"] if f"table{number}" in n["tables"]]


def commands(number: int) -> dict[str, str]:
    """{system: the shell command that runs it} for every system in a table of the paper."""
    table = paper_table(number)
    if number == 4:  # systems are its columns
        return {column["label"]: _command(number, column["label"], {}) for column in table["columns"][2:]}
    out: dict[str, str] = {}
    for row in table["rows"]:
        title = row["method"] + (" with HART" if row.get("hart") else "")
        title += f", k = {row['k']}" if row.get("k") else ""
        out[title] = _command(number, row["method"], row)
    return out


def _command(number: int, method: str, row: dict) -> str:
    name, k = method.replace("(Ours)", "").strip(), str(row.get("k") or 0.6)
    train = ""
    if row.get("hart"):
        train, model, mode = "output=runs/hart", "runs/hart", "full+crops"
    elif name in _TRAINED:
        train, model, mode = (text.replace("{k}", k) for text in _TRAINED[name])
    elif name in _PEERS:
        model, mode = _PEERS[name]
    else:
        model, mode = _MODELS[name], "full"
    mode = {1: "full,crops", 6: "crops"}.get(number, mode)  # where the model looks
    names = ",".join(BENCHMARKS[key] for key in OF_TABLE[number])
    measure = f"hart-lite eval {model} --benchmark {names} --mode {mode}"
    if number == 8:
        measure = f"hart-lite paper-table {model.removesuffix('/stages/1-rl/adapter')} --number 8"
    return (f"hart-lite train {_RECIPES.get(name, 'qwen7b_lora')} {train} && " if train else "") + measure


@cache
def _paper() -> dict:
    return json.loads(Path(__file__).with_name("paper_tables.json").read_text(encoding="utf-8"))
