"""Texts that others write, as hypothesis draws them: model outputs, recipes, rows. `make trust` tries more."""

import io
import json
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.trust import fuzz_own_files, fuzz_rows, fuzz_samples, fuzz_targets, fuzz_values, fuzz_written
from benchmarks.trust.fuzz_samples import CHOICES
from benchmarks.trust.fuzz_watch import LIMIT_S
from hart_lite import checkpoints
from hart_lite.benchmarks.registry import BENCHMARKS
from hart_lite.grading import grade, normalise, read_answer
from hart_lite.lora_file import read_lora
from hart_lite.predictions import read_row
from hart_lite.recipe import dump_recipe, load_recipe
from hart_lite.run_record import licence_of, record_of
from hart_lite.shards import Checkpoint
from hart_lite.types import HartError, shown
from hart_lite.yaml_text import MOST_CHARACTERS, parse_yaml

quick = settings(
    max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
PIECES = st.sampled_from(
    (
        "\\boxed{",
        "}",
        "<answer>",
        "</answer>",
        "The answer is ",
        "(A)",
        "B",
        "A or B",
        "not (C)",
        "</think>",
        "\n",
        ". ",
    )
)
WRITTEN = st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join)
NESTED = "[" * 100_000


# -- model outputs -------------------------------------------------------------------------------------------------


@quick
@given(WRITTEN)
def test_the_grader_never_raises(text):
    fuzz_written.read_response(text.encode())


LONG = {
    "braces": r"\boxed{",
    "empty boxes": r"\boxed{ }",
    "tags": "<answer>",
    "empty tags": "<answer> </answer>",
    "phrases": "answer: ",
    "phrases and lines": "the answer is\n",
    "letters": "A or B, ",
    "brackets": "(A) (B) ",
    "verdicts": "so A is B is correct, ",
    "labels": "A. \n",
    "spaces": " ",
    "stars": "*",
    "wrappers": r"\text{",
    "options": "option (",
    "digits": "1",
    "groups": "1,000,",
    "expansion": "\ufdfa",
    "thoughts": "</think>",
    "boxes": "[1, 2, 3, 4",
    "named boxes": '"bbox_2d": [',
    "box tags": "<box>[[1,2,",
    "calls": "<tool_call>{",
    "fences": "```json\n",
}


@pytest.mark.parametrize("name", LONG)
def test_reading_a_hundred_kilobytes_takes_under_a_second(name):
    text = (LONG[name] * 100_000)[:100_000]
    for read in (lambda: grade(text, "B", CHOICES), lambda: fuzz_written.read_named_boxes(text.encode())):
        began = time.process_time()
        read()
        assert time.process_time() - began < LIMIT_S


@quick
@given(st.text(st.sampled_from('[](){}<>/0123456789.,-: "_xyboeimagdn\n'), max_size=80))
def test_boxes_lie_in_their_image_or_are_none(text):
    fuzz_written.read_named_boxes(text.encode())
    fuzz_written.read_named_boxes(f'"bbox_2d": [{text}] <box>[[{text}]]</box>'.encode())


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    return fuzz_written.protocols(tmp_path_factory.mktemp("protocols"))


@quick
@given(st.data())
def test_every_protocol_ends_with_boxes_in_the_image(talk, data):
    arguments = data.draw(fuzz_values.bent({"bbox_2d": [0.1, 0.2, 300, 1.0], "target_image": 1}))
    call = json.dumps({"name": "crop_image_normalized", "arguments": arguments})
    talk(f"<tool_call>{call}</tool_call>".encode())
    talk(f'```json\n[{{"bbox_2d": {json.dumps(arguments)}, "label": "x"}}]\n```'.encode())


def test_free_text_and_letters_are_still_read():
    assert read_answer(r"so \boxed{\text{B}}", ("x", "y")) == "B" and grade("1,000", "1000")
    assert normalise(' "Yes". ') == normalise("yes")


# -- recipes -------------------------------------------------------------------------------------------------------


@quick
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.99),
    st.floats(1e-8, 1e8),
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9), min_size=1),
)
def test_a_recipe_comes_back_as_it_was_saved(tmp_path_factory, seed, k, alpha, colours):
    folder = tmp_path_factory.getbasetemp()
    given = {"seed": seed, "k": k, "model": {"lora": {"alpha": alpha}}, "data": {"world": {"colours": colours}}}
    (folder / "in.yaml").write_text(yaml.safe_dump(given | {"stages": [{"kind": "rl"}]}), encoding="utf-8")
    recipe = load_recipe(folder / "in.yaml")
    assert (recipe.seed, recipe.k, recipe.model.lora.alpha, recipe.data.world.colours) == (seed, k, alpha, colours)
    dump_recipe(recipe, folder / "in.yaml")
    assert load_recipe(folder / "in.yaml") == recipe


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_YAML = {
    "billion laughs": (LAUGHS, "over 10,000 values"),
    "merged laughs": (MERGES, "over 10,000 values"),
    "holds itself": ("a: &a [*a]", "&a holds itself"),
    "nested": ("a: " + "[" * 60 + "]" * 60, "or over 50 levels"),
    "deeply nested": ("a: " + "[" * 30_000, "or over 50 levels"),
    "long": ("a: " + "x" * MOST_CHARACTERS, "over 65,536 characters"),
    "many digits": ("a: 0x" + "f" * 9000, "a number of over 64 bits"),
    "many parts": ("a: 1" + ":1" * 30_000, "a number of over 64 bits"),
    "twice": ("a: 1\na: 2", "key 'a' is given twice"),
    "surrogate": (r'a: "\ud800"', "text that no file can hold"),
    "zero": (r'a: "\0"', "text that no file can hold"),
    "empty int": ('a: !!int ""', "not of its type"),
    "no bool": ("a: !!bool perhaps", "not of its type"),
    "no date": ("a: !!timestamp never", "not of its type"),
    "object": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_out_of_bounds_is_refused_within_a_second(tmp_path, name):
    text, message = BAD_YAML[name]
    (tmp_path / "x.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(HartError, match="cannot be read as YAML") as error:
        load_recipe(tmp_path / "x.yaml")
    assert time.process_time() - began < LIMIT_S
    assert message in str(error.value)


def test_aliases_within_bounds_are_read():
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]\nc: {<<: {d: 1}}") == {"a": [1, 2], "b": [[1, 2]] * 2, "c": {"d": 1}}


@pytest.mark.parametrize("value", ["0x" + "f" * 9000, ".nan", "-.inf", "1e999", "[" * 900, "{a: {a: 1}}", "2001-01-01"])
@pytest.mark.parametrize("key", ["k", "seed", "stages", "stages.0", "stages.0.lr", "data", "data.columns", "x.y"])
def test_overrides_are_refused_by_name(key, value):
    with pytest.raises(HartError) as error:
        load_recipe("tiny_cpu", [f"{key}={value}"])
    assert len(str(error.value)) < 2000


def test_an_index_of_thousands_of_digits():
    with pytest.raises(HartError, match="should be the index of an item, 0 to 2"):
        load_recipe("tiny_cpu", [f"stages.{'9' * 5000}=1"])


def test_names_that_no_disk_can_hold(tmp_path):
    (tmp_path / "x.yaml").write_text(f"data: {{train: {'a' * 5000}, sft: b}}\nstages: [{{kind: rl}}]\n")
    assert load_recipe(tmp_path / "x.yaml").data.sft == "b"


def test_the_card_of_a_base_is_bounded(tmp_path):
    """Anybody can publish one."""
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{MERGES}---\n")
    began = time.process_time()
    assert licence_of(str(tmp_path)) == {}
    assert time.process_time() - began < LIMIT_S


# -- rows and benchmarks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return fuzz_targets.targets(tmp_path_factory.mktemp("readers"))


LAYOUTS = ("rows", "layout-llava", "layout-coco", "bench-mme", "bench-vstar", "predictions", "record", "shard-index")


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_read_or_refused(readers, name):
    target = readers[name]

    @settings(quick, max_examples=40)
    @given(fuzz_values.bent(json.loads(target.seeds[0].split(b"\n")[0])))
    def give(value):
        try:
            target.read(fuzz_values.as_json(value))
        except target.typed:
            return

    target.read(target.seeds[0])
    give()


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_integers_that_no_float_holds(readers, tmp_path, number):
    rows = [fuzz_rows.MME | {"Question_id": number}, fuzz_rows.MME]
    (tmp_path / "a.png").write_bytes(fuzz_samples.png())
    (tmp_path / "MME_RealWorld.json").write_text(json.dumps(rows))
    named, good = BENCHMARKS["mme-realworld"].read(str(tmp_path / "MME_RealWorld.json"))
    assert named.id == str(number) and good.answer == "B"
    beside = fuzz_rows.BESIDE | {"bbox": [[number, 0.5, number, 4]]}
    (tmp_path / "direct_attributes").mkdir()
    (tmp_path / "direct_attributes" / "a.json").write_text(json.dumps(beside))
    (tmp_path / "direct_attributes" / "a.png").write_bytes(fuzz_samples.png())
    (bad,) = BENCHMARKS["vstar"].read(str(tmp_path))
    assert bad.problem.startswith("bbox: ")


# -- what our own commands left behind -----------------------------------------------------------------------------


def test_values_too_large_to_show():
    nested = []
    for _ in range(5000):
        nested = [nested]
    assert shown(nested) == "a list that is too large to show" and "int" in shown(1 << 30_000)


@pytest.mark.parametrize("boxes", [5, "text", {"a": 1}, True])
def test_true_boxes_must_be_a_list(boxes):
    with pytest.raises(HartError, match=r"x:1: truth_boxes is .*; it should be a list"):
        read_row(json.dumps(fuzz_own_files.PREDICTION | {"truth_boxes": boxes}).encode(), "x:1")


@pytest.mark.parametrize("line", ["[1]", "{}", '{"stage": "1-rl", "step": []}', "\udcff", NESTED, '{"stage": "1-rl"}'])
def test_metrics_are_rewound_past_lines_that_are_none(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    row = {"stage": "1-rl", "step": 1}
    path.write_bytes(f"{json.dumps(row)}\n{line}\n".encode(errors="surrogateescape"))
    checkpoints.rewind_metrics(path, "1-rl", 1)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row]


@pytest.mark.parametrize("text", ["[1]", "{}", '{"global_step": [], "max_steps": 1}', NESTED, "\udcff"])
def test_a_trainer_state_that_is_none_is_named(tmp_path, text):
    (tmp_path / "trainer_state.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(HartError, match=r"trainer_state\.json is damaged"):
        checkpoints.is_last(tmp_path)


@pytest.mark.parametrize("text", ['{"weight_map": {"x": 1}}', '{"weight_map": {"x": null}}', NESTED])
def test_an_index_of_shards_that_is_none_is_named(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(HartError, match=r"index\.json is damaged"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("shape", [[2**70], [-1, -6], [0, 2**62, 2**62], [True, 6], ["6"], [2.0, 3]])
def test_a_tensor_of_an_impossible_shape_is_damage(tmp_path, shape):
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(HartError, match=r"model\.safetensors is damaged"):
        Checkpoint.open(tmp_path)


def test_an_adapter_whose_settings_are_nested_is_damaged(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(fuzz_own_files.LORA)
    (tmp_path / "adapter_config.json").write_text(NESTED)
    with pytest.raises(HartError, match=r"adapter_config\.json is damaged"):
        read_lora(tmp_path)


def test_rollouts_that_are_none_are_left_out_of_a_record(tmp_path):
    read = fuzz_own_files.run_folder(tmp_path, "stages/1-rl/rollouts/step-00001.jsonl")
    good = fuzz_own_files.ROLLOUT
    bad = [[1], {}, good | {"picture": []}, good | {"picture": ".."}, good | {"reward": []}, good | {"question": 5}]
    read(b"\xff\n" + NESTED.encode() + b"\n" + b"\n".join(json.dumps(row).encode() for row in (*bad, good)))
    record, pictures = record_of(tmp_path / "adapter", "embedded")
    (picture,) = record.pictures
    assert (picture.question, picture.right, picture.samples) == ("Q?", 1, 1)
    assert Image.open(io.BytesIO(pictures[picture.file])).size == (9, 9)
