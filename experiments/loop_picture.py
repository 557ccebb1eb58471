"""The loop on a photo, as the README shows it: `python -m experiments.loop_picture PHOTO --box L,T,R,B --out PICTURE`.

A drawing, not a measurement: the box is given, in pixels of the photo, and so are question and answer.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image

from hart_lite.boxes import expand
from hart_lite.data.images import ImageFile
from hart_lite.types import Box

GREEN, INK, SOFT = "#1a9850", "#1a1a1a", "#5a5a5a"


def draw(photo: Image.Image, box: Box, question: str, answer: str, seen: int, out: Path) -> None:
    """`box` in pixels of `photo`; `seen`: longer side of what the model sees of the whole photo, in pixels."""
    shrunk = photo.copy()
    shrunk.thumbnail((seen, seen))
    crop = photo.crop(expand(box, 0.1, photo.size).whole_pixels(photo.size))
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.6), facecolor="white")
    for panel in panels:
        panel.axis("off")
    _titled(panels[0], "1  locate", f"on the image at {shrunk.width} x {shrunk.height} pixels")
    panels[0].imshow(shrunk, interpolation="nearest")
    x, y = shrunk.width / photo.width, shrunk.height / photo.height
    corner, width, height = (box.x1 * x - 0.5, box.y1 * y - 0.5), (box.x2 - box.x1) * x, (box.y2 - box.y1) * y
    panels[0].add_patch(Rectangle(corner, width, height, fill=False, edgecolor=GREEN, linewidth=3))
    _titled(panels[1], "2  crop", f"from the original {photo.width} x {photo.height} pixels")
    panels[1].imshow(crop, interpolation="lanczos")
    panels[2].set_aspect("equal")
    _titled(panels[2], "3  verify, reward, update", "in a new context, from the crop alone")
    words = [(question, INK, "normal"), (f"“{answer}”", INK, "bold"), ("right: reward 1", GREEN, "bold")]
    for line, (text, colour, weight) in zip((0.86, 0.58, 0.42), words, strict=True):
        panels[2].text(0.04, line, text, color=colour, weight=weight, fontsize=13, va="top", wrap=True)
    panels[2].text(
        0.04, 0.22, "AP-GRPO then makes both turns of the\nsamples that earned more likely.\nNo box label is used.",
        color=SOFT, fontsize=11, va="top",
    )  # fmt: skip
    figure.tight_layout(w_pad=3)
    for left, right in pairwise(panels):
        ends = (left.get_position().x1 + 0.004, 0.46), (right.get_position().x0 - 0.004, 0.46)
        arrow = FancyArrowPatch(*ends, transform=figure.transFigure, arrowstyle="-|>", mutation_scale=22, color=INK)
        figure.add_artist(arrow)
    figure.savefig(out, dpi=100, pil_kwargs={"quality": 88})


def _titled(panel: plt.Axes, title: str, below: str) -> None:
    panel.set_title(f"{title}\n", loc="left", color=INK, weight="bold", fontsize=14)
    panel.text(0, 1.02, below, transform=panel.transAxes, color=SOFT, fontsize=11)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--box", required=True, metavar="L,T,R,B", help="pixels of the photo")
    parser.add_argument("--question", required=True)
    parser.add_argument("--answer", required=True)
    parser.add_argument("--seen", type=int, default=112, help="longer side of what the model sees, in pixels")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    box = Box(*map(float, arguments.box.split(",")))
    draw(ImageFile(arguments.photo).load(), box, arguments.question, arguments.answer, arguments.seen, arguments.out)


if __name__ == "__main__":
    main()
