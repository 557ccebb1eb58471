"""Data sets that point elsewhere, and models and checkpoints that bring code."""

from __future__ import annotations

import json
import os
import pickle
import select
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

from hart_lite.config.resources import TOY_BASE
from hart_lite.data.convert import convert
from hart_lite.data.dataset import load_examples
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.readers import ImageFolder
from hart_lite.runs.checkpoints import seal
from tests.reliability.check import Check
from tests.reliability.command_line import CommandLine

GOOD = "images/good.png"


def paths(folder: Path) -> Check:
    """The files outside are there and whole, so that a refusal is one of the path. Each layout has to accept GOOD."""
    inside = folder / "set" / "images"
    inside.mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(folder / "secret.png")
    Image.new("RGB", (40, 30)).save(folder / "set" / GOOD)
    os.mkfifo(inside / "pipe.png")
    out = "leads out of"
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        expected = dict.fromkeys(("../secret.png", "images/../../secret.png", "./../secret.png"), out)
        expected |= {str(folder / "secret.png"): out, url: "", f"file://{folder}/secret.png": "", "images/pipe.png": ""}
        faults, tried = [], 0
        for number, (name, reason) in enumerate((expected | {GOOD: None}).items()):
            for layout, read in _readers(folder / "set", name, folder / f"out{number}"):
                tried += reason is not None
                refusal = _refusal(read)
                if (refusal is None) != (reason is None) or (reason or "") not in (refusal or ""):
                    faults.append(f"{layout}: {name}")
        if select.select([server], [], [], 0)[0]:
            faults.append("somebody asked for the URL")
    return Check(
        "image paths that leave a downloaded or converted data set, URLs and pipes are refused, and no URL is fetched",
        "; ".join([f"{tried - len(faults)} of {tried} refused", *faults[:5]]),
        not faults,
    )


def _refusal(read: Callable[[], object]) -> str | None:
    try:
        read()
    except HartError as error:
        return str(error)
    return None


def _readers(place: Path, image: str, out: Path) -> Iterator[tuple[str, Callable[[], object]]]:
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


class _Attempts:
    """Counts commands that were given code to run, and notes those that ran it or did not refuse it plainly."""

    def __init__(self, cli: CommandLine, mark: Path) -> None:
        self.cli, self.mark, self.tried, self.faults = cli, mark, 0, []
        self.payload = {"x": _Runs(mark)}
        function, arguments = self.payload["x"].__reduce__()
        function(*arguments)  # as unpickling would; it has to leave the mark, or no mark later on shows nothing
        mark.unlink()

    def __call__(self, what: str, *words: object, may_work: bool = False) -> None:
        self.tried += 1
        code = self.cli(*words)
        if self.mark.exists():
            self.faults.append(f"{what}: code ran")
            self.mark.unlink()
        if "Traceback" in self.cli.outputs[-1] or not (code or may_work):
            self.faults.append(f"{what}: no plain error")


def code(folder: Path, cli: CommandLine, run: Path) -> Check:
    folder.mkdir()
    photo = folder / "photo.png"
    Image.new("RGB", (64, 64)).save(photo)
    attempt = _Attempts(cli, folder / "ran")
    _remote_code(folder / "remote", photo, attempt)
    base = shutil.copytree(TOY_BASE, folder / "base")
    (base / "model.safetensors").unlink()
    torch.save(attempt.payload, base / "pytorch_model.bin")
    attempt("a pickled base", "ask", photo, "What?", "--model", base)
    adapter = shutil.copytree(run / "adapter", folder / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(attempt.payload, adapter / "adapter_model.bin")
    attempt("a pickled adapter to ask", "ask", photo, "What?", "--model", adapter)
    attempt("a pickled adapter to merge", "merge", adapter, "--out", folder / "out")
    attempt("a pickled adapter to push", "push", adapter, "me/x", "--dry-run")
    _checkpoints(folder, run, attempt)
    return Check(
        "pickles and remote code in bases, adapters and checkpoints run nothing and get a plain error",
        "; ".join([f"{attempt.tried} tried, {len(attempt.faults)} faults", *attempt.faults[:5]]),
        not attempt.faults,
    )


def _remote_code(folder: Path, photo: Path, attempt: _Attempts) -> None:
    remote = shutil.copytree(TOY_BASE, folder)
    (remote / "run.py").write_text(f"import os\nos.system(\"touch '{attempt.mark}'\")\nclass X: pass\n")
    classes = dict.fromkeys(("AutoConfig", "AutoModelForImageTextToText", "AutoImageProcessor"), "run.X")
    classes["AutoTokenizer"] = ["run.X", "run.X"]
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        (remote / name).write_text(json.dumps(json.loads((remote / name).read_text()) | {"auto_map": classes}))
    attempt("remote code beside a known type", "ask", photo, "What?", "--model", remote, may_work=True)
    (remote / "config.json").write_text(json.dumps({"model_type": "new", "auto_map": {"AutoConfig": "run.X"}}))
    attempt("remote code of a new type", "ask", photo, "What?", "--model", remote)


def _checkpoints(folder: Path, run: Path, attempt: _Attempts) -> None:
    """The run as if it had been killed after its first checkpoint, of which one file is a pickle."""
    begun = shutil.copytree(run, folder / "run")
    for place in (begun / "adapter", begun / "stages/1-rl/adapter", begun / "stages/1-rl/checkpoint-2"):
        shutil.rmtree(place)
    for stage in begun.glob("stages/*-sft"):
        shutil.rmtree(stage)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        again = shutil.copytree(begun, folder / name)
        checkpoint = again / "stages/1-rl/checkpoint-1"
        with (checkpoint / name).open("wb") as file:
            (pickle.dump if name == "scheduler.pt" else torch.save)(attempt.payload, file)
        (checkpoint / "complete.json").unlink()
        seal(checkpoint)
        recipe = again / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(json.dumps(str(run))[1:-1], str(again)))
        attempt(f"{name} of a checkpoint", "train", recipe, f"output={again}", "--resume")
