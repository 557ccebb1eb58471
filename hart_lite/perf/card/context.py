"""What the stages share: sizes, the model, photos, clocks and the card's memory."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from hart_lite.config.sections import ModelSection, PixelBudgets, Rollout
from hart_lite.data.images import ImageFile
from hart_lite.models.generation import Response
from hart_lite.perf.step_time.models import Workload, runner_of, workload
from hart_lite.perf.step_time.presets import PRESETS, TOKEN, Preset
from hart_lite.toy.glyphs import GLYPHS
from hart_lite.types import Example, ImageView, Tokens

GIB = 2**30
LAYERS = 4  # of the model that is checked in float32


@dataclass(frozen=True)
class Sizes:
    """What is measured on. `narrow`: the model of a few layers of the same width, in float32; `photo`: (width, height)
    of the originals; `rows`: how many are sampled at one time; `locate`, `answer`: tokens of the turns."""

    preset: Preset
    narrow: Preset
    questions: int
    locate: int
    answer: int
    min_pixels: int
    photo: tuple[int, int]
    tokens_per_pack: int
    tokens_per_batch: int
    rows: tuple[int, ...]
    copied: int  # bytes
    product: int  # side of the matrices


def _narrow(preset: Preset, depth: int) -> Preset:
    text, vision = ({"num_hidden_layers": LAYERS}, {"depth": depth, "fullatt_block_indexes": [depth - 1]})
    plain = {"dtype": "float32", "quant": "none", "gradient_checkpointing": False}
    small = {
        "samples": 4,
        "response": 24,
        "full_tokens": preset.full_tokens // 4,
        "crop_tokens": preset.crop_tokens // 8,
    }
    return replace(preset, text=preset.text | text, vision=preset.vision | vision, **plain, **small)


SEVEN = PRESETS["cuda"]
# Turns as long as those of a trained model mostly are; with answers of one letter the prompts are what costs.
FULL = Sizes(
    preset=SEVEN,
    narrow=_narrow(SEVEN, 4),
    questions=8,
    locate=64,
    answer=16,
    min_pixels=50176,
    photo=(4000, 3000),
    tokens_per_pack=4096,
    tokens_per_batch=32768,
    rows=(64, 8, 1, 16),
    copied=4 << 30,
    product=8192,
)
_TINY = Preset(
    name="tiny",
    # More words than the tokenizer has, as the 7B.
    text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 1536, "tie_word_embeddings": False},
    vision={"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    | {"fullatt_block_indexes": [1]},
    mrope=(2, 3, 3),
    rope_theta=1_000_000.0,
    dtype="bfloat16",
    quant="nf4",
    gradient_checkpointing=True,
    full_tokens=36,
    crop_tokens=32,
    samples=4,
    response=6,
)
TINY = Sizes(
    preset=_TINY,
    narrow=_narrow(_TINY, 2),
    questions=2,
    locate=6,
    answer=4,
    min_pixels=4 * TOKEN,
    photo=(320, 240),
    tokens_per_pack=512,
    tokens_per_batch=1024,
    rows=(4, 1),
    copied=1 << 24,
    product=128,
)


class Card:
    """The device with what the stages leave to each other. Without one, everything is on the CPU."""

    def __init__(self, tiny: bool) -> None:
        self.sizes = TINY if tiny else FULL
        self.device = torch.device("cpu" if tiny else "cuda")
        self._room = TemporaryDirectory(prefix="card-")
        self.folder = Path(self._room.name)
        self.sequences: list[Tokens] = []  # of the last RL step
        self._work: Workload | None = None
        if tiny:  # two threads that wait for each other are slower at this size, above all beside other processes
            torch.set_num_threads(1)
        # cuDNN plans anew for every shape, and every pack has new ones; the stage `sdpa` shows what that costs.
        torch.backends.cuda.enable_cudnn_sdp(False)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    # -- model and data --------------------------------------------------------------------------------------------

    @property
    def section(self) -> ModelSection:
        """The model as a recipe would name it."""
        preset = self.sizes.preset
        return ModelSection(dtype=preset.dtype, quant=preset.quant, device=preset.device, gradient_checkpointing=True)

    def bench_work(self) -> Workload:
        """The model under `hart-lite bench`'s own settings; drawn by the first who asks."""
        if self._work is None:
            self._work = workload(self.sizes.preset, self.folder)
        return self._work

    def work(self, cuda_graph: bool = False) -> Workload:
        """The same model under a recipe's settings."""
        sizes, work = self.sizes, self.bench_work()
        preset, policy = work.preset, work.runner.policy
        full, crop = preset.full_tokens * TOKEN, preset.crop_tokens * TOKEN
        settings = Rollout(
            samples=preset.samples,
            max_tokens_locate=sizes.locate,
            max_tokens_answer=sizes.answer,
            tokens_per_batch=sizes.tokens_per_batch,
            cuda_graph=cuda_graph,
        )
        policy.family.seen = policy.family.fit(sizes.photo, full, sizes.min_pixels)
        pixels = PixelBudgets(full=full, crop=crop, min=sizes.min_pixels)
        return Workload(preset, runner_of(policy, pixels, settings), work.dims)

    def photos(self, fresh: bool = True) -> list[Example]:
        """Questions about JPEGs; `fresh`: none of them is among the decoded ones."""
        paths = [self.folder / f"photo-{n}.jpg" for n in range(self.sizes.questions)]
        if not paths[-1].exists():
            with ThreadPoolExecutor(len(paths)) as pool:
                list(pool.map(self._draw, paths, range(len(paths))))
        if fresh:
            for path in paths:
                os.utime(path)
        text = "Which character is on the red square, and which of the others is like it in image {}?"
        return [
            Example(str(n), (ImageFile(path),), text.format(n), "A", tuple(GLYPHS[:5])) for n, path in enumerate(paths)
        ]

    def _draw(self, path: Path, number: int) -> None:
        """Coarse shapes with fine noise on them, so that decoding costs what a photo's does."""
        rng, (width, height) = np.random.default_rng(number), self.sizes.photo
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        shapes = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = np.tile(rng.integers(-12, 13, (height // 4 + 1, width // 4 + 1, 1), dtype=np.int16), (4, 4, 1))
        whole = (shapes + grain[:height, :width]).clip(0, 255).astype(np.uint8)
        Image.fromarray(whole).save(path, quality=90)

    def forget(self) -> None:
        """Let the model go."""
        self._work = None

    # -- clocks and memory -----------------------------------------------------------------------------------------

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], object], repeats: int = 1) -> float:
        """Of one call: the median of some, with the device's queue drained around each."""
        taken = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            taken.append(time.perf_counter() - start)
        return sorted(taken)[len(taken) // 2]

    def milliseconds(self, function: Callable[[], object], repeats: int = 10) -> float:
        """Of one call among many in a row, so that launches overlap with work; after one that does not count."""
        function()
        return 1e3 * self.seconds(lambda: [function() for _ in range(repeats)]) / repeats

    def memory(self) -> dict[str, float]:
        """GiB since `reset`, at most."""
        if not self.cuda:
            return {}
        peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return dict(zip(("peak_allocated", "peak_reserved"), (peak / GIB for peak in peaks), strict=True))

    def reset(self) -> None:
        """Give what is not used back, and count peaks from here."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def clear(self) -> dict[str, float]:
        """After a stage, however it ended: gradients, features, settings. Returns what is still held, in GiB."""
        if self._work is not None:
            policy = self._work.runner.policy
            policy.peft.zero_grad(set_to_none=True)
            policy.forget_images()
            policy.model.eval()
        if not self.cuda:
            return {}
        most = self.memory()
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.reset()
        return most | {"left": torch.cuda.memory_allocated() / GIB}


@contextmanager
def watched(work: Workload) -> Iterator[dict[str, float]]:
    """Seconds of some functions while inside, the device drained around each; one includes what it calls of the others.

    `generate` and `logps` are those of tokens. `encode`: pixels to features, of which `load` decodes, cuts and resizes
    and `features` are the processor and the vision tower.
    """
    laps: dict[str, float] = defaultdict(float)
    policy = work.runner.policy
    places = [(work.runner.engine, "generate"), (policy, "logps"), (policy, "encode"), (policy.family, "features")]
    with ExitStack() as stack:
        for owner, name in [*places, (ImageView, "load")]:
            stack.enter_context(patch.object(owner, name, _timed(work, laps, name, getattr(owner, name))))
        yield laps


def _timed(work: Workload, laps: dict[str, float], name: str, function: Callable) -> Callable:
    def run(*args, **kwargs):
        work.wait()
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            work.wait()
            laps[name] += time.perf_counter() - start

    return run


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """||found - exact|| / ||exact||; NaN stays NaN."""
    found, exact = found.detach().double(), exact.detach().double()
    return ((found - exact).norm() / exact.norm()).item()


def responded(prompts: Sequence[Tokens], responses: Sequence[Response]) -> list[Tokens]:
    return [
        prompt + Tokens.response(said.ids, logps=said.logps) for prompt, said in zip(prompts, responses, strict=True)
    ]
