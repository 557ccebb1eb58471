"""What `hart-lite eval` takes for a model, and how it becomes an engine.

RUN          a run directory: the base, precision, budgets and rollout settings of its recipe, with its final adapter
ADAPTER      a folder with adapter_config.json, which names its base, or a Hub id; the recipe of its run where known
CHECKPOINT   a folder with config.json and weights, or a Hub id; a merge goes by the recipe it was trained with
toy          the tiny model in this package
api:NAME     a model behind an OpenAI-compatible server (OPENAI_BASE_URL, OPENAI_API_KEY)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from hart_lite.config.environment import check_machine
from hart_lite.config.prompts import Prompts
from hart_lite.config.recipe import load_recipe
from hart_lite.config.resources import TOY_BASE
from hart_lite.config.schema import Recipe
from hart_lite.config.sections import ModelSection, PixelBudgets, Rollout
from hart_lite.errors import HartError
from hart_lite.inference.engine import Engine
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.openai_engine import INTERFACES, ApiEngine
from hart_lite.models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from hart_lite.models.fingerprint import fingerprint
from hart_lite.models.loading import FAMILIES, load_policy
from hart_lite.models.policy import Policy
from hart_lite.runs.layout import ADAPTER, is_run, read_recipe
from hart_lite.runs.record import RunRecord, recipe_of
from hart_lite.utils.openai_client import Client
from hart_lite.utils.text import shown

LARGE = 4  # times the pixels that are shown: an original that is scaled down
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
TOY_WARNING = (
    "this is the toy base: it knows drawn shapes alone (the scenes of `hart-lite toy-data`), and what it says of a "
    "photo means nothing. A base that knows photos: Qwen/Qwen2.5-VL-7B-Instruct"
)
_KINDS = "a run directory, a folder with an adapter or a checkpoint, a Hub id (owner/name), `toy` or `api:NAME`"


@dataclass(frozen=True)
class OpenModel:
    """`name` is what it was opened by; `pixels` are the budgets of its recipe, None where no recipe says; `weights`
    tell one model from another."""

    name: str
    engine: Engine
    family: str
    weights: dict[str, str]
    pixels: PixelBudgets | None
    rollout: Rollout = field(default_factory=Rollout)
    prompts: Prompts = field(default_factory=Prompts)

    @property
    def toy(self) -> bool:
        """Whether this is the tiny base in this package, which knows nothing of photos."""
        return isinstance(self.engine, LocalEngine) and self.engine.policy.family.source == str(TOY_BASE)


def open_model(
    spec: str,
    *,
    quant: str | None = None,
    device: str | None = None,
    box_format: str | None = None,
    family: str | None = None,
    base_path: Path | None = None,
) -> OpenModel:
    """`quant` and `device` replace what the recipe says (else none and auto). `family` or `box_format` say how an
    `api:` model sees images and writes boxes; without them its name may tell the family, else boxes are absolute.
    `base_path` is where the base of a run or an adapter is now; what was trained on another one is refused.

    Raises `HartError` for what is no model, is not whole, or cannot be loaded.
    """
    if spec.startswith("api:"):
        return _open_api(spec.removeprefix("api:"), box_format, family)
    recipe, section, adapter = _local(spec)
    if base_path is not None and adapter is None:
        raise HartError(f"{spec} has no base beside it: --base-path {base_path} goes with a run or an adapter")
    asked = {"quant": quant, "device": device, "base": base_path and str(base_path)}
    changes = {name: value for name, value in asked.items() if value is not None}
    section = section.model_copy(update=changes | {"backend": "transformers", "gradient_checkpointing": False})
    if recipe:
        check_machine(recipe.model_copy(update={"model": section, "report_to": []}))
    policy = load_policy(section, adapter, base_has_moved=base_path is not None)
    weights = {"base": fingerprint(policy.family)}
    if adapter:
        with (adapter / ADAPTER_WEIGHTS).open("rb") as file:
            weights["adapter"] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if recipe:
        return recipe_model(spec, policy, recipe, weights)
    return OpenModel(spec, _engine(policy, Rollout(), PixelBudgets()), policy.family.name, weights, None)


def recipe_model(name: str, policy: Policy, recipe: Recipe, weights: dict[str, str]) -> OpenModel:
    """A policy that is asked as its recipe says."""
    pixels, rollout = recipe.pixels, recipe.rollout
    engine = _engine(policy, rollout, pixels)
    return OpenModel(name, engine, policy.family.name, weights, pixels, rollout, recipe.prompts)


def _engine(policy: Policy, rollout: Rollout, pixels: PixelBudgets) -> LocalEngine:
    """It answers as many questions at one time as fill a batch when each shows an image of the largest size."""
    side = math.isqrt(LARGE * pixels.full)
    family = policy.family
    seen = family.fit((side, side), pixels.full, pixels.min)
    questions = rollout.questions_at_once(family.image_tokens(seen))
    return LocalEngine(policy, rollout.tokens_per_batch, questions, rollout.cuda_graph)


def _open_api(name: str, box_format: str | None, family: str | None) -> OpenModel:
    if not name:
        raise HartError("api: names no model; give api:NAME, such as api:gpt-4o")
    families = {known.name: known for known in FAMILIES.values()}
    if family is None and box_format is None:
        family = next((known for known in families if _letters(known) in _letters(name)), None)
    if family is not None and box_format is not None:
        raise HartError(f"--family {family} says how boxes are written; leave --box-format {box_format} out")
    if family is not None and family not in families:
        raise HartError(f"unknown family {shown(family)}; allowed: {', '.join(families)}")
    box_format = box_format or "absolute"
    if box_format not in INTERFACES:
        raise HartError(f"unknown box format {shown(box_format)}; allowed: {', '.join(INTERFACES)}")
    interface = families[family].by_published_sizes() if family else INTERFACES[box_format]()
    client = Client.from_environment(os.environ)
    return OpenModel(f"api:{name}", ApiEngine(name, client, interface), family or "api", {"server": client.url}, None)


def _letters(name: str) -> str:
    """So that `Qwen/Qwen2.5-VL-7B-Instruct` names qwen2_5_vl."""
    return "".join(c for c in name.lower() if c.isalnum())


def _local(spec: str) -> tuple[Recipe | None, ModelSection, Path | None]:
    """(the recipe to go by, what to load, the adapter on it)."""
    if spec == "toy":
        return load_recipe("tiny_cpu"), ModelSection(), None
    folder, there = Path(spec), os.path.exists(spec)  # which takes any text for a path
    if not there and _HUB_ID.fullmatch(spec) and not folder.parent.is_dir():  # runs/typo is nobody's model
        shared = _adapter_on_hub(spec)
        if shared is None:
            return None, ModelSection(base=spec), None
        folder, there = shared, True
    if not there or not folder.is_dir():
        raise HartError(f"there is no model {shown(spec)}; give {_KINDS}")
    if is_run(folder):
        recipe, adapter = read_recipe(folder), folder / ADAPTER
        if not adapter.is_dir():
            raise HartError(f"run {spec} has no adapter yet; finish it: hart-lite train {spec}/recipe.yaml --resume")
        return recipe, recipe.model, adapter
    if (folder / ADAPTER_CONFIG).is_file():
        base = _base_of(folder / ADAPTER_CONFIG)
        recipe = _recorded(folder) or recipe_of(folder) or (load_recipe("tiny_cpu") if base == "toy" else None)
        section = recipe.model if recipe and recipe.model.base == base else ModelSection(base=base)
        return recipe, section, folder
    if (folder / "config.json").is_file():
        recipe = _recorded(folder)  # of a merge
        section = recipe.model.model_copy(update={"revision": None, "quant": "none"}) if recipe else ModelSection()
        return recipe, section.model_copy(update={"base": spec}), None
    raise HartError(
        f"{spec} holds no model: neither recipe.yaml (a run) nor {ADAPTER_CONFIG} (an adapter) nor config.json "
        "(a checkpoint)"
    )


def _adapter_on_hub(repo: str) -> Path | None:
    """The adapter that is shared under this id, downloaded with its record; None where it is a whole model."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(repo, ADAPTER_CONFIG)
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):  # loading a whole model says what is wrong with it
        return None
    return Path(snapshot_download(repo, allow_patterns=["*.json", "*.jinja", "*.txt", ADAPTER_WEIGHTS]))


def _recorded(folder: Path) -> Recipe | None:
    """The recipe in the record that travels with a shared adapter or a merge: it saw images within these budgets."""
    record = RunRecord.load(folder)
    return record.recipe if record else None


def _base_of(config: Path) -> str:
    try:
        value = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise HartError(f"{config} is damaged: {error}") from error
    base = value.get("base_model_name_or_path") if isinstance(value, dict) else None
    if not isinstance(base, str) or not base:
        raise HartError(f"{config} does not name the base of the adapter (base_model_name_or_path)")
    return base
