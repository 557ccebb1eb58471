"""The toy data: large scenes with small coloured shapes that carry a character, and questions about them.

A scene is drawn at `size` pixels a side. At the small budget a model sees it at, most characters are a few pixels
high and cannot be read; the shapes and colours can. So the answer is found by looking at the right place, and only
there. One shape in each scene is large enough to be read from the small image. Questions about it (a share of them,
`glance_share`) can be answered without looking anywhere, which is the misspecified reward the closed loop is there for.

Everything follows from (seed, index): no file is read, and the same scene is drawn on every machine.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw

from hart_lite.config.sections import ToySection
from hart_lite.data.images import DECODED
from hart_lite.errors import HartError
from hart_lite.toy.glyphs import GLYPHS, glyph_mask
from hart_lite.types import Box, Example

HELD_OUT = 1_000_000_000  # scenes from this index on are never trained on
COLOURS = {
    "red": (214, 39, 40),
    "green": (30, 150, 60),
    "blue": (35, 80, 220),
    "yellow": (245, 215, 30),
    "purple": (140, 50, 170),
    "orange": (250, 130, 20),
    "cyan": (30, 200, 220),
    "white": (248, 248, 248),
}
SHAPES = ("square", "circle", "triangle", "diamond", "cross")
LIGHT = {"yellow", "orange", "cyan", "white"}  # these carry a dark character, the others a light one
CHOICES = 5
SMALL_SIDE = (0.115, 0.165)  # of a shape, as shares of the scene's side: 77 to 111 px at 672 px


@dataclass(frozen=True)
class World:
    """What scenes may contain. Two worlds with different colours or counts share a model."""

    size: int = 672  # pixels a side
    objects: tuple[int, int] = (3, 6)
    colours: tuple[str, ...] = tuple(COLOURS)
    glyphs: int = len(GLYPHS)
    glance_share: float = 0.7
    seed: int = 0
    big_side: ClassVar[tuple[float, float]] = (0.40, 0.48)

    def __post_init__(self) -> None:
        unknown = [c for c in self.colours if c not in COLOURS]
        if unknown:
            raise HartError(f"toy colours {unknown} are unknown; choose from {', '.join(COLOURS)}")
        if len(set(self.colours)) < len(self.colours):
            raise HartError(f"toy colours {list(self.colours)} repeat one: its shapes could not be told apart")
        if not CHOICES <= self.glyphs <= len(GLYPHS):
            raise HartError(f"toy glyphs = {self.glyphs}; allowed: {CHOICES} to {len(GLYPHS)}")
        low, high = self.objects
        if not 1 <= low <= high <= 8 or high > len(self.colours) * len(SHAPES):
            raise HartError(
                f"toy objects = {list(self.objects)} with {len(self.colours)} colours; allowed: 1 <= min <= max <= 8 "
                f"and at most colours x {len(SHAPES)} shapes"
            )
        if not 0 <= self.glance_share <= 1:
            raise HartError(f"toy glance_share = {self.glance_share}; allowed: 0 to 1")
        if not 168 <= self.size <= 8192:
            raise HartError(f"toy size = {self.size} px; allowed: 168 to 8192")

    def draw_big(self, rng: random.Random, count: int) -> list[bool]:
        """Which of the `count` things of a scene are big: one. What can be read at a glance needs no looking up."""
        chosen = rng.randrange(count)
        return [i == chosen for i in range(count)]


@dataclass(frozen=True)
class Thing:
    colour: str
    shape: str
    glyph: str
    box: Box
    big: bool


@dataclass(frozen=True)
class Scene:
    """An image source that draws itself."""

    world: World
    index: int

    @property
    def key(self) -> str:
        return f"toy-{self.world.seed}-{self.index}"

    def size(self) -> tuple[int, int]:
        return (self.world.size, self.world.size)

    def load(self) -> Image.Image:
        return DECODED.get((self.world, self.index), lambda: _draw(self))

    @property
    def things(self) -> tuple[Thing, ...]:
        return _layout(self.world, self.index)


@functools.lru_cache(maxsize=65536)
def _layout(world: World, index: int) -> tuple[Thing, ...]:
    rng = random.Random(f"{world.seed}/{index}")
    count = rng.randint(*world.objects)
    if count <= len(world.colours):  # the colour alone says which; a shape may be there several times
        kinds = [(colour, rng.choice(SHAPES)) for colour in rng.sample(world.colours, count)]
    else:
        kinds = rng.sample([(c, s) for c in world.colours for s in SHAPES], count)
    glyphs = rng.choices(GLYPHS[: world.glyphs], k=count)
    bigs = world.draw_big(rng, count)
    order = sorted(range(count), key=lambda i: not bigs[i])  # the big ones need the room
    placed: dict[int, Box] = {}
    while len(placed) < count:
        placed = _place(rng, world, order, bigs)
    return tuple(
        Thing(colour, shape, glyph, placed[i], bigs[i])
        for i, ((colour, shape), glyph) in enumerate(zip(kinds, glyphs, strict=True))
    )


def _place(rng: random.Random, world: World, order: list[int], bigs: list[bool]) -> dict[int, Box]:
    """Boxes that do not touch; fewer than asked when a layout gets stuck (the caller draws another)."""
    placed: dict[int, Box] = {}
    size, gap = world.size, world.size * 0.02
    for i in order:
        low, high = world.big_side if bigs[i] else SMALL_SIDE
        for _ in range(60):
            width = rng.uniform(low, high) * size
            height = min(max(width * rng.uniform(0.85, 1.18), low * size), high * size)
            x, y = rng.uniform(gap, size - width - gap), rng.uniform(gap, size - height - gap)
            box = Box(round(x), round(y), round(x + width), round(y + height))
            if all(
                box.x2 + gap < b.x1 or b.x2 + gap < box.x1 or box.y2 + gap < b.y1 or b.y2 + gap < box.y1
                for b in placed.values()
            ):
                placed[i] = box
                break
        else:
            break
    return placed


def _background(size: int, rng: random.Random) -> Image.Image:
    """A smooth gradient, which tells a position by its tint, under faint streaks."""
    ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
    pixels = np.empty((size, size, 3), np.float32)
    pixels[..., 0] = 70 + 90 * ramp[None, :]
    pixels[..., 1] = 110
    pixels[..., 2] = 70 + 90 * ramp[:, None]
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(6):
        x, y = rng.uniform(0, size), rng.uniform(0, size)
        w, h = rng.uniform(0.05, 0.5) * size, rng.uniform(0.02, 0.1) * size
        shade = rng.choice(((255, 255, 255, 14), (0, 0, 0, 18)))
        draw.rectangle((x, y, x + w, y + h), fill=shade)
    return image


def draw_thing(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    x1, y1, x2, y2 = thing.box.xyxy
    cx, cy, fill = (x1 + x2) / 2, (y1 + y2) / 2, COLOURS[thing.colour]
    if thing.shape == "square":
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=fill)
    elif thing.shape == "circle":
        draw.ellipse((x1, y1, x2 - 1, y2 - 1), fill=fill)
    elif thing.shape == "triangle":
        draw.polygon(((cx, y1), (x2 - 1, y2 - 1), (x1, y2 - 1)), fill=fill)
    elif thing.shape == "diamond":
        draw.polygon(((cx, y1), (x2 - 1, cy), (cx, y2 - 1), (x1, cy)), fill=fill)
    else:
        third_w, third_h = (x2 - x1) / 4, (y2 - y1) / 4
        draw.rectangle((x1 + third_w, y1, x2 - 1 - third_w, y2 - 1), fill=fill)
        draw.rectangle((x1, y1 + third_h, x2 - 1, y2 - 1 - third_h), fill=fill)
    # The character: 5 x 7 cells, as high as the shape leaves room for.
    height = (y2 - y1) * (0.42 if thing.shape in ("triangle", "diamond") else 0.5)
    width = height * 5 / 7
    top = cy - height / 2 + (0.18 * (y2 - y1) if thing.shape == "triangle" else 0)
    mask = glyph_mask(thing.glyph).resize((max(round(width), 5), max(round(height), 7)), Image.Resampling.NEAREST)
    ink = (20, 20, 20) if thing.colour in LIGHT else (250, 250, 250)
    draw.bitmap((round(cx - width / 2), round(top)), mask, fill=ink)


def _draw(scene: Scene) -> Image.Image:
    image = _background(scene.world.size, random.Random(f"{scene.world.seed}/{scene.index}/background"))
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        draw_thing(draw, thing)
    return image


def question(thing: Thing) -> str:
    return f"Which character is on the {thing.colour} {thing.shape}?"


def toy_scenes(spec: ToySection) -> World:
    chosen = {"colours": None if spec.colours is None else tuple(spec.colours), "glyphs": spec.glyphs}
    return World(
        size=spec.size,
        objects=spec.objects,
        glance_share=spec.glance_share,
        seed=spec.seed,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def examples(world: World, scenes: range, questions_per_scene: int = 2) -> list[Example]:
    """Questions about the scenes with these indices, each with five choices and its exact box.

    With probability `world.glance_share` a question is about the big thing (with other choices, where it is asked about
    again), otherwise about a small one of which nothing was asked yet. The choices hold the characters of other things
    in the scene first: whoever reads the wrong thing gets it wrong.
    """
    out = []
    for index in scenes:
        scene = Scene(world, index)
        rng = random.Random(f"{world.seed}/{index}/questions")
        things = scene.things
        [big], small = [t for t in things if t.big], [t for t in things if not t.big]
        rng.shuffle(small)
        for number in range(questions_per_scene):
            thing = big if rng.random() < world.glance_share or not small else small.pop()
            seen = sorted({t.glyph for t in things} - {thing.glyph})
            others = [g for g in GLYPHS[: world.glyphs] if g != thing.glyph and g not in seen]
            rng.shuffle(seen)
            wrong = (seen + rng.sample(others, len(others)))[: CHOICES - 1]
            choices = [thing.glyph, *wrong]
            rng.shuffle(choices)
            out.append(
                Example(
                    id=f"{scene.key}-{number}",
                    images=(scene,),
                    question=question(thing),
                    answer="ABCDE"[choices.index(thing.glyph)],
                    choices=tuple(choices),
                    boxes=(thing.box,),
                    category="big" if thing.big else "small",
                )
            )
    return out
