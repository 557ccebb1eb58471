"""Each figure against a limit that is stated here: pass, warn or fail, with the reason and what to set.

The limits of log-probs are means in nats. On the tiny bases of this package, with and without keys as large as those of
Qwen2.5, a sound decode path stays under 3e-4 (float32), 2e-3 (float16) and 3e-2 (bfloat16) from the pack; one that
rounds scores to 16 bits is 3e-2 and more away in float16, where it is not NaN, and 2e-1 and more in bfloat16. The
library rotates queries and keys with more roundings than the pack, so that with large keys it differs more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from hart_lite.perf.check_base.boxes import Boxes
from hart_lite.perf.check_base.decode import Decoding, Difference
from hart_lite.perf.check_base.layers import COLUMNS, KEY, PRODUCT, RESIDUAL, SCORES, Largest
from hart_lite.perf.check_base.memory import GIB, Memory

Status = Literal["pass", "warn", "fail"]
FLOAT16_END = 65_504
ROOM = 2.0  # times: other pictures and words reach further than those that were looked at
GAP = {"float32": (2e-3, 2e-2), "float16": (5e-3, 2e-2), "bfloat16": (3e-2, 1e-1)}  # (warn, fail) of drawn - pack
LIBRARY = {"float32": (2e-3, 2e-2), "float16": (2e-2, 1e-1), "bfloat16": (5e-2, 5e-1)}  # of pack - library
OVER_PLAN, SLACK = 1.1, 64 * 2**20 / GIB  # memory: times the plan, and GiB beside it
WIDER = "model.dtype=bfloat16 (a card of capability 8.0 or newer, or a CPU) or float32"


@dataclass(frozen=True)
class Check:
    name: str
    status: Status
    text: str


# -- large values ------------------------------------------------------------------------------------------------------


def activations(largest: Largest, dtype: str) -> Check:
    """What is stored in the model's precision: keys, the residual stream, the MLP's product, the vision tower."""
    name, places = "activations", _places(largest)
    lost = next((place for place, value in places if not math.isfinite(value)), None)
    if lost:
        why = f"float16 ends at {FLOAT16_END:,}; set {WIDER}" if dtype == "float16" else "the weights are damaged"
        return Check(name, "fail", f"{lost} is not finite in {dtype}: {why}")
    place, value = max(places, key=lambda item: item[1])
    room = FLOAT16_END / max(value, 1e-9)
    seen = f"the largest is {value:,.0f} ({place}), where float16 ends at {FLOAT16_END:,}: room for x{room:,.1f}"
    if room >= ROOM:
        return Check(name, "pass", f"{seen}, at least x{ROOM:g} is wanted; model.dtype=float16 holds it")
    if dtype == "float16":
        return Check(name, "warn", f"{seen}, and x{ROOM:g} is wanted, since other pictures reach further; set {WIDER}")
    return Check(name, "pass", f"{seen}; {dtype} holds it, model.dtype=float16 would not")


def _places(largest: Largest) -> list[tuple[str, float]]:
    """In the order in which a forward pass comes to them."""
    rows = enumerate(largest.layers)
    stored = [(f"{COLUMNS[c]} of layer {n}", row[c]) for n, row in rows for c in (KEY, RESIDUAL, PRODUCT)]
    return [("an output of the vision tower", largest.vision), *stored]


def scores(largest: Largest, dtype: str) -> Check:
    """Products of queries and keys, which our attention never stores in 16 bits."""
    name, values = "attention scores", [row[SCORES] for row in largest.layers]
    lost = next((n for n, value in enumerate(values) if not math.isfinite(value)), None)
    if lost is not None:
        return Check(name, "fail", f"|q.k| of layer {lost} is not finite: queries or keys are not; set {WIDER}")
    value = max(values)
    seen = f"|q.k| reaches {value:,.0f} in layer {values.index(value)}"
    if dtype == "float32":
        after = f"; float16 ends at {FLOAT16_END:,}" if value > FLOAT16_END else ""
        return Check(name, "pass", f"{seen}, computed in float32{after}")
    off = value * torch.finfo(getattr(torch, dtype)).eps / 2 * largest.scale
    kept = f"rounded to {dtype} scores would be off by up to {off:.2g} nats; here they are float32"
    if value <= FLOAT16_END:
        return Check(name, "pass", f"{seen}, under the {FLOAT16_END:,} where float16 ends; {kept}")
    if dtype == "float16":
        return Check(
            name,
            "warn",
            f"{seen}, past the {FLOAT16_END:,} where float16 ends: NaN wherever scores are float16, as in eager "
            f"attention and in some servers; here they are float32. Set {WIDER}; on an older card rely on the sampling "
            "gap below",
        )
    return Check(name, "pass", f"{seen}, past the {FLOAT16_END:,} where float16 ends; {kept}. Keep {dtype}")


# -- three paths to one log-prob ---------------------------------------------------------------------------------------


def lost(message: str) -> Check:
    """Where nothing could be drawn."""
    return Check("sampling", "fail", f"nothing can be drawn, so the checks of it are left out: {message}")


def sampling_gap(found: Decoding, dtype: str) -> Check:
    advice = "what is drawn is not what is trained on; set model.dtype=float32 to see whether it is rounding"
    return _difference("sampling gap", "drawn - pack", found.gap, GAP[dtype], dtype, advice)


def library(found: Decoding, dtype: str) -> Check:
    """Also judges greedy ids: the library may prefer another by ten times what is allowed on average, at most."""
    warn, fail = LIBRARY[dtype]
    advice = f"packed arithmetic is not the library's, or {dtype} is too coarse for this base; try model.dtype=float32"
    check = _difference("library", "pack - library", found.library, (warn, fail), dtype, advice)
    greedy = found.greedy
    ids = f"{greedy.alike} of {greedy.tokens} greedy ids are its choice, too"
    if greedy.alike < greedy.tokens:
        ids += f", elsewhere it prefers another by {greedy.margin:.2g} nats at most"
    if check.status == "pass" and not greedy.margin <= 10 * warn:
        return Check(check.name, "warn", f"{check.text}; {ids} (limit {10 * warn:g}): {advice}")
    return Check(check.name, check.status, f"{check.text}; {ids}")


def _difference(name: str, what: str, found: Difference, limits: tuple[float, float], dtype: str, advice: str) -> Check:
    warn, fail = limits
    status: Status = "pass" if found.mean <= warn else "warn" if found.mean <= fail else "fail"  # NaN fails
    text = f"mean |{what}| is {found.mean:.2g} nats; limits in {dtype}: warn {warn:g}, fail {fail:g}"
    return Check(name, status, text if status == "pass" else f"{text}: {advice}")


def adapter(found: Decoding) -> Check:
    if found.adapter == 0:
        return Check("fresh adapter", "pass", "logits with it on and off are equal")
    return Check(
        "fresh adapter",
        "fail",
        f"logits with it on and off differ by up to {found.adapter:.2g}, and a fresh adapter is to change nothing: the "
        "reference would not be where training begins",
    )


# -- boxes and memory --------------------------------------------------------------------------------------------------


def box_format(boxes: Boxes) -> Check:
    name, best, own = "box format", boxes.readings[boxes.best], boxes.readings[boxes.own]
    if not boxes.named:
        return Check(
            name,
            "warn",
            f"none of {boxes.questions} answers names a box. An untrained base writes none, which is no fault of the "
            "numerics; of a trained one, read what it answers: hart-lite ask",
        )
    seen = f"{boxes.named} of {boxes.questions} answers name a box"
    if not boxes.fits:
        return Check(name, "warn", f"{seen}, and in no format they are where the things are (best: {_reading(boxes)})")
    if boxes.best == boxes.own:
        return Check(name, "pass", f"{seen}, best read as {boxes.own}, as is set ({_reading(boxes)})")
    against = f"{seen}, best read as {_reading(boxes)}, and set is {boxes.own} (mean IoU {own.iou:.2f})"
    if not (boxes.sure and own.iou < best.iou / 2):
        return Check(name, "warn", f"{against}, which is not clear; measure on rows of your own: hart-lite box-format")
    return Check(
        name,
        "fail",
        f"{against}: crops would be cut elsewhere. Set model.box_format={boxes.best}, or where the family does not "
        "take it (Qwen2.5-VL, InternVL3), take a base that writes the family's own format",
    )


def _reading(boxes: Boxes) -> str:
    best = boxes.readings[boxes.best]
    return f"{boxes.best}: mean IoU {best.iou:.2f}, {best.hits} of {boxes.questions} on the thing"


def memory(found: Memory) -> Check:
    """The plan is of images that fill their budget, so less than it is as it should be."""
    for what, plan, seen in (("load", found.load_planned, found.load), ("work", found.work_planned, found.work)):
        if seen > OVER_PLAN * plan + SLACK:
            return Check(
                "memory",
                "warn",
                f"{what} took {seen:.2f} GiB, and {plan:.2f} were planned: `hart-lite plan` says too little of this "
                f"base here, so leave {seen - plan:.2f} GiB more free than it asks for",
            )
    within = f"{OVER_PLAN - 1:.0%} and {SLACK * 1024:.0f} MiB"
    return Check("memory", "pass", f"within {within} of what `hart-lite plan` says")
