"""What a reader of a run must know before believing it, in plain words: what was seen, and what to do about it.

Each check compares figures with limits that are stated here; none looks at more than metrics and evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import RLStage
from hart_lite.report.reader import Run
from hart_lite.runs.metrics_file import StageRows, values, without_signal

FEW_STEPS = 8  # fewer say nothing of a trend
TENTH = 10  # a trend is the last part of so many against the first
GROWN, LARGE = 1.5, 0.1  # coverage: times what it was, and share of the image, from which it is worth a word
FLAT = 0.6  # share of groups without a signal
KL = 1.0  # nats a token
GAP = 0.05  # nats a token between the distribution that is sampled and the one that is trained
VALID = 0.9  # share of samples with a usable box
MASS = 0.3  # of the probability of a policy that says what is scored
UNPLACED = 0.2  # share of samples whose boxes have no control region
AT_LIMIT = 0.95  # of the longest response allowed, on average
FEW_QUESTIONS = 50
WORSE = 0.03  # share of the held-out questions


@dataclass(frozen=True)
class Caution:
    title: str
    seen: str
    advice: str


def cautions(run: Run) -> list[Caution]:
    found = [w for rows, spec in run.rl for check in _OF_STAGE for w in check(rows, spec, run.recipe)]
    return found + [w for check in _OF_RUN for w in check(run)]


def first_and_last(series: Sequence[float]) -> tuple[Sequence[float], Sequence[float]] | None:
    """The first and the last tenth, at least three steps each; None for a series too short to have a trend."""
    if len(series) < FEW_STEPS:
        return None
    part = max(len(series) // TENTH, 3)
    return series[:part], series[-part:]


# -- of a stage ----------------------------------------------------------------------------------------------------


def _coverage(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    ends = first_and_last(values(stage.rows, "coverage"))
    if ends and fmean(ends[1]) > max(GROWN * fmean(ends[0]), LARGE):
        yield Caution(
            "The boxes are growing",
            f"In {stage.name} they covered {_p(fmean(ends[0]))} of the image at first and {_p(fmean(ends[1]))} at the "
            "end. A box that holds everything is never wrong, and shows nothing.",
            "Look at the mean IoU below: if it fell, the boxes got large instead of right. Refuse such boxes with "
            "rollout.max_box_share=0.3, or make the crops poorer with a smaller pixels.crop.",
        )


def _no_signal(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    """From the first steps on: such a run only costs time."""
    reward = values(stage.rows, "reward")
    if without_signal(stage.rows) and not any(reward):
        yield Caution(
            "No sample has earned a reward",
            f"The reward of {stage.name} was 0 in each of its {len(reward):,} steps: nothing can be learned from that.",
            "Read what the model wrote (stages/*/rollouts/*.jsonl). No box: look at the format, or at "
            "rollout.max_tokens_locate. Wrong answers: begin with easier questions, give more pixels, or train SFT "
            "first. Right answers that are not paid: look at `answer` and `choices` in the data, or at your reward.",
        )
    elif without_signal(stage.rows):
        yield Caution(
            "Every group is flat",
            f"In each of the {len(reward):,} steps of {stage.name} all samples of a question earned the same (the mean "
            f"reward is {fmean(reward):.2f}): nothing can be learned from that.",
            "Draw more samples (rollout.samples), or hotter ones (rollout.temperature), and ask questions that are "
            "neither too easy nor out of reach.",
        )


def _flat(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    flat, reward = values(stage.rows, "flat_groups"), values(stage.rows, "reward")
    if len(flat) < FEW_STEPS or not reward or without_signal(stage.rows):
        return
    last = fmean(flat[-len(flat) // 4 :])
    if last <= FLAT:
        return
    earned = fmean(reward[-len(reward) // 4 :])
    if earned > 0.8:
        why = f"Nearly every sample is right ({_p(earned)}): there is little left to learn from these questions."
        advice = "Give harder questions, or stop the stage earlier."
    elif earned < 0.2:
        why = f"Nearly every sample is wrong ({_p(earned)} are right): the questions are out of reach."
        advice = "Begin with easier questions, give more pixels (pixels.full, pixels.crop) or train SFT first."
    else:
        why = f"The samples of a question agree, right or wrong ({_p(earned)} are right)."
        advice = "Draw more samples (rollout.samples), or hotter ones (rollout.temperature)."
    yield Caution(
        "Most groups teach nothing",
        f"In the last quarter of {stage.name} all samples of {_p(last)} of the questions earned the same. {why}",
        f"{advice} rollout.resample_flat_groups=2 replaces such questions within a step.",
    )


def _kl(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    series = values(stage.rows, "kl")
    recent = fmean(series[-5:]) if series else 0.0
    if recent > KL:
        yield Caution(
            "The policy has left its base",
            f"At the end of {stage.name} the KL divergence is {recent:.2f} nats a token; above {KL:g} answers tend to "
            "fall apart.",
            f"Divide the stage's learning rate (it is {spec.lr:g}) by three, or raise beta (it is {recipe.beta:g}).",
        )


def _sampling_gap(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    series = values(stage.rows, "sampling_gap")
    if series and (gap := fmean(series[-10:])) > GAP:
        yield Caution(
            "What is sampled is not what is trained",
            f"In the last steps of {stage.name} the log-prob of a token when it was drawn and in the update differ by "
            f"{gap:.2f} on average; rounding alone stays below {GAP:g}.",
            "The gradient belongs to another distribution than the samples. Compare with model.dtype=float32 or "
            "rollout.cuda_graph=false, and run `hart-lite check-base` on this base.",
        )


def _valid(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    series = values(stage.rows, "valid_box")
    if series and fmean(series[-10:]) < VALID:
        share = f" or that are larger than {recipe.rollout.max_box_share:g} of the image"
        yield Caution(
            "Many samples name no usable box",
            f"In the last steps of {stage.name} only {_p(fmean(series[-10:]))} of the samples had one. The others earn "
            "nothing, whatever they know.",
            "Read what the model wrote (stages/*/rollouts/*.jsonl): another format, a response cut short "
            "(rollout.max_tokens_locate), boxes outside the image"
            f"{share if recipe.rollout.max_box_share < 1 else ''}.",
        )


def _unscored(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    series = values(stage.rows, "answers_mass")
    if series and (mass := fmean(series[-10:])) < MASS:
        yield Caution(
            "What is scored is not what would be said",
            f"In the last steps of {stage.name} the scored texts had {_p(mass)} of the policy's probability.",
            "Rewards are then shares of a small part. Ask for an answer without words around it (prompts.choices), or "
            "use rollout.verify=sample.",
        )


def _unplaced(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    series = values(stage.rows, "control_unplaced")
    if series and (share := fmean(series[-10:])) > UNPLACED:
        yield Caution(
            "Boxes leave no room for a control region",
            f"In the last steps of {stage.name} {_p(share)} of the samples with a box earned nothing for that.",
            "Look at the coverage. Where boxes over half of the image are right, use rollout.control_region=false.",
        )


def _cut_short(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    limits = {"locate": recipe.rollout.max_tokens_locate}
    limits |= dict.fromkeys(("verify", "answer"), recipe.rollout.max_tokens_answer)
    for turn, limit in limits.items():
        lengths = values(stage.rows, f"tokens_{turn}")
        if lengths and fmean(lengths[-10:]) > AT_LIMIT * limit:
            yield Caution(
                "Responses are cut short",
                f"In {stage.name} the {turn} turn is {fmean(lengths[-10:]):.0f} tokens long on average, and {limit} "
                "are allowed.",
                f"Raise rollout.max_tokens_{'locate' if turn == 'locate' else 'answer'}; what was cut off cannot be "
                "right.",
            )


def _skipped(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    skipped, losses = values(stage.rows, "skipped"), [row.get("loss") for row in stage.rows]
    bad = sum(isinstance(loss, float) and not math.isfinite(loss) for loss in losses)
    if sum(skipped) or bad:
        yield Caution(
            "Steps were lost",
            f"{max(int(sum(skipped)), bad)} steps of {stage.name} had gradients that are not finite, and changed "
            "nothing.",
            "A few are harmless in float16. If there are more, lower the learning rate, or use model.dtype=bfloat16 on "
            "a card that has it.",
        )


def _nothing_learned(stage: StageRows, spec: RLStage, recipe: Recipe) -> Iterator[Caution]:
    ends = first_and_last(values(stage.rows, "reward"))
    if not ends or without_signal(stage.rows):
        return
    (first, last), gain = ends, fmean(ends[1]) - fmean(ends[0])
    noise = math.sqrt(stdev(first) ** 2 / len(first) + stdev(last) ** 2 / len(last))
    if gain <= 2 * noise and fmean(last) < 0.9:
        yield Caution(
            "The reward did not rise" if gain >= -2 * noise else "The reward fell",
            f"{stage.name} began at {_p(fmean(first))} and ended at {_p(fmean(last))}; chance alone moves it by "
            f"{_p(2 * noise)}.",
            "Train longer (steps) or faster (lr, a few times higher), ask more questions a step, and look at the flat "
            "groups: without a signal there is nothing to follow.",
        )


_OF_STAGE: tuple[Callable[[StageRows, RLStage, Recipe], Iterator[Caution]], ...] = (
    *(_no_signal, _nothing_learned, _coverage, _flat, _kl, _sampling_gap, _valid, _unscored, _unplaced, _cut_short),
    _skipped,
)


# -- of the evaluations --------------------------------------------------------------------------------------------


def _not_measured(run: Run) -> Iterator[Caution]:
    if not run.evaluations:
        yield Caution(
            "Nothing was measured",
            "There are no held-out questions, so nobody knows whether this model is better than its base.",
            "Name some with data.eval=my/held_out.jsonl; with `boxes` in the rows, grounding is measured as well.",
        )
        return
    questions = next(iter(run.evaluations.values()))["questions"]
    if questions < FEW_QUESTIONS:
        yield Caution(
            "Few held-out questions",
            f"{questions} of them: each is {_p(1 / questions)}, so that small differences below are chance.",
            "Evaluate on some hundred (data.eval, data.eval_size).",
        )


def _worse(run: Run) -> Iterator[Caution]:
    """Each figure of the last evaluation against the first."""
    if len(run.evaluations) < 2:
        return
    before, *_, after = run.evaluations.values()
    for mode, share in before["accuracy"].items():
        now = after["accuracy"].get(mode, share)
        if now < share - WORSE:
            yield Caution(
                f"Held-out answers got worse ({mode})",
                f"{_p(share)} were right before, {_p(now)} after.",
                "If the reward rose meanwhile, the model has learned the training questions by heart: train shorter, "
                "or on more of them.",
            )
    old, new = before.get("grounding"), after.get("grounding")
    if not old or not new:
        return
    if new["wrong_grounding"] > old["wrong_grounding"] + WORSE:
        yield Caution(
            "The model looks in the wrong place more often",
            f"Wrong grounding went from {_p(old['wrong_grounding'])} to {_p(new['wrong_grounding'])} of the questions.",
            "Right answers do not need right boxes here. Use loop=hart, in which the second turn sees the crops alone; "
            "after SFT, raise keep_locate.",
        )
    elif new["coverage"] > GROWN * old["coverage"] and new["mean_iou"] < old["mean_iou"] + WORSE:
        yield Caution(
            "The boxes got larger, not better",
            f"They cover {_p(new['coverage'])} of the image, from {_p(old['coverage'])}, while the mean IoU went from "
            f"{_p(old['mean_iou'])} to {_p(new['mean_iou'])}.",
            "Wrong grounding falls by itself when boxes grow: believe the IoU. Try rollout.max_box_share=0.3.",
        )


def _boxes_lost(run: Run) -> Iterator[Caution]:
    if run.evaluations and (share := list(run.evaluations.values())[-1]["valid_box"]) < VALID:
        yield Caution(
            "Held-out questions without a box",
            f"For {_p(1 - share)} of them the model named no usable box at the last evaluation.",
            "Look at 'locate' in the turns of evaluation/*/predictions.jsonl: it is what the model wrote instead.",
        )


_OF_RUN: tuple[Callable[[Run], Iterator[Caution]], ...] = (_not_measured, _worse, _boxes_lost)


def _p(share: float) -> str:
    return f"{100 * share:.1f} %"
