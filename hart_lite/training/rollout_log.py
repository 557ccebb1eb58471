"""Rollouts kept for people: what was asked, where the model looked, what it read, what it earned, with pictures.

rollouts/step-00010.jsonl           a row for each sample that is kept
rollouts/step-00010-0.jpg           question 0 on one sheet: image, boxes, crops, answers
rollouts/step-00010-0-photo.jpg     its image, scaled down, and
rollouts/step-00010-0-2-1.jpg       what sample 2 was shown of its second box: pages put these together themselves
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hart_lite.data.drawing import Mark, colour_of, crop_of, panel, scaled
from hart_lite.data.images import jpeg
from hart_lite.types import Example, Group, Trajectory, load_checked
from hart_lite.utils.files import write_whole
from hart_lite.utils.jsonl import write_jsonl
from hart_lite.utils.phase import begin_phase

QUESTIONS, SAMPLES = 2, 4  # kept of each logged step
SIDE, CROP_SIDE, SHEET_SIDE = 960, 320, 720  # most pixels of the longer sides


def save_rollouts(folder: Path, step: int, groups: Sequence[Group]) -> None:
    """`folder/step-00010.jsonl` with transcripts, and the pictures of each question."""
    begin_phase("rollout log")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n, group in enumerate(groups[:QUESTIONS]):
        name, shown, image = f"step-{step:05d}-{n}", group.trajectories[:SAMPLES], load_checked(group.example.images[0])
        about = {"picture": f"{name}.jpg", "photo": f"{name}-photo.jpg", "size": list(image.size)}
        _save(folder / about["picture"], draw_rollout(group.example, shown))
        _save(folder / about["photo"], scaled(image, min(1.0, SIDE / max(image.size))))
        for s, trajectory in enumerate(shown):
            crops = [f"{name}-{s}-{c}.jpg" for c in range(len(trajectory.crops))]
            for crop, view in zip(crops, trajectory.crops, strict=True):
                _save(folder / crop, crop_of(load_checked(view.source), view.box, CROP_SIDE))
            rows.append({**about, "crops": crops, **transcript(group.example, trajectory)})
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
    """The first image with everyone's boxes, numbered by sample, the crops that each was shown, and the answers."""
    marks = [
        Mark(box, str(s + 1), colour_of(s), view.box)
        for s, t in enumerate(trajectories)
        for box, view in zip(t.boxes, t.crops, strict=True)
        if box.image == 0
    ]
    answers = "    ".join(f"{s + 1}: {_said(t)}" for s, t in enumerate(trajectories))
    asked = f"{example.question} [{example.answer}]"
    return panel(load_checked(example.images[0]), marks, [asked, answers], (SHEET_SIDE, SHEET_SIDE))


def _said(trajectory: Trajectory) -> str:
    sign = "\N{CHECK MARK}" if trajectory.reward > 0.5 else "\N{BALLOT X}"
    answer = trajectory.answer or trajectory.turns[-1].text or "no answer"
    return f"{answer} {sign}" if trajectory.answered else "no box"


def _save(path: Path, image: Image.Image) -> None:
    write_whole(path, jpeg(image, quality=85))
