"""Charts of a report as drawings that load nothing, and the IoU curve as numbers and as a picture."""

import base64
import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from evaluations import blind, questions, rows_of, sound, whole_image, write_evaluation
from PIL import Image
from small_runs import rl_stage, small_recipe

from hart_lite.errors import DataError
from hart_lite.eval.grounding import IOU_THRESHOLDS
from hart_lite.eval.results import read_evaluation
from hart_lite.report.charts import DARK, POINTS, charts, iou_chart, iou_curves, write_iou_curve
from hart_lite.report.reader import Moment, Run
from hart_lite.runs.metrics_file import StageRows


def a_run(rows: list[dict], evaluations: dict | None = None) -> Run:
    recipe = small_recipe(Path("base"), Path("run"), [rl_stage(steps=len(rows) or 1)])
    stage = StageRows("1-rl", "rl", 0, len(rows), rows)
    return Run(Path("run"), recipe, {}, [stage], evaluations or {}, {})


def svg(url: str) -> str:
    return base64.b64decode(url.removeprefix("data:image/svg+xml;base64,")).decode()


def points(text: str) -> list[list[tuple[float, float]]]:
    """The lines of a drawing with many points, in its own units."""
    paths = re.findall(r'<path d="(M [^"]*)" clip-path', text)
    found = [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)] for path in paths]
    return [line for line in found if len(line) > 2]


def test_charts_are_drawings_that_load_nothing_in_two_colours():
    rows = [{"stage": "1-rl", "step": n, "reward": n / 9, "seconds_rollout": 1.0, "kl": 0.1} for n in range(9)]
    found = charts(a_run(rows))
    assert [c.title for c in found] == ["Reward", "KL divergence", "Seconds a step"]
    for chart in found:
        light, dark = svg(chart.light), svg(chart.dark)
        for text in (light, dark):
            tree = ElementTree.fromstring(text)
            assert not [e for e in tree.iter() if e.tag.endswith(("script", "image", "foreignObject"))]
            links = [value for e in tree.iter() for name, value in e.attrib.items() if name.endswith("href")]
            assert all(link.startswith("#") for link in links)
        assert not [colour for colour in DARK if colour in dark]
        assert any(colour in light for colour in DARK)
        assert len(re.sub("#[0-9a-f]{6}", "", light)) == len(re.sub("#[0-9a-f]{6}", "", dark))


def test_a_line_rises_where_its_values_do():
    rows = [{"stage": "1-rl", "step": n, "reward": n / 9} for n in range(9)]
    [chart] = charts(a_run(rows))
    [line] = points(svg(chart.light))
    assert len(line) == 9 and all(b[0] > a[0] and b[1] < a[1] for a, b in pairwise(line))
    assert chart.said == "last: 88.9 %"


def test_a_long_run_is_drawn_small_and_odd_values_are_passed_by():
    rows = [
        {"stage": "1-rl", "step": n, "reward": n / 20_000, "kl": math.nan, "seconds_rollout": 1.0}
        for n in range(20_000)
    ]
    rows[5] |= {"reward": math.inf}
    rows[6] |= {"reward": None, "seconds_update": 2.0}
    found = {c.title: c for c in charts(a_run(rows))}
    assert "KL divergence" not in found and "Seconds a step" in found
    assert found["Reward"].said == "last: 100.0 %"
    assert len(svg(found["Reward"].light)) < 60_000
    assert svg(found["Reward"].light).count("L ") < 3 * POINTS


def test_held_out_figures_are_drawn_at_their_steps():
    def figures(right: float) -> dict:
        return {"accuracy": {"crops": right}, "questions": 9, "valid_box": 1.0}

    moments = {Moment("before", 0, "before"): figures(0.2), Moment("after-1-rl", 9, "after 1-rl"): figures(0.6)}
    found = {c.title: c for c in charts(a_run([], moments))}
    assert found["Held-out answers right"].said == "last: crops 60.0 %"


# -- the IoU curve -------------------------------------------------------------------------------------------------


def test_one_curve_for_all_modes_that_looked_at_the_same(tmp_path):
    asked = questions(40)
    rows = [*rows_of(asked, sound), *rows_of(asked, sound, mode="full+crops"), *rows_of(asked, blind, mode="full")]
    rows += rows_of(asked, whole_image, "vstar")
    curves = iou_curves(read_evaluation(write_evaluation(tmp_path / "a", rows)))
    assert list(curves) == ["treebench, crops and full+crops, n 40", "vstar, crops, n 40"]
    first, second = curves.values()
    assert first[0] >= first[-1] > 0.8
    assert (second[0], max(second[1:])) == (1, 0)
    nothing = iou_curves(read_evaluation(write_evaluation(tmp_path / "b", rows_of(asked, blind))))
    assert nothing == {"treebench, crops, n 40": (0,) * 20}


def test_a_curve_goes_where_its_values_are():
    falling = [1 - n / 20 for n in range(20)]
    chart = iou_chart({"falling": falling, "flat": [0.3] * 20})
    assert chart.said == "IoU above 0.5 in falling: 50.0 %; flat: 30.0 %"
    down, flat = (np.array(line) for line in points(svg(chart.light)))
    assert len(down) == len(flat) == len(IOU_THRESHOLDS)
    assert np.ptp(flat[:, 1]) == 0 and (np.diff(down[:, 1]) > 0).all()
    share = (down[:, 1] - down[0, 1]) / (down[-1, 1] - down[0, 1])
    assert share == pytest.approx(np.linspace(0, 1, 20), abs=1e-3)
    crossing = np.argmin(np.abs(down[:, 1] - flat[:, 1]))
    assert falling[crossing] == pytest.approx(0.3)


def test_the_picture_has_a_curve_for_each_evaluation_and_room_for_its_label(tmp_path):
    both = {}
    for name, model in (("before", blind), ("after", sound)):
        folder = write_evaluation(tmp_path / name, rows_of(questions(30), model, benchmark="b" * 40))
        both[name] = read_evaluation(folder)
    write_iou_curve(both, tmp_path / "both.png")
    write_iou_curve({"": both["after"]}, tmp_path / "one.png")
    blue, orange = (0x0A, 0x66, 0xC2), (0xC2, 0x57, 0x0C)
    for name, colours in (("both", (blue, orange)), ("one", (blue,))):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        seen = [bool((pixels == colour).all(axis=-1).any()) for colour in (blue, orange)]
        assert seen == [colour in colours for colour in (blue, orange)]
        assert (pixels[:4] == 255).all() and (pixels[:, -2:] == 255).all() and (pixels[:, :2] == 255).all()


def test_what_cannot_be_drawn_is_said(tmp_path):
    found = read_evaluation(write_evaluation(tmp_path / "a", rows_of(questions(10), sound)))
    with pytest.raises(DataError, match="cannot be written"):
        write_iou_curve({"": found}, tmp_path / "iou_curve.nonsense")
    bare = read_evaluation(write_evaluation(tmp_path / "b", rows_of(questions(10), sound, boxed=False)))
    with pytest.raises(DataError, match="no row has ground-truth boxes"):
        write_iou_curve({"": bare}, tmp_path / "x.png")
