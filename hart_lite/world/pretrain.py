"""Pretrain the tiny base: `python -m hart_lite.world.pretrain --out FOLDER` (an estimated 40 minutes on 2 cores).

A model this small learns nothing from question-answer rows alone for thousands of steps, so it is taught in parts:

1. see      the vision tower under throw-away heads: what is in a crop; per token of a scene, which thing, where
2. join     with the language model, on the prompts of the loops: locate (few things first, then many), describe,
            read a crop, answer
3. blur     the same, but a locate target is often another thing, of the same shape where there is one

The last part makes a base worth training: it knows where things are and often picks the wrong one. Answers are never
rewarded here: reinforcement learning finds the base as supervised training left it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from hart_lite import loops
from hart_lite.families.qwen2_5_vl import Qwen25VL
from hart_lite.images import view_pixels
from hart_lite.types import Box, Example, ImageView, Tokens
from hart_lite.world.base import DESCRIBE, LARGEST_NUMBER, build
from hart_lite.world.glyphs import GLYPHS
from hart_lite.world.scenes import CHOICES, COLOURS, SHAPES, Scene, Thing, World, question

FULL, CROP, LEAST = 12544, 4704, 784  # pixel budgets, as in recipes/tiny_cpu.yaml
SIDE = 112
STAGES = {"see": 2400, "join": 2400, "blur": 700}
BATCH = 48


@dataclass(frozen=True)
class Sample:
    """A prompt and what the base should say to it."""

    prompt: Tokens
    target: str


class Teacher:
    """Draws training samples: random scenes, random boxes around things, the loops' own prompts."""

    def __init__(self, family: Qwen25VL, seed: int) -> None:
        self.family, self.rng = family, random.Random(seed)
        self.world = World(seed=10_000_000 + seed)  # held-out scenes come from other seeds

    def scene(self, most: int = 6) -> Scene:
        # Half the resolution of the default scene: seen at 112 px it looks the same and draws three times faster.
        world = World(size=336, objects=(min(3, most), most), seed=self.world.seed)
        return Scene(world, self.rng.randrange(1 << 40))

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

    def locate(self, scene: Scene, wrong: float = 0.0, thing: Thing | None = None) -> Sample:
        thing = thing or self.rng.choice(scene.things)
        full, example = self.full(scene), self.example(scene, thing)
        box = thing.box
        others = [t for t in scene.things if t != thing]
        alike = [t for t in others if t.shape == thing.shape]
        if others and self.rng.random() < (wrong if alike else wrong / 3):
            box = self.rng.choice(alike or others).box
        # Saying what it looks for first makes it one step to look it up: the words stand right before the box.
        text = f" {thing.colour} {thing.shape}" + self.family.box_to_text([box], [full.size], [scene.size()])
        return Sample(self.family.chat(loops.locate_content(example, [full], self.family)), text)

    def verify(self, scene: Scene) -> Sample:
        thing = self.rng.choice(scene.things)
        example, crop = self.example(scene, thing), self.crop(scene, thing)
        return Sample(self.family.chat(loops.verify_content(example, [crop])), loops.target_text(example, "text"))

    def direct(self, scene: Scene) -> Sample:
        """Half of the time about something big, where there is something to be read."""
        thing = self.rng.choice([t for t in scene.things if t.big and self.rng.random() < 0.5] or scene.things)
        example = self.example(scene, thing)
        content = loops.direct_content(example, [self.full(scene)])
        answer = loops.target_text(example, "text")
        return Sample(self.family.chat(content), f" {thing.colour} {thing.shape}\n{answer}")

    def with_crops(self, scene: Scene) -> Sample:
        """The full image and a crop: in one fresh prompt, or as the next turn of a conversation."""
        thing = self.rng.choice(scene.things)
        example, full, crop = self.example(scene, thing), self.full(scene), self.crop(scene, thing)
        if self.rng.random() < 0.5:
            prompt = self.family.chat(loops.with_crops_content(example, [full], [crop]))
        else:
            first = self.locate(scene, thing=thing)
            prompt = first.prompt + Tokens(self.family.response_ids(first.target))
            prompt = prompt + self.family.reply(loops.sub_image_content(example, [crop]), ended=True)
        return Sample(prompt, loops.target_text(example, "text"))

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


class Trainer:
    def __init__(self, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = build(folder, seed).float()
        self.family = Qwen25VL(str(folder))
        self.teacher = Teacher(self.family, seed)
        self.soft = self._soft_targets()
        self.open_box = self.family.tokenizer('[{"bbox_2d": [')["input_ids"][0]

    def _soft_targets(self, sigma: float = 1.0) -> torch.Tensor:
        """(V, V): what counts as right. A number's neighbours count a little: a pixel off is nearly right."""
        tokenizer = self.family.tokenizer
        soft = torch.eye(self.model.config.text_config.vocab_size)
        ids = torch.tensor([tokenizer(str(n))["input_ids"][0] for n in range(LARGEST_NUMBER + 1)])
        numbers = torch.arange(LARGEST_NUMBER + 1)
        near = torch.exp(-((numbers[:, None] - numbers[None, :]) ** 2) / (2 * sigma**2))
        soft[ids[:, None], ids[None, :]] = near / near.sum(1, keepdim=True)
        return soft

    def features(self, views: list[ImageView]) -> list[torch.Tensor]:
        return self.family.features(self.model, [view_pixels(view) for view in views])

    # -- 1. see ----------------------------------------------------------------------------------------------------

    def see(self, heads: nn.ModuleDict) -> torch.Tensor:
        """A crop is a quarter of a scene's work and its character the slowest thing to learn: three crops a scene."""
        teacher = self.teacher
        scenes = [teacher.scene() for _ in range(BATCH * 2 // 3)]
        things = [(s, teacher.rng.choice(s.things)) for s in scenes for _ in range(3)]
        features = self.features([teacher.full(s) for s in scenes] + [teacher.crop(s, t) for s, t in things])
        losses = self._scene_losses(heads, scenes, features[: len(scenes)])
        losses |= self._crop_losses([t for _, t in things], features[len(scenes) :])
        self.parts = {name: loss.item() for name, loss in losses.items()}
        return sum(losses.values())

    def _number_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Heads for numbers read against the language model's own embeddings, so that both speak one code."""
        ids = [self.family.tokenizer(str(n))["input_ids"][0] for n in range(SIDE + 1)]
        return hidden @ self.model.get_input_embeddings().weight[ids].T * 1.5

    def _scene_losses(self, heads: nn.ModuleDict, scenes: list[Scene], features: list[torch.Tensor]) -> dict:
        """Per token: is there a thing, and its colour, shape, box and (big ones) character."""
        hidden = torch.stack(features)  # (B, 16, H)
        present = torch.zeros(hidden.shape[:2])
        picked, colour, shape, box, big, glyph = [], [], [], [], [], []
        for b, scene in enumerate(scenes):
            scale = SIDE / scene.world.size
            for cell in range(16):
                thing = _thing_in_cell(scene, cell, scale)
                if thing is None:
                    continue
                present[b, cell] = 1
                picked.append((b, cell))
                colour.append(list(COLOURS).index(thing.colour))
                shape.append(SHAPES.index(thing.shape))
                box.append([round(v * scale) for v in thing.box.xyxy])
                if thing.big:
                    big.append(len(picked) - 1)
                    glyph.append(GLYPHS.index(thing.glyph))
        rows, cells = zip(*picked, strict=True)
        at = hidden[list(rows), list(cells)]
        losses = {
            "present": F.binary_cross_entropy_with_logits(heads["present"](hidden).squeeze(-1), present),
            "colour": self._word_loss(at, [f" {c}" for c in COLOURS], colour),
            "shape": self._word_loss(at, [f" {s}" for s in SHAPES], shape),
        }
        targets = torch.tensor(box).clamp(0, SIDE)
        near = torch.exp(-((targets[..., None] - torch.arange(SIDE + 1)) ** 2) / 2)
        near = near / near.sum(-1, keepdim=True)
        logits = self._number_logits(heads["box"](at).unflatten(-1, (4, -1)))
        losses["box"] = -(near * logits.log_softmax(-1)).sum(-1).mean()
        if big:
            losses["glyph"] = self._word_loss(at[big], GLYPHS, glyph)
        return losses

    def _crop_losses(self, things: list[Thing], features: list[torch.Tensor]) -> dict:
        pooled = torch.stack([f.mean(0) for f in features])
        colours, shapes = [f" {c}" for c in COLOURS], [f" {s}" for s in SHAPES]
        return {
            "crop_colour": self._word_loss(pooled, colours, [list(COLOURS).index(t.colour) for t in things]),
            "crop_shape": self._word_loss(pooled, shapes, [SHAPES.index(t.shape) for t in things]),
            "crop_glyph": self._word_loss(pooled, GLYPHS, [GLYPHS.index(t.glyph) for t in things]),
        }

    def _word_loss(self, hidden: torch.Tensor, words: Sequence[str], labels: list[int]) -> torch.Tensor:
        """What is seen should look like its word: a red thing's token holds the embedding of " red"."""
        ids = [self.family.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
        return F.cross_entropy(hidden @ self.model.get_input_embeddings().weight[ids].T, torch.tensor(labels))

    def heads(self) -> nn.ModuleDict:
        return nn.ModuleDict({"present": nn.Linear(128, 1), "box": nn.Linear(128, 4 * 128)})

    def groups(self, lr: float) -> list[dict]:
        """The vision tower, which can see already, learns more slowly than the language model."""
        language = self.model.model.language_model
        return [
            {"params": list(language.parameters()), "lr": lr},
            {"params": list(self.model.model.visual.parameters()), "lr": lr / 4},
        ]

    # -- 2 and 3. say -----------------------------------------------------------------------------------------------

    def say(self, samples: list[Sample]) -> torch.Tensor:
        """Mean negative log-likelihood of the targets, with soft numbers."""
        views = [slot.view for s in samples for slot in s.prompt.slots]
        features = iter(self.features(views)) if views else iter(())
        embed = self.model.get_input_embeddings()
        whole = [s.prompt + Tokens.response(self.family.response_ids(s.target)) for s in samples]
        longest = max(map(len, whole))
        ids = torch.full((len(whole), longest), self.family.pad_id)
        positions = torch.zeros(3, len(whole), longest, dtype=torch.long)
        for n, tokens in enumerate(whole):
            ids[n, : len(tokens)] = torch.tensor(tokens.ids)
            positions[:, n, : len(tokens)] = self.family.positions(tokens)
        embeds = embed(ids)
        for n, tokens in enumerate(whole):
            for slot in tokens.slots:
                embeds[n, slot.start : slot.start + slot.length] = next(features)
        # Padding is on the right and attention is causal: no real token sees it.
        hidden = self.model.model.language_model(inputs_embeds=embeds, position_ids=positions).last_hidden_state
        at, targets, weights = [], [], []
        for n, tokens in enumerate(whole):
            (start, stop) = tokens.sampled[0]
            at += [hidden[n, start - 1 : stop - 1]]
            targets += tokens.ids[start:stop]
            tokens_weigh = self._weights(tokens.ids[start:stop])
            weights += [w / sum(tokens_weigh) for w in tokens_weigh]
        logps = self.model.lm_head(torch.cat(at)).log_softmax(-1)
        nll = -(self.soft[targets] * logps).sum(-1)
        return (nll * torch.tensor(weights)).sum() / len(samples)

    def _weights(self, ids: Sequence[int]) -> list[float]:
        """Weight of each token of a target. In ` red square[{"bbox_2d": [x1,y1,x2,y2]}]` the shape and the first corner
        are what must be looked up; which colour comes first is chance, and the second corner follows from the first."""
        line = [0.3, 3.0, 1.0, 4.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        if len(ids) % len(line) == 1 and self.open_box in ids:
            return [*line * (len(ids) // len(line)), 1.0]
        if len(ids) == 5:  # ` red square`, new line, character, end: the character is what must be looked up
            return [1.0, 1.0, 1.0, 4.0, 1.0]
        return [1.0] * len(ids)

    def join(self, progress: float, wrong: float = 0.0) -> torch.Tensor:
        teacher = self.teacher
        most = 2 + int(8 * progress) if progress < 0.5 else 6
        describe, locate = (16, 20) if progress < 0.5 else (8, 18)
        look = [teacher.describe(teacher.scene(most)) for _ in range(describe)]
        look += [teacher.locate(teacher.scene(most), wrong) for _ in range(locate)]
        kinds = (teacher.verify, teacher.direct, teacher.direct, teacher.with_crops) * (3 if progress < 0.5 else 5)
        read = [kind(teacher.scene()) for kind in kinds]
        # Two batches, since the second kind of prompt is twice as long.
        return (self.say(look) * len(look) + self.say(read) * len(read)) / (len(look) + len(read))

    def optimise(self, name: str, groups: list[dict], step_loss, steps: int, log) -> None:
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
        parameters = [p for group in groups for p in group["params"]]
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [group["lr"] for group in groups],
            total_steps=steps,
            pct_start=min(0.1, 100 / steps),
            final_div_factor=20,
        )
        start = time.time()
        for step in range(steps):
            loss = step_loss(step / steps)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if step % 150 == 149 or step == steps - 1:
                log(f"{name} {step + 1}/{steps} loss {loss.item():.3f} {time.time() - start:.0f}s " + self.probe(name))

    @torch.no_grad()
    def probe(self, name: str) -> str:
        """How often greedy reading hits, on 96 fresh samples: locate within 4 px a side, and the answers."""
        if name == "see":
            return " ".join(f"{part} {loss:.2f}" for part, loss in self.parts.items())
        out = []
        for kind in ("match",) if name == "match" else ("locate", "verify", "direct", "with_crops"):
            samples = [
                self.teacher.match(several=False)
                if kind == "match"
                else getattr(self.teacher, kind)(self.teacher.scene())
                for _ in range(40)
            ]
            out.append(f"{kind} {self._hits(samples, kind):.2f}")
        return " ".join(out)

    def _hits(self, samples: list[Sample], kind: str) -> float:
        """Teacher-forced share of samples right (numbers within 4 px)."""
        hits = 0
        for s in samples:
            whole = s.prompt + Tokens.response(self.family.response_ids(s.target))
            (start, stop) = whole.sampled[0]
            embeds = self.model.get_input_embeddings()(torch.tensor([whole.ids]))
            for slot, feature in (
                zip(whole.slots, self.features([x.view for x in whole.slots]), strict=True) if (whole.slots) else ()
            ):
                embeds[0, slot.start : slot.start + slot.length] = feature
            hidden = self.model.model.language_model(
                inputs_embeds=embeds, position_ids=self.family.positions(whole)[:, None]
            ).last_hidden_state[0, start - 1 : stop - 1]
            said = self.model.lm_head(hidden).argmax(-1).tolist()
            pairs = list(zip(said, whole.ids[start:stop], strict=True))
            if kind == "locate":
                words = [(self.family.text([a]), self.family.text([b])) for a, b in pairs]
                hits += all(abs(int(a) - int(b)) <= 4 if a.isdigit() and b.isdigit() else a == b for a, b in words)
            else:
                hits += all(a == b for a, b in pairs)
        return hits / len(samples)


def _thing_in_cell(scene: Scene, cell: int, scale: float) -> Thing | None:
    """The thing that fills most of one of the 4 x 4 token cells, if it fills enough of it to be seen there."""
    x, y = cell % 4 * 28, cell // 4 * 28
    best, most = None, 0.0
    for thing in scene.things:
        x1, y1, x2, y2 = (v * scale for v in thing.box.xyxy)
        overlap = max(0, min(x2, x + 28) - max(x1, x)) * max(0, min(y2, y + 28) - max(y1, y))
        share = overlap / min(784, (x2 - x1) * (y2 - y1))
        if share > max(most, 0.35):
            best, most = thing, share
    return best


def pretrain(out: Path, seed: int = 0, stages: dict[str, int] = STAGES, log=print) -> Trainer:
    trainer = Trainer(out, seed)
    model, start = trainer.model, time.time()
    heads = trainer.heads()
    eyes = list(model.model.visual.parameters())
    seeing = [{"params": [*eyes, *heads.parameters()], "lr": 1.5e-3}]
    trainer.optimise("see", seeing, lambda _: trainer.see(heads), stages["see"], log)
    trainer.optimise("join", trainer.groups(1.5e-3), trainer.join, stages["join"], log)
    blur(trainer, stages["blur"], log)
    finish(trainer, out, {"seed": seed, "stages": stages, "minutes": round((time.time() - start) / 60, 1)})
    return trainer


def blur(trainer: Trainer, steps: int, log, wrong: float = 1.0) -> None:
    trainer.optimise("blur", trainer.groups(6e-4), lambda _: trainer.join(1.0, wrong), steps, log)


def finish(trainer: Trainer, out: Path, facts: dict) -> None:
    """Half-precision safetensors (about 4 MB) and a record of how they came to be."""
    trainer.model.half().save_pretrained(out)
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    (out / "pretraining.json").write_text(json.dumps({**facts, "sha256": digest}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    pretrain(arguments.out, arguments.seed)
