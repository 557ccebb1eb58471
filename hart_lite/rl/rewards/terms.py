"""What a trajectory's boxes take from its reward, whatever function gave that: a control region, overlap, a budget.

A control region is paid for what can be answered without looking in the right place (after Vision-RL2, arXiv
2609.19745, and V-Zero, 2606.25319): boxes of the same sizes elsewhere. Overlap and the number of boxes cost after P2R's
penalties.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from hart_lite.boxes import iou
from hart_lite.types import Trajectory


def less_control(trajectory: Trajectory, control: float | None) -> Trajectory:
    """max(0, r - control), where `control` is what the control region earned, 0 to 1.

    None: no place was found for it. Then nothing is earned: boxes so large show what a control would show as well, and
    to pay them would make boxes grow. Without a box there is nothing to control.
    """
    if not trajectory.boxes:
        return trajectory
    reward, terms = trajectory.reward, {"crops_reward": trajectory.reward, "control_unplaced": float(control is None)}
    if control is None:
        return replace(trajectory, reward=0.0, terms=trajectory.terms | terms)
    terms["control_reward"] = control
    return replace(trajectory, reward=max(0.0, reward - control), terms=trajectory.terms | terms)


def less_boxes(trajectory: Trajectory, max_overlap: float | None, box_budget: int | None) -> Trajectory:
    """Nothing for a trajectory with two boxes whose IoU is above `max_overlap`, or with more than `box_budget` boxes;
    None: no limit."""
    boxes, terms = trajectory.boxes, {}
    if max_overlap is not None:
        terms["boxes_overlap"] = float(any(iou(a, b) > max_overlap for a, b in combinations(boxes, 2)))
    if box_budget is not None:
        terms["boxes_over_budget"] = float(len(boxes) > box_budget)
    reward = 0.0 if any(terms.values()) else trajectory.reward
    return replace(trajectory, reward=reward, terms=trajectory.terms | terms)
