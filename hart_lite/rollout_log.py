"""Rollouts kept for people: what was asked, where the model looked, what it read, what it earned, with pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hart_lite.images import draw_boxes, view_pixels
from hart_lite.types import Example, Group, Trajectory

QUESTIONS, SAMPLES = 2, 4  # kept of each logged step
SIDE = 480  # pixels of the longer side of a kept picture
CROP_SIDE = 112


def save_rollouts(folder: Path, step: int, groups: Sequence[Group]) -> None:
    """`folder/step-00010.jsonl` with transcripts, and one JPEG for each question: the image with its boxes and crops.

    Boxes of right answers are green, of wrong ones red.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n, group in enumerate(groups[:QUESTIONS]):
        picture = f"step-{step:05d}-{n}.jpg"
        shown = group.trajectories[:SAMPLES]
        draw_rollout(group.example, shown).save(folder / picture, quality=85)
        rows += [{"picture": picture, **transcript(group.example, t)} for t in shown]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"step-{step:05d}.jsonl").write_text(text, encoding="utf-8")


def transcript(example: Example, trajectory: Trajectory) -> dict:
    return {
        "id": example.id,
        "question": example.question,
        "choices": list(example.choices),
        "answer": example.answer,
        "boxes": [[*box.xyxy, box.image] for box in trajectory.boxes],
        "turns": [{"kind": turn.kind, "text": turn.text} for turn in trajectory.turns],
        "reward": trajectory.reward,
    }


def draw_rollout(example: Example, trajectories: Sequence[Trajectory]) -> Image.Image:
    """The first image with everyone's boxes, and to its right the crops each trajectory answered from."""
    image = example.images[0].load()
    scale = SIDE / max(image.size)
    small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    for t in trajectories:
        colour = "#2ca02c" if t.reward else "#d62728"
        boxes = [type(b)(*(v * scale for v in b.xyxy), b.image) for b in t.boxes if b.image == 0]
        small = draw_boxes(small, boxes, colour, 2)
    crops = [
        [slot.view for slot in t.turns[1].prompt.slots if slot.view.box is not None] if len(t.turns) > 1 else []
        for t in trajectories
    ]
    widest = max((len(views) for views in crops), default=0)
    height = max(small.height, CROP_SIDE * len(trajectories))
    sheet = Image.new("RGB", (small.width + widest * CROP_SIDE, height), "white")
    sheet.paste(small, (0, 0))
    for row, views in enumerate(crops):
        for column, view in enumerate(views):
            crop = view_pixels(view)
            crop.thumbnail((CROP_SIDE - 8, CROP_SIDE - 8))
            sheet.paste(crop, (small.width + column * CROP_SIDE + 4, row * CROP_SIDE + 4))
    return sheet
