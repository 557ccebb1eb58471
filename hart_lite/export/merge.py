"""An adapter and its base as one checkpoint, which needs neither PEFT nor hart-lite (hart-lite merge).

The files and the names in them are the base's, since other engines and converters know a weight by its name; only the
bytes of changed weights differ. Beside the adapter, one changed tensor is in memory at a time. Each sum is made in
float32 and rounded once, and nothing is quantised again. PEFT's `merge_and_unload` wants the whole model in memory, and
rounds small changes away where it merges into 4-bit weights.

The folder appears when it is whole and has passed its check (hart_lite.export.verify), or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Literal

import torch

from hart_lite.config.resources import TOY_BASE
from hart_lite.config.schema import Recipe
from hart_lite.errors import CheckpointError, ConfigError, ModelError
from hart_lite.export.lora import LoraFile, MergedTensor, find_adapter, read_lora
from hart_lite.export.shards import INDEX, SINGLE, Checkpoint
from hart_lite.export.tensor_names import TensorNames
from hart_lite.export.verify import MergeCheck, check_merge
from hart_lite.models.families.base import Family
from hart_lite.models.families.supported import check_config
from hart_lite.models.fingerprint import check_fingerprint
from hart_lite.models.loading import ADAPTER_BASE, DTYPES, FAMILIES
from hart_lite.runs.record import RunRecord, recipe_of, record_of
from hart_lite.utils.files import move_whole
from hart_lite.utils.progress import progress
from hart_lite.utils.text import shown

Base = Literal["plain", "dequant"]
TRAVELS = ("*.json", "*.jinja", "*.txt", "*.model", "LICEN[CS]E*", "NOTICE*")  # of a base's files, beside its weights
FETCHED = ("*.safetensors", *TRAVELS, "README.md")  # the base's card names its licence
ROOM = 64 << 20  # bytes for everything but weights


def merge(
    source: str | Path, out: str | Path, base: Base = "plain", force: bool = False, base_path: Path | None = None
) -> MergeCheck:
    """Merge the adapter of a run directory, or in a folder of its own, into `out`; returns what was checked of it.

    base: what B @ A is added to. `plain`: the unquantised base. `dequant`: the weights the run trained on; each one
    that nf4 quantised is replaced by what its 4 bits stand for.
    base_path: where the files of the base are now, if they have moved.
    force: replace an earlier merge in `out`; anything else there is left alone.

    Equal inputs give equal bytes. Raises `HartError` for an adapter that is not plain LoRA or has no place in the base,
    a base that is quantised, damaged or another one, a place that is taken, and a merge that fails its check.
    """
    out, adapter = Path(out), find_adapter(Path(source))
    _check_place(out, force)
    lora, recipe = read_lora(adapter), recipe_of(adapter)
    revision = recipe.model.revision if recipe else None
    dtype = _trained_in(recipe) if base == "dequant" else None
    folder = find_base(str(base_path) if base_path else lora.base, revision)
    family = _family(folder, lora.base)
    trained_on = f"the adapter in {adapter} was trained on"
    check_fingerprint(adapter / ADAPTER_BASE, family, trained_on, "merge it into the files it was trained on")
    checkpoint = Checkpoint.open(folder)
    names = TensorNames.of(checkpoint)
    changes = _changes(names, lora, names.quantised(family.unquantised) if base == "dequant" else set(), dtype)
    _check_room(out, checkpoint, (adapter, folder))
    record, pictures = record_of(adapter, lora.base)
    work = out.absolute().with_name(f".{out.absolute().name}.merging")
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a merge that was killed
        work.mkdir(parents=True)
        for shard in progress(checkpoint.shards, desc="merge", unit="shard", leave=False):
            checkpoint.copy_shard(shard, work, changes)
        record.model_copy(update={"merged": base}).save(work, pictures)
        _copy_files(checkpoint, work)
        check = check_merge(work, adapter, names, changes, family)
        _check_place(out, force)  # a merge takes long: another program may have written there meanwhile
        move_whole(work, out)
    except OSError as error:
        raise CheckpointError(f"{out} could not be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return check


def find_base(name: str, revision: str | None = None) -> Path:
    """The folder with a base's files: the toy one, a local one, or a Hub model, downloaded where it is not yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    if name == "toy":
        return TOY_BASE
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FETCHED)))
    except (OSError, ValueError, HTTPError) as error:
        raise ModelError(
            f"base {shown(name)} is no folder here and cannot be had from the Hub: {error}\nMerging needs the files of "
            "the base that the adapter was trained on; if they have moved, say where they are: --base-path DIR"
        ) from error


def _family(folder: Path, name: str) -> Family:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = check_config(config, name)
        if "quantization_config" in config:
            raise ModelError(
                f"base {shown(name)} is stored quantised; nothing can be added to its weights without quantising them "
                "again. Train on the unquantised one (model.quant=nf4 quantises it at loading) and merge into that"
            )
        return FAMILIES[kind](str(folder))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"base {shown(name)} cannot be read: {error}") from error


def _trained_in(recipe: Recipe | None) -> torch.dtype | None:
    """What the weights were in when the run quantised them; None: as they are stored, which is what model.dtype=auto
    gives a bfloat16 base on a card that has bfloat16, and where nobody knows the run."""
    if recipe is None:
        return None
    if recipe.model.quant != "nf4":
        raise ConfigError(
            "the run trained on an unquantised base (model.quant=none), so --base plain is what it trained on"
        )
    if recipe.model.backend == "unsloth":
        raise ConfigError(
            "unsloth decides by itself which weights it quantises, so --base dequant is not known for its runs"
        )
    return DTYPES.get(recipe.model.dtype)


def _changes(
    names: TensorNames, lora: LoraFile, quantised: set[str], dtype: torch.dtype | None
) -> dict[str, MergedTensor]:
    """What becomes of each tensor that does not stay as it is, by its name in the checkpoint."""
    pairs = {names.weight(module, pair): pair for module, pair in lora.pairs.items()}
    changed = sorted(quantised | pairs.keys())
    return {name: MergedTensor(name, pairs.get(name), lora.scale, name in quantised, dtype) for name in changed}


def _check_place(out: Path, force: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    if not force:
        raise ConfigError(f"{out} is there already; choose another place, or add --force to replace an earlier merge")
    if out.is_symlink() or not RunRecord.is_merge(out):
        raise ConfigError(
            f"{out} was not made by hart-lite merge, so --force does not replace it; choose another place"
        )


def _check_room(out: Path, checkpoint: Checkpoint, inputs: tuple[Path, ...]) -> None:
    if any(out.resolve() in (place.resolve(), *place.resolve().parents) for place in inputs):
        raise ConfigError(f"{out} holds what is to be merged; choose another place")
    ground = next(place for place in out.absolute().parents if place.exists())
    if not ground.is_dir() or not os.access(ground, os.W_OK):
        raise ConfigError(f"{out} cannot be written: {ground} is no folder to write in")
    needed, free = checkpoint.nbytes + ROOM, shutil.disk_usage(ground).free
    if free < needed:
        raise ConfigError(f"{out} needs {needed / 2**30:.1f} GiB and {ground} has {free / 2**30:.1f} GiB left")


def _copy_files(base: Checkpoint, work: Path) -> None:
    """Tokenizer, processor, templates, licence; the config comes last, and without it nothing loads."""
    files = {path.name: path for pattern in TRAVELS for path in sorted(base.folder.glob(pattern)) if path.is_file()}
    if SINGLE in base.shards:
        files.pop(INDEX, None)  # of shards that are not the model
    config = files.pop("config.json")
    for path in (*files.values(), config):
        if not (work / path.name).exists():  # the record of the run, where the base is a merge itself
            shutil.copyfile(path, work / path.name)
