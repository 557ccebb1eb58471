"""Rollouts kept for people: what was asked, where the model looked, what it read, what it earned, with pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from hart_lite.data.images import draw_boxes, jpeg
from hart_lite.types import Box, Example, Group, Trajectory
from hart_lite.utils.files import write_whole
from hart_lite.utils.jsonl import write_jsonl
from hart_lite.utils.phase import begin_phase

QUESTIONS, SAMPLES = 2, 4  # kept of each logged step
SIDE = 480  # pixels of the longer side of a kept picture
CROP_SIDE = 112
HEADER = 28  # pixels above it, for the question


def save_rollouts(folder: Path, step: int, groups: Sequence[Group]) -> None:
    """`folder/step-00010.jsonl` with transcripts, and one JPEG for each question: the image with its boxes and crops.

    Boxes of right answers are green, of wrong ones red.
    """
    begin_phase("rollout log")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n, group in enumerate(groups[:QUESTIONS]):
        picture = f"step-{step:05d}-{n}.jpg"
        shown = group.trajectories[:SAMPLES]
        write_whole(folder / picture, jpeg(draw_rollout(group.example, shown), quality=85))
        rows += [{"picture": picture, **transcript(group.example, t)} for t in shown]
    write_jsonl(folder / f"step-{step:05d}.jsonl", rows)


def transcript(example: Example, trajectory: Trajectory) -> dict:
    return {
        "id": example.id,
        "question": example.question,
        "choices": list(example.choices),
        "answer": example.answer,
        "boxes": [box.to_list() for box in trajectory.boxes],
        "turns": [{"kind": turn.kind, "text": turn.text} for turn in trajectory.turns],
        "reward": trajectory.reward,
    }


def draw_rollout(example: Example, trajectories: Sequence[Trajectory]) -> Image.Image:
    """Under the question, the first image with everyone's boxes; to its right one row of crops for each trajectory,
    framed as its boxes are, with what it answered from them."""
    image = example.images[0].load()
    scale = SIDE / max(image.size)
    small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    for t in trajectories:
        boxes = [Box(*(v * scale for v in b.xyxy)) for b in t.boxes if b.image == 0]
        small = draw_boxes(small, boxes, _colour(t), 2)
    crops = [t.crops for t in trajectories]
    columns = max(map(len, crops)) + 1  # the last one holds the answer
    height = max(small.height, CROP_SIDE * len(trajectories))
    sheet = Image.new("RGB", (small.width + columns * CROP_SIDE, HEADER + height), "white")
    sheet.paste(small, (0, HEADER))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    asked = f"{example.question}  [{example.answer}]"
    draw.text((6, 5), textwrap.shorten(asked, sheet.width // 8, placeholder=" .."), fill="black", font=font)
    for row, (t, views) in enumerate(zip(trajectories, crops, strict=True)):
        top = HEADER + row * CROP_SIDE
        for column, view in enumerate(views):
            crop = view.load()
            crop.thumbnail((CROP_SIDE - 12, CROP_SIDE - 12))
            framed = ImageOps.expand(crop, 2, _colour(t))
            sheet.paste(framed, (small.width + column * CROP_SIDE + 4, top + 4))
        said = textwrap.shorten(t.answer, 12, placeholder="..") or "no box"
        draw.text((small.width + len(views) * CROP_SIDE + 6, top + 6), said, fill=_colour(t), font=font)
    return sheet


def _colour(trajectory: Trajectory) -> str:
    return "#2ca02c" if trajectory.reward else "#d62728"
