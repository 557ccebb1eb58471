"""The paper's tables with ours beside them: their figures as printed, ours by hand, and commands that load."""

import csv
import io
import json
import shlex

import pytest
from evaluations import always_a, blind, elsewhere, other_letter, questions, rows_of, sound, write_evaluation

from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.errors import HartError
from hart_lite.report.paper_tables.published import commands, paper_table
from hart_lite.report.paper_tables.rows import Value
from hart_lite.report.paper_tables.tables import csv_text, markdown, table, write_tables
from hart_lite.runs.methods import Trained, trained

CATEGORIES = ["Perception/OCR", "Perception/Object Retrieval", "Reasoning/Contact and Occlusion", "Reasoning/Ordering"]


def ours(made):
    return [row for row in made.rows if row.source == "ours"]


def evaluation(tmp_path, rows, name="eval", **settings):
    return write_evaluation(tmp_path / name, rows, **settings)


def alternating(question):
    """Right about even questions; looks at the target of every fourth."""
    answer = question.truth if question.number % 2 == 0 else other_letter(question)
    return answer, [question.target] if question.number % 4 == 0 else elsewhere(question)


@pytest.mark.parametrize("number", range(1, 9))
def test_the_papers_figures_stand_as_printed(number):
    made, paper = table([], number), paper_table(number)
    assert len(made.rows) == len(paper["rows"])
    for row, printed in zip(made.rows, paper["rows"], strict=True):
        assert row.source == "paper"
        for column in paper["columns"]:
            cell = row.cells[column["key"]]
            expected = printed[column["key"]]
            assert cell == (f"{expected:.2f}" if column["key"] == "k" and expected else expected)
    assert made.notes[0] == "None of the given folders has figures for this table."
    assert len(made.notes) > 1


def test_some_of_the_papers_figures():
    assert "| paper | Visual Grounded Reasoning Models | HART-7B (Ours) | 7B | 57.7 | 49.8 |" in markdown(table([], 2))
    assert "| paper |  | Qwen2.5-VL-7B | ✗ | 1,057 | 1,838 | 466 | 681 | 36.5 | 0.00105 |" in markdown(table([], 1))
    assert "| paper | HART-7B (Ours) | AP-GRPO + SFT | 0.15 | 67.0 | 56.9 | 56.4 | 31.6 |" in markdown(table([], 7))
    assert "| paper |  | MGPO | 19,130 | 30.7 |" in markdown(table([], 8))
    hart = next(row for row in table([], 2).rows if row.cells["method"] == "MGPO")
    assert hart.cells["macro"] == pytest.approx(60.46, abs=0.005)  # what the MGPO paper prints for the same model
    assert "micro (sample-weighted) mean" in markdown(table([], 2))


def test_sub_tasks_find_their_columns(tmp_path):
    """40 questions, every second one right: those of categories 1 and 3."""
    folder = evaluation(tmp_path, rows_of(questions(40, categories=CATEGORIES), alternating))
    made = table([folder], 3)
    (row,) = ours(made)
    assert row.cells["method"] == f"runs/small ({folder}), crops"
    assert row.cells["ocr"] == row.cells["contact_and_occlusion"] == Value(100, 10, 100, 100)
    assert row.cells["object_retrieval"] == row.cells["ordering"] == Value(0, 10, 0, 0)
    assert "attributes" not in row.cells
    assert (row.cells["overall"].value, row.cells["overall"].n, row.cells["macro"].value) == (50, 40, 50)
    assert any("pixels.full 1003520" in line and "prompt official" in line for line in made.settings)
    assert "| 100.0 (100.0-100.0; n 10) |" in markdown(made)
    assert not ours(table([folder], 2))


def test_mme_realworld_lite_by_its_abbreviations(tmp_path):
    asked = questions(20, categories=["Perception/AD", "Reasoning/AD"])
    folder = evaluation(tmp_path, rows_of(asked, alternating, "mme-realworld-lite", boxed=False))
    (row,) = ours(table([folder], 2))
    assert (row.cells["perception_ad"].value, row.cells["reasoning_ad"].value) == (100, 0)


def test_the_official_scorer_has_a_row_where_it_judges_otherwise(tmp_path):
    folder = evaluation(tmp_path, rows_of(questions(40, categories=CATEGORIES), blind))
    strict, official = ours(table([folder], 3))
    assert official.cells["method"] == f"runs/small ({folder}), crops, official scorer"
    assert (strict.cells["overall"].value, official.cells["overall"].value) == (0, 25)


def test_the_joint_distribution_in_the_papers_order(tmp_path):
    """40 questions: 20 right, of which 10 with the right box; no wrong answer has one."""
    folder = evaluation(tmp_path, rows_of(questions(40), alternating, "visual-cot"))
    (row,) = ours(table([folder], 1))
    counts = [row.cells[column["key"]] for column in paper_table(1)["columns"][2:6]]
    assert counts == [10, 10, 20, 0]
    assert row.cells["incorrect_grounding_given_correct_answer_pct"].value == 50
    assert float(row.cells["bits"]) == pytest.approx(0.31128, abs=1e-5)
    assert row.cells["hart"] is None


def test_grounding_in_both_readings(tmp_path):
    """Two targets a question, of which one is hit where the model looks right: a quarter of 20 and an eighth of 40."""
    rows = rows_of(questions(20), alternating)
    for row in rows:
        row["grounding"]["targets"] = 2
    vstar = [row | {"benchmark": "vstar"} for row in rows]
    made = table([evaluation(tmp_path, [*rows, *vstar, *rows_of(questions(20), blind, mode="full")])], 6)
    per_box, any_target = ours(made)
    assert per_box.cells["method"] == f"runs/small ({tmp_path / 'eval'}), crops, per box"
    assert (per_box.cells["treebench_correct"].value, per_box.cells["treebench_correct"].n) == (12.5, 40)
    assert per_box.cells["treebench_incorrect"].value == 87.5
    assert any_target.cells["treebench_correct"].value == 25
    assert per_box.cells["treebench_coverage"].value < 2
    assert any_target.cells["vstar_correct"].value == 25
    assert "visual_cot_correct" not in any_target.cells
    assert "treebench mean IoU (added)" in [column.title for column in made.columns]
    assert "per ground-truth box" in markdown(made)
    low, high = any_target.cells["treebench_correct"].low, any_target.cells["treebench_correct"].high
    incorrect = any_target.cells["treebench_incorrect"]
    assert (incorrect.low, incorrect.high) == (pytest.approx(100 - high), pytest.approx(100 - low))


def test_the_other_benchmarks_have_a_column_for_each_of_ours(tmp_path):
    rows = rows_of(questions(40), alternating, "hrbench4k", boxed=False) + rows_of(questions(8), sound, "vstar", "full")
    made = table([evaluation(tmp_path, rows)], 4)
    titles = {column.key: column.title for column in made.columns}
    assert titles["qwen2_5_vl_7b"] == "Qwen2.5-VL-7B (paper)"
    assert [titles[key] for key in titles if key.startswith("ours")] == [
        f"runs/small ({tmp_path / 'eval'}), full (ours)",
        f"runs/small ({tmp_path / 'eval'}), crops (ours)",
    ]
    mmstar, vstar, four_k, _ = made.rows
    assert four_k.cells["ours_0_crops"].value == 50
    assert vstar.cells["ours_0_full"].n == 8
    assert not any(key.startswith("ours") for key in mmstar.cells)
    assert "None of the given" not in markdown(made)


@pytest.fixture
def run(tmp_path):
    """A run directory of the shipped recipe at k = 0.3, with three steps of RL and one of SFT."""
    folder = tmp_path / "runs/mine"
    folder.mkdir(parents=True)
    dump_recipe(load_recipe("tiny_cpu", [f"output={folder}", "k=0.3"]), folder / "recipe.yaml")
    step = {"stage": "1-rl", "seconds_rollout": 1.0, "seconds_update": 2.0, "peak_memory_gib": 0.5}
    steps = [step | {"step": 1}, step | {"step": 2, "peak_memory_gib": 2.0}, step | {"step": 3, "seconds_update": 5.0}]
    lines = [*steps, {"stage": "2-sft", "step": 1, "loss": 0.1}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_training_cost_from_a_run(run):
    (row,) = ours(table([run], 8))
    assert row.cells["method"] == f"AP-GRPO ({run}, 1-rl; toy, memory of the process on CPU)"
    assert row.cells["gpu_mib"] == Value(2048, 3)
    assert (row.cells["time_s_per_step"].value, row.cells["time_s_per_step"].n) == (4, 3)
    assert row.cells["time_s_per_step"].low == 3
    assert "| 2,048 (n 3) | 4.0 (3.0-6.0; n 3) |" in markdown(table([run], 8))


def test_methods_are_named_by_their_recipes(run, tmp_path, monkeypatch):
    stages = load_recipe(run / "recipe.yaml").stages
    whole = " + ".join("AP-GRPO" if stage.kind == "rl" else "SFT" for stage in stages)
    assert trained(str(run)) == Trained(whole, 0.3, True)
    (run / "stages/1-rl/adapter").mkdir(parents=True)
    assert trained(str(run / "stages/1-rl/adapter")) == Trained("AP-GRPO", 0.3, True)
    monkeypatch.chdir(run)
    assert trained("Qwen/Qwen2.5-VL-7B-Instruct") is None
    assert trained("api:gpt-4o") is None
    assert trained(".").k == 0.3
    direct = tmp_path / "runs/direct"
    (direct / "stages/1-rl").mkdir(parents=True)
    dump_recipe(load_recipe("tiny_cpu", ["loop=direct", "objective=grpo"]), direct / "recipe.yaml")
    assert trained(str(direct / "stages/1-rl")) == Trained("GRPO", None, False)
    asked = questions(40, categories=CATEGORIES)
    made = table([evaluation(tmp_path, rows_of(asked, alternating), model=str(run))], 7)
    (row,) = ours(made)
    assert row.cells["method"] == f"{whole} ({run} ({tmp_path / 'eval'}), crops)"
    assert (row.cells["k"], row.cells["treebench_perception"].value) == ("0.30", 50)
    (row,) = ours(table([tmp_path / "eval"], 5))
    assert row.cells["hart"] is True


def test_every_system_of_the_paper_has_a_command_that_loads():
    seen = set()
    for number in range(1, 9):
        paper = paper_table(number)
        named = commands(number)
        if number != 4:
            assert {row["method"] for row in paper["rows"]} <= {
                name.split(", k =")[0].split(" with ")[0] for name in named
            }
        for name, command in named.items():
            for part in command.split(" && "):
                program, action, what, *rest = shlex.split(part)
                assert program == "hart-lite"
                seen.add((name, action, what))
                if action == "train":
                    recipe = load_recipe(what, rest)
                    assert f"--number {number}" in command or f"hart-lite eval {recipe.output}" in command
    for expected in (
        ("Qwen2.5-VL-7B", "eval", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("GPT-4o", "eval", "api:gpt-4o"),
        ("DeepEyes-7B", "eval", "ChenShawn/DeepEyes-7B"),
        ("Pixel-Reasoner-7B", "eval", "TIGER-Lab/PixelReasoner-RL-v1"),
        ("SFT + AP-GRPO, k = 0.6", "eval", "runs/sft-hart-k0.6"),
    ):
        assert expected in seen
    assert commands(3)["DeepEyes-7B"].endswith("--benchmark treebench --mode deepeyes")


def test_the_order_of_stages_in_the_commands():
    kinds = {}
    for name, command in commands(7).items():
        if "hart-lite train" in command:
            what, *overrides = shlex.split(command.split(" && ")[0])[2:]
            recipe = load_recipe(what, overrides)
            kinds[name] = ([stage.kind for stage in recipe.stages], recipe.loop, recipe.objective, recipe.k)
    assert kinds["SFT + AP-GRPO, k = 0.6"] == (["sft", "rl"], "hart", "ap_grpo", 0.6)
    assert kinds["AP-GRPO + SFT, k = 0.15"] == (["rl", "sft"], "hart", "ap_grpo", 0.15)
    assert kinds["MGPO"][1:3] == ("mgpo", "grpo")
    assert kinds["GRPO"][1:3] == ("direct", "grpo")


def test_tables_for_machines(tmp_path):
    folder = evaluation(tmp_path, rows_of(questions(40, categories=CATEGORIES), alternating))
    rows = list(csv.DictReader(io.StringIO(csv_text(table([folder], 3)))))
    assert rows[0]["source"] == "paper"
    assert (rows[0]["ocr"], rows[0]["ocr_n"], rows[0]["attributes"]) == ("27.9", "", "55.2")
    last = rows[-1]
    assert (last["source"], last["ocr"], last["ocr_low"], last["ocr_n"], last["attributes"]) == (
        *("ours", "100.0", "100.0", "10"),
        "",
    )
    assert "attributes_n" not in last


def test_tables_are_written(tmp_path):
    folder = evaluation(tmp_path, rows_of(questions(40, categories=CATEGORIES), always_a))
    text = write_tables([folder], [1, 3], tmp_path / "out/deep")
    assert text.count("## Table") == 2
    assert sorted(path.name for path in (tmp_path / "out/deep").iterdir()) == [
        *("table1.csv", "table1.md", "table3.csv", "table3.md")
    ]
    assert (tmp_path / "out/deep/table3.md").read_text() in text
    (tmp_path / "file").write_text("")
    with pytest.raises(HartError, match="is a file"):
        write_tables([folder], [1], tmp_path / "file")


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(HartError, match="neither an evaluation"):
        table([tmp_path], 1)
    with pytest.raises(HartError, match="no table 9"):
        table([], 9)
