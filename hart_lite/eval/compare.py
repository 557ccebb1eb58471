"""Two evaluations, question by question: how far they differ, and whether that could be chance."""

from __future__ import annotations

import math

from hart_lite.errors import HartError
from hart_lite.eval.metrics import SCORES
from hart_lite.eval.prediction import Key, Prediction
from hart_lite.eval.results import Evaluation
from hart_lite.eval.statistics import mcnemar, paired_bootstrap
from hart_lite.eval.summary import flat
from hart_lite.utils.markdown import markdown_table, plain, probability

COMPARED = frozenset({"model", "family", "weights", "modes"})  # may differ: what is compared
GROUNDING = {  # figure -> its title; the shares of questions first
    "grounded": "grounded, any target",
    "grounded_share": "grounded, share of a question's targets",
    "iou": "mean IoU",
    "coverage": "box coverage",
}


def compare(a: Evaluation, b: Evaluation) -> dict:
    """Pairs the rows of two evaluations by benchmark, mode and id; differences are b - a.

    {"a", "b": folder and model; "settings": {name: [a, b]} where they differ; "pairs", "only_a", "only_b": rows;
    "changed": pairs whose question, choices or right answer differ; "parts": {benchmark: {mode: {"questions", "strict",
    "official", and where both have boxes "grounding": {figure: comparison}}}}}, a comparison being {"a", "b",
    "difference", "low", "high", "p"}, for answers with "mcnemar". Raises `HartError` where no row is in both.
    """
    rows_a, rows_b = _by_key(a), _by_key(b)
    common = [key for key in rows_a if key in rows_b]
    if not common:
        raise HartError(
            f"{a.folder} and {b.folder} have no question in common: {_contents(a)} against {_contents(b)}. Compare "
            "evaluations of the same benchmark in the same mode"
        )
    pairs = {key: (rows_a[key], rows_b[key]) for key in common}
    parts: dict[str, dict[str, dict]] = {}
    for benchmark, mode in dict.fromkeys(key[:2] for key in common):
        here = [pair for key, pair in pairs.items() if key[:2] == (benchmark, mode)]
        parts.setdefault(benchmark, {})[mode] = _part(here)
    return {
        "a": {"folder": str(a.folder), "model": a.model},
        "b": {"folder": str(b.folder), "model": b.model},
        "settings": _differing(a, b),
        "pairs": len(common),
        "only_a": len(rows_a) - len(common),
        "only_b": len(rows_b) - len(common),
        "changed": sum(
            any(getattr(x, k) != getattr(y, k) for k in ("question", "choices", "truth")) for x, y in pairs.values()
        ),
        "parts": parts,
    }


def compare_text(found: dict) -> str:
    """What `compare` found, as Markdown."""
    lines = [f"- {name}: {plain(found[name]['model'])} ({plain(found[name]['folder'])})" for name in ("a", "b")]
    lines.append(f"- rows in both: {found['pairs']:,}; only in a: {found['only_a']:,}; only in b: {found['only_b']:,}")
    parts = ["\n".join(lines)]
    if found["changed"]:
        parts.append(
            f"**{found['changed']:,} pairs ask differently (another question, order of choices or right answer): what "
            "differs there need not be the model.**"
        )
    if found["settings"]:
        rows = [[name, *map(_setting, values)] for name, values in found["settings"].items()]
        parts.append("**The evaluations were made differently:**\n\n" + markdown_table(["setting", "a", "b"], rows))
    for benchmark, modes in found["parts"].items():
        parts += [_part_text(benchmark, mode, part) for mode, part in modes.items()]
    parts.append(
        "In percent. Difference: b - a with its 95 % interval, by bootstrap over images; p by exchanging a and b in "
        "whole images. McNemar's p takes questions for independent: too small where an image has several."
    )
    return "\n\n".join(parts) + "\n"


def _part(pairs: list[tuple[Prediction, Prediction]]) -> dict:
    clusters = [a.cluster for a, _ in pairs]
    out: dict = {"questions": len(pairs), "images": len(set(clusters))}
    for score in SCORES:
        right_a, right_b = [getattr(a, score) for a, _ in pairs], [getattr(b, score) for _, b in pairs]
        out[score] = _comparison(right_a, right_b, clusters) | {"mcnemar": mcnemar(right_a, right_b)}
    boxed = [(a, b) for a, b in pairs if a.grounding and b.grounding]
    if any(a.boxes or b.boxes for a, b in boxed):  # nobody looks in mode `full`
        out["grounding"] = _grounding(boxed)
    return out


def _grounding(pairs: list[tuple[Prediction, Prediction]]) -> dict:
    clusters = [a.cluster for a, _ in pairs]
    out = {}
    for figure in GROUNDING:
        values_a, values_b = [_figure(a, figure) for a, _ in pairs], [_figure(b, figure) for _, b in pairs]
        out[figure] = _comparison(values_a, values_b, clusters)
        if figure == "grounded":
            out[figure]["mcnemar"] = mcnemar(values_a, values_b)
    return out


def _comparison(a: list[float], b: list[float], clusters: list[str]) -> dict:
    paired = paired_bootstrap(a, b, clusters)
    known = {name: None if math.isnan(value) else value for name, value in paired.items()}
    return {"a": sum(a) / len(a), "b": sum(b) / len(b), **known}


def _figure(row: Prediction, figure: str) -> float:
    found = row.grounding
    return found.grounded_targets / found.targets if figure == "grounded_share" else float(getattr(found, figure))


def _by_key(evaluation: Evaluation) -> dict[Key, Prediction]:
    return {row.key: row for row in evaluation.rows}


def _contents(evaluation: Evaluation) -> str:
    return ", ".join(f"{name} in {', '.join(modes)}" for name, modes in evaluation.parts().items())


def _differing(a: Evaluation, b: Evaluation) -> dict[str, list]:
    flat_a, flat_b = (flat({k: v for k, v in e.settings.items() if k not in COMPARED}) for e in (a, b))
    names = dict.fromkeys([*flat_a, *flat_b])
    return {n: [flat_a.get(n), flat_b.get(n)] for n in names if flat_a.get(n) != flat_b.get(n)}


def _part_text(benchmark: str, mode: str, part: dict) -> str:
    title = f"**{plain(benchmark)}, {plain(mode)}**: {part['questions']:,} questions about {part['images']:,} images"
    rows = [_row(f"right, {score}", part[score]) for score in SCORES]
    rows += [_row(GROUNDING[figure], found) for figure, found in part.get("grounding", {}).items()]
    head = ["", "a", "b", "difference", "p", "only a", "only b", "McNemar"]
    return f"{title}\n\n{markdown_table(head, rows)}"


def _row(title: str, found: dict) -> list[str]:
    interval = "" if found["low"] is None else f" ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
    cells = [title, f"{100 * found['a']:.1f}", f"{100 * found['b']:.1f}"]
    cells += [f"{100 * found['difference']:+.1f}{interval}", probability(found["p"])]
    if "mcnemar" not in found:
        return [*cells, "", "", ""]
    test = found["mcnemar"]
    return [*cells, str(test["only_a"]), str(test["only_b"]), probability(test["p"])]


def _setting(value: object) -> str:
    return "not stated" if value is None else str(value)
