"""The paper's two propositions, checked: `python -m experiments.proposition2 [EVALUATION or RUN ...]`.

Proposition 2 says that AP-GRPO takes the gradient of right answers with wrong boxes out of the baseline's:

    g_AP-GRPO = g_baseline - alpha * P(L=0, r=1) * E[grad log pi | L=0, r=1]     for some alpha in [0, 1]

The environment is one step of a softmax policy over a few trajectories, each with a right or wrong box (L) and a right
or wrong answer when the image is in sight (r). With the loop closed, a right answer behind a wrong box is withheld with
probability `withheld`. Gradients are expectations over groups of G samples, summed exactly: no sampling.

Proposition 1, I_HART(L;R) > I_baseline(L;R), is checked on the paper's counts and on whatever folders are given.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hart_lite.eval.grounding import mutual_information
from hart_lite.eval.metrics import metrics
from hart_lite.eval.results import is_evaluation, read_evaluation
from hart_lite.report.paper_tables.published import paper_table
from hart_lite.report.paper_tables.rows import JOINT
from hart_lite.rl.advantages import STD_EPS
from hart_lite.utils.markdown import markdown_table

RESULTS = Path(__file__).parent / "results" / "proposition2.md"
KS = (0.0, 0.15, 0.3, 0.6)
GROUP = 8
ACTIONS = 12
BETA = 0.01


@dataclass(frozen=True)
class Bandit:
    """A policy over `n` trajectories. `box` and `right` are 0 or 1; `reference` are the log-probs of another policy."""

    probs: np.ndarray
    box: np.ndarray
    right: np.ndarray
    withheld: float
    reference: np.ndarray

    @property
    def rewards(self) -> np.ndarray:
        """P(reward 1) of each trajectory with the loop closed."""
        return np.where(self.box == 1, self.right, self.right * (1 - self.withheld))

    @property
    def lucky(self) -> np.ndarray:
        """P(L=0, r=1) * E[grad log pi | L=0, r=1], by the policy's logits."""
        return self.ascent(self.right * (1 - self.box))

    def ascent(self, values: np.ndarray) -> np.ndarray:
        """E[value * grad log pi]: grad log pi(a) is the a-th unit vector less the policy."""
        return self.probs * values - self.probs * float(self.probs @ values)


def random_bandit(rng: np.random.Generator, actions: int = ACTIONS) -> Bandit:
    """Boxes right for two trajectories in five; answers right more often behind a right box. Every kind occurs."""
    while True:
        box = (rng.random(actions) < 0.4).astype(float)
        right = (rng.random(actions) < np.where(box == 1, 0.8, 0.5)).astype(float)
        kinds = {(int(b), int(r)) for b, r in zip(box, right, strict=True)}
        if {(0, 1), (1, 1)} <= kinds and 0 in right:
            break
    logits = rng.normal(0, 1.5, actions)
    return Bandit(_softmax(logits), box, right, rng.random(), np.log(_softmax(logits + rng.normal(0, 0.5, actions))))


def objective_gradient(bandit: Bandit, rewards: np.ndarray, k: float, beta: float, group: int = GROUP) -> np.ndarray:
    """Expected gradient of the AP-GRPO objective (method.md, section 2) at ratio 1; `rewards` are P(reward 1).

    Groups that agree carry nothing, neither of the policy term nor of the KL term, as in training.
    """
    p = float(bandit.probs @ rewards)
    weight = {r: _expected(p, group, r, lambda mean, std, r=r: (1 + k * (r - mean)) * (r - mean) / std) for r in (0, 1)}
    held = {r: _expected(p, group, r, lambda mean, std, r=r: beta * (1 - k * (r - mean))) for r in (0, 1)}
    drift = 1 - np.exp(bandit.reference) / bandit.probs  # d k3 / d log pi
    value = {r: weight[r] - held[r] * drift for r in (0, 1)}
    return bandit.ascent(rewards * value[1] + (1 - rewards) * value[0])


def gradient_scale(p: float, k: float, group: int = GROUP) -> float:
    """What the expected policy term is times grad P(r=1): it has that direction, whatever k."""
    one, nil = (_expected(p, group, r, lambda mean, std, r=r: (1 + k * (r - mean)) * (r - mean) / std) for r in (1, 0))
    return one - nil


def _expected(p: float, group: int, reward: int, weight: Callable[[float, float], float]) -> float:
    """Mean weight of a sample that earned `reward`, over how many of the other `group - 1` were right."""
    total = 0.0
    for others in range(group):
        right = others + reward
        if 0 < right < group:
            mean = right / group
            std = math.sqrt(right * (group - right) / group / (group - 1)) + STD_EPS
            total += math.comb(group - 1, others) * p**others * (1 - p) ** (group - 1 - others) * weight(mean, std)
    return total


@dataclass(frozen=True)
class Fit:
    """alpha of least squares, and the part of g_AP-GRPO - g_baseline that it leaves over, as a share of its length."""

    alpha: float
    residual: float


def fit(ap: np.ndarray, baseline: np.ndarray, lucky: np.ndarray) -> Fit:
    difference = ap - baseline
    alpha = -float(difference @ lucky) / float(lucky @ lucky)
    length = float(np.linalg.norm(difference))
    return Fit(alpha, float(np.linalg.norm(difference + alpha * lucky)) / length if length > 1e-12 else 0.0)


def fit_up_to_scale(ap: np.ndarray, baseline: np.ndarray, lucky: np.ndarray) -> Fit:
    """ap = c (baseline - alpha lucky) with c free: the residual is a share of the length of ap."""
    (c, minus), *_ = np.linalg.lstsq(np.stack([baseline, lucky], axis=1), ap, rcond=None)
    left = ap - c * baseline - minus * lucky
    return Fit(float(-minus / c), float(np.linalg.norm(left) / np.linalg.norm(ap)))


def readings(bandit: Bandit, k: float) -> dict[str, Fit]:
    """Proposition 2 under every reading of its two gradients."""
    open_, closed, lucky = bandit.right, bandit.rewards, bandit.lucky
    grpo = objective_gradient(bandit, open_, 0, 0)
    ap = objective_gradient(bandit, closed, k, 0)
    scaled = lucky * gradient_scale(float(bandit.probs @ open_), 0)
    ap_kl, grpo_kl = (objective_gradient(bandit, *how) for how in ((closed, k, BETA), (open_, 0, BETA)))
    return {
        PLAIN: fit(bandit.ascent(closed), bandit.ascent(open_), lucky),
        SAME: fit(ap, objective_gradient(bandit, closed, 0, 0), lucky),
        PRINTED: fit(ap, grpo, lucky),
        SCALED: fit_up_to_scale(ap, grpo, scaled),
        SCALED_KL: fit_up_to_scale(ap_kl, grpo_kl, scaled),
    }


PLAIN = "policy gradient of the reward itself, closed loop against open"
SAME = "AP-GRPO against GRPO, both in the closed loop"
PRINTED = "AP-GRPO in the closed loop against GRPO in the open one, as printed"
SCALED = "the same up to a positive factor, the last term scaled as GRPO's advantages are"
SCALED_KL = f"the same with the KL terms, beta = {BETA}"


def check_proposition_2(policies: int, seed: int = 0) -> dict[tuple[str, float], list[Fit]]:
    rng = np.random.default_rng(seed)
    bandits = [random_bandit(rng) for _ in range(policies)]
    found = {k: [readings(bandit, k) for bandit in bandits] for k in KS}
    # k is no part of the plain gradient.
    kinds = [(PLAIN, KS[0]), *((name, k) for name in (SAME, PRINTED, SCALED, SCALED_KL) for k in KS)]
    return {(name, k): [one[name] for one in found[k]] for name, k in kinds}


def proposition_2_table(found: dict[tuple[str, float], list[Fit]]) -> str:
    rows = []
    for (name, k), fits in found.items():
        alphas, residuals = [f.alpha for f in fits], [f.residual for f in fits]
        inside = sum(-1e-9 <= alpha <= 1 + 1e-9 for alpha in alphas) / len(fits)
        low, middle, high = np.quantile(alphas, (0.05, 0.5, 0.95)).round(2) + 0.0  # no -0.00
        spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        rows.append(
            [name, f"{k:.2f}", spread, f"{100 * inside:.1f}", _small(np.median(residuals)), _small(max(residuals))]
        )
    head = ["reading", "k", "alpha, median (5 % to 95 %)", "alpha in [0, 1], %", "residual, median", "residual, most"]
    return markdown_table(head, rows)


def scale_table(group: int = GROUP) -> str:
    """How k changes the length of the expected gradient of one question."""
    rates = (0.05, 0.25, 0.5, 0.75, 0.95)
    rows = [
        [f"{k:.2f}", *(f"{gradient_scale(p, k, group) / gradient_scale(p, 0, group):.3f}" for p in rates)] for k in KS
    ]
    return markdown_table(["k", *(f"P(r=1) = {p}" for p in rates)], rows)


def paper_information() -> list[tuple[str, float, float]]:
    """(model, I without HART, I with it) from the counts of the paper's table 1."""
    bits: dict[str, dict[bool, float]] = {}
    for row in paper_table(1)["rows"]:
        bits.setdefault(row["method"], {})[row["hart"]] = mutual_information(
            [[row[key] for key in keys] for keys in JOINT]
        )
    return [(name, both[False], both[True]) for name, both in bits.items()]


def measured_information(folder: Path) -> list[tuple[str, float, float]]:
    """(what, I of answers at a glance, I of answers from the crops alone), both with the boxes of one model, for every
    benchmark of an evaluation, or every evaluation of a run, the one before training first."""
    if is_evaluation(folder):
        parts = metrics(read_evaluation(folder))
    else:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        parts = {
            name: {m: {"joint": f} for m, f in figures.get("joint", {}).items()} for name, figures in summary.items()
        }
    out = []
    for name, modes in parts.items():
        if all("joint" in modes.get(mode, {}) for mode in ("full", "crops")):
            full, crops = (modes[mode]["joint"]["mutual_information"] for mode in ("full", "crops"))
            out.append((name, full, crops))
    return out


def report(policies: int, folders: Sequence[Path]) -> str:
    parts = [
        "# Propositions 1 and 2, checked",
        f"`python -m experiments.proposition2 --policies {policies}{' RUN ...' if folders else ''}`: exact gradients "
        f"of {policies:,} random softmax policies over {ACTIONS} trajectories, groups of {GROUP}.",
        "## Proposition 2",
        proposition_2_table(check_proposition_2(policies)),
        FOUND.format(least=min(gradient_scale(p / 100, 0) for p in range(1, 100))),
        "**Length of AP-GRPO's expected policy gradient of one question, over GRPO's**",
        scale_table(),
        "## Proposition 1",
        "I(L;R) in bits; the paper's from the counts of its table 1.",
        _information_table(["model (paper)", "without HART", "with HART"], paper_information()),
    ]
    measured = [(folder.name, measured_information(folder)) for folder in folders]
    if any(found for _, found in measured):
        rows = [(f"{name}, {what}", *bits) for name, found in measured for what, *bits in found]
        holds = sum(crops > full for _, full, crops in rows)
        trained = [
            (found[0][2], crops) for _, found in measured for _, _, crops in found[1:] if found[0][0] == "before"
        ]
        parts += [
            "Measured here, answers at a glance against answers from the crops alone, with the boxes of one model: it "
            f"holds in {holds} of {len(rows)}.",
            _information_table(["evaluation", "full", "crops"], rows),
            f"From crops alone, after training against before: higher in {sum(b > a for a, b in trained)} of "
            f"{len(trained)}. I(L;R) is bounded by the entropy of the answers and of the boxes: where training makes "
            "nearly all of both right there is little left to tell. Read it beside P(wrong box | right answer).",
        ]
    return "\n\n".join(parts) + "\n"


FOUND = f"""What this shows:

- Closing the loop does what the proposition says. Of the reward's own gradient it takes out the share `withheld` of
  the term of right answers with wrong boxes, and nothing else: alpha is that share, and the residual is 0.
- The weights of AP-GRPO do not. In expectation the policy term of one question has the direction of grad P(r=1) for
  every k: its weight depends on the reward alone, and E[grad log pi] = 0. In large groups k multiplies it by
  1 + k (1 - 2 P(r=1)): questions that are rarely right count for more, those that are often right for less. With the
  rewards the same on both sides no alpha explains the difference; where right answers are rare it is mostly below 0.
- As printed, AP-GRPO in the closed loop against GRPO in the open one, it does not hold: dividing by the standard
  deviation of the group gives the two gradients different lengths, and that difference is not along the last term.
- Up to a positive factor it holds exactly, with alpha = `withheld`, if the last term is scaled by what GRPO's
  advantages scale grad P(r=1) by. That is at least {{least:.2f}} in groups of {GROUP}; without it alpha often tops 1.
- The KL terms pull towards the reference in directions that the formula does not have: a residual that is small at
  beta = {BETA} and grows with the drift."""


def _information_table(head: list[str], rows: list[tuple[str, float, float]]) -> str:
    cells = [[name, f"{a:.5f}", f"{b:.5f}", "yes" if b > a else "no"] for name, a, b in rows]
    return markdown_table([*head, "holds"], cells)


def _small(value: float) -> str:
    return "0" if value < 1e-9 else f"{value:.2g}"


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="evaluations or run directories for proposition 1")
    parser.add_argument("--policies", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    text = report(arguments.policies, arguments.folders)
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
