"""The benchmarks of the methods take finished runs for what they are and no others, and count what the rows say."""

import subprocess
import sys

import numpy as np
import pytest
from evaluations import questions, rows_of, somewhere, write_evaluation

from experiments import dose, joint, methods, paired
from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.errors import HartError
from hart_lite.types import Box

ASKED = questions(40)
STEPS = ["stages.0.steps=60"]


def looker(share: float, seed: int, held: bool = False):
    """Looks right at this share of the questions. Answers what the box shows; `held`: right whatever it shows."""
    rng = np.random.default_rng(seed)
    good = {q.number: rng.random() < share for q in ASKED}

    def answer(question):
        box = question.target if good[question.number] else Box(0, 0, 1, 1)
        right = held or good[question.number]
        return question.truth if right else "ABCD"[("ABCD".index(question.truth) + 1) % 4], [box]

    return answer


def finished_run(folder, settings, share, seed):
    """A run of a recipe: half of its boxes right before training, `share` of them after."""
    folder.mkdir(parents=True)
    dump_recipe(load_recipe("tiny_cpu", [f"output={folder}", f"seed={seed}", *settings]), folder / "recipe.yaml")
    for name, found, drawn in (("before", 0.5, 0), ("after-1-rl", share, seed + 1)):
        rows = [
            row
            for mode, held in (("full", True), ("crops", False), ("full+crops", True))
            for row in rows_of(ASKED, looker(found, drawn, held), mode=mode)
        ]
        write_evaluation(folder / "evaluation" / name, rows, modes=["full", "crops", "full+crops"])
    (folder / "summary.json").write_text("{}")


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Two runs of every method; training another is an error. GRPO keeps half of the boxes wrong."""
    for name, own in methods.METHODS.items():
        for seed in range(2):
            folder = tmp_path / f"{name.replace(', k = ', '-k').replace(' ', '-').lower()}-{seed}"
            finished_run(folder, [*own, *STEPS], 0.5 if name == "GRPO" else 0.95, seed)

    def fail(*args, **kwargs):
        raise AssertionError("a run was started")

    monkeypatch.setattr(subprocess, "run", fail)
    return tmp_path


def test_finished_runs_are_not_repeated(finished):
    results = methods.measure(finished, methods.METHODS, 2, 1, STEPS)
    assert list(results) == list(methods.METHODS)
    assert results["HART, k = 0.60"] == [finished / "hart-k0.60-0", finished / "hart-k0.60-1"]


def test_finished_runs_of_another_recipe_are_refused(finished):
    with pytest.raises(HartError, match=r"grpo-0/recipe\.yaml was made by another recipe; differing: stages\.0\.steps"):
        methods.measure(finished, methods.METHODS, 1, 1, ["stages.0.steps=80"])


def test_the_tables_count_what_the_rows_say(finished):
    text = methods.tables(methods.measure(finished, methods.METHODS, 2, 1, STEPS))
    grounding = text.split("\n\n")[1].splitlines()
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in grounding[2:]}
    shares = {seed: np.mean([not b[1][0].x2 > 1 for b in map(looker(0.95, seed + 1), ASKED)]) for seed in range(2)}
    assert rows["HART, k = 0.60"][0].split(" ± ")[0] == f"{100 * np.mean(list(shares.values())):.1f}"
    assert rows["base"][1] == rows["GRPO"][1] == ""
    change, low, high = (
        float(n) for n in rows["HART, k = 0.60"][1].replace("(", "").replace(")", "").split() if n != "to"
    )
    assert low < change < high < 0  # fewer wrong boxes than GRPO's
    assert "| full+crops (%) | - GRPO |" in text


def test_the_joint_table_tells_answers_that_rest_on_boxes_from_those_that_do_not(finished):
    text = joint.tables(methods.measure(finished, methods.METHODS, 2, 1, STEPS))
    in_sight, alone = (part.splitlines() for part in (text.split("\n\n")[1], text.split("\n\n")[3]))
    sight, alone_base = (next(line for line in lines if line.startswith("| base")) for lines in (in_sight, alone))
    assert sight.count("100.0 (100.0-100.0)") == 2 and sight.endswith("| 0.000 (0.000-0.000) |")
    cells = [cell.strip().split(" ")[0] for cell in alone_base.split("|")[2:-1]]
    assert cells[1:4] == ["0.0", "100.0", "0.0"] and float(cells[4]) > 0.9
    assert "| Qwen2.5-VL-7B (paper) | 37.7 | 69.4 | 73.0 | 36.5 | 0.001 |" in in_sight
    assert "| Qwen2.5-VL-7B (paper) | 37.7 | 69.4 | 73.0 | 36.5 | 0.001 |" not in alone


def test_the_dose_is_a_line_for_each_method(tmp_path, monkeypatch):
    """MGPO loses by the dose what it gains without; HART does not."""
    gained = {"GRPO": (0.5, 0.5), "MGPO": (0.9, 0.5), "HART": (0.9, 0.9)}
    for n, share in enumerate((0.0, 0.9)):
        for name, method in dose.COMPARED.items():
            settings = [*methods.METHODS[method], *dose.SETTING, f"data.toy.glance_share={share}"]
            finished_run(tmp_path / f"runs/{share:g}/{name.lower()}-0", settings, gained[name][n], 0)
    out = tmp_path / "dose.md"
    monkeypatch.setattr(
        sys, "argv", ["dose", "--shares", "0,0.9", "--jobs", "1", "--runs", str(tmp_path / "runs"), "--out", str(out)]
    )
    dose.main()
    rows = [
        line.split("|")[1:-1] for line in out.read_text().splitlines() if line.startswith("| ") and "---" not in line
    ]
    assert [row[0].strip() for row in rows] == ["answerable at a glance", "before RL", "0 %", "90 %"]
    none, most = ([float(cell) for cell in row[1:4]] for row in rows[2:])
    assert none[1] == none[2] < 25 < none[0] and most[2] < 25 < most[1] == most[0]
    assert float(rows[3][4].split("to")[1].rstrip(" )")) < 0 and rows[2][4].strip().startswith("+0.0")
    picture = out.with_suffix(".svg").read_text()
    assert all(f">{word}<" in picture for word in ("GRPO", "MGPO", "HART", "before training"))


def test_intervals_are_over_seeds_and_images():
    images = [f"image-{n // 2}" for n in range(40)]
    values = (np.random.default_rng(0).random((3, 40)) < 0.5).astype(float)
    low, high = paired.interval(np.mean, images, values)
    assert low < values.mean() < high
    assert paired.interval(paired.mean_difference, images, values, values) == (0, 0)  # paired: no spread at all
    by_seed = np.repeat([[0.0], [1.0]], 40, axis=1)
    assert paired.interval(np.mean, images, by_seed) == (0, 1)  # questions agree, seeds do not
    assert paired.interval(np.mean, images, by_seed[:1]) == (0, 0)
    twice = paired.interval(np.mean, ["one"] * 20 + ["two"] * 20, np.repeat([0.0, 1.0], 20)[None])
    assert twice == (0, 1)  # two images, whatever their questions


def test_runs_that_were_asked_other_questions_are_no_pair(tmp_path):
    for n in range(2):
        write_evaluation(tmp_path / f"{n}/evaluation/before", rows_of(ASKED[n:], somewhere_answered))
    with pytest.raises(ValueError, match="were asked different questions in before"):
        paired.Asked([tmp_path / "0", tmp_path / "1"], "before")


def somewhere_answered(question):
    return question.truth, somewhere(question)


@pytest.mark.slow
def test_a_small_dose_from_training_to_picture(tmp_path, monkeypatch):
    small = [
        "stages=[{kind: rl, steps: 1, questions_per_step: 2}]",
        "data.toy.scenes=8",
        "data.eval_toy.eval_scenes=4",
        "evaluate.watch=0",
    ]
    out = tmp_path / "dose.md"
    monkeypatch.setattr(
        sys, "argv", ["dose", "--shares", "0.9", "--runs", str(tmp_path / "runs"), "--out", str(out), *small]
    )
    dose.main()
    assert "on 4 held-out questions" in out.read_text() and "| 90 % |" in out.read_text()
    assert out.with_suffix(".svg").stat().st_size > 1000
