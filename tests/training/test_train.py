"""Whole runs: what they leave behind, what they refuse, and that a killed one ends where an unbroken one does."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from own_process import own_process
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from small_runs import make_up, metrics, rl_stage, sft_stage, small_recipe, without_timings
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.data.images import ImageFile
from hart_lite.errors import HartError
from hart_lite.eval.results import read_evaluation
from hart_lite.inference.protocols import hart
from hart_lite.models.loading import load_policy
from hart_lite.runs.checkpoints import damage
from hart_lite.runs.splits import load_splits
from hart_lite.toy.model import build
from hart_lite.training import callbacks, checkpointing
from hart_lite.training import train as training
from hart_lite.training.train import train

REALSET = Path(__file__).parents[3] / "shared" / "realset" / "questions.jsonl"
NO_EVAL = {"toy": {"scenes": 4, "eval_scenes": 0, "size": 168}}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    make_up(monkeypatch.setattr)


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test when a model is loaded."""

    def fail(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(training, "load_policy", fail)


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory):
    """(recipe, summary) of an unbroken run of both stages, with evaluations in between."""
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch.setattr)
        recipe = whole_recipe(tiny_base, tmp_path_factory.mktemp("finished") / "run")
        return recipe, train(recipe)


def whole_recipe(base: Path, run: Path):
    lora = {"r": 4, "dropout": 0.1}  # draws from the global generator, so that its state has to be restored as well
    model = {"base": str(base), "dtype": "float32", "device": "cpu", "lora": lora}
    stages = [rl_stage(steps=5, log_rollouts_every=2), sft_stage(steps=5)]
    return small_recipe(base, run, stages, model=model, evaluate={"every": 2, "modes": ["full", "crops"]})


def adapter_of(run: Path) -> bytes:
    return (run / "adapter" / WEIGHTS).read_bytes()


# -- what a run leaves ---------------------------------------------------------------------------------------------


def test_a_run_leaves_everything_it_took_and_made(finished):
    recipe, summary = finished
    run = recipe.run_dir
    assert load_recipe(run / "recipe.yaml") == recipe
    assert {"python", "torch", "transformers", "trl", "peft", "bitsandbytes"} <= set(
        json.loads((run / "versions.json").read_text())
    )
    rows = metrics(run)
    assert [(row["stage"], row["step"]) for row in rows] == [(s, n) for s in ("1-rl", "2-sft") for n in range(1, 6)]
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)
    assert any(row["flat_groups"] < 1 for row in rows[:5])
    rollouts = run / "stages" / "1-rl" / "rollouts"
    assert {p.name for p in rollouts.glob("*.jsonl")} == {"step-00000.jsonl", "step-00002.jsonl", "step-00004.jsonl"}
    for file in rollouts.glob("*.jsonl"):
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            assert row["turns"][0]["kind"] == "locate"
            assert row["reward"] in (0, 1)
            assert (rollouts / row["picture"]).is_file()
            assert Image.open(rollouts / row["picture"]).size[0] >= 480
    names = ["before", "after-1-rl", "after-2-sft"]
    assert list(summary) == names
    assert json.loads((run / "summary.json").read_text()) == summary
    assert "| before | after-1-rl | after-2-sft |" in (run / "summary.md").read_text()
    during = [f"during-{stage}-{step:05d}" for stage in ("1-rl", "2-sft") for step in (2, 4)]
    assert {p.name for p in (run / "evaluation").iterdir()} == {*names, *during}
    for name in (*names, *during):
        evaluation = read_evaluation(run / "evaluation" / name)
        assert len(evaluation.rows) == 4 * len(recipe.evaluate.modes) and not evaluation.bad_rows
    assert summary["before"]["questions"] == 4
    assert {"accuracy", "valid_box", "grounding", "joint"} <= set(summary["before"])
    assert not list(run.rglob("*.part"))
    assert {p.name for p in run.iterdir()} == {
        "recipe.yaml",
        "versions.json",
        "metrics.jsonl",
        "timing.jsonl",
        "stages",
        "evaluation",
        "adapter",
        "summary.json",
        "summary.md",
        "tracked",
    }


def test_the_adapter_loads_with_plain_peft(finished, tiny_base):
    recipe, _ = finished
    folder = recipe.run_dir / "adapter"
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_base)
    model = PeftModel.from_pretrained(base, folder)
    saved = load_file(folder / WEIGHTS)
    loaded = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert any(bool(p.any()) for name, p in loaded.items() if "lora_B" in name)  # it was trained
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_base)
    assert json.loads((folder / "base.json").read_text())["base"].startswith("sha256:")
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    stage = recipe.run_dir / "stages" / "2-sft" / "adapter" / WEIGHTS
    assert stage.read_bytes() == adapter_of(recipe.run_dir)
    assert (recipe.run_dir / "stages" / "1-rl" / "adapter" / WEIGHTS).read_bytes() != stage.read_bytes()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_another(finished, tiny_base, tmp_path):
    """Without the evaluations and rollout logs of the first one: looking changes nothing."""
    recipe, _ = finished
    stages = [stage.model_copy(update={"save_every": 0}) for stage in recipe.stages]
    quiet = {"stages": stages, "evaluate": recipe.evaluate.model_copy(update={"every": 0})}
    again = recipe.model_copy(update={"output": str(tmp_path / "again"), **quiet})
    train(again)
    assert without_timings(metrics(again.run_dir)) == without_timings(metrics(recipe.run_dir))
    assert adapter_of(again.run_dir) == adapter_of(recipe.run_dir)
    other = again.model_copy(update={"output": str(tmp_path / "other"), "seed": 1, "stages": stages[:1]})
    train(other)
    assert without_timings(metrics(other.run_dir)) != without_timings(metrics(recipe.run_dir))[:5]


# -- killed and resumed --------------------------------------------------------------------------------------------


def die_before(target: object, name: str, happens: Callable[..., bool]) -> None:
    """Kills this process when `target.name` is called with arguments for which it `happens`."""
    real = getattr(target, name)

    def wrapped(*args, **kwargs):
        if happens(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(target, name, wrapped)


def train_until_killed(recipe_file: Path, moment: str, resume: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    make_up()
    if moment == "before the seal":
        die_before(checkpointing, "seal", lambda folder: folder.name == "checkpoint-4" and "1-rl" in str(folder))
    else:
        die_before(
            callbacks.MetricsFile,
            "on_step_begin",
            lambda file, args, state, control: file.stage == "2-sft" and state.global_step == 3,
        )
    train(load_recipe(recipe_file), resume=resume)


def killed(recipe_file: Path, moment: str, resume: bool) -> None:
    process = own_process(train_until_killed, recipe_file, moment, resume, torch.get_num_threads())
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_killed_twice_ends_like_an_unbroken_one(finished, tmp_path):
    """Killed while checkpoint 4 of RL is half-saved, then in SFT a step after its checkpoint; resumed each time."""
    unbroken, summary = finished
    run = tmp_path / "run"
    recipe = unbroken.model_copy(update={"output": str(run)})
    dump_recipe(recipe, tmp_path / "killed.yaml")

    killed(tmp_path / "killed.yaml", "before the seal", resume=False)
    half_saved = run / "stages" / "1-rl" / "checkpoint-4"
    assert (half_saved / WEIGHTS).exists()
    assert damage(half_saved) == "it was never finished"
    assert [row["step"] for row in metrics(run)] == [1, 2, 3, 4]
    with pytest.raises(HartError, match="already holds a run; add --resume"):
        train(recipe)

    killed(run / "recipe.yaml", "in SFT", resume=True)
    assert (run / "stages" / "1-rl" / "adapter").is_dir()
    assert [(row["stage"], row["step"]) for row in metrics(run)][5:] == [("2-sft", 1), ("2-sft", 2), ("2-sft", 3)]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "2-sft", "step": 4, "lo')  # torn by the kill

    assert train(recipe, resume=True) == summary
    assert without_timings(metrics(run)) == without_timings(metrics(unbroken.run_dir))
    assert adapter_of(run) == adapter_of(unbroken.run_dir)
    for name in ("during-1-rl-00004", "after-2-sft"):
        rows = Path("evaluation") / name / "predictions.jsonl"
        assert (run / rows).read_bytes() == (unbroken.run_dir / rows).read_bytes()

    before = adapter_of(run)
    assert train(recipe, resume=True) == summary  # a finished run is left as it is
    assert adapter_of(run) == before


@pytest.mark.parametrize("stage", [rl_stage(), sft_stage()], ids=["rl", "sft"])
def test_a_run_killed_after_its_last_checkpoint_takes_no_step_more(tiny_base, tmp_path, stage, monkeypatch):
    """With a number of steps that ends within an epoch of the data."""
    run = tmp_path / "run"
    recipe = small_recipe(tiny_base, run, [stage], data=NO_EVAL)
    with monkeypatch.context() as patch:
        patch.setattr("hart_lite.training.stage.save_adapter", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    train(recipe, resume=True)
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]
    last = run / "stages" / f"1-{stage['kind']}" / "checkpoint-3" / WEIGHTS
    assert last.read_bytes() == adapter_of(run)


# -- what is refused -----------------------------------------------------------------------------------------------


def test_another_recipe_cannot_resume_a_run(finished, no_model):
    recipe, _ = finished
    other = recipe.model_copy(update={"k": 0.3, "seed": 5})
    with pytest.raises(HartError, match=r"made by another recipe; differing: k, seed\."):
        train(other, resume=True)


def test_a_folder_with_other_things_is_no_place_for_a_run(tiny_base, tmp_path, no_model):
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(HartError, match="not empty and holds no run; choose another place"):
            train(small_recipe(tiny_base, run), resume)
    with pytest.raises(HartError, match=r"is no folder to write in; choose another with output="):
        train(small_recipe(tiny_base, run / "thesis.tex"))
    with pytest.raises(HartError, match=r"thesis\.tex is no folder to write in"):
        train(small_recipe(tiny_base, run / "thesis.tex" / "below" / "run"))
    assert [p.name for p in run.iterdir()] == ["thesis.tex"]


def test_an_adapter_of_another_base_is_refused(tiny_base, tmp_path):
    run = tmp_path / "run"
    recipe = small_recipe(tiny_base, run, [rl_stage(steps=1)], data=NO_EVAL)
    train(recipe)
    config = run / "stages" / "1-rl" / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(recipe.model.base, "Qwen/Qwen2.5-VL-7B-Instruct"))
    with pytest.raises(HartError, match=r"was trained on base 'Qwen/Qwen2\.5-VL-7B-Instruct'"):
        train(recipe, resume=True)


def test_a_base_that_was_replaced_is_refused(tiny_base, tmp_path):
    """By one of the same name and shapes: by a run in mid-stage, and by the adapter of a stage that is done."""
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_base, base)
    recipe = small_recipe(base, run, [rl_stage(steps=1)], data=NO_EVAL)
    train(recipe)
    adapter = run / "stages" / "1-rl" / "adapter"
    assert load_policy(recipe.model, adapter)
    build(base, seed=1)
    assert (base / "model.safetensors").stat().st_size == (tiny_base / "model.safetensors").stat().st_size
    with pytest.raises(HartError, match=r"1-rl/adapter was trained on another base: the files of .*/base have been"):
        train(recipe, resume=True)
    adapter.rename(tmp_path / "adapter")
    with pytest.raises(HartError, match=r"run was begun on another base: .* start a new run with output="):
        train(recipe, resume=True)
    (tmp_path / "adapter" / "base.json").unlink()  # of an earlier version
    assert load_policy(recipe.model, tmp_path / "adapter")


def test_a_base_that_cannot_be_read_leaves_no_run_behind(tiny_base, tmp_path):
    recipe = small_recipe(tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(HartError, match="cannot be read"):
        train(recipe)
    assert not (tmp_path / "run").exists()


def test_an_empty_data_set_is_refused_before_a_model_is_loaded(tiny_base, tmp_path, no_model):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    with pytest.raises(HartError, match=r"rows\.jsonl: no rows"):
        train(small_recipe(tiny_base, tmp_path / "run", data={"train": str(rows)}))
    assert not (tmp_path / "run").exists()


def write_rows(folder: Path, images: int, per_image: int) -> Path:
    lines = []
    for i in range(images):
        Image.new("RGB", (300, 200), (40 * i, 90, 90)).save(folder / f"{i}.png")
        lines += [
            {"id": f"{i}-{n}", "image": f"{i}.png", "question": "What?", "choices": ["a", "b"], "answer": "A"}
            for n in range(per_image)
        ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_stage_without_questions_is_refused_before_a_model_is_loaded(tiny_base, tmp_path, no_model):
    rows = write_rows(tmp_path, images=1, per_image=4)
    with pytest.raises(HartError, match=r"stage 2-sft has no questions.*lower data\.rl_size"):
        train(small_recipe(tiny_base, tmp_path / "run", data={"train": str(rows), "rl_size": 2}))
    assert not (tmp_path / "run").exists()


def test_rl_and_sft_share_no_image(tiny_base, tmp_path):
    rows = write_rows(tmp_path, images=6, per_image=3)
    splits = load_splits(small_recipe(tiny_base, tmp_path / "run", data={"train": str(rows), "rl_size": 7}))
    rl, sft = ({image.key for e in part for image in e.images} for part in (splits.rl, splits.sft))
    assert rl.isdisjoint(sft)
    assert (len(splits.rl), len(splits.sft)) == (9, 9)  # whole images, until there are seven
    both = small_recipe(tiny_base, tmp_path / "run", data={"train": str(rows), "sft": str(_copy(rows))})
    with pytest.raises(HartError, match="RL and SFT share 6 images"):
        load_splits(both)


def _copy(path: Path) -> Path:
    target = path.with_name("copy.jsonl")
    target.write_bytes(path.read_bytes().replace(b'"id": "', b'"id": "again-'))
    return target


def test_held_out_scenes_are_never_trained_on(tiny_base, tmp_path):
    splits = load_splits(small_recipe(tiny_base, tmp_path))
    trained = {image.key for e in splits.rl + splits.sft for image in e.images}
    assert trained.isdisjoint(image.key for e in splits.eval for image in e.images)
    assert len(splits.eval) == 4


@pytest.mark.parametrize("kind", ["rl", "sft"])
def test_an_image_found_broken_in_mid_run_is_named_with_its_row_and_the_run_goes_on(tiny_base, tmp_path, kind):
    rows = write_rows(tmp_path, images=2, per_image=2)
    stage = rl_stage(steps=3) if kind == "rl" else sft_stage(steps=3, keep_locate=0)
    recipe = small_recipe(tiny_base, tmp_path / "run", [stage], data={"train": str(rows)})
    whole = (tmp_path / "1.png").read_bytes()
    splits = load_splits(recipe)
    (tmp_path / "1.png").write_bytes(whole[:60] + b"?" * (len(whole) - 72) + whole[-12:])  # header and end are there
    assert len(load_splits(recipe).rl) == len(splits.rl)
    with pytest.raises(HartError) as caught:
        train(recipe)
    text = str(caught.value)
    assert f"{tmp_path / '1.png'}: damaged image" in text
    assert "It is the image of 2 rows, id '1-0' the first. The checkpoints in" in text
    assert f"hart-lite train {recipe.run_dir / 'recipe.yaml'} --resume" in text
    (tmp_path / "1.png").write_bytes(whole)
    train(recipe, resume=True)
    assert [row["step"] for row in metrics(recipe.run_dir)] == [1, 2, 3]


# -- any order and number of stages, loops, objectives -------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "changes"),
    [
        ([sft_stage(steps=1), rl_stage(steps=1)], {}),
        ([rl_stage(steps=1), rl_stage(steps=1)], {"loop": "mgpo", "objective": "grpo"}),
        ([rl_stage(steps=1)], {"loop": "direct", "objective": "grpo", "beta": 0.0}),
        ([rl_stage(steps=1, loop="direct"), sft_stage(epochs=0.5, steps=None, context="full")], {}),
    ],
    ids=["sft, rl", "rl, rl by mgpo", "rl by direct", "rl by direct, sft"],
)
def test_stages_in_any_order_by_any_loop(tiny_base, tmp_path, stages, changes):
    recipe = small_recipe(tiny_base, tmp_path / "run", stages, data=NO_EVAL, **changes)
    assert train(recipe) == {}
    names = [f"{n + 1}-{stage['kind']}" for n, stage in enumerate(stages)]
    assert sorted(p.name for p in (tmp_path / "run" / "stages").iterdir()) == names
    assert list(dict.fromkeys(row["stage"] for row in metrics(tmp_path / "run"))) == names
    rl = [row for row in metrics(tmp_path / "run") if "reward" in row]
    direct = "direct" in (changes.get("loop"), stages[0].get("loop"))
    assert all(("tokens_answer" in row) == direct and ("valid_box" in row) != direct for row in rl)
    assert "nothing was measured" in (tmp_path / "run" / "summary.md").read_text()


def test_a_second_stage_of_a_kind_draws_its_own_samples(tiny_base, tmp_path):
    """Not the first one's questions with the first one's noise once more."""
    recipe = small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=1, lr=1e-9)] * 2, data=NO_EVAL)
    train(recipe)
    first, second = (
        (tmp_path / "run" / "stages" / name / "rollouts" / "step-00000.jsonl").read_text() for name in ("1-rl", "2-rl")
    )
    assert first != second


# -- real photos ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_photos_go_through_the_whole_pipeline(tiny_base, tmp_path, monkeypatch):
    """Every crop is cut from the original pixels: loaded from the file, no larger than it, at the box's own place."""
    if not REALSET.exists():
        pytest.skip(f"{REALSET} is not there")
    rows = [json.loads(line) for line in REALSET.read_text(encoding="utf-8").splitlines()]
    images = list(dict.fromkeys(row["image"] for row in rows))[:3]
    chosen = [row | {"image": str(REALSET.parent / row["image"])} for row in rows if row["image"] in images]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    seen = []
    crop_view = hart.crop_view

    def recorded(example, box, *limits):
        view = crop_view(example, box, *limits)
        seen.append((example, box, view))
        return view

    monkeypatch.setattr(hart, "crop_view", recorded)
    stages = [rl_stage(steps=1), sft_stage(steps=1, batch_size=1)]
    source = {"train": str(data), "eval": str(data), "eval_size": 2}
    recipe = small_recipe(tiny_base, tmp_path / "run", stages, data=source, rollout={"samples": 2})
    summary = train(recipe)
    assert summary["after-2-sft"]["questions"] == 2
    assert "grounding" in summary["before"]
    assert seen
    for example, box, view in seen:
        assert isinstance(view.source, ImageFile)
        assert view.source is example.images[0]
        width, height = view.source.size()
        assert max(width, height) > 1000  # the original, not what the model saw
        cut = view.box
        assert 0 <= cut.x1 <= box.x1 < box.x2 <= cut.x2 <= width
        assert 0 <= cut.y1 <= box.y1 < box.y2 <= cut.y2 <= height
        assert box.width / cut.width > 0.8  # the pad is 0.1 on each side
    for example in load_splits(recipe).eval:
        assert replace(example, boxes=()).images[0].size()[0] > 56
