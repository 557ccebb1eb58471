"""The report: one file that loads nothing, of any run in any state; warnings that fire when they should; questions that
are watched without a trace in what is trained."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import blind, questions, rows_of, sound, write_evaluation
from PIL import Image
from small_runs import make_up, metrics, rl_stage, sft_stage, small_recipe, without_timings
from test_gallery import HOSTILE, Grey
from test_gallery import Page as GalleryPage

from hart_lite.cli import main as cli
from hart_lite.config.recipe import dump_recipe
from hart_lite.config.sections import PixelBudgets, Rollout
from hart_lite.errors import HartError
from hart_lite.eval.metrics import metrics as metrics_of
from hart_lite.eval.results import read_evaluation
from hart_lite.inference.rollout import Runner
from hart_lite.report.charts import DARK, POINTS, charts
from hart_lite.report.eval_report import page_of
from hart_lite.report.html import Pictures
from hart_lite.report.reader import Moment, read_run
from hart_lite.report.run_report import run_page, write_report
from hart_lite.report.warnings import cautions
from hart_lite.toy.scenes import World, examples
from hart_lite.training.sample_tracking import Progress, missed_before, quarters, watched
from hart_lite.training.train import train

WEIGHTS = "adapter_model.safetensors"
STAGES = [rl_stage(steps=8, log_rollouts_every=4), sft_stage(steps=2)]


class Page(GalleryPage):
    """A page whose tags close in order, of which nothing is loaded from anywhere."""

    def __init__(self, text: str) -> None:
        for tag in ("br", "source"):
            text = re.sub(rf"<{tag}\b([^>]*)>", rf"<{tag}\1/>", text)
        super().__init__(text)
        loaded = [v for tag, name, v in self.attributes if name in ("src", "href", "srcset", "data", "action")]
        assert all(v.startswith(("data:image/jpeg;base64,", "data:image/svg+xml;base64,", "#")) for v in loaded)
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(self.tags)
        assert not [name for _, name, _ in self.attributes if name.startswith("on") or name == "style"]
        (policy,) = [v for v in self.values("meta", "content") if "default-src" in v]
        style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == (
            f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        )
        assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
        assert "width=device-width, initial-scale=1" in self.values("meta", "content")


@pytest.fixture(scope="module", autouse=True)
def _made_up():
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch.setattr)
        yield


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    lora = {"r": 4, "dropout": 0.1}  # draws from the global generator, in training alone
    model = {"base": str(tiny_base), "dtype": "float32", "device": "cpu", "lora": lora}
    evaluate = {"every": 4, "batch_size": 4}
    data = {"world": {"scenes": 8, "eval_scenes": 6, "questions_per_scene": 2, "size": 168}}
    train(small_recipe(tiny_base, folder / "run", STAGES, model=model, evaluate=evaluate, data=data))
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


# -- the page of a run ---------------------------------------------------------------------------------------------


def test_training_leaves_a_report_of_everything(finished):
    text = (finished / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    assert len(text) < 1_000_000
    for anchor in ("watch", "table", "looks", "curves", "samples", "recipe", "next"):
        assert f"#{anchor}" in found.values("a", "href")
        assert anchor in found.values("section", "id")
    assert "finished" in found.text and "not finished" not in found.text
    assert "8 steps of RL (loop hart, ap_grpo, k = 0.6), then 2 steps of SFT (full+crops)" in found.text
    for word in ("before", "after 1-rl", "after 2-sft", "1-rl, step 2", "1-rl, step 4", "1-rl, step 6", "torch"):
        assert word in found.text, word
    for title in ("Reward", "Held-out grounding", "Box coverage", "KL divergence", "Flat groups", "Usable boxes",
                  "Seconds a step", "Response length", "Memory", "SFT loss"):  # fmt: skip
        assert title in found.text, title
    # Two rollouts of the first and the last logged step, and each chart for a light and a dark page.
    assert sum(v.startswith("data:image/jpeg") for v in found.values("img", "src")) >= 4
    drawings = [v for v in found.values("img", "src") if v.startswith("data:image/svg")]
    assert len(found.values("source", "srcset")) == len(drawings) == 14
    assert f"hart-lite eval {finished} --benchmark" in found.text


def test_the_table_is_the_summary_with_a_verdict(finished):
    found = page(finished)
    summary = json.loads((finished / "summary.json").read_text())
    for figures in summary.values():
        for share in (*figures["accuracy"].values(), figures["grounding"]["mean_iou"], figures["valid_box"]):
            assert f"{100 * share:.1f} %" in found.text
    old, new = summary["before"]["accuracy"]["crops"], summary["after-2-sft"]["accuracy"]["crops"]
    rows = {name: [json.loads(line) for line in (finished / f"evaluation/{name}.jsonl").read_text().splitlines()]
            for name in ("before", "after-2-sft")}  # fmt: skip
    pairs = list(zip(*([row["right"]["crops"] for row in r] for r in rows.values()), strict=True))
    better, worse = pairs.count((False, True)), pairs.count((True, False))
    assert better - worse == round((new - old) * len(pairs))
    assert f"What the closed loop rewards. {better} questions got better, {worse} worse (p " in found.text


def test_the_boxes_of_each_moment_are_drawn_where_they_were(finished):
    found = page(finished)
    run = read_run(finished)
    assert [m.name for m in run.looks] == [
        "before", "during-1-rl-00002", "during-1-rl-00004", "during-1-rl-00006", "after-1-rl", "after-2-sft"
    ]  # fmt: skip
    rects = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>',
                       (finished / "report.html").read_text())  # fmt: skip
    looks = [tuple(map(float, r[1:])) for r in rects if r[0] == "look"]
    shown = [
        row["boxes"][0]
        for question in run.questions
        for rows in run.looks.values()
        for row in rows
        if row["id"] == question["id"] and row["boxes"]
    ]
    expected = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2, _ in shown]
    assert looks == [pytest.approx(box, abs=0.051) for box in expected]
    assert sum(r[0] == "target" for r in rects) == len(run.questions) * len(run.looks)
    # Each photo is in the file once, and shown at every moment.
    assert len(found.values("image", "href")) == len(run.questions) == 4
    assert len(found.values("use", "href")) == len(run.questions) * (len(run.looks) - 1)
    assert set(found.values("svg", "viewbox")) == {"0 0 168 168"}


def test_an_unfinished_run_is_reported_as_far_as_it_got(run):
    """Killed in RL, a line of metrics half-written."""
    for pattern in ("evaluation/after*", "evaluation/during-1-rl-00004*", "progress/after*"):
        for path in run.glob(pattern):
            path.unlink()
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "stages" / "2-sft")
    (run / "summary.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:5], lines[5][:40]]))
    found = page(run)
    assert "not finished" in found.text
    assert "at step 5 of 8 in 1-rl" in found.text
    assert f"hart-lite train {run}/recipe.yaml --resume" in found.text
    assert "1-rl, step 4" in found.text and "after 1-rl" not in found.text


def test_a_run_that_has_just_begun_has_a_page(run):
    for name in ("evaluation", "stages", "progress", "adapter"):
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()
    (run / "versions.json").unlink()
    found = page(run)
    assert "the run stood before its first step" in found.text
    assert "Nothing was measured" in found.text
    assert not {"#looks", "#curves", "#table", "#samples"} & set(found.values("a", "href"))


def test_pictures_that_are_gone_or_damaged_leave_the_words(run):
    for path in run.glob("progress/*.jpg"):
        path.unlink()
    for path in run.glob("stages/1-rl/rollouts/*.jpg"):
        path.write_bytes(b"\xff\xd8\xff")
    found = page(run)
    assert "1-rl, step 2" in found.text
    assert not found.values("image", "href")
    assert not [v for v in found.values("img", "src") if v.startswith("data:image/jpeg")]


def test_text_of_files_and_models_stays_text(run):
    """Question, answer, recipe and versions, with half a surrogate pair among them."""
    hostile = HOSTILE + "\ud800"
    asked = json.loads((run / "progress/questions.json").read_text())
    for question in asked["questions"]:
        question |= {"question": hostile, "answer": hostile, "picture": "../../x.jpg"}
    (run / "progress/questions.json").write_text(json.dumps(asked))
    for path in run.glob("progress/*[0-9tle].json"):
        rows = json.loads(path.read_text())
        path.write_text(json.dumps([row | {"answer": hostile, "crops": [hostile, "/etc/x.jpg"]} for row in rows]))
    (run / "versions.json").write_text(json.dumps({hostile: hostile}))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("train: world", f"train: {json.dumps(HOSTILE)}"))
    found = page(run)
    assert found.text.count("alert(1)") > 10
    assert not any("alert" in str(value) for _, _, value in found.attributes)


def test_a_page_has_room_for_so_many_pictures(finished, monkeypatch):
    monkeypatch.setattr("hart_lite.report.run_report.Pictures", lambda: Pictures(room=20_000))
    text = run_page(read_run(finished))
    assert len(re.findall(r"data:image/jpeg;base64,[\w+/=]+", text)) >= 1
    assert sum(map(len, re.findall(r"data:image/jpeg;base64,[\w+/=]+", text))) <= 20_000
    left = int(re.search(r"(\d+) pictures are left out to keep this file small", text)[1])
    assert left > 3
    Page(text)


def test_a_folder_that_is_no_run_is_refused(tmp_path, run, capsys):
    with pytest.raises(HartError, match="holds neither a run"):
        write_report(tmp_path)
    (run / "evaluation" / "before.json").write_text("{")
    assert cli.main(["report", str(run)]) == 1
    assert "before.json cannot be read" in capsys.readouterr().err


def test_the_command_imports_no_torch(run):
    call = f"main(['report', {str(run)!r}])"
    code = f"import sys; from hart_lite.cli.main import main; {call}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"report: {run / 'report.html'}", "False"], done.stderr


def test_a_report_that_cannot_be_written_does_not_end_the_run(tiny_base, tmp_path, monkeypatch, caplog):
    def fail(run):
        raise HartError("no paper")

    monkeypatch.setattr("hart_lite.training.train.write_report", fail)
    train(small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=1)]))
    assert (tmp_path / "run" / "adapter").is_dir()
    assert f"no report: no paper\nOnce that is mended: hart-lite report {tmp_path / 'run'}" in caplog.text


# -- watching ------------------------------------------------------------------------------------------------------


def test_watching_leaves_no_trace_in_what_is_trained(finished, tiny_base, tmp_path):
    """Neither in the adapter nor in the metrics, the evaluations, the optimizer and the state of the generators."""
    recipe = read_run(finished).recipe
    assert recipe.evaluate.watch == 4
    quiet = recipe.evaluate.model_copy(update={"watch": 0})
    train(recipe.model_copy(update={"output": str(tmp_path / "quiet"), "evaluate": quiet}))
    assert not (tmp_path / "quiet" / "progress").exists()
    assert without_timings(metrics(tmp_path / "quiet")) == without_timings(metrics(finished))
    same = [f"stages/1-rl/checkpoint-8/{name}" for name in (WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth")]
    same += [f"stages/2-sft/checkpoint-2/{name}" for name in (WEIGHTS, "optimizer.pt", "rng_state.pth")]
    same += [f"adapter/{WEIGHTS}", "evaluation/after-2-sft.jsonl", "evaluation/during-1-rl-00004.jsonl"]
    for name in same:
        assert (tmp_path / "quiet" / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_policy_that_trains_goes_on_training(policy, tmp_path):
    runner = Runner(policy, PixelBudgets(full=4 * 784, crop=784, min=784), Rollout(max_tokens_locate=4))
    for training in (True, False):
        policy.model.train(training)
        Progress(tmp_path, runner, examples(World(), range(2), 1), held_out=True).record(f"during-1-rl-{training:05d}")
        assert policy.model.training is training
    assert len(list((tmp_path / "progress").glob("during*.json"))) == 2


def test_what_is_kept_of_a_look(finished):
    """The same questions each time; the answers after the run are those that the evaluation saw."""
    run = read_run(finished)
    ids = [question["id"] for question in run.questions]
    assert len(set(ids)) == 4 and run.held_out
    evaluated = {row["id"]: row for row in run.answers[list(run.answers)[-1]]}
    for moment, rows in run.looks.items():
        assert [row["id"] for row in rows] == ids
        for n, row in enumerate(rows):
            assert len(row["crops"]) == len(row["boxes"])
            for name in row["crops"]:
                assert name.startswith(f"{moment.name}-{n}-")
                assert Image.open(finished / "progress" / name).size[0] <= 280
    for row in list(run.looks.values())[-1]:
        same = evaluated[row["id"]]
        assert (row["boxes"], row["located"], row["grounding"]) == (same["boxes"], same["located"], same["grounding"])
        assert (row["answer"], row["right"]) == (same["answers"]["crops"], same["right"]["crops"])
    assert Image.open(finished / "progress" / "0.jpg").size == (168, 168)
    missed = missed_before(finished)
    assert missed == {row["id"] for row in run.answers[next(iter(run.answers))] if not row["grounding"]["grounded"]}
    assert sum(i in missed for i in ids) == min(2, len(missed)) or len(missed) > 10


def test_a_resumed_run_keeps_what_was_seen_and_adds_nothing_false(run):
    """The policy of a finished run is not the one of its middle."""
    recipe = read_run(run).recipe.model_copy(update={"output": str(run)})
    dump_recipe(recipe, run / "recipe.yaml")
    before = {p.name: p.read_bytes() for p in (run / "progress").iterdir()}
    train(recipe, resume=True)
    assert {p.name: p.read_bytes() for p in (run / "progress").iterdir()} == before
    for name in ("before", "after-1-rl", "after-2-sft"):
        (run / "progress" / f"{name}.json").unlink()
    train(recipe, resume=True)
    assert not (run / "progress" / "before.json").exists()
    assert not (run / "progress" / "after-1-rl.json").exists()
    assert (run / "progress" / "after-2-sft.json").read_bytes() == before["after-2-sft.json"]


def test_without_held_out_questions_those_of_training_are_watched(tiny_base, tmp_path):
    data = {"world": {"scenes": 4, "eval_scenes": 0, "size": 168}}
    train(small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=1)], data=data))
    found = page(tmp_path / "run")
    assert "questions from the training data (there are no held-out ones)" in found.text
    assert "Nothing was measured" in found.text


def test_the_watched_are_from_all_over_on_different_images_the_missed_first():
    asked = examples(World(), range(10), 2)  # two questions on each image
    ids = [example.id for example in asked]
    assert [e.id for e in watched(asked, 4)] == [ids[0], ids[4], ids[10], ids[14]]
    assert watched(asked, 0) == [] and watched([], 4) == []
    assert len(watched(asked, 99)) == 10
    some = watched(asked, 4, {ids[6], ids[8], ids[10], ids[18]})
    assert [e.id for e in some] == [ids[6], ids[10], ids[0], ids[12]]
    assert watched(asked, 4, {ids[6]})[0].id == ids[6]
    assert len(watched(asked, 4, {ids[6]})) == len(watched(asked, 4, set(ids))) == 4
    assert [e.id for e in watched(asked, 3, set(ids[2:]))][-1] == ids[0]


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, set()), (2, {1}), (3, {1, 2}), (100, {25, 50, 75}), (4, {1, 2, 3})]
)
def test_quarters(steps, expected):
    assert quarters(steps) == expected


# -- warnings ------------------------------------------------------------------------------------------------------

SOUND = {"reward": 0.5, "coverage": 0.05, "flat_groups": 0.2, "kl": 0.1, "valid_box": 1.0, "tokens_locate": 2.0,
         "tokens_verify": 1.0, "skipped": 0.0, "loss": -0.2}  # fmt: skip
FIGURES = {
    "questions": 300,
    "accuracy": {"full": 0.2, "crops": 0.5},
    "valid_box": 1.0,
    "grounding": {"wrong_grounding": 0.4, "mean_iou": 0.4, "coverage": 0.05},
}


def warned(
    finished: Path, steps: int = 40, before: dict | None = None, after: dict | None = None, **series
) -> list[str]:
    """Titles of the warnings of a run whose figures are sound but for `series`: a value, or a function of the share
    of the stage that is done. The reward rises."""
    series = {"reward": lambda done: 0.3 + 0.4 * done} | series
    rows = [
        {"stage": "1-rl", "step": n + 1}
        | {key: series.get(key, value) for key, value in SOUND.items()}
        | {key: value(n / steps) for key, value in series.items() if callable(value)}
        for n in range(steps)
    ]
    run = read_run(finished)
    evaluations = {}
    if before is not None:
        evaluations = {
            Moment("before", 0, "before"): FIGURES | before,
            Moment("after", 9, "after"): FIGURES | (after or {}),
        }
    run = replace(run, stages=[replace(run.stages[0], rows=rows), *run.stages[1:]], evaluations=evaluations)
    return [caution.title for caution in cautions(run)]


def test_a_sound_run_has_no_warning(finished):
    assert warned(finished, before={}) == []
    assert warned(finished) == ["Nothing was measured"]


@pytest.mark.parametrize(
    ("series", "title"),
    [
        ({"reward": 0.0, "flat_groups": 0.2}, "The reward did not rise"),
        ({"reward": lambda done: 0.5 - 0.4 * done}, "The reward fell"),
        ({"reward": lambda done: 0.4 + 0.02 * math.sin(99 * done)}, "The reward did not rise"),
        ({"coverage": lambda done: 0.05 + 0.3 * done}, "The boxes are growing"),
        ({"flat_groups": lambda done: 0.9 * done}, "Most groups teach nothing"),
        ({"kl": lambda done: 4 * done}, "The policy has left its base"),
        ({"valid_box": lambda done: 1 - 0.3 * done}, "Many samples name no usable box"),
        ({"tokens_locate": 4.0}, "Responses are cut short"),
        ({"tokens_verify": 3.0}, "Responses are cut short"),
        ({"skipped": lambda done: float(done > 0.9)}, "Steps were lost"),
        ({"loss": lambda done: math.nan if done > 0.9 else 0.1}, "Steps were lost"),
    ],
)
def test_each_trouble_of_a_stage_is_named(finished, series, title):
    assert warned(finished, before={}, **series) == [title]


@pytest.mark.parametrize(
    "series",
    [
        {"reward": 0.95},  # nothing left to gain
        {"coverage": lambda done: 0.01 + 0.05 * done},  # small still
        {"coverage": 0.4},  # large from the start
        {"kl": lambda done: 3.0 if done == 0.5 else 0.1},  # a single jump
        {"tokens_locate": 3.5},
        {"valid_box": lambda done: done},  # learned to name one
    ],
)
def test_what_is_no_trouble_is_not_named(finished, series):
    if "valid_box" in series:
        series = {"valid_box": lambda done: min(1.0, 0.5 + done)}
    assert warned(finished, before={}, **series) == []


def test_a_few_steps_have_no_trend(finished):
    assert warned(finished, steps=7, before={}, reward=0.1, coverage=lambda done: done, flat_groups=1.0) == []


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (0.95, "Nearly every sample is right"),
        (0.05, "Nearly every sample is wrong"),
        (0.5, "The samples of a question agree"),
    ],
)
def test_flat_groups_are_told_apart_by_what_they_earn(finished, reward, words):
    run = read_run(finished)
    rows = [SOUND | {"stage": "1-rl", "step": n, "flat_groups": 0.9, "reward": reward} for n in range(40)]
    run = replace(run, stages=[replace(run.stages[0], rows=rows), *run.stages[1:]])
    [said] = [c.seen for c in cautions(run) if c.title == "Most groups teach nothing"]
    assert words in said


def grounding(wrong: float, iou: float, coverage: float) -> dict:
    return {"grounding": {"wrong_grounding": wrong, "mean_iou": iou, "coverage": coverage}}


@pytest.mark.parametrize(
    ("after", "title"),
    [
        ({"accuracy": {"full": 0.1, "crops": 0.5}}, "Held-out answers got worse (full)"),
        (grounding(0.6, 0.3, 0.05), "The model looks in the wrong place more often"),
        (grounding(0.1, 0.35, 0.2), "The boxes got larger, not better"),
        ({"valid_box": 0.5}, "Held-out questions without a box"),
    ],
)
def test_each_trouble_of_the_evaluations_is_named(finished, after, title):
    assert warned(finished, before={}, after=after) == [title]
    assert warned(finished, before={"questions": 20}, after=after)[0] == "Few held-out questions"


def test_better_held_out_figures_are_no_trouble(finished):
    better = {"accuracy": {"full": 0.3, "crops": 0.9}} | grounding(0.1, 0.7, 0.09)
    assert warned(finished, before={}, after=better) == []


# -- curves --------------------------------------------------------------------------------------------------------


def svg(url: str) -> str:
    return base64.b64decode(url.removeprefix("data:image/svg+xml;base64,")).decode()


def test_charts_are_drawings_that_load_nothing_in_two_colours(finished):
    for chart in charts(read_run(finished)):
        light, dark = svg(chart.light), svg(chart.dark)
        for text in (light, dark):
            tree = ElementTree.fromstring(text)
            assert not [e for e in tree.iter() if e.tag.endswith(("script", "image", "foreignObject"))]
            links = [value for e in tree.iter() for name, value in e.attrib.items() if name.endswith("href")]
            assert all(link.startswith("#") for link in links)
        assert not [colour for colour in DARK if colour in dark]
        assert any(colour in light for colour in DARK)
        assert len(re.sub("#[0-9a-f]{6}", "", light)) == len(re.sub("#[0-9a-f]{6}", "", dark))


def test_a_long_run_is_drawn_small_and_odd_values_are_passed_by(finished):
    run = read_run(finished)
    rows = [
        {"stage": "1-rl", "step": n, "reward": n / 20_000, "kl": math.nan, "seconds_rollout": 1.0}
        for n in range(20_000)
    ]
    rows[5] |= {"reward": math.inf}
    rows[6] |= {"reward": None, "seconds_update": 2.0}
    found = {c.title: c for c in charts(replace(run, stages=[replace(run.stages[0], rows=rows)], evaluations={}))}
    assert "KL divergence" not in found
    assert found["Reward"].said == "last: 100.0 %"
    assert len(svg(found["Reward"].light)) < 60_000
    assert svg(found["Reward"].light).count("L ") < 3 * POINTS
    assert "Seconds a step" in found


# -- the page of an evaluation -------------------------------------------------------------------------------------


def test_an_evaluation_has_a_page_of_its_own(tmp_path):
    asked = questions(12)
    rows = [*rows_of(asked, sound), *rows_of(asked, sound, mode="full+crops"), *rows_of(asked, blind, mode="full")]
    folder = write_evaluation(tmp_path / "eval", rows, modes=["crops", "full+crops", "full"])
    evaluation = read_evaluation(folder)
    found = Page(page_of(evaluation, metrics_of(evaluation), lambda row: Grey()))
    assert "12 questions of treebench, in the modes crops, full+crops, full." in found.text
    assert "treebench, fullNo answer could be read from 100.0 % of the responses." in found.text
    right = 100 * sum(row["strict"] for row in rows[:12]) / 12
    assert f"{right:.1f} " in found.text
    assert "IoU over thresholds" in found.text
    assert sum(v.startswith("data:image/jpeg") for v in found.values("img", "src")) >= 6


def test_an_evaluation_whose_images_are_gone_is_reported_in_words(tmp_path):
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(4), sound), limit=None)  # no TreeBench.tsv here
    found = page(folder)
    assert "no picture: " in found.text and "TreeBench.tsv" in found.text
    assert folder / "report.html" in folder.iterdir()


def test_hostile_text_of_an_evaluation_stays_text(tmp_path):
    (row,) = rows_of(questions(1), sound)
    row |= {name: HOSTILE for name in ("id", "category", "question", "truth", "answer", "benchmark", "mode")}
    folder = write_evaluation(tmp_path / "eval", [row], model=HOSTILE, limit=None, modes=[HOSTILE])
    assert page(folder).text.count("alert(1)") > 8
