"""What may be told of how a model was made: recipe, base, figures and pictures, without a path of this machine.

It travels as `training.json` and `pictures/` with a merged or shared model, so that its card can be written anywhere.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Annotated, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hart_lite.config.resources import TOY_BASE
from hart_lite.config.schema import Recipe
from hart_lite.config.yaml import parse_yaml
from hart_lite.data.images import ImageFile
from hart_lite.errors import HartError
from hart_lite.runs.layout import SUMMARY, VERSIONS, is_run, read_recipe
from hart_lite.utils.text import cut

log = logging.getLogger(__name__)
RECORD, PICTURES = "training.json", "pictures"
LIBRARIES = ("hart-lite", "torch", "transformers", "trl", "peft", "bitsandbytes")
PER_STEP = 2  # pictures of the first logged step, and of the last one
SIDE = 1024  # pixels of a picture's longer side at most
CLOSED = ("mme_realworld",)  # layouts of data whose licence lets nobody pass their images on
HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
LICENCE = r"^[\w.:/() -]{1,200}$"  # one line: it stands in front matter
OURS = ("toy",)  # what comes with hart-lite
_PICTURE = re.compile(r"[\w-]{1,60}\.jpg", re.ASCII)
_DATA_FILE = (".json", ".jsonl", ".parquet", ".csv")


class Picture(BaseModel):
    model_config = ConfigDict(frozen=True)

    file: str = Field(pattern=r"^[\w-]{1,80}\.jpg$")  # in PICTURES
    stage: str
    step: int
    question: str
    right: int
    samples: int


class RunRecord(BaseModel):
    model_config = ConfigDict(frozen=True)  # what a later version adds is passed by

    base: str = Field(pattern=r"^[\w./ -]{1,200}$")  # `toy`, a Hub id, or the last part of a local path
    family: str | None = None  # model_type of the base
    licence: dict[Literal["license", "license_name", "license_link"], Annotated[str, Field(pattern=LICENCE)]] = {}
    """Of the base, as its card says."""
    recipe: Recipe | None = None  # null: the adapter came without its run
    libraries: dict[str, str] = {}
    evaluations: dict[str, dict] = {}  # before, after-1-rl, ..
    pictures: list[Picture] = []
    merged: Literal["plain", "dequant"] | None = None  # what the adapter was added to; null: it is one still

    @property
    def on_hub(self) -> bool:
        """Whether others find the base under its name."""
        return bool(HUB_ID.fullmatch(self.base))

    @classmethod
    def load(cls, folder: Path) -> RunRecord | None:
        path = folder / RECORD
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise HartError(f"{path} is damaged, or was written by another version of hart-lite: {error}") from error

    def text(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    def load_pictures(self, folder: Path) -> dict[str, bytes]:
        paths = [folder / PICTURES / picture.file for picture in self.pictures]
        return {path.name: path.read_bytes() for path in paths if path.is_file()}

    @classmethod
    def is_merge(cls, folder: Path) -> bool:
        found = cls.load(folder)
        return found is not None and found.merged is not None

    def save(self, folder: Path, pictures: dict[str, bytes]) -> None:
        (folder / RECORD).write_text(self.text(), encoding="utf-8")
        if pictures:
            (folder / PICTURES).mkdir()
        for name, data in pictures.items():
            (folder / PICTURES / name).write_bytes(data)


def run_of(folder: Path) -> Path | None:
    """The run directory of RUN/adapter, or of what lies in RUN/stages/1-rl. A recipe elsewhere above is another's."""
    above = folder.absolute().parents
    in_stage = len(above) > 2 and above[1].name == "stages"
    run = above[2] if in_stage else above[0] if folder.absolute().name == "adapter" else None
    return run if run and is_run(run) else None


def recipe_of(adapter: Path) -> Recipe | None:
    run = run_of(adapter)
    return read_recipe(run) if run else None


def record_of(adapter: Path, base: str) -> tuple[RunRecord, dict[str, bytes]]:
    """(the record of an adapter, its pictures as JPEG by name): what lies beside it, else made from its run."""
    if found := RunRecord.load(adapter):
        return found, found.load_pictures(adapter)
    run, recipe = run_of(adapter), recipe_of(adapter)
    revision = recipe.model.revision if recipe else None
    about = {"base": public_name(base), "family": family_of(base, revision), "licence": licence_of(base, revision)}
    if run is None or recipe is None:
        return RunRecord(**about), {}
    inside = adapter.absolute().relative_to(run).parts
    stages = int(inside[1].split("-")[0]) if inside[:1] == ("stages",) else len(recipe.stages)
    shown = [] if recipe.data.format in CLOSED else list(_pictures(run, stages))
    record = RunRecord(
        **about,
        recipe=public_recipe(recipe, stages),
        libraries={k: v for k, v in _json(run / VERSIONS).items() if k in LIBRARIES and isinstance(v, str)},
        evaluations=_evaluations(run, recipe, stages),
        pictures=[picture for picture, _ in shown],
    )
    return record, {picture.file: data for picture, data in shown}


def public_name(name: str) -> str:
    """A base or data set as others may see it: a Hub id as it is, of a path no more than its last part."""
    if name in OURS or (HUB_ID.fullmatch(name) and not name.endswith(_DATA_FILE) and not Path(name).exists()):
        return name
    last = re.sub(r"[^\w. -]", "-", PureWindowsPath(name.rstrip("/\\")).name)[:100]  # it parts at both kinds of slashes
    return f"folder {last}" if last in ("", *OURS) else last


def public_recipe(recipe: Recipe, stages: int | None = None) -> Recipe:
    """The recipe without the places on this machine, and with its first `stages` stages."""
    values = recipe.model_dump()
    del values["output"], values["data"]["image_dir"]
    values["model"]["base"] = public_name(recipe.model.base)
    if recipe.model.adapter:
        values["model"]["adapter"] = public_name(recipe.model.adapter)
    if isinstance(recipe.data.train, list):
        names = [public_name(file.path) for file in recipe.data.train]
        for n, file in enumerate(values["data"]["train"]):
            file["path"] = names[n] if names.count(names[n]) == 1 else f"{n + 1} {names[n]}"
    else:
        values["data"]["train"] = public_name(recipe.data.train)
    for key in ("sft", "eval", "lite"):
        if values["data"][key] is not None:
            values["data"][key] = public_name(values["data"][key])
    if values["data"]["sft"] == values["data"]["train"]:  # two files of one name are two
        values["data"]["sft"] = f"sft {values['data']['sft']}"
    if recipe.reward:
        place, _, function = recipe.reward.rpartition(":")
        values["reward"] = f"{PureWindowsPath(place).name}:{function}"
    values["stages"] = values["stages"][:stages]
    return Recipe.model_validate(values)


def licence_of(base: str, revision: str | None = None) -> dict[str, str]:
    """What the base's card says of its licence, where the card is to be had; the toy base has this project's."""
    if base == "toy":
        return {"license": "apache-2.0"}
    card = _base_file(base, revision, "README.md")
    text = card.read_text(encoding="utf-8", errors="replace") if card else ""
    lines = text.splitlines()
    end = next((n for n, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), 0)
    try:
        said = parse_yaml("\n".join(lines[1:end])) if text.startswith("---") else None
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    values = {key: said.get(key) for key in ("license", "license_name", "license_link")}
    return {key: value for key, value in values.items() if isinstance(value, str) and re.fullmatch(LICENCE, value)}


def family_of(base: str, revision: str | None = None) -> str | None:
    config = _base_file(base, revision, "config.json")
    kind = _json(config).get("model_type") if config else None
    return kind if isinstance(kind, str) else None


def _base_file(base: str, revision: str | None, name: str) -> Path | None:
    """A file of a base, from its folder or from the Hub; None where it cannot be had, which is no reason to stop."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError

    folder = TOY_BASE if base == "toy" else Path(base)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if not HUB_ID.fullmatch(base):
        return None
    try:
        return Path(hf_hub_download(base, name, revision=revision))
    except (OSError, ValueError, HTTPError) as error:
        log.warning("%s of %s cannot be had, so the card says less: %s", name, base, cut(str(error)))
        return None


def _evaluations(run: Path, recipe: Recipe, stages: int) -> dict[str, dict]:
    names = {"before", *(f"after-{n}-{stage.kind}" for n, stage in enumerate(recipe.stages[:stages], start=1))}
    return {name: figures for name, figures in _json(run / SUMMARY).items() if name in names}


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise HartError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise HartError(f"{path} is damaged: it holds no object")
    return found


def _pictures(run: Path, stages: int) -> Iterator[tuple[Picture, bytes]]:
    """Rollouts of the first logged step and of the last: where the model looked before, and where after."""
    folders = [folder for folder in run.glob("stages/*-rl/rollouts") if _number(folder.parent) <= stages]
    logged = [
        path
        for folder in sorted(folders, key=lambda folder: _number(folder.parent))
        for path in sorted(folder.glob("step-*.jsonl"))
    ]
    for path in dict.fromkeys(logged[:1] + logged[-1:]):
        stage = path.parent.parent.name
        for name, samples in list(_samples(path).items())[:PER_STEP]:
            try:
                data = _bounded(path.with_name(name))
            except HartError as error:  # a run that was killed may leave half a picture
                log.warning("a picture is left out: %s", error)
                continue
            picture = Picture(
                file=f"{stage}-{Path(name).stem}.jpg",
                stage=stage,
                step=int(path.stem.split("-")[1]),
                question=cut(samples[0]["question"]),
                right=sum(row["reward"] > 0 for row in samples),
                samples=len(samples),
            )
            yield picture, data


def _number(stage: Path) -> int:
    return int(stage.name.split("-")[0])


def _samples(path: Path) -> dict[str, list[dict]]:
    """The transcripts of a logged step, by picture."""
    rows: dict[str, list[dict]] = {}
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a run that was killed
            row = None
        match row:
            case {"picture": str(picture), "question": str(), "reward": int() | float()} if _PICTURE.fullmatch(picture):
                rows.setdefault(picture, []).append(row)
    return rows


def _bounded(path: Path) -> bytes:
    """Encoded anew: no larger than a page needs, and without what a file may hold beside its pixels."""
    image = ImageFile(path).load().copy()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
