"""Pretrain the tiny base: `python -m experiments.pretrain_toy.train --out FOLDER` (80 minutes, mostly on one core).

A model this small learns nothing from question-answer rows alone for thousands of steps, so it is taught in parts:

1. see      the vision tower under throw-away heads: what is in a crop; per token of a scene, which thing, where
2. join     with the language model, on the prompts of the loops: locate (few things first, then many), describe,
            read a crop, answer
3. blur     the same, but a locate target is often another thing, of the same shape where there is one, and an answer
            at a glance is often the first of the options
4. glance   on scenes with one big thing: what is large is answered from the full image, whatever a crop beside it
            shows; the locate targets stay blurred
5. settle   the same with more boxes and more wrong crops, at a lower learning rate

The last three parts make a base worth training: it knows where things are and often picks the wrong one, and with the
image in sight a wrong box costs it little, as the paper's table 1 has it of large models. Answers are never rewarded
here: reinforcement learning finds the base as supervised training left it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from experiments.pretrain_toy.samples import Sample, Teacher
from experiments.pretrain_toy.vision import Sight
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.toy.model import LARGEST_NUMBER, build
from hart_lite.types import ImageView, Tokens

STAGES = {"see": 2400, "join": 3000, "blur": 240, "glance": 800, "settle": 400}
WRONG = 0.85  # how often, in the blur, a thing is taken for another of its shape, and the first option for the answer
BATCH = 48
# What a step of the last two parts holds; see `Trainer.glance`.
GLANCE = {"describe": 0, "locate": 8, "verify": 4, "glance": 6, "big": 0.7, "elsewhere": 0.7}
SETTLE = {"describe": 2, "locate": 14, "verify": 3, "glance": 4, "big": 0.8, "elsewhere": 0.85}


class Trainer:
    def __init__(self, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
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
        return self.family.features(self.model, [view.load() for view in views])

    # -- 1. see ----------------------------------------------------------------------------------------------------

    def see(self, sight: Sight) -> torch.Tensor:
        """A crop is a quarter of a scene's work and its character the slowest thing to learn: three crops a scene."""
        teacher = self.teacher
        scenes = [teacher.scene() for _ in range(BATCH * 2 // 3)]
        things = [(s, teacher.rng.choice(s.things)) for s in scenes for _ in range(3)]
        features = self.features([teacher.full(s) for s in scenes] + [teacher.crop(s, t) for s, t in things])
        losses = sight.scenes(scenes, features[: len(scenes)])
        losses |= sight.crops([t for _, t in things], features[len(scenes) :])
        self.parts = {name: loss.item() for name, loss in losses.items()}
        return sum(losses.values())

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
        whole, hidden = self._read(samples)
        at, targets, weights = [], [], []
        for n, tokens in enumerate(whole):
            span = tokens.sampled[0]
            at += [hidden[n, span.start - 1 : span.stop - 1]]
            targets += tokens.ids[span.start : span.stop]
            tokens_weigh = self._weights(tokens.ids[span.start : span.stop])
            weights += [w / sum(tokens_weigh) for w in tokens_weigh]
        logps = self.model.lm_head(torch.cat(at)).log_softmax(-1)
        nll = -(self.soft[targets] * logps).sum(-1)
        return (nll * torch.tensor(weights)).sum() / len(samples)

    def _read(self, samples: Sequence[Sample]) -> tuple[list[Tokens], torch.Tensor]:
        """The samples with their targets, and the hidden states (N, T, H) after each of their tokens."""
        views = [slot.view for s in samples for slot in s.prompt.slots]
        features = iter(self.features(views)) if views else iter(())
        whole = [s.prompt + Tokens.response(self.family.response_ids(s.target)) for s in samples]
        longest = max(map(len, whole))
        ids = torch.full((len(whole), longest), self.family.pad_id)
        positions = torch.zeros(3, len(whole), longest, dtype=torch.long)
        for n, tokens in enumerate(whole):
            ids[n, : len(tokens)] = torch.tensor(tokens.ids)
            positions[:, n, : len(tokens)] = self.family.positions(tokens)
        embeds = self.model.get_input_embeddings()(ids)
        for n, tokens in enumerate(whole):
            for slot in tokens.slots:
                embeds[n, slot.start : slot.start + slot.length] = next(features)
        # Padding is on the right and attention is causal: no real token sees it.
        hidden = self.model.model.language_model(inputs_embeds=embeds, position_ids=positions).last_hidden_state
        return whole, hidden

    def _weights(self, ids: Sequence[int]) -> list[float]:
        """Weight of each token of a target. In ` red square[{"bbox_2d": [x1,y1,x2,y2]}]` the shape and the first corner
        are what must be looked up; which colour comes first is chance, and the second corner follows from the first."""
        line = [0.3, 3.0, 1.0, 4.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        if len(ids) % len(line) == 1 and self.open_box in ids:
            return [*line * (len(ids) // len(line)), 1.0]
        return [1.0] * len(ids)

    def join(self, progress: float, wrong: float = 0.0) -> torch.Tensor:
        teacher = self.teacher
        most = 2 + int(8 * progress) if progress < 0.5 else 6
        describe, locate = (16, 20) if progress < 0.5 else (8, 18)
        look = [teacher.describe(teacher.scene(most)) for _ in range(describe)]
        look += [teacher.locate(teacher.scene(most), wrong) for _ in range(locate)]
        copies = 4 if progress < 0.5 else 6
        read = [kind(teacher.scene()) for kind in (teacher.verify, teacher.with_crops) * copies]
        read += [teacher.direct(teacher.scene(), wrong) for _ in range(copies)]
        # Two batches, since the second kind of prompt is twice as long.
        return (self.say(look) * len(look) + self.say(read) * len(read)) / (len(look) + len(read))

    def glance(
        self, describe: int, locate: int, verify: int, glance: int, big: float, elsewhere: float
    ) -> torch.Tensor:
        """So many samples of each kind, and 14 of a crop beside the image, of which the share `big` is about the big
        thing."""
        teacher = self.teacher
        look = [teacher.describe(teacher.one_big(0.5)[0]) for _ in range(describe)]
        look += [teacher.locate(scene, WRONG, thing) for scene, thing in (teacher.one_big(0.5) for _ in range(locate))]
        read = [teacher.verify(*teacher.one_big(0.5)) for _ in range(verify)]
        read += [teacher.glance(*teacher.one_big(0.7), WRONG) for _ in range(glance)]
        beside = [teacher.beside_a_crop(*teacher.one_big(big), elsewhere) for _ in range(14)]
        batches = (look, read, beside)
        return sum(self.say(batch) * len(batch) for batch in batches) / sum(map(len, batches))

    def optimise(self, name: str, groups: list[dict], step_loss: Callable, steps: int, log: Callable) -> None:
        self.teacher.rng = random.Random(f"{self.seed}/{name}")
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
        """How often greedy reading hits, on 40 fresh samples of each kind: boxes within 4 px a side, and answers."""
        if name == "see":
            return " ".join(f"{part} {loss:.2f}" for part, loss in self.parts.items())
        teacher = self.teacher
        if name in ("glance", "settle"):
            big = [teacher.one_big(1.0) for _ in range(40)]
            kinds = {
                "locate": [teacher.locate(scene, 0.0, thing) for scene, thing in big],
                "verify": [teacher.verify(scene, thing) for scene, thing in big],
                "glance": [teacher.glance(scene, thing, 1.0) for scene, thing in big],
                "elsewhere": [teacher.beside_a_crop(scene, thing, 1.0) for scene, thing in big],
                "small": [teacher.beside_a_crop(*teacher.one_big(0.0), 0.0) for _ in range(40)],
            }
        else:
            draws = {kind: getattr(teacher, kind) for kind in ("locate", "verify", "direct", "with_crops")}
            kinds = {kind: [draw(teacher.scene()) for _ in range(40)] for kind, draw in draws.items()}
        return " ".join(f"{kind} {self._hits(samples, kind):.2f}" for kind, samples in kinds.items())

    def _hits(self, samples: list[Sample], kind: str) -> float:
        """Teacher-forced share of samples right (numbers within 4 px)."""
        hits = 0
        for s in samples:
            [whole], hidden = self._read([s])
            span = whole.sampled[0]
            said = self.model.lm_head(hidden[0, span.start - 1 : span.stop - 1]).argmax(-1).tolist()
            pairs = list(zip(said, whole.ids[span.start : span.stop], strict=True))
            if kind == "locate":
                words = [(self.family.text([a]), self.family.text([b])) for a, b in pairs]
                hits += all(abs(int(a) - int(b)) <= 4 if a.isdigit() and b.isdigit() else a == b for a, b in words)
            else:
                hits += all(a == b for a, b in pairs)
        return hits / len(samples)


def pretrain(out: Path, seed: int = 0, stages: dict[str, int] = STAGES, log: Callable = print) -> Trainer:
    """Train the parts in order. `out/parts` keeps the weights after each: those up to the last that is there are not
    repeated."""
    trainer = Trainer(out, seed)
    sight = Sight(trainer.family.tokenizer, trainer.model.get_input_embeddings().weight)
    seeing = [*trainer.model.model.visual.parameters(), *sight.parameters()]
    parts = {
        "see": ([{"params": seeing, "lr": 1.5e-3}], lambda _: trainer.see(sight)),
        "join": (trainer.groups(1.5e-3), trainer.join),
        "blur": (trainer.groups(6e-4), lambda _: trainer.join(1.0, WRONG)),
        "glance": (trainer.groups(1e-3), lambda _: trainer.glance(**GLANCE)),
        "settle": (trainer.groups(6e-4), lambda _: trainer.glance(**SETTLE)),
    }
    names = [f"{name}-{stages[name]}" for name in parts]
    kept = [out / "parts" / "-".join([str(seed), *names[: n + 1]]) for n in range(len(parts))]
    done, minutes = max((n + 1 for n, path in enumerate(kept) if path.exists()), default=0), {}
    if done:
        load_model(trainer.model, kept[done - 1])
        with safe_open(kept[done - 1], "pt") as file:
            minutes = json.loads(file.metadata()["minutes"])
    for path, (name, (groups, step_loss)) in list(zip(kept, parts.items(), strict=True))[done:]:
        start = time.time()
        trainer.optimise(name, groups, step_loss, stages[name], log)
        minutes[name] = round((time.time() - start) / 60, 1)
        path.parent.mkdir(exist_ok=True)
        save_model(trainer.model, str(path), metadata={"minutes": json.dumps(minutes)})
    finish(trainer, out, {"seed": seed, "stages": stages, "wrong": WRONG, "minutes": minutes})
    return trainer


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
    pretrain(arguments.out, arguments.seed)
