"""What the tiny base is taught from: random scenes, prompts of the loops, and what should be said to them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.pretrain_toy.tokenizer import DESCRIBE
from hart_lite.config.prompts import Prompts
from hart_lite.inference.prompts import fill, locate_content, question_text, target_text
from hart_lite.models.families.base import Content
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.toy.glyphs import GLYPHS
from hart_lite.toy.scenes import CHOICES, Scene, Thing, World, question
from hart_lite.types import Box, Example, ImageView, Tokens

FULL, CROP, LEAST = 12544, 4704, 784  # pixel budgets, as in recipes/tiny_cpu.yaml


PROMPTS = Prompts()


class ManyBig(World):
    """A share of the things is big, two at most: to tell which character is whose, they must be looked up."""

    big_side = (0.31, 0.39)

    def draw_big(self, rng: random.Random, count: int) -> list[bool]:
        bigs = [rng.random() < 0.25 for _ in range(count)]
        return [big and sum(bigs[:i]) < 2 for i, big in enumerate(bigs)]


def content(
    template: str, example: Example, full: Sequence[ImageView] = (), crops: Sequence[ImageView] = ()
) -> Content:
    return fill(template, {"image": full, "crops": crops, "question": question_text(PROMPTS, example)})


@dataclass(frozen=True)
class Sample:
    """A prompt and what the base should say to it."""

    prompt: Tokens
    target: str


class Teacher:
    """Draws training samples: random scenes, random boxes around things, the loops' own prompts."""

    def __init__(self, family: Qwen25VL, seed: int) -> None:
        self.family, self.rng = family, random.Random(seed)
        self.seed = 10_000_000 + seed  # held-out scenes come from other seeds

    def scene(self, most: int = 6) -> Scene:
        # Half the resolution of the default scene: seen at 112 px it looks the same and draws three times faster.
        return self._scene(ManyBig, most)

    def _scene(self, kind: type[World], most: int = 6) -> Scene:
        world = kind(size=336, objects=(min(3, most), most), seed=self.seed)
        return Scene(world, self.rng.randrange(1 << 40))

    def one_big(self, share: float) -> tuple[Scene, Thing]:
        """A scene as the default world has it, and one of its things; with probability `share` the big one."""
        scene = self._scene(World)
        [big], small = [t for t in scene.things if t.big], [t for t in scene.things if not t.big]
        return scene, big if self.rng.random() < share else self.rng.choice(small)

    def full(self, scene: Scene) -> ImageView:
        return ImageView(scene, self.family.fit(scene.size(), FULL, LEAST))

    def crop(self, scene: Scene, thing: Thing, spread: float = 0.12) -> ImageView:
        """A box roughly around a thing: shifted, stretched and padded, as a sampled box would be."""
        gauss, w, h = self.rng.gauss, thing.box.width, thing.box.height
        pad = self.rng.uniform(0.0, 0.3)
        x1, x2 = thing.box.x1 - w * (pad + gauss(0, spread)), thing.box.x2 + w * (pad + gauss(0, spread))
        y1, y2 = thing.box.y1 - h * (pad + gauss(0, spread)), thing.box.y2 + h * (pad + gauss(0, spread))
        side = scene.world.size
        box = Box(max(x1, 0), max(y1, 0), min(max(x2, x1 + w / 3), side), min(max(y2, y1 + h / 3), side))
        return ImageView(scene, self.family.fit((round(box.width), round(box.height)), CROP, LEAST), box)

    def example(self, scene: Scene, thing: Thing) -> Example:
        seen = [t.glyph for t in scene.things if t.glyph != thing.glyph]
        pool = list(dict.fromkeys(self.rng.sample(seen, len(seen)) + self.rng.sample(GLYPHS, len(GLYPHS))))
        choices = [thing.glyph, *[g for g in pool if g != thing.glyph][: CHOICES - 1]]
        self.rng.shuffle(choices)
        answer = "ABCDE"[choices.index(thing.glyph)]
        return Example("", (scene,), question(thing), answer, tuple(choices))

    def locate(
        self, scene: Scene, wrong: float = 0.0, thing: Thing | None = None, found: Thing | None = None
    ) -> Sample:
        """The box is that of `found`, by default of `thing`. With probability `wrong` it is that of another thing of
        the same shape, where there is one; a third as often that of any other where there is none."""
        thing = thing or self.rng.choice(scene.things)
        full, example = self.full(scene), self.example(scene, thing)
        box = (found or thing).box
        others = [t for t in scene.things if t != thing]
        alike = [t for t in others if t.shape == thing.shape]
        if others and self.rng.random() < (wrong if alike else wrong / 3):
            box = self.rng.choice(alike or others).box
        # Saying what it looks for first makes it one step to look it up: the words stand right before the box.
        text = f" {thing.colour} {thing.shape}" + self.family.box_to_text([box], [full.size], [scene.size()])
        return Sample(self.family.chat(locate_content(PROMPTS, example, [full], self.family)), text)

    def verify(self, scene: Scene, thing: Thing | None = None) -> Sample:
        thing = thing or self.rng.choice(scene.things)
        example, crop = self.example(scene, thing), self.crop(scene, thing)
        return Sample(self.family.chat(content(PROMPTS.verify, example, crops=[crop])), target_text(example, "text"))

    def direct(self, scene: Scene, wrong: float = 0.0) -> Sample:
        """Mostly about something big, where there is something to be read. An open question; with `wrong`, one with
        options, and with that probability the first of them is the answer, whatever is seen."""
        thing = self.rng.choice([t for t in scene.things if t.big and self.rng.random() < 0.8] or scene.things)
        example = self.example(scene, thing)
        first = self.rng.random() < wrong
        asked = example if wrong else replace(example, choices=())
        answer = example.choices[0] if first else thing.glyph
        return Sample(self.family.chat(content(PROMPTS.answer, asked, [self.full(scene)])), answer)

    def with_crops(self, scene: Scene) -> Sample:
        thing = self.rng.choice(scene.things)
        example = self.example(scene, thing)
        return Sample(self._in_sight(example, scene, thing, thing), target_text(example, "text"))

    def _in_sight(self, example: Example, scene: Scene, thing: Thing, cropped: Thing) -> Tokens:
        """The full image and a crop: in one fresh prompt, or as the next turn of a conversation."""
        full, crop = self.full(scene), self.crop(scene, cropped)
        if self.rng.random() < 0.5:
            return self.family.chat(content(PROMPTS.answer_with_crops, example, [full], [crop]))
        first = self.locate(scene, thing=thing, found=cropped)
        prompt = first.prompt + Tokens(self.family.response_ids(first.target))
        return prompt + self.family.reply(content(PROMPTS.continue_with_crops, example, crops=[crop]), ended=True)

    def glance(self, scene: Scene, thing: Thing, wrong: float) -> Sample:
        """The character of a big thing; of a small one with probability `wrong` the first option, which is right by
        chance."""
        example = self.example(scene, thing)
        said = thing.glyph if thing.big or self.rng.random() > wrong else example.choices[0]
        return Sample(self.family.chat(content(PROMPTS.answer, example, [self.full(scene)])), said)

    def beside_a_crop(self, scene: Scene, thing: Thing, elsewhere: float) -> Sample:
        """The crop beside the full image shows the thing; of a big one, with probability `elsewhere`, another thing."""
        example, cropped = self.example(scene, thing), thing
        if thing.big and self.rng.random() < elsewhere:
            cropped = self.rng.choice([t for t in scene.things if t != thing])
        return Sample(self._in_sight(example, scene, thing, cropped), thing.glyph)

    def describe(self, scene: Scene) -> Sample:
        """Everything in the scene, in any order: from a colour to its shape and box, for each thing there is.

        This is what teaches looking up: a colour is given, its shape is a choice of five, and only the image tells.
        """
        full = self.full(scene)
        order = self.rng.sample(scene.things, len(scene.things))
        lines = [
            f" {t.colour} {t.shape}" + self.family.box_to_text([t.box], [full.size], [scene.size()]) for t in order
        ]
        return Sample(self.family.chat([full, DESCRIBE]), "".join(lines))
