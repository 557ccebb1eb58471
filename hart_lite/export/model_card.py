"""The README.md of a shared model: what it is, how it was made and measured, where it looks, how to use it, its limits.

Everything that comes from data or files is shown as text: nothing in it becomes markup, a link or a picture.
"""

from __future__ import annotations

import json
import re
from typing import Literal

import yaml

from hart_lite.config.prompts import Prompts
from hart_lite.config.schema import Recipe, Stage
from hart_lite.config.sections import DistilStage, RLStage, SFTStage
from hart_lite.errors import CheckpointError
from hart_lite.eval.run_summary import run_summary_table
from hart_lite.inference.prompts import fill
from hart_lite.models.loading import FAMILIES
from hart_lite.runs.methods import stage_method
from hart_lite.runs.record import HUB_ID, PICTURES, Picture, RunRecord
from hart_lite.utils.text import cut

Kind = Literal["adapter", "merged"]
_MARKUP = re.compile(r"[\\`*_{}\[\]<>&|~#!@$^=\"']|(?<=\w):(?=//)|(?<=www)\.")


def model_card(record: RunRecord, kind: Kind, repo: str) -> str:
    """Markdown with the Hub's YAML front matter; `repo` is "owner/name"."""
    sections = [
        f"# {plain(repo.split('/')[-1])}\n\n{_what(record, kind)}",
        f"## How to use it\n\n{_use(record, kind, repo)}",
        *([f"## How it was trained\n\n{_training(record.recipe, record.libraries)}"] if record.recipe else []),
        *([f"## Data\n\n{_data(record.recipe, bool(record.evaluations))}"] if record.recipe else []),
        f"## Evaluation\n\n{_evaluation(record, kind)}",
        *([f"## Where it looks\n\n{_looks(record)}"] if record.pictures and _looks_first(record.recipe) else []),
        f"## Limits\n\n{_limits(record, kind)}",
        f"## Licence\n\n{_licence(record)}",
    ]
    return f"---\n{_front_matter(record, kind)}---\n\n" + "\n\n".join(sections) + "\n"


def plain(text: str) -> str:
    """Text on one line and of bounded length that Markdown and HTML show as it is."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", cut(" ".join(text.split())))


def _front_matter(record: RunRecord, kind: Kind) -> str:
    recipe = record.recipe
    said: dict[str, object] = dict(record.licence)
    if record.on_hub:
        said |= {"base_model": record.base, "base_model_relation": "adapter" if kind == "adapter" else "finetune"}
    said |= {"library_name": "peft" if kind == "adapter" else "transformers", "pipeline_tag": "image-text-to-text"}
    if sets := [file.path for file in recipe.data.files if HUB_ID.fullmatch(file.path)] if recipe else []:
        said["datasets"] = sets
    stages = recipe.stages if recipe else []
    methods = [stage_method(recipe, stage).lower().replace(",", "").replace(" ", "-") for stage in stages]
    said["tags"] = list(dict.fromkeys(["hart-lite", "visual-grounding", *methods, *(["lora"] * (kind == "adapter"))]))
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def _base(record: RunRecord) -> str:
    if record.base == "toy":
        return "the tiny Qwen2.5-VL that comes with hart-lite"
    return f"[{plain(record.base)}](https://huggingface.co/{record.base})" if record.on_hub else plain(record.base)


def _what(record: RunRecord, kind: Kind) -> str:
    kinds = {
        "adapter": f"A LoRA adapter for {_base(record)}",
        "merged": f"{_base(record)} with a LoRA adapter merged into it",
    }
    made = kinds[kind][0].upper() + kinds[kind][1:] + ", trained with hart-lite"
    if not _looks_first(record.recipe):
        return f"{made} from final answers."
    return (
        f"{made} to look before it answers: it names the box of the image that matters, is shown that part at full "
        "resolution, and answers from it. Where to look was learned from final answers alone; no box label was used."
    )


def _looks_first(recipe: Recipe | None) -> bool:
    """Whether a stage trained the choice of boxes."""
    return recipe is None or any((s.loop or recipe.loop) != "direct" for s in recipe.stages if isinstance(s, RLStage))


def _use(record: RunRecord, kind: Kind, repo: str) -> str:
    merged, toy = kind == "merged", record.base == "toy"
    base = json.dumps(record.base if record.on_hub else f"path/to/{record.base}")
    source = json.dumps(repo) if merged else base
    revision = record.recipe.model.revision if record.recipe and not merged else None
    at = f", revision={json.dumps(revision)}" if revision else ""
    lines = [
        *([] if merged else ["from peft import PeftModel"]),
        "from PIL import Image",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        *(["# the toy base is hart_lite/toy/base_model in hart-lite's package"] if not merged and toy else []),
        f'model = AutoModelForImageTextToText.from_pretrained({source}{at}, dtype="auto", device_map="auto")',
        *([] if merged else [f"model = PeftModel.from_pretrained(model, {json.dumps(repo)})"]),
        f"processor = AutoProcessor.from_pretrained({source}{at})",
        *_first_turn(record),
        "inputs = processor.apply_chat_template(",
        '    chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"',
        ").to(model.device)",
        'said = model.generate(**inputs, max_new_tokens=256)[0, inputs["input_ids"].shape[1] :]',
        "print(processor.decode(said, skip_special_tokens=True))",
    ]
    command = f'hart-lite ask photo.jpg "What does the red sign say?" --model {repo}'
    return (
        f"With hart-lite: the box, the crop from the original pixels, the answer.\n\n{fenced(command, 'bash')}\n\n"
        f"The first of these turns with transformers{'' if merged else ', PEFT'} and torchvision, which the processor "
        f"needs; the numbers of a box are the base's own:\n\n{fenced(chr(10).join(lines), 'python')}"
    )


def _first_turn(record: RunRecord) -> list[str]:
    """Lines of Python that make `chat`: the question that asks for a box, in the words of the recipe."""
    prompts = record.recipe.prompts if record.recipe else Prompts()
    family = FAMILIES.get(record.family or "")
    words = {"question": "What does the red sign say?", "box_format": family.locate_words if family else ""}
    texts = ["".join(map(str, fill(part, words))) for part in prompts.locate.split("{image}")]
    before, after = ([f'    {{"type": "text", "text": {text!r}}},'] if text else [] for text in texts)
    system = f'{{"role": "system", "content": {prompts.system!r}}}, ' if prompts.system else ""
    return [
        "content = [",
        *before,
        '    {"type": "image", "image": Image.open("photo.jpg")},',
        *after,
        "]",
        f'chat = [{system}{{"role": "user", "content": content}}]',
    ]


def _training(recipe: Recipe, libraries: dict[str, str]) -> str:
    lines = [f"{n}. {_stage(recipe, stage)}" for n, stage in enumerate(recipe.stages, start=1)]
    model, pixels = recipe.model, recipe.pixels
    bits = "4-bit (nf4) weights" if model.quant == "nf4" else "unquantised weights"
    lines.append(
        f"\nThe base had {bits}, model.dtype was {model.dtype}; LoRA of rank {model.lora.r} and alpha "
        f"{model.lora.alpha:g} on: {', '.join(model.lora.parts)}. It saw the whole image at up to {pixels.full:,} "
        f"pixels, crops at up to {pixels.crop:,}."
        + (f" Training began from another adapter ({plain(model.adapter)})." if model.adapter else "")
    )
    if libraries:
        lines.append("\n" + ", ".join(f"{plain(name)} {plain(number)}" for name, number in libraries.items()) + ".")
    dumped = fenced(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True), "yaml")
    return "\n".join(lines) + f"\n\n<details><summary>The whole recipe</summary>\n\n{dumped}\n\n</details>"


def _stage(recipe: Recipe, stage: Stage) -> str:
    method = stage_method(recipe, stage)
    if isinstance(stage, SFTStage):
        length = f"{stage.steps} steps" if stage.steps else f"{stage.epochs:g} epochs"
        return f"{method}, {stage.context} in sight: {length} of {stage.batch_size} rows, learning rate {stage.lr:g}"
    asked = f"{stage.steps} steps of {stage.questions_per_step} questions with {recipe.rollout.samples} samples each"
    if isinstance(stage, DistilStage):
        return f"{method} from {stage.teacher} to the full image alone: {asked}, learning rate {stage.lr:g}"
    weights = f"k = {recipe.k:g}, " if (stage.objective or recipe.objective) == "ap_grpo" else ""
    return f"{method}: {asked}, {weights}beta = {recipe.beta:g}, learning rate {stage.lr:g}"


def _data(recipe: Recipe, was_measured: bool) -> str:
    data = recipe.data
    trained = plain(data.trained_on) + (f", split {plain(data.split)}" if data.split else "")
    if data.train == "toy":
        trained = f"{data.toy.scenes:,} scenes drawn by hart-lite, {data.toy.questions_per_scene} questions each"
    measured = plain(data.eval) if data.eval else "drawn scenes that were not trained on"
    asked = sum(stage.steps * stage.questions_per_step for stage in recipe.stages if isinstance(stage, RLStage))
    lines = [
        f"Trained on: {trained}",
        *([f"SFT on: {plain(data.sft)}"] if data.sft else []),
        *([f"Measured on: {measured}"] if was_measured else []),
        *([f"Asked in RL: {asked:,} questions, {asked * recipe.rollout.samples:,} samples"] if asked else []),
        "Boxes in the data, where there are any, serve the evaluation alone",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _evaluation(record: RunRecord, kind: Kind) -> str:
    if not record.evaluations:
        return "Nothing was measured on held-out questions."
    try:
        named = {plain(name): _plain_metrics(figures) for name, figures in record.evaluations.items()}
        table = run_summary_table(named)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the run's evaluations are damaged: {error!r}; evaluate it again, or leave them out"
        ) from error
    about = (
        "Greedy answers to held-out questions, as a share of all. `full`: the whole image in sight; `crops`: only what "
        "the model chose to look at; `full+crops`: both."
    )
    merged = " Measured with the adapter on its base, before merging." if kind == "merged" else ""
    return f"{about}{merged}\n\n{table}"


def _plain_metrics(figures: dict) -> dict:
    """The names of modes head rows, and the number of questions stands in the table as it is."""
    accuracy = {plain(mode): value for mode, value in figures["accuracy"].items()}
    return figures | {"questions": int(figures["questions"]), "accuracy": accuracy}


def _looks(record: RunRecord) -> str:
    about = "Sampled in training. Left: the image with the boxes of each sample, green where the answer was right, red "
    about += "where it was wrong. Right: what each sample saw, and what it answered.\n"
    return "\n".join([about, *(_picture(picture) for picture in record.pictures)])


def _picture(picture: Picture) -> str:
    where = f"{plain(picture.stage)}, step {picture.step}"
    caption = f"{where}: {plain(picture.question)} {picture.right} of {picture.samples} right"
    return f"![{where}]({PICTURES}/{picture.file})\n\n{caption}\n"


def _limits(record: RunRecord, kind: Kind) -> str:
    recipe = record.recipe
    lines = [
        "A box says where the model looked, not that it is right: answers are right with wrong boxes and wrong with "
        "right ones.",
        "What is above is all that was measured. On other images and questions it may do worse than its base.",
        "It has its base's biases and errors. Nothing that matters should be decided by it without a person looking.",
    ]
    if recipe and recipe.data.train == "toy":
        lines.append("It was trained on drawn shapes, to show the method, and is of no use on photographs.")
    if record.merged == "dequant":
        lines.append("Its weights are what the base's 4 bits (nf4) stand for, as in training, with the adapter added.")
    elif recipe and recipe.model.quant == "nf4":
        lines.append(
            "It was trained and measured on a base in 4 bits (nf4). With the unquantised base it behaves a little "
            "differently, and that was not measured."
        )
    if kind == "adapter" and recipe and set(recipe.model.lora.parts) != {"language"}:
        lines.append(
            "It changes how images are seen, too. A server that leaves such adapters out (vLLM) needs it merged."
        )
    return "\n".join(f"- {line}" for line in lines)


def _licence(record: RunRecord) -> str:
    name = record.licence.get("license_name") or record.licence.get("license")
    if record.base == "toy":
        return "Apache-2.0, as the base."
    of_base = f"The licence of {_base(record)} applies" + (f": {plain(name)}." if name else "; see there.")
    return f"{of_base} That of the training data may add to it."


def fenced(text: str, language: str) -> str:
    """A code block that nothing in the text can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
