"""From files and back on the card: a checkpoint loaded in 4 bits, its adapter merged, and the training command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hart_lite.config.sections import ModelSection
from hart_lite.export.merge import merge
from hart_lite.export.verify import image_and_question
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.perf.card.context import Card
from hart_lite.perf.card.stages import part
from hart_lite.perf.step_time.models import random_model
from hart_lite.runs.run_dir import save_adapter
from hart_lite.toy.model import build_processor, toy_tokenizer

SMALL = [*(f"stages.{n}.steps=2" for n in range(3)), "data.toy.eval_scenes=4", "data.toy.scenes=32"]


def merged(card: Card, found: dict[str, Any]) -> None:
    """Four layers of true width with few words, in 4 bits: what the merged checkpoint says against what the adapter on
    its 4-bit base says, as a share of the logits' standard deviation; the adapter itself moves them by `moved`."""
    base, adapter, out = (card.folder / name for name in ("base", "adapter", "merged"))
    words = {"vocab_size": 2048, "tie_word_embeddings": False}
    preset = replace(card.sizes.narrow, device=card.device.type)
    model = random_model(replace(preset, text=preset.text | words)).to(torch.bfloat16)
    model.save_pretrained(base)
    toy_tokenizer().save_pretrained(base)
    build_processor().save_pretrained(base)
    del model
    section = ModelSection(base=str(base), quant="nf4", dtype="bfloat16", device=card.device.type)
    policy = load_policy(section)
    found["adapters"] = sorted({str(p.dtype) for p in policy.adapter_parameters})
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    batch = image_and_question(policy.family)
    with_adapter = logits(policy.model, batch)
    with policy.reference():
        alone = logits(policy.model, batch)
    save_adapter(policy, adapter)
    found["seconds to merge"] = card.seconds(lambda: found.update(proof=merge(adapter, out, base="dequant").text()))
    again = load_policy(replace_base(section, out))
    with again.reference():
        found["difference"] = ((logits(again.model, batch) - with_adapter).abs().mean() / with_adapter.std()).item()
    found["moved"] = ((with_adapter - alone).abs().mean() / with_adapter.std()).item()
    part(found, "loaded again", loaded_again, section, adapter, batch, with_adapter)


def replace_base(section: ModelSection, base: Path) -> ModelSection:
    return section.model_copy(update={"base": str(base), "quant": "none"})


def loaded_again(section: ModelSection, adapter: Path, batch: dict, before: torch.Tensor) -> dict[str, float]:
    policy: Policy = load_policy(section, adapter)
    return {"largest difference": (logits(policy.model, batch) - before).abs().max().item()}


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    parameter = next(model.model.visual.parameters())
    kind = {"pixel_values": parameter.dtype}
    moved = {name: value.to(parameter.device, kind.get(name)) for name, value in batch.items()}
    return model(**moved, use_cache=False).logits.float()


def train(card: Card, found: dict[str, Any]) -> None:
    """`hart-lite train tiny_cpu` on the device, a few steps a stage, in `auto` precision and in 4 bits."""
    device = card.device.type
    environment = os.environ | ({} if card.cuda else {"OMP_NUM_THREADS": "1"})
    for name, changes in (("auto", ["model.dtype=auto"]), ("nf4", ["model.dtype=auto", "model.quant=nf4"])):
        out = card.folder / f"run-{name}"
        command = [
            sys.executable,
            "-m",
            "hart_lite.cli.main",
            "train",
            "tiny_cpu",
            f"output={out}",
            f"model.device={device}",
        ]
        ended = subprocess.run([*command, *changes, *SMALL], capture_output=True, text=True, env=environment)
        found[name] = {"exit code": ended.returncode, "said": [text[-300:] for text in said(ended)], "last": last(out)}
        if not card.cuda:  # once is enough where the tests do the rest
            break
    if any(row["exit code"] for row in found.values()):
        raise RuntimeError("the command failed: see what it said")


def said(ended: subprocess.CompletedProcess) -> list[str]:
    """The end of its output, and of its errors where it failed."""
    lines = ended.stdout.splitlines()[-6:]
    return lines + (ended.stderr.splitlines()[-40:] if ended.returncode else [])


def last(run: Path) -> dict[str, Any]:
    """The last row of each stage's metrics."""
    file, rows = run / "metrics.jsonl", {}
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        row = json.loads(text)
        if "loss" in row:
            rows[row.get("stage", "")] = {key: row[key] for key in ("loss", "peak_memory_gib", "skipped") if key in row}
    return rows
