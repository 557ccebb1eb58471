"""What is given to check-base and is no base: one message that says what it is, what is allowed, and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_runs import small_recipe

from hart_lite.cli import main as cli
from hart_lite.config.recipe import dump_recipe
from hart_lite.config.resources import TOY_BASE

ALLOWED = "a Hub id (owner/name), a folder with config.json, or `toy`"


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """The message that check-base ends with, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refused(*words: object) -> str:
        code = cli.main(["check-base", *map(str, words)])
        out, err = capsys.readouterr()
        message = err[err.index("hart-lite: ") :].removeprefix("hart-lite: ")
        assert (code, out) == (1, "") and "Traceback" not in err
        return message.removesuffix("\n")

    return refused


@pytest.mark.parametrize("given", ["no/such/base", "nothing here", "../x", "a" * 5000])
def test_what_is_no_base(refused, given):
    message = refused(given)
    assert message.startswith("there is no base '") and message.endswith(f"give {ALLOWED}")
    assert "\n" not in message and len(message) < 400


def test_a_file_is_no_base(refused, tmp_path):
    (tmp_path / "weights").write_text("no folder")
    assert refused("weights") == f"there is no base 'weights'; give {ALLOWED}"


@pytest.mark.parametrize("given", ["", "empty"])
def test_a_folder_without_a_base(refused, tmp_path, given):
    (tmp_path / "empty").mkdir()
    allowed = "a folder with one, a Hub id (owner/name), or `toy`"
    assert refused(given) == f"{given!r} holds no base: there is no config.json in it; give {allowed}"


def test_a_run(refused, tmp_path):
    (tmp_path / "run").mkdir()
    dump_recipe(small_recipe(Path("my/base"), tmp_path), tmp_path / "run" / "recipe.yaml")
    assert refused("run") == "run is a run, not a base; give its base, 'my/base'"


def adapter(folder: Path, config: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(config)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_an_adapter(refused, tmp_path):
    folder = adapter(tmp_path / "adapter", json.dumps({"base_model_name_or_path": "my/base"}))
    message = f"{folder} holds an adapter, not a base; give the base it was trained on, 'my/base'"
    assert refused(folder) == message


def test_a_damaged_adapter(refused, tmp_path):
    folder = adapter(tmp_path / "adapter", "{")
    assert refused(folder).startswith(f"{folder / 'adapter_config.json'} is damaged: ")


@pytest.mark.parametrize("override", ["rollout.samples=4", "pixels.crop=784", "model.backend=unsloth", "seed=3"])
def test_an_override_without_effect(refused, override):
    message = refused("toy", override)
    assert message.startswith(f"check-base makes no use of {override.partition('=')[0]}; it takes model.quant, ")
    assert message.endswith("pixels.full, pixels.min") and "\n" not in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modle.dtype=float32", "unknown key modle; did you mean model?"),
        ("model.dtype=float8", "model.dtype = 'float8'"),
        ("pixels.full=0", "pixels.full = 0"),
        ("model.dtype", "override 'model.dtype' should look like section.key=value"),
    ],
)
def test_a_wrong_override(refused, override, words):
    """A line for each mistake, as for a recipe."""
    message = refused("toy", override)
    assert message.startswith(f"check-base:\n  - {words}") and message.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text"), [("config.json", "{"), ("model.safetensors", "no tensors"), ("config.json", "{}")]
)
def test_a_broken_file(refused, tmp_path, name, text):
    shutil.copytree(TOY_BASE, tmp_path / "base")
    (tmp_path / "base" / name).write_text(text)
    message = refused("base", "model.device=cpu")
    assert message.startswith("base 'base' ")
    assert "Give `toy`, a Hub id such as " in message or "supported: " in message


def test_weights_that_are_no_numbers(refused, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(TOY_BASE, tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    message = refused("base", "model.device=cpu")
    assert "base 'base'" in message and "finite" in message
