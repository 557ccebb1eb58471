"""The report: one file that loads nothing, of any run in any state; warnings that fire when they should; questions that
are tracked without a trace in what is trained."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from evaluations import blind, questions, rows_of, sound, write_evaluation
from pages import HOSTILE, Page
from PIL import Image
from scripted import runner
from small_runs import make_up, metrics, rl_stage, sft_stage, small_recipe, without_timings
from test_gallery import Grey

from hart_lite.cli import main as cli
from hart_lite.config.recipe import dump_recipe
from hart_lite.config.sections import PixelBudgets
from hart_lite.errors import HartError
from hart_lite.eval.metrics import metrics as metrics_of
from hart_lite.eval.results import read_evaluation
from hart_lite.report.cost import cost
from hart_lite.report.eval_report import page_of
from hart_lite.report.html import Pictures
from hart_lite.report.reader import Moment, read_run
from hart_lite.report.run_report import run_page, write_report
from hart_lite.report.warnings import cautions
from hart_lite.report.watch import watch
from hart_lite.runs.time_left import duration
from hart_lite.toy.scenes import World, examples
from hart_lite.training.evaluation import failed_before_training
from hart_lite.training.sample_tracking import SampleTracker, quarters, select_tracked
from hart_lite.training.train import train
from hart_lite.utils.jsonl import read_jsonl, write_jsonl

WEIGHTS = "adapter_model.safetensors"
STAGES = [rl_stage(steps=8, log_rollouts_every=4), sft_stage(steps=2)]


@pytest.fixture(scope="module", autouse=True)
def _made_up():
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch.setattr)
        yield


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory) -> Path:
    """Trained by the command, which also writes the page."""
    folder = tmp_path_factory.mktemp("finished")
    lora = {"r": 4, "dropout": 0.1}  # draws from the global generator, in training alone
    model = {"base": str(tiny_base), "dtype": "float32", "device": "cpu", "lora": lora}
    evaluate = {"every": 4, "watch": 4}
    data = {"toy": {"scenes": 8, "eval_scenes": 6, "questions_per_scene": 2, "size": 168}}
    recipe = small_recipe(tiny_base, folder / "run", STAGES, model=model, evaluate=evaluate, data=data)
    dump_recipe(recipe, folder / "recipe.yaml")
    assert cli.main(["train", str(folder / "recipe.yaml")]) == 0
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
    assert len(text) < 1_500_000
    for anchor in ("watch", "table", "tracked", "charts", "samples", "cost", "recipe", "next"):
        assert f"#{anchor}" in found.values("a", "href")
        assert anchor in found.values("section", "id")
    assert "finished" in found.text and "not finished" not in found.text
    assert "8 steps of RL (loop hart, ap_grpo, k = 0.6), then 2 steps of SFT (full+crops)" in found.text
    for word in ("before", "after 1-rl", "after 2-sft", "1-rl, step 2", "1-rl, step 4", "1-rl, step 6", "torch"):
        assert word in found.text, word
    for title in ("Reward", "Held-out grounding", "Box coverage", "KL divergence", "Sampling gap", "Flat groups",
                  "Usable boxes", "Seconds a step", "Response length", "Memory", "SFT loss"):  # fmt: skip
        assert title in found.text, title
    # Two rollouts of the first and the last logged step, and each chart for a light and a dark page.
    assert [text.count(f'"when">1-rl, step {step}</span>') for step in (1, 5, 8)] == [2, 0, 2]
    assert found.text.count("Right is ") == 4 + 4  # of the tracked questions, and of the sampled ones
    drawings = [v for v in found.values("img", "src") if v.startswith("data:image/svg")]
    assert len(found.values("source", "srcset")) == len(drawings) == 15


def test_the_report_says_how_to_go_on_with_paths_that_are_there(finished, capsys):
    """Those that take no model are run as they stand."""
    page(finished)
    commands = re.findall(r"<pre>hart-lite (.*?)</pre>", (finished / "report.html").read_text())
    words = [shlex.split(unescape(command)) for command in commands]
    assert [w[0] for w in words] == ["ask", "demo", "compare", "gallery", "merge", "push"]
    paths = [word for w in words for word in w if word.startswith(str(finished)) and not word.endswith("-merged")]
    assert len(paths) == 9 and all(Path(path).exists() for path in paths)
    for line in words[2:4]:
        assert cli.main(line) == 0
    assert f"gallery: {finished}/evaluation/after-2-sft/gallery/index.html" in capsys.readouterr().out


def test_the_report_says_what_the_run_took(finished):
    run = read_run(finished)
    pairs = dict(cost(run))
    rows = metrics(finished)
    assert pairs["1-rl"].startswith(
        f"{duration(sum(r['seconds_step'] for r in rows if r['stage'] == '1-rl'))}, 8 steps"
    )
    assert ("rollout" in pairs["1-rl"], "rollout" in pairs["2-sft"]) == (True, False)
    assert pairs["evaluations"].endswith(", 4 of them")  # before, in mid-stage, after each stage
    sampled = sum(r["tokens_per_second"] * r["seconds_rollout"] for r in rows if r["stage"] == "1-rl")
    assert pairs["tokens sampled"] == f"{sampled:,.0f}" and sampled > 8 * 2 * 3
    assert pairs["device"] == "cpu" and int(pairs["cores"]) >= 1 and "still to go" not in pairs
    text = page(finished).text
    assert all(value in text for value in pairs.values())


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.2, "3 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 0 min"), (9000, "2 h 30 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_the_time_left_counts_what_each_stage_and_evaluation_takes(finished):
    """Four steps of RL are left at 2 s, two of SFT at the same pace, as nothing else is known, and evaluations at 10 s:
    after both stages, since the one in mid-stage took place."""
    run = read_run(finished)
    rows = [{"stage": "1-rl", "step": n, "seconds_step": 2.0} for n in range(1, 5)]
    stages = [replace(run.stages[0], rows=rows), replace(run.stages[1], rows=[])]
    run = replace(run, stages=stages, evaluation_seconds=[("before", 8.0), ("during-1-rl-00004", 12.0)])
    assert run.seconds_left == pytest.approx(4 * 2 + 2 * 2 + 2 * 10)
    known = [{"stage": "2-sft", "step": 1, "seconds_step": 5.0}]
    assert replace(run, stages=[stages[0], replace(stages[1], rows=known)]).seconds_left == pytest.approx(8 + 5 + 20)
    assert replace(run, stages=[replace(s, rows=[]) for s in stages]).seconds_left is None


def test_the_table_is_the_summary_with_a_verdict(finished):
    found = page(finished)
    summary = json.loads((finished / "summary.json").read_text())
    for figures in summary.values():
        for share in (*figures["accuracy"].values(), figures["grounding"]["mean_iou"], figures["valid_box"]):
            assert f"{100 * share:.1f} %" in found.text
    old, new = summary["before"]["accuracy"]["crops"], summary["after-2-sft"]["accuracy"]["crops"]
    folders = [finished / "evaluation" / name for name in ("before", "after-2-sft")]
    right = [{row.id: row.strict for row in read_evaluation(f).rows if row.mode == "crops"} for f in folders]
    pairs = [(right[0][id], right[1][id]) for id in right[0]]
    better, worse = pairs.count((False, True)), pairs.count((True, False))
    assert better - worse == round((new - old) * len(pairs))
    assert f"What the closed loop rewards. {better} questions got better, {worse} worse (p " in found.text


def test_the_boxes_of_each_moment_are_drawn_where_they_were(finished):
    found = page(finished)
    run = read_run(finished)
    assert [m.name for m in run.tracked] == [
        "before", "during-1-rl-00002", "during-1-rl-00004", "during-1-rl-00006", "after-1-rl", "after-2-sft"
    ]  # fmt: skip
    tracked = (finished / "report.html").read_text().partition('id="tracked"')[2].partition("</section>")[0]
    rects = re.findall(
        r'<rect class="frame (\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>', tracked
    )
    looks = [tuple(map(float, r[1:])) for r in rects if r[0] == "c1"]
    rows = [
        row for question in run.questions for rows in run.tracked.values() for row in rows if row.id == question["id"]
    ]
    boxes = [row.boxes[0] for row in rows if row.boxes]
    assert looks == [pytest.approx((box.x1, box.y1, box.width, box.height), abs=0.051) for box in boxes]
    assert sum(r[0] == "truth" for r in rects) == len(rows)
    # Each photo is in the file once, and shown at every moment; beside it the crops of boxes and truth.
    assert len(found.values("image", "href")) == len(run.questions) == 4
    assert len(found.values("use", "href")) == len(rows) == 4 * 6
    assert tracked.count("asked about, ") == 2 * 4 and tracked.count("box 1, ") == len(boxes)
    assert set(re.findall(r'viewBox="([\d. ]+)"', tracked)) == {"0 0 168 168"}


def test_an_unfinished_run_is_reported_as_far_as_it_got(run):
    """Killed in RL, a line of metrics half-written."""
    for path in run.glob("tracked/after*"):
        path.unlink()
    for name in ("after-1-rl", "after-2-sft"):
        shutil.rmtree(run / "evaluation" / name)
    (run / "evaluation" / "during-1-rl-00004" / "summary.json").unlink()  # broken off: no moment of the curves
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
    for name in ("evaluation", "stages", "tracked", "adapter"):
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()
    (run / "versions.json").unlink()
    found = page(run)
    assert "the run was before its first step" in found.text
    assert "Nothing was measured" in found.text
    assert not {"#tracked", "#charts", "#table", "#samples", "#cost"} & set(found.values("a", "href"))


def test_pictures_that_are_gone_or_damaged_leave_the_words(run):
    for path in run.glob("tracked/*.jpg"):
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
    asked = json.loads((run / "tracked/questions.json").read_text())
    for question in asked["questions"]:
        question |= {"picture": "../../x.jpg"}
    (run / "tracked/questions.json").write_text(json.dumps(asked))
    said = {"question": hostile, "truth": hostile, "text": hostile, "answer": hostile, "choices": [hostile] * 2}
    for path in [*run.glob("tracked/*.jsonl"), *run.glob("evaluation/*/predictions.jsonl")]:
        rows = [json.loads(line) | said for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "versions.json").write_text(json.dumps({hostile: hostile}))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("train: toy", f"train: {json.dumps(HOSTILE)}"))
    for path in run.glob("stages/1-rl/rollouts/*.jsonl"):
        said = {
            "question": hostile,
            "turns": [{"kind": "verify", "text": hostile}],
            "crops": [hostile, "/etc/x.jpg", 7],
        }
        path.write_text("".join(json.dumps(row | said) + "\n" for _, row in read_jsonl(path)))
    found = page(run)
    assert found.text.count("alert(1)") > 20
    assert not any("alert" in str(value) for _, _, value in found.attributes)


def test_rollouts_that_are_no_transcripts_are_passed_by(run):
    last = run / "stages/1-rl/rollouts/step-00007.jsonl"
    odd = [{}, {"photo": 3}, {"question": "x", "photo": "a.jpg", "size": [1], "crops": [], "boxes": [], "turns": []}]
    rows = [row for _, row in read_jsonl(last)]
    write_jsonl(last, [*odd, rows[0] | {"boxes": [[1, 2]]}, rows[0] | {"turns": []}, rows[-1]])
    text = write_report(run).read_text()
    assert [text.count(f'"when">1-rl, step {step}</span>') for step in (1, 8)] == [2, 1]


def test_a_page_has_room_for_so_many_pictures(finished):
    text = run_page(read_run(finished), Pictures(room=20_000))
    assert len(re.findall(r"data:image/jpeg;base64,[\w+/=]+", text)) >= 1
    assert sum(map(len, re.findall(r"data:image/jpeg;base64,[\w+/=]+", text))) <= 20_000
    left = int(re.search(r"(\d+) pictures are left out to keep this file small", text)[1])
    assert left > 3
    Page(text)


def test_a_folder_that_is_no_run_is_refused(tmp_path, run, capsys):
    with pytest.raises(HartError, match="holds neither a run"):
        write_report(tmp_path)
    damaged = run / "evaluation" / "before" / "eval.json"
    damaged.write_text("{")
    assert cli.main(["report", str(run)]) == 1
    assert f"{damaged}: not JSON" in capsys.readouterr().err


def test_the_command_imports_no_torch(run):
    call = f"main(['report', {str(run)!r}])"
    code = f"import sys; from hart_lite.cli.main import main; {call}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"report: {run / 'report.html'}", "False"], done.stderr


def test_a_report_that_cannot_be_written_does_not_end_the_run(tiny_base, tmp_path, monkeypatch, caplog, capsys):
    def fail(run):
        raise HartError("no paper")

    monkeypatch.setattr("hart_lite.report.run_report.write_report", fail)
    dump_recipe(small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=1)]), tmp_path / "recipe.yaml")
    assert cli.main(["train", str(tmp_path / "recipe.yaml")]) == 0
    assert (tmp_path / "run" / "adapter").is_dir()
    assert f"no report: no paper\nOnce that is mended: hart-lite report {tmp_path / 'run'}" in caplog.text
    assert "| held-out questions: " in capsys.readouterr().out


# -- watching ------------------------------------------------------------------------------------------------------


def test_watching_writes_the_page_each_time_that_the_run_got_further(run):
    """A run goes on while it is watched: its metrics grow twice, then it is finished."""
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:3]))
    (run / "adapter").rename(run / "elsewhere")
    (run / "report.html").unlink()
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            (run / "metrics.jsonl").write_text("".join(rows[:6]))
        if len(pauses) == 4:
            (run / "metrics.jsonl").write_text("".join(rows))
            (run / "elsewhere").rename(run / "adapter")

    followed = watch(run, 7, pause)
    line = next(followed)
    assert re.match(rf"{run}/report.html: 1-rl, step 3 of 8, about \d+ (s|min) left in the whole run", line)
    text = (run / "report.html").read_text()
    assert '<body data-refresh="7">' in text and "of work are left in the whole run" in text
    assert "1-rl, step 6 of 8" in next(followed)
    assert next(followed) == f"{run}/report.html: finished"
    assert "<body>" in (run / "report.html").read_text()
    assert list(followed) == [] and pauses == [7] * 4


def test_only_a_run_can_be_watched(tmp_path, capsys):
    assert cli.main(["watch", str(tmp_path)]) == 1
    assert f"{tmp_path} holds no run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["watch", str(tmp_path), "--every", "0"])


# -- tracking ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tracking_leaves_no_trace_in_what_is_trained(finished, tiny_base, tmp_path):
    """Neither in the adapter nor in the metrics, the evaluations, the optimizer and the state of the generators."""
    recipe = read_run(finished).recipe
    assert recipe.evaluate.watch == 4
    quiet = recipe.evaluate.model_copy(update={"watch": 0})
    train(recipe.model_copy(update={"output": str(tmp_path / "quiet"), "evaluate": quiet}))
    assert not (tmp_path / "quiet" / "tracked").exists()
    assert without_timings(metrics(tmp_path / "quiet")) == without_timings(metrics(finished))
    same = [f"stages/1-rl/checkpoint-8/{name}" for name in (WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth")]
    same += [f"stages/2-sft/checkpoint-2/{name}" for name in (WEIGHTS, "optimizer.pt", "rng_state.pth")]
    same += [
        f"adapter/{WEIGHTS}",
        *(f"evaluation/{name}/predictions.jsonl" for name in ("after-2-sft", "during-1-rl-00004")),
    ]
    for name in same:
        assert (tmp_path / "quiet" / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_policy_that_trains_goes_on_training(policy, tmp_path):
    run = runner(policy, pixels=PixelBudgets(full=4 * 784, crop=784, min=784), max_tokens_locate=4)
    for training in (True, False):
        policy.model.train(training)
        SampleTracker(tmp_path, run, examples(World(), range(2), 1), held_out=True).record(
            f"during-1-rl-{training:05d}"
        )
        assert policy.model.training is training
    assert len(list((tmp_path / "tracked").glob("during*.jsonl"))) == 2


def test_what_is_kept_of_a_tracked_sample(finished):
    """The same questions each time; the answers after the run are those that the evaluation saw."""
    run = read_run(finished)
    ids = [question["id"] for question in run.questions]
    assert len(set(ids)) == 4 and run.held_out
    evaluated = {row.id: row for row in run.answers[list(run.answers)[-1]] if row.mode == "crops"}
    for moment, rows in run.tracked.items():
        assert [row.id for row in rows] == ids
        for n, row in enumerate(rows):
            kept = sorted((finished / "tracked").glob(f"{moment.name}-{n}-*.jpg"))
            assert [path.name for path in kept] == [f"{moment.name}-{n}-{i}.jpg" for i in range(len(row.boxes))]
            assert all(Image.open(path).size[0] <= 480 for path in kept)
    for row in list(run.tracked.values())[-1]:
        same = evaluated[row.id]
        assert (row.boxes, row.turns, row.grounding) == (same.boxes, same.turns, same.grounding)
        assert (row.text, row.strict) == (same.text, same.strict)
    assert Image.open(finished / "tracked" / "0.jpg").size == (168, 168)
    failed = failed_before_training(finished)
    before = [row for row in run.answers[next(iter(run.answers))] if row.grounding]
    assert failed == {row.id for row in before if not row.grounding.grounded}
    assert failed
    assert sum(i in failed for i in ids) == min(2, len(failed)) or len(failed) > 10


def test_a_resumed_run_keeps_what_was_seen_and_adds_nothing_false(run):
    """The policy of a finished run is not the one of its middle."""
    recipe = read_run(run).recipe.model_copy(update={"output": str(run)})
    dump_recipe(recipe, run / "recipe.yaml")
    before = {p.name: p.read_bytes() for p in (run / "tracked").iterdir()}
    train(recipe, resume=True)
    assert {p.name: p.read_bytes() for p in (run / "tracked").iterdir()} == before
    for name in ("before", "after-1-rl", "after-2-sft"):
        (run / "tracked" / f"{name}.jsonl").unlink()
    train(recipe, resume=True)
    assert not (run / "tracked" / "before.jsonl").exists()
    assert not (run / "tracked" / "after-1-rl.jsonl").exists()
    assert (run / "tracked" / "after-2-sft.jsonl").read_bytes() == before["after-2-sft.jsonl"]


def test_without_held_out_questions_those_of_training_are_tracked(tiny_base, tmp_path):
    data = {"toy": {"scenes": 4, "eval_scenes": 0, "size": 168}}
    train(small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=1)], data=data))
    found = page(tmp_path / "run")
    assert "questions from the training data (there are no held-out ones)" in found.text
    assert "Nothing was measured" in found.text


def test_the_tracked_are_from_all_over_on_different_images_the_failed_first():
    asked = examples(World(), range(10), 2)  # two questions on each image
    ids = [example.id for example in asked]
    assert [e.id for e in select_tracked(asked, 4)] == [ids[0], ids[4], ids[10], ids[14]]
    assert select_tracked(asked, 0) == [] and select_tracked([], 4) == []
    assert len(select_tracked(asked, 99)) == 10
    some = select_tracked(asked, 4, {ids[6], ids[8], ids[10], ids[18]})
    assert [e.id for e in some] == [ids[6], ids[10], ids[0], ids[12]]
    assert select_tracked(asked, 4, {ids[6]})[0].id == ids[6]
    assert len(select_tracked(asked, 4, {ids[6]})) == len(select_tracked(asked, 4, set(ids))) == 4
    assert [e.id for e in select_tracked(asked, 3, set(ids[2:]))][-1] == ids[0]


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
        ({"sampling_gap": lambda done: 0.06 + 0 * done}, "What is sampled is not what is trained"),
        ({"valid_box": lambda done: 1 - 0.3 * done}, "Many samples name no usable box"),
        ({"answers_mass": lambda done: 0.2 + 0 * done}, "What is scored is not what would be said"),
        ({"control_unplaced": lambda done: 0.5 * done}, "Boxes leave no room for a control region"),
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
        {"sampling_gap": lambda done: 0.03 + 0 * done},  # rounding of bfloat16
        {"answers_mass": lambda done: 0.5 + 0 * done},
        {"control_unplaced": lambda done: 0.1 + 0 * done},
        {"tokens_locate": 3.5},
        {"valid_box": lambda done: done},  # learned to name one
    ],
)
def test_what_is_no_trouble_is_not_named(finished, series):
    if "valid_box" in series:
        series = {"valid_box": lambda done: min(1.0, 0.5 + done)}
    assert warned(finished, before={}, **series) == []


@pytest.mark.parametrize("steps", [3, 40])
def test_a_run_without_any_signal_is_warned_about_from_the_first_steps(finished, steps):
    """Once, and in no other words."""
    nothing = warned(finished, steps, before={}, reward=0.0, flat_groups=1.0)
    assert nothing == ["No sample has earned a reward"]
    assert warned(finished, steps, before={}, reward=0.5, flat_groups=1.0) == ["Every group is flat"]
    assert warned(finished, 2, before={}, reward=0.0, flat_groups=1.0) == []
    once = {"reward": lambda done: 0.1 * (done == 0), "flat_groups": lambda done: float(done > 0)}
    assert "No sample has earned a reward" not in warned(finished, steps, before={}, **once)


def test_a_few_steps_have_no_trend(finished):
    assert warned(finished, steps=7, before={}, reward=0.1, coverage=lambda done: done, flat_groups=0.9) == []


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
