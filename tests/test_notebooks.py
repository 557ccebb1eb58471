"""Every code cell of every notebook runs, with the tiny model standing in through the variable RECIPE, and drawn
scenes for what notebooks take from the Hub (ROWS, SPLIT, BENCH).

Cells run in order in one namespace. `!hart-lite ..` is the command in this process, any other `!` line a shell's, and
`%pip` lines are collected (tests/test_notebook_install.py asks pip about them). What only the platforms have is small
modules of the same names.
"""

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import matplotlib
import PIL.Image
import pytest
import transformers
from datasets import Dataset, Features, Value
from datasets import Image as Picture
from hub_stand_in import TOKEN, Hub
from notebook_cells import FOLDER, ON_A_CARD, ON_CPU, UNSTORED, as_python, cells, source
from packaging.version import Version

from hart_lite.cli.main import main
from hart_lite.config.recipe import load_recipe
from hart_lite.toy.scenes import World, examples

SHORT = "stages.0.steps=1 stages.0.questions_per_step=2 rollout.samples=2 stages.1.steps=1"
RECIPES = {
    "tour": f"tiny_cpu {SHORT} stages.2.steps=1 data.toy.scenes=40 data.toy.eval_scenes=2 evaluate.watch=1",
    "own_data": f"tiny_cpu {SHORT} stages.2.steps=1 data.eval_size=4 evaluate.watch=1",
    "why_hart": 'tiny_cpu stages=[{"kind":"rl","steps":1,"questions_per_step":2}] rollout.samples=2 data.toy.scenes=10 '
    'data.toy.eval_scenes=2 evaluate.modes=["crops"] evaluate.watch=0',
    # The shipped recipe, its 4 bits and its float16 included, on another base.
    "card": f"qwen7b_16gb {SHORT} stages.1.batch_size=2 model.base=toy model.device=cpu pixels.full=12544 "
    "pixels.crop=4704 pixels.min=784 rollout.max_tokens_locate=12 rollout.max_tokens_answer=4 data.eval_size=2 "
    "evaluate.watch=1",
}


def shell(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "hart-lite":
        assert main(words[1:]) == 0, line
    else:
        assert subprocess.run(line, shell=True).returncode == 0, line


class Displays:
    """IPython.display: keeps what is shown, and opens each picture."""

    def __init__(self) -> None:
        self.pictures: list[tuple[int, int]] = []
        self.texts: list[str] = []

    def module(self) -> types.ModuleType:
        return module("IPython.display", Image=self.image, Markdown=self.texts.append, display=lambda shown: None)

    def image(self, filename: str, width: int) -> None:
        with PIL.Image.open(filename) as picture:
            picture.load()
            self.pictures.append(picture.size)


def module(name: str, **members: object) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(members)
    return made


def mount(folder: str) -> None:
    assert Path(folder).is_absolute()
    Path(folder, "MyDrive").mkdir(parents=True)


class UserSecretsClient:
    def get_secret(self, name: str) -> str:
        return {"HF_TOKEN": TOKEN}[name]


PLATFORMS = {
    "colab_t4": {
        "google.colab": module(
            "google.colab",
            drive=types.SimpleNamespace(mount=mount),
            userdata=types.SimpleNamespace(get=UserSecretsClient().get_secret),
        )
    },
    "kaggle_t4x2": {"kaggle_secrets": module("kaggle_secrets", UserSecretsClient=UserSecretsClient)},
}


def stand_in_rows(path: str, count: int) -> None:
    """Drawn scenes in the columns of the data set that the notebooks name."""
    found = examples(World(), range(count), 1)
    columns = {
        "image": [example.images[0].load() for example in found],
        "question": [example.question for example in found],
        "answer": [example.choices["ABCDE".index(example.answer)] for example in found],
    }
    features = Features(image=Picture(), question=Value("string"), answer=Value("string"))
    Dataset.from_dict(columns, features).to_parquet(path)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a notebook in a folder of its own; (its names, what it displayed, the lines that began with %)."""
    monkeypatch.chdir(tmp_path)
    for variable in ("HF_TOKEN", "CUDA_VISIBLE_DEVICES"):  # notebooks set them; this takes them away again
        monkeypatch.setenv(variable, "")
    for variable, value in {"ROWS": "stand_in.parquet", "SPLIT": "train[:8]", "BENCH": "toy"}.items():
        monkeypatch.setenv(variable, value)
    stand_in_rows("stand_in.parquet", 10)
    matplotlib.use("agg")

    def go(name: str, recipe: str) -> tuple[dict, Displays, list[str]]:
        monkeypatch.setenv("RECIPE", recipe)
        displays, magics = Displays(), []
        for path, made in ({"IPython.display": displays.module()} | PLATFORMS.get(name, {})).items():
            monkeypatch.setitem(sys.modules, path, made)
        names = {"shell": shell, "magic": magics.append}
        for number, cell in enumerate(cells(name)):
            exec(compile(as_python(source(cell)), f"{name}.ipynb, code cell {number}", "exec"), names)
        return names, displays, magics

    return go


# -- every cell runs -----------------------------------------------------------------------------------------------


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {*ON_CPU, *ON_A_CARD, *UNSTORED}


@pytest.mark.slow
@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18") and find_spec("torchvision") is None,
    reason="transformers 5.17 hides AutoImageProcessor, which a cell imports, where torchvision is missing",
)
def test_the_tour(run, capsys):
    _, displays, _ = run("tour", RECIPES["tour"])
    out = capsys.readouterr().out
    assert re.search(r"peak [\d.]+ MiB", out)  # the plan
    assert "merged checkpoint: runs/merged" in out
    assert len(displays.pictures) == 2 and "wrong grounding" in displays.texts[0]
    assert re.search(r'bbox_2d": \[\d+(,\d+){3}\]', out)  # said by plain transformers
    [plain] = [source(cell) for cell in cells("tour") if "from transformers" in source(cell)]
    assert "hart_lite" not in plain and "hart-lite" not in plain


@pytest.mark.slow
def test_own_data(run, capsys):
    _, displays, _ = run("own_data", RECIPES["own_data"])
    out = capsys.readouterr().out
    rows = {name: read(f"runs/own/from_{name}/rows.jsonl") for name in ("csv", "llava", "coco")}
    ours = read("runs/own/rows/rows.jsonl")[:20]
    # COCO has no choices: what an image is asked twice, with other ones, is one row there, with its box twice.
    once = list({(row["image"], row["question"]): row for row in ours}.values())
    assert {name: len(found) for name, found in rows.items()} == {"csv": 20, "llava": 20, "coco": len(once)}
    for number, row in enumerate(ours):
        assert rows["csv"][number]["question"] == rows["llava"][number]["question"] == row["question"]
        assert (rows["csv"][number]["answer"], rows["csv"][number]["choices"]) == (row["answer"], row["choices"])
        assert rows["llava"][number]["answer"] == text_of(row)
    for row, found in zip(once, rows["coco"], strict=True):
        assert (found["question"], found["answer"]) == (row["question"], text_of(row))
        assert all(box in row["boxes"] for box in found["boxes"]) and len(row["boxes"]) == 1
    assert "McNemar" in out and len(displays.pictures) == 2
    assert Path("runs/own/run/report.html").exists()


@pytest.mark.slow
def test_why_hart(run, capsys):
    names, _, _ = run("why_hart", RECIPES["why_hart"])
    out = capsys.readouterr().out
    assert "advantages [1.5, -0.5, -0.5, -0.5]" in out and "mu1        [1.45, 0.85, 0.85, 0.85]" in out
    assert len(names["found"]) == 2 and all(0 <= share <= 100 for pair in names["found"].values() for share in pair)
    recipes = [load_recipe(f"runs/why/{number}/recipe.yaml") for number in range(2)]
    assert [(recipe.loop, recipe.objective) for recipe in recipes] == [("mgpo", "grpo"), ("hart", "ap_grpo")]


def text_of(row: dict) -> str:
    return row["choices"]["ABCDE".index(row["answer"])]


def read(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["colab_t4", pytest.param("kaggle_t4x2", marks=pytest.mark.slow)])
def test_from_install_to_push(run, monkeypatch, capsys, name):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub(user="YOUR_NAME") as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        names, displays, magics = run(name, RECIPES["card"])
    pushed = hub.repos[names["REPO"]]
    assert {"adapter_model.safetensors", "README.md", "training.json"} <= set(pushed.files) and pushed.private
    assert json.loads(pushed.files["training.json"])["recipe"]["model"]["quant"] == "nf4"
    assert len(displays.pictures) == 2 and "wrong grounding" in displays.texts[0]
    assert magics == [f'pip install -q -c keep.txt "{names["SOURCE"]}"']
    out = capsys.readouterr().out
    assert "No card: choose" in out and "8 of 8 rows are good" in out
    assert "16 GB" in out and "McNemar" in out and TOKEN not in out
    if name == "kaggle_t4x2":
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    else:
        assert Path("drive/MyDrive/hart-lite-run/adapter").is_dir()  # outlives the session


@pytest.mark.parametrize("name", ON_A_CARD)
def test_what_it_says_of_memory_is_what_the_plan_says(name, capsys):
    assert main(["plan", "qwen7b_16gb"]) == 0
    peak = re.search(r"peak ([\d.]+ GiB)", capsys.readouterr().out)[1]
    text = source(cells(name, "markdown")[0])
    assert f"{peak} at most" in text and "Not run on a card yet" in text


@pytest.mark.parametrize("name", ON_A_CARD)
@pytest.mark.parametrize(
    ("card", "recipe"),
    [
        ("Tesla T4, 15360", "qwen7b_16gb"),
        ("NVIDIA L4, 23034", "qwen7b_lora"),
        ("NVIDIA A100-SXM4-40GB, 40960", "qwen7b_lora"),
        ("NVIDIA A100-SXM4-80GB, 81920", "qwen7b_80gb"),
        ("", "qwen7b_16gb"),
    ],
)
def test_the_recipe_is_the_cards(name, card, recipe, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{card}'\n" if card else "#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("RECIPE", raising=False)
    [cell] = [source(cell) for cell in cells(name) if "nvidia-smi" in source(cell)]
    names: dict = {"os": os}
    exec(cell, names)
    chosen, *overrides = names["RECIPE"].split()
    assert chosen == recipe
    assert load_recipe(chosen, overrides).stages[0].steps == 20


@pytest.mark.parametrize("name", ON_A_CARD)
def test_the_badge_opens_what_is_installed(name):
    settings = source(cells(name)[0])
    address = re.search(r'"SOURCE", "git\+https://github.com/([^"]+)"', settings)[1]
    [badge] = re.findall(r"\[!\[Open in \w+\]\(\S+\)\]\((\S+)\)", source(cells(name, "markdown")[0]))
    assert re.search(rf"github(?:\.com)?/{address}/blob/main/notebooks/{name}\.ipynb$", badge)
    text = "".join(source(cell) for cell in cells(name, "markdown"))
    for data in (re.search(r'"ROWS", "([^"]+)"', settings)[1], "craigwu/vstar_bench"):
        assert f"https://huggingface.co/datasets/{data}" in text


# -- what is stored ------------------------------------------------------------------------------------------------


def outputs(name: str) -> list[dict]:
    return [output for cell in cells(name) for output in cell["outputs"]]


@pytest.mark.parametrize("name", ON_CPU)
def test_stored_executed(name):
    assert [cell["execution_count"] for cell in cells(name)] == list(range(1, len(cells(name)) + 1))
    assert all(cell["outputs"] for cell in cells(name) if "!hart-lite" in source(cell))
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1_500_000
    data = [output.get("data", {}) for output in outputs(name)]
    pictures = [d[kind] for d in data for kind in ("image/png", "image/jpeg") if kind in d]
    assert len(pictures) >= 2
    for picture in pictures:
        assert PIL.Image.open(io.BytesIO(base64.b64decode(picture))).width >= 300


@pytest.mark.parametrize("name", [*ON_A_CARD, *UNSTORED])
def test_stored_clean(name):
    assert not outputs(name) and not [cell for cell in cells(name) if cell["execution_count"]]


@pytest.mark.parametrize("name", [*ON_CPU, *ON_A_CARD])
def test_nothing_of_the_machine_is_stored(name):
    assert not [output for output in outputs(name) if output["output_type"] == "error"]
    text = "\n".join(
        "".join(words)
        for output in outputs(name)
        for words in (output.get("text", ""), output.get("data", {}).get("text/plain", ""))
    )
    assert "hart-lite: " not in text and "command not found" not in text  # a command that failed
    assert "\r" not in text and "\x1b" not in text
    assert not re.findall(r"(?:/(?:home|root|tmp|usr|opt|work|Users)/|\.venv)\S*", text)


def test_the_tour_shows_the_effect():
    """In what is stored: wrong grounding falls by more than half, answers from the crops rise."""
    table = next(d["data"]["text/markdown"] for d in outputs("tour") if "text/markdown" in d.get("data", {}))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in "".join(table).splitlines()]
    figures = {row[0]: [float(value) for value in row[1:]] for row in rows if re.fullmatch(r"0\.\d+", row[-1])}
    wrong, right = figures["wrong grounding (IoGT <= 0.3)"], figures["answers right, crops"]
    assert wrong[-1] < wrong[0] / 2 and right[-1] > right[0] + 0.1
