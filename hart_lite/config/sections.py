"""The sections of a recipe and their defaults.

Files, overrides and messages live in `hart_lite.config.recipe`. The defaults are the method's; shipped recipes differ
only where they say so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from hart_lite.box_formats import BoxFormat
from hart_lite.config.section import Section

Loop = Literal["hart", "mgpo", "direct"]
Objective = Literal["ap_grpo", "grpo"]
Scheduler = Literal["constant", "constant_with_warmup", "linear", "cosine"]
Pixels = Annotated[int, Field(ge=28 * 28)]  # one visual token
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Address = Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+$")]
Positive = Annotated[float, Field(gt=0)]


class Lora(Section):
    r: Count = 16
    """Rank of the adapters."""
    alpha: Positive = 32
    """Adapters are scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of adapter inputs dropped in training."""
    parts: list[Literal["language", "vision", "projector"]] = Field(["language"], min_length=1)
    """Which blocks carry adapters; without `vision` and `projector` an image is encoded once per step."""


class ModelSection(Section):
    base: str = "toy"
    """`toy` (the tiny model in this package), a Hub id, or a local path."""
    revision: str | None = None
    """Hub commit, tag or branch."""
    adapter: str | None = None
    """Folder of an adapter that training starts from, of this base and with this `lora`; null: a fresh one. The KL
    divergence is measured from the base all the same."""
    quant: Literal["none", "nf4"] = "none"
    """`nf4`: 4-bit weights with double quantisation, by bitsandbytes."""
    backend: Literal["transformers", "unsloth"] = "transformers"
    """Who loads the base; `unsloth` needs a CUDA card and an environment of its own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What computes; `auto`: bfloat16 where the card has it, float16 on older cards, float32 on CPU."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    """`auto`: FlashAttention-2 (vision blocks) where the card and the installation have it, else SDPA."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the first CUDA card, else the CPU."""
    box_format: BoxFormat | None = None
    """What the numbers of a box mean, for a base of which nobody says (LLaVA-OneVision; `hart-lite box-format` measures
    it): `unit`, `unit-padded`, `relative-1000`, `pixels` or `seen-pixels`; null: the family's own."""
    lora: Lora = Lora()


class PixelBudgets(Section):
    full: Pixels = 1280 * 784
    """Most pixels the model sees of the whole image; 784 are one visual token, 1024 in Qwen3-VL."""
    crop: Pixels = 640 * 784
    """Most pixels the model sees of a crop."""
    min: Pixels = 4 * 784
    """Fewest pixels of either: smaller ones are enlarged."""


class ToySection(Section):
    scenes: Count = 2000
    """Scenes to train on."""
    eval_scenes: CountOrZero = 200
    """Held-out scenes to evaluate on."""
    questions_per_scene: Count = 2
    """Questions asked about each scene."""
    size: int = Field(672, ge=168, le=8192)
    """Side of a scene in pixels."""
    objects: tuple[Count, Count] = (3, 6)
    """Fewest and most shapes in a scene."""
    colours: list[str] | None = Field(None, min_length=1)
    """Colours of the shapes; null: all."""
    glyphs: int | None = Field(None, ge=5, le=16)
    """How many different characters the shapes carry; null: all."""
    glance_share: Share = 0.7
    """Share of questions about the one shape of a scene that is large enough to be read from the small image."""
    seed: int = 0
    """Seed of the scenes, apart from the run's own."""


class TrainingFile(Section):
    path: str
    """A file or Hub dataset id."""
    weight: Positive = 1.0
    """How often each of its rows stands in a pass; 0.5: half of the rows, drawn with the seed."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class DataSection(Section):
    train: str | Annotated[list[TrainingFile], Field(min_length=1)] = "toy"
    """`toy` (the toy data), a .jsonl, .json, .csv or .parquet file, or a Hub dataset id; or a list of files, each a
    name or {path: b.jsonl, weight: 2}."""
    format: Literal["auto", "jsonl", "parquet", "hub", "mme_realworld"] = "auto"
    """Layout of the rows; `auto` goes by the name."""
    split: str | None = None
    """Split of a Hub dataset."""
    image_dir: str | None = None
    """Where relative image paths start; null: at the file's folder."""
    lite: str | None = None
    """With `mme_realworld`: JSON of the Lite benchmark, whose questions and images stay out of training."""
    columns: dict[str, str] = Field({})
    """Our field -> column of the data, where the names differ; only these are read."""
    sft: str | None = None
    """Separate questions for SFT; null: those of `train` that RL does not use."""
    rl_size: Count = 10_000
    """Questions for RL when `train` also feeds SFT; divided by image, seeded."""
    eval: str | None = None
    """Held-out questions; null: held-out scenes of `eval_toy`, or of the `toy` that is trained on, else none."""
    eval_size: Count | None = None
    """At most this many held-out questions; null: all."""
    toy: ToySection = ToySection()
    eval_toy: ToySection | None = None
    """World of the held-out scenes, such as other colours; what it leaves out is as in `toy`. null: `toy`."""

    @property
    def files(self) -> list[TrainingFile]:
        """What is trained on, as a list."""
        return [TrainingFile(path=self.train)] if isinstance(self.train, str) else self.train

    @property
    def trained_on(self) -> str:
        """The same in words."""
        weights = ("" if file.weight == 1 else f" x {file.weight:g}" for file in self.files)
        return ", ".join(file.path + weight for file, weight in zip(self.files, weights, strict=True))

    @model_validator(mode="before")
    @classmethod
    def _eval_world_begins_as_world(cls, raw: Any) -> Any:
        match raw:
            case {"eval_toy": dict(own), **rest}:
                return {**raw, "eval_toy": _values(rest.get("toy")) | own}
        return raw


def _values(section: Any) -> dict[str, Any]:
    """What a section sets, checked or not yet."""
    return section.model_dump() if isinstance(section, BaseModel) else section if isinstance(section, dict) else {}


class Rollout(Section):
    engine: Literal["local", "vllm"] = "local"
    """Who samples in training: the policy itself, or servers that `hart-lite serve` starts (docs/scale.md)."""
    servers: list[Address] = Field(["http://127.0.0.1:8000"], min_length=1)
    """Addresses of the vLLM servers; a step's questions are spread over them."""
    gap_bound: Positive = 0.05
    """With `vllm`: a token whose log-prob on the server is off ours by more (in nats) is weighted by the ratio of the
    two probabilities, of at most 2. bfloat16 alone puts them 0.006 apart on average, 0.2 at most (measured)."""
    samples: Count = 8
    """G: trajectories of each question."""
    temperature: Positive = 1.0
    """Sampling temperature."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling; 1: off, which RL needs: it is scored under all words, not under those that are left."""
    max_tokens_locate: Count = 256
    """Longest first turn."""
    max_tokens_answer: Count = 256
    """Longest answer."""
    tokens_per_batch: int = Field(65_536, ge=64)
    """Tokens sampled from at one time: prompts, what samples share counted once, and room for the longest responses.
    Sets the memory of a rollout (Qwen2.5-VL-7B keeps 56 KiB for each), and changes nothing of what is drawn."""
    cuda_graph: bool = True
    """On a CUDA card, sample from a recorded graph: no Python between the kernels of a token. In float32 it
    draws the same; 16 bits round otherwise when the shapes of a pass differ."""
    max_boxes: Count = 4
    """Boxes that become crops; more are rejected."""
    crop_pad: float = Field(0.1, ge=0, le=2)
    """Context around a box: share of its width and height added on each side."""
    max_box_share: float = Field(1.0, gt=0, le=1)
    """Boxes over this share of the image are invalid; 1: off."""
    verify: Literal["sample", "score"] = "sample"
    """How crops are paid. `sample`: an answer is drawn and graded, as in the paper. `score`: by the probability of the
    right choice (or of the words of a short open answer), computed in one pass; no answer is drawn, and the locate turn
    alone is trained. For the loop `hart`, and for answers that need no reasoning before them."""
    control_region: bool = False
    """Pay crops only for what crops of the same sizes elsewhere do not give: max(0, r - the probability of the right
    answer from those). Boxes too large for a place elsewhere earn nothing. For the loop `hart`."""
    max_overlap: Share | None = None
    """Two boxes of a sample whose IoU is above this earn nothing; null: off."""
    box_budget: Count | None = None
    """A sample with more boxes earns nothing, where `max_boxes` only leaves out those beyond; null: off."""
    flat_below: Share | None = None
    """A group whose rewards differ by less teaches nothing and is left out as flat; null: 0.05 where rewards are
    probabilities (`verify: score`, `control_region`), else 0."""
    resample_flat_groups: CountOrZero = 0
    """How often questions whose samples all earn the same are replaced within a step."""

    @property
    def scores_answers(self) -> bool:
        """Whether rewards hold probabilities of answers."""
        return self.verify == "score" or self.control_region

    @property
    def least_spread(self) -> float:
        """Of the rewards of a group that is not flat."""
        return self.flat_below if self.flat_below is not None else 0.05 * self.scores_answers

    def questions_at_once(self, image_tokens: int) -> int:
        """So many, with an image each and one response, fill `tokens_per_batch`."""
        return max(1, self.tokens_per_batch // (image_tokens + max(self.max_tokens_locate, self.max_tokens_answer)))


class _Optimisation(Section):
    lr: Positive = 1e-5
    """Highest learning rate."""
    lr_scheduler: Scheduler = "constant_with_warmup"
    """Course of the learning rate after warm-up."""
    warmup_steps: CountOrZero = 0
    """Steps of linear warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW weight decay of the adapters."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    save_every: CountOrZero = 50
    """Steps between checkpoints; 0: only at the end of the stage."""


class RLStage(_Optimisation):
    kind: Literal["rl"]
    """Reinforcement learning from final answers."""
    steps: Count = 500
    """Optimizer steps."""
    questions_per_step: Count = 8
    """B: questions per optimizer step, each with G samples."""
    tokens_per_pack: int = Field(8192, ge=64)
    """Tokens in one forward and backward pass: sets the peak memory."""
    log_rollouts_every: CountOrZero = 10
    """Steps between rollouts saved with their pictures; 0: never."""
    loop: Loop | None = None
    """Loop of this stage; null: the recipe's."""
    objective: Objective | None = None
    """Objective of this stage; null: the recipe's."""


class SFTStage(_Optimisation):
    kind: Literal["sft"]
    """Supervised fine-tuning on answers."""
    epochs: Positive = 1.0
    """Passes over the SFT questions, unless `steps` says how far to go."""
    steps: Count | None = None
    """Optimizer steps; null: by `epochs`."""
    batch_size: Count = 8
    """Rows per optimizer step."""
    micro_batch_size: Count = 1
    """Rows in one forward and backward pass; divides `batch_size`."""
    context: Literal["full+crops", "full"] = "full+crops"
    """What is in sight when answering; crops come from the policy, once, before this stage."""
    target: Literal["letter", "text"] = "letter"
    """How the answer is taught where a question has choices."""
    keep_locate: Share = 0.1
    """Share of rows that repeat a box which earned the reward, so that grounding stays. It is their share of the loss,
    too, though a box has many times the tokens of a letter. Boxes whose turn was cut off by its limit are left out."""


class DistilStage(_Optimisation):
    kind: Literal["distil"]
    """On-policy self-distillation: answering at a glance learns from answering with the crops in sight."""
    steps: Count = 200
    """Optimizer steps."""
    questions_per_step: Count = 8
    """Questions per optimizer step, each with `rollout.samples` answers at a glance. Only those are asked whose boxes
    led to the right answer before this stage."""
    teacher: Literal["crops", "full+crops"] = "crops"
    """What is in sight of the teacher, which is the policy as this stage began."""
    tokens_per_pack: int = Field(8192, ge=64)
    """Tokens in one forward and backward pass: sets the peak memory."""


class Evaluate(Section):
    every: CountOrZero = 0
    """Steps between evaluations; 0: only before and after training."""
    modes: list[Literal["full", "crops", "full+crops", "crops-noise", "crops-control"]] = Field(
        ["full", "crops", "full+crops"], min_length=1
    )
    """What is in sight when answering. `crops-noise` shows noise in place of the crops, and `crops-control` crops of
    the same sizes from other places: beside `crops` they say what the crops are worth."""
    keep_best: Literal["full", "crops", "full+crops", "wrong_grounding", "mean_iou"] | None = None
    """Each stage ends with the weights that were best in its evaluations along the way: by right answers in a mode, or
    by boxes. null: with the last ones."""
    patience: Count | None = None
    """A stage ends when so many evaluations in a row were no better than its best one; null: never early."""
    watch: CountOrZero = 4
    """Held-out questions (without any: of those trained on) that are answered before, in the quarters of an RL stage
    and after each stage, to show in the report where the model looked; 0: none."""
