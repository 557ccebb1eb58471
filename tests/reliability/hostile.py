"""Hostile input: text in the place of every text, paths out of a data set, pickles and remote code, secrets."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

from hart_lite.config.resources import EMBEDDED
from hart_lite.data.convert import convert
from hart_lite.data.dataset import load_examples
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.readers import ImageFolder
from hart_lite.runs.checkpoints import seal
from tests.reliability.hostile_text import (
    FILE,
    FOLDER,
    MARK,
    RAN,
    TEXT,
    Page,
    chromium,
    moves_the_cursor,
    pages,
    poison,
    rows,
    title_in_browser,
)
from tests.reliability.promise import Promise

ROOT = Path(__file__).parents[2]
SMALL = ("rollout.samples=2", "stages.0.questions_per_step=1", "stages.0.steps=2", "stages.0.save_every=1",
         "stages.0.log_rollouts_every=1", "stages.1.steps=1", "stages.2.steps=1")  # fmt: skip
SECRETS = {"HF_TOKEN": "hf_canaryCanaryCanaryCanaryCanary01", "OPENAI_API_KEY": "sk-canary-canary-canary-0123456789",
           "HUGGING_FACE_HUB_TOKEN": "hf_otherOtherOtherOtherOtherOth02"}  # fmt: skip


def promises(folder: Path, quick: bool) -> Iterator[Promise]:
    said: list[str] = []  # all that was printed

    def cli(*words: object, **environment: str) -> int:
        variables = {**os.environ, **SECRETS, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **environment}
        command = [sys.executable, "-m", "hart_lite.cli.main", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=folder, timeout=900)
        said.append(done.stdout + done.stderr)
        return done.returncode

    data, home = rows(folder), folder / f"runs {FOLDER}"
    run = home / "run"
    failed = cli("train", "tiny_cpu", f"output={run}", f"data.train={data}", f"data.eval={data}", *SMALL)
    evaluations = home / "a", home / "b"
    for out, model in zip(evaluations, (run, "embedded"), strict=True):
        failed += cli("eval", model, "--benchmark", f"rows={data}", "--mode", "full,crops", "--out", out)
    if failed:
        raise HartError("the runs that were to be poisoned failed:\n" + "\n".join(text[-2000:] for text in said))
    yield _text(folder, run, evaluations, quick)
    yield _terminal(cli, said, data, run, evaluations, folder)
    yield _paths(folder / "paths")
    yield _code(folder / "code", cli, said, run)
    yield _secrets(folder, cli, said, run)


def _text(folder: Path, run: Path, evaluations: tuple[Path, Path], quick: bool) -> Promise:
    fields = sum(poison(place) for place in (run, *evaluations))
    made, harm, shown = dict(pages(run, evaluations)), [], 0
    browser = None if quick else chromium()
    if browser and title_in_browser(browser, f"<title>plain</title>{TEXT}", folder) != RAN:
        harm.append("the text runs nothing in this browser where it is not escaped, so it shows nothing")
    for name, html in made.items():
        page = Page(html)
        harm += [f"{name}: {what}" for what in page.harm()]
        shown += page.words.count(MARK)
        if browser:
            title = title_in_browser(browser, html, folder)
            harm += [f"{name}: {title}"] if title == RAN else []
    how = f"; none ran a script in {Path(browser).name}, their policies taken out" if browser else ""
    measured = f"{len(made)} pages of {fields:,} hostile fields show {shown:,} of them as text{how}"
    return Promise(
        "hostile text in questions, answers, choices, categories, file names and folders is text in report, gallery, "
        "card, compare and table", "; ".join([measured, *harm[:5]]), not harm and shown > 0
    )  # fmt: skip


def _terminal(cli, said: list[str], data: Path, run: Path, evaluations: tuple[Path, Path], folder: Path) -> Promise:
    before = len(said)
    broken = data.with_name("broken.jsonl")
    broken.write_text(data.read_text() + json.dumps({"image": f"no {FILE}", "question": FILE, "answer": FILE}) + "\n")
    photo = next(data.parent.glob("*.png"))
    cli("data", "check", broken)
    cli("compare", *evaluations)
    cli("table", *evaluations)
    cli("push", run, "me/look", "--dry-run")
    cli("ask", photo, json.loads(data.read_text().splitlines()[0])["question"])
    cli("ask", photo.with_name(f"no {photo.name}"), FILE)
    cli("eval", "embedded", "--benchmark", f"rows={broken}", "--out", folder / "again")
    obeyed = sorted({sign for text in said[before:] for sign in moves_the_cursor(text)})
    return Promise(
        "no character of theirs moves a terminal's cursor",
        f"{len(said) - before} commands, {len(obeyed)} such characters {' '.join(obeyed)}".strip(),
        not obeyed,
    )


def _paths(folder: Path) -> Promise:
    """The images are there and whole: what is refused is that a data set picks them."""
    inside = folder / "set" / "images"
    inside.mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(folder / "secret.png")
    Image.new("RGB", (40, 30)).save(inside / "good.png")
    leading_out = ("../secret.png", "images/../../secret.png", "./../secret.png", str(folder / "secret.png"))
    refused = tried = 0
    kept: list[str] = []
    for number, name in enumerate((*leading_out, "images/good.png")):
        for layout, read in _readers(folder / "set", name, folder / f"out{number}"):
            try:
                read()
                out = False
            except HartError as error:
                out = "leads out of" in str(error)
            if name in leading_out:
                tried, refused = tried + 1, refused + out
            if out != (name in leading_out):
                kept.append(f"{layout}: {name}")
    return Promise(
        "image paths that leave a downloaded or converted data set are refused",
        "; ".join([f"{refused} of {tried} refused", *kept[:5]]),
        not kept,
    )


def _readers(place: Path, image: str, out: Path):
    """(layout, reads a set of it whose one row names this image; raises where it cannot be used)."""
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat"}]
    llava = [{"image": image, "conversations": turns}]
    mgpo = [{"image_path": image, "question": "What?", "answer": "A cat"}]
    asked = {"image_id": 1, "id": 1, "bbox": [1, 1, 5, 5], "question": "What?", "answer": "A cat"}
    coco = {"images": [{"id": 1, "file_name": image}], "annotations": [asked]}
    for layout, content in (("llava", llava), ("sharegpt", llava), ("mgpo", mgpo), ("coco", coco)):
        (place / f"{layout}.json").write_text(json.dumps(content))
        yield layout, lambda layout=layout: convert(place / f"{layout}.json", out.with_name(out.name + layout), layout)
    (place / "rows.csv").write_text(f"image,question,answer\n{image},What?,A cat\n")
    yield "csv", lambda: convert(place / "rows.csv", out.with_name(out.name + "csv"), "csv")
    names = ("Question_id", "Image", "Text", "Answer choices", "Ground truth", "Task", "Subtask")
    mme = dict(zip(names, ("1", image, "What?", ["(A) a", "(B) b"], "A", "x", "y"), strict=True))
    (place / "mme.json").write_text(json.dumps([mme]))
    yield "mme_realworld", lambda: load_examples(place / "mme.json", format="mme_realworld")
    yield "a benchmark's folder", lambda: ImageFolder([place]).find(image)
    import datasets

    for kind, cell in (("text", image), ("struct", {"bytes": None, "path": image})):
        table = datasets.Dataset.from_list([{"image": cell, "question": "What?", "answer": "A cat"}])
        with mock.patch.object(datasets, "load_dataset", lambda table=table, **_: table):  # as the Hub would give it
            yield f"hub {kind}", lambda: load_examples("owner/name", image_dir=place)


class _Runs:
    """Pickled, it touches a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


def _code(folder: Path, cli, said: list[str], run: Path) -> Promise:
    mark, photo = folder / "ran", folder / "photo.png"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(photo)
    harm, tried = [], 0

    def refused(what: str, *words: object, may_work: bool = False) -> None:
        nonlocal tried
        tried += 1
        code = cli(*words)
        if mark.exists():
            harm.append(f"{what}: code ran")
            mark.unlink()
        if "Traceback" in said[-1] or not (code or may_work):
            harm.append(f"{what}: no plain error")

    def pickled(path: Path) -> None:
        torch.save({"x": _Runs(mark)}, path)

    remote = shutil.copytree(EMBEDDED, folder / "remote")
    (remote / "run.py").write_text(f"import os\nos.system(\"touch '{mark}'\")\nclass X: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        classes = {key: "run.X" for key in ("AutoConfig", "AutoModelForImageTextToText", "AutoImageProcessor")}
        content = json.loads((remote / name).read_text()) | {
            "auto_map": classes | {"AutoTokenizer": ["run.X", "run.X"]}
        }
        (remote / name).write_text(json.dumps(content))
    refused("remote code beside a known type", "ask", photo, "What?", "--model", remote, may_work=True)
    (remote / "config.json").write_text(json.dumps({"model_type": "new", "auto_map": {"AutoConfig": "run.X"}}))
    refused("remote code of a new type", "ask", photo, "What?", "--model", remote)
    base = shutil.copytree(EMBEDDED, folder / "base")
    (base / "model.safetensors").unlink()
    pickled(base / "pytorch_model.bin")
    refused("a pickled base", "ask", photo, "What?", "--model", base)
    adapter = shutil.copytree(run / "adapter", folder / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    pickled(adapter / "adapter_model.bin")
    for words in (("ask", photo, "What?", "--model", adapter), ("merge", adapter, "--out", folder / "out"),
                  ("push", adapter, "me/x", "--dry-run")):  # fmt: skip
        refused(f"a pickled adapter to {words[0]}", *words)
    begun = shutil.copytree(run, folder / "run")
    _take_back(begun)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        again = shutil.copytree(begun, folder / name)
        checkpoint = again / "stages/1-rl/checkpoint-1"
        with (checkpoint / name).open("wb") as file:
            pickle.dump(_Runs(mark), file) if name == "scheduler.pt" else torch.save({"x": _Runs(mark)}, file)
        (checkpoint / "complete.json").unlink()
        seal(checkpoint)
        recipe = again / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(json.dumps(str(run))[1:-1], str(again)))
        refused(f"{name} of a checkpoint", "train", recipe, f"output={again}", "--resume")
    return Promise(
        "pickles and remote code in bases, adapters and checkpoints run nothing and get a plain error",
        "; ".join([f"{tried} tried, {len(harm)} faults", *harm[:5]]),
        not harm,
    )


def _take_back(run: Path) -> None:
    """As if it had been killed after its first checkpoint."""
    for place in (run / "adapter", run / "stages/1-rl/adapter", run / "stages/1-rl/checkpoint-2"):
        shutil.rmtree(place)
    for stage in run.glob("stages/*-sft"):
        shutil.rmtree(stage)


def _secrets(folder: Path, cli, said: list[str], run: Path) -> Promise:
    """Beside all that was done above: a merge, an upload to nobody, a server that is not there."""
    cli("merge", run, "--out", folder / "merged")
    nobody = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(folder / "hf")}
    cli("push", folder / "merged", "me/x", **nobody)
    data = f"rows={folder / FOLDER / 'rows.jsonl'}"
    cli(
        "ask",
        next((folder / FOLDER).glob("*.png")),
        "What?",
        "--model",
        "api:x",
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
    )
    cli("train", "tiny_cpu", "stages.0.lr=nonsense", f"data.train={data}")
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [str(path) for path in files for key in SECRETS.values() if key.encode() in path.read_bytes()]
    found += [f"output {n}" for n, text in enumerate(said) for key in SECRETS.values() if key in text]
    return Promise(
        "HF_TOKEN and OPENAI_API_KEY are in no log, run directory, card or traceback",
        "; ".join(
            [f"{len(files):,} files and the output of {len(said)} commands searched, {len(found)} found", *found[:3]]
        ),
        not found,
    )
