"""What our own commands left behind, after a disk or a person had their way with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save

from hart_lite.config.recipe import dump_recipe
from hart_lite.config.schema import Recipe
from hart_lite.eval.results import read_evaluation
from hart_lite.export.lora import read_lora
from hart_lite.export.shards import Checkpoint
from hart_lite.report.reader import read_run
from hart_lite.runs import checkpoints
from hart_lite.runs.metrics_file import rewind_metrics
from hart_lite.runs.record import RunRecord, record_of

PREDICTION = {
    "benchmark": "treebench", "mode": "crops", "id": "1", "category": "Perception/OCR", "cluster": "i",
    "question": "Q?",
    "choices": ["a", "b"], "truth": "A", "text": "A", "answer": "A", "strict": True, "official": True,
    "boxes": [[1, 2, 3, 4, 0]], "truth_boxes": [[1, 2, 3, 4, 0]], "counts": {"rejected_boxes": 0},
    "turns": [{"kind": "verify", "text": "..", "prompt_tokens": 5, "response_tokens": None, "images": 1}],
    "grounding": {"grounded": 1, "grounded_targets": 1, "targets": 1, "iou": 1.0, "coverage": 0.5},
}  # fmt: skip
EVAL = {"model": "runs/small", "benchmarks": {"treebench": "T.tsv"}, "modes": ["crops"], "seed": 0}
METRIC = {"stage": "1-rl", "step": 1, "reward": 0.5, "kl": 0.01}
ROLLOUT = {"picture": "step-00001-0.jpg", "id": "1", "question": "Q?", "boxes": [[0, 0, 9, 9, 0]], "reward": 1.0}
RECORD = {
    "base": "Qwen/Qwen2.5-VL-7B-Instruct", "family": "qwen2_5_vl", "licence": {"license": "apache-2.0"}, "recipe": None,
    "libraries": {"torch": "2"}, "evaluations": {"before": {"n": 1}}, "merged": None,
    "pictures": [{"file": "a.jpg", "stage": "1-rl", "step": 1, "question": "Q", "right": 1, "samples": 2}],
}  # fmt: skip
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "embedded", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


def evaluation(folder: Path, file: str) -> Callable[[bytes], None]:
    (folder / "eval.json").write_text(json.dumps(EVAL))
    (folder / "predictions.jsonl").write_text(json.dumps(PREDICTION) + "\n")

    def read(data: bytes) -> None:
        (folder / file).write_bytes(data)
        found = read_evaluation(folder)
        found.parts()
        str(found.label)

    return read


def run_folder(folder: Path, file: str) -> Callable[[bytes], None]:
    """A run directory with one file that anybody wrote, read for its report and for its model card."""
    (folder / "evaluation").mkdir()
    (folder / "progress").mkdir()
    (folder / "adapter").mkdir()
    (folder / "stages/1-rl/rollouts").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "stages/1-rl/rollouts/step-00001-0.jpg")
    stage = {"kind": "rl", "steps": 4}
    dump_recipe(Recipe.model_validate({"name": "small", "stages": [stage]}), folder / "recipe.yaml")
    path = folder / file

    def read(data: bytes) -> None:
        path.write_bytes(data)
        run = read_run(folder)
        assert all(stage.done >= 0 for stage in run.stages)
        record_of(folder / "adapter", "embedded")

    return read


def record(folder: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (folder / "training.json").write_bytes(data)
        if found := RunRecord.load(folder):
            found.text()
            found.load_pictures(folder)

    return read


def checkpoint(folder: Path) -> Callable[[bytes], None]:
    stage = folder / "1-rl"

    def read(data: bytes) -> None:
        """A seal that is none is a damaged checkpoint, which is passed by; metrics are rewound."""
        (stage / "checkpoint-2").mkdir(parents=True, exist_ok=True)
        (stage / "checkpoint-2" / checkpoints.SEAL).write_bytes(data)
        assert checkpoints.newest_checkpoint(stage) is None
        (folder / "metrics.jsonl").write_bytes(data)
        rewind_metrics(folder / "metrics.jsonl", "1-rl", 1)

    return read


def shard(folder: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (folder / "model.safetensors").write_bytes(data)
        found = Checkpoint.open(folder)
        assert found.nbytes >= 0
        for name, place in found.places.items():
            if place.dtype in ("F32", "F16"):
                assert found.read(name).numel() == place.numel

    return read


def shard_index(folder: Path) -> Callable[[bytes], None]:
    (folder / "a.safetensors").write_bytes(save({"x": torch.ones(2, 3)}))

    def read(data: bytes) -> None:
        (folder / "model.safetensors.index.json").write_bytes(data)
        Checkpoint.open(folder)

    return read


def adapter(folder: Path, file: str) -> Callable[[bytes], None]:
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (folder / "adapter_model.safetensors").write_bytes(LORA)

    def read(data: bytes) -> None:
        (folder / file).write_bytes(data)
        read_lora(folder)

    return read


_LAYER = "base_model.model.x.lora_{}.weight"
LORA = save({_LAYER.format("A"): torch.ones(2, 3), _LAYER.format("B"): torch.ones(4, 2)})
