"""Recipes, overrides and the cards of bases, damaged or made to take more than there is."""

import json
from contextlib import suppress

import pytest
import yaml
from bombs import yaml_bombs
from damage import check_reader, one_value_changed, processor_seconds
from hypothesis import given
from hypothesis import strategies as st

from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.config.resources import shipped_recipes
from hart_lite.config.yaml import parse_yaml
from hart_lite.errors import HartError
from hart_lite.runs.record import licence_of

BOMBS = yaml_bombs()
OVERRIDES = (
    *(b"k=0.3", b"stages.0.steps=20", b"data.eval_toy.colours=[red,green]", b"rollout.samples=8", b"name=x"),
    *(b"stages.1.keep_locate=0.5", b"model.lora.parts=[language,vision]", b"data.columns={id: Question}"),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)


def test_a_damaged_recipe_is_refused_or_comes_back_as_it_was_saved(tmp_path):
    path, again = tmp_path / "recipe.yaml", tmp_path / "again.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        recipe = load_recipe(path)
        dump_recipe(recipe, again)
        assert load_recipe(again) == recipe

    check_reader(read, *(path.read_bytes() for path in shipped_recipes()))


STAGES = {"stages": load_recipe("tiny_cpu").model_dump(mode="json")["stages"][:2]}
SECTIONS = {
    name: {"stages": [{"kind": "rl"}], name: value}
    for name, value in load_recipe("tiny_cpu").model_dump(mode="json").items()
    if isinstance(value, dict)
}


@pytest.mark.parametrize("recipe", [STAGES, *SECTIONS.values()], ids=["stages", *SECTIONS])
def test_every_odd_value_in_a_section_is_taken_or_refused(tmp_path, recipe):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML, too
    assert load_recipe(path)
    for data in one_value_changed(recipe):
        if b"[[[" not in data:  # levels out of bounds are refused above, each after half a second in PyYAML
            path.write_bytes(data)
            with processor_seconds(), suppress(HartError):
                load_recipe(path)


def test_an_item_that_a_list_lacks_is_named():
    with pytest.raises(HartError, match=r"data\.toy\.objects\.0 is missing"):
        load_recipe("tiny_cpu", ["data.toy.objects=[]"])


def test_damaged_overrides_are_taken_or_refused():
    def read(data: bytes) -> None:
        load_recipe("tiny_cpu", [data.decode("utf-8", "replace")])

    check_reader(read, *OVERRIDES)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99), st.floats(1e-8, 1e8), st.lists(TEXT, min_size=1))
def test_values_of_a_recipe_come_back_as_they_were_saved(tmp_path_factory, seed, k, alpha, colours):
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    values = {"seed": seed, "k": k, "model": {"lora": {"alpha": alpha}}, "data": {"toy": {"colours": colours}}}
    path.write_text(yaml.safe_dump(values | {"stages": [{"kind": "rl"}]}), encoding="utf-8")
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.k, recipe.model.lora.alpha, recipe.data.toy.colours) == (seed, k, alpha, colours)
    dump_recipe(recipe, path)
    assert load_recipe(path) == recipe


REFUSED_YAML = {
    "aliases of aliases": (BOMBS["aliases of aliases"], "over 10,000 values"),
    "merges of merges": (BOMBS["merges of merges"], "over 10,000 values"),
    "holds itself": (BOMBS["a list that holds itself"], "&a holds itself"),
    "nested": (BOMBS["60 levels"], "or over 50 levels"),
    "deeply nested": (BOMBS["30,000 levels"], "or over 50 levels"),
    "long": (BOMBS["100,000 characters"], "over 65,536 characters"),
    "many digits": (BOMBS["a number of 9,000 digits"], "a number of over 64 bits"),
    "many parts": (BOMBS["a number of 30,000 parts"], "a number of over 64 bits"),
    "twice": ("a: 1\na: 2", "key 'a' is given twice"),
    "surrogate": (r'a: "\ud800"', "text that no file can hold"),
    "zero": (r'a: "\0"', "text that no file can hold"),
    "empty int": ('a: !!int ""', "not of its type"),
    "no bool": ("a: !!bool perhaps", "not of its type"),
    "no date": ("a: !!timestamp never", "not of its type"),
    "object": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
}


@pytest.mark.parametrize("name", REFUSED_YAML)
def test_yaml_out_of_bounds_is_refused(tmp_path, name):
    text, message = REFUSED_YAML[name]
    (tmp_path / "x.yaml").write_text(text)
    with processor_seconds(1.0), pytest.raises(HartError, match="cannot be read as YAML") as error:
        load_recipe(tmp_path / "x.yaml")
    assert message in str(error.value)


def test_every_bomb_has_a_reason():
    assert set(BOMBS.values()) <= {text for text, _ in REFUSED_YAML.values()}


def test_aliases_within_bounds_are_read():
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]\nc: {<<: {d: 1}}") == {"a": [1, 2], "b": [[1, 2]] * 2, "c": {"d": 1}}


@pytest.mark.parametrize("value", ["0x" + "f" * 9000, ".nan", "-.inf", "1e999", "[" * 900, "{a: {a: 1}}", "2001-01-01"])
@pytest.mark.parametrize("key", ["k", "seed", "stages", "stages.0", "stages.0.lr", "data", "data.columns", "x.y"])
def test_overrides_are_refused_by_name(key, value):
    with pytest.raises(HartError) as error:
        load_recipe("tiny_cpu", [f"{key}={value}"])
    assert len(str(error.value)) < 2000


def test_an_index_of_thousands_of_digits_is_refused():
    with pytest.raises(HartError, match="should be the index of an item, 0 to 2"):
        load_recipe("tiny_cpu", [f"stages.{'9' * 5000}=1"])


def test_a_name_that_no_disk_can_hold_is_no_error_of_the_recipe(tmp_path):
    (tmp_path / "x.yaml").write_text(f"data: {{train: {'a' * 5000}, sft: b}}\nstages: [{{kind: rl}}]\n")
    assert load_recipe(tmp_path / "x.yaml").data.sft == "b"


def test_the_card_of_a_base_is_read_within_bounds(tmp_path):
    """Anybody can publish one."""
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{BOMBS['merges of merges']}---\n")
    with processor_seconds(1.0):
        assert licence_of(str(tmp_path)) == {}
