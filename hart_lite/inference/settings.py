"""What a model is asked under: budgets, limits and words, of its recipe or in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hart_lite.config.sections import PixelBudgets
from hart_lite.inference.load import OpenModel
from hart_lite.inference.prompts import question_text
from hart_lite.inference.protocols.base import Setting
from hart_lite.inference.protocols.registry import ARMS, OURS
from hart_lite.types import Example

NO_LIMIT = 10**9  # of pixels or tokens: a peer's protocol then goes by its own
Limits = dict[str, int | None]


@dataclass(frozen=True, kw_only=True)
class AskSettings:
    """Budgets that are None: those of the model's recipe; without a recipe the usual ones for our modes, and for a
    peer's protocol its published limits."""

    as_published: bool = False
    full_pixels: int | None = None
    crop_pixels: int | None = None
    min_pixels: int | None = None
    max_tokens: int | None = None  # of every response


def setting_for(
    mode: str, model: OpenModel, settings: AskSettings, wording: Callable[[Example], str] | None = None
) -> Setting:
    """`wording`: a benchmark's own words for question and choices; None: the recipe's."""
    pixels, decoding, ours = pixel_limits(settings, model), token_limits(settings, model), mode in (*OURS, *ARMS)
    return Setting(
        interface=model.engine.interface,
        prompts=model.prompts,
        wording=wording or partial(question_text, model.prompts),
        full_pixels=pixels["full" if ours else "peers_full"] or NO_LIMIT,
        crop_pixels=pixels["crop" if ours else "peers_crop"] or NO_LIMIT,
        min_pixels=pixels["min"],
        **box_limits(model),
        max_tokens_locate=decoding["max_tokens_locate" if ours else "max_tokens_peers"] or NO_LIMIT,
        max_tokens_answer=decoding["max_tokens_answer" if ours else "max_tokens_peers"] or NO_LIMIT,
        as_published=settings.as_published,
    )


def pixel_limits(settings: AskSettings, model: OpenModel) -> Limits:
    usual = model.pixels or PixelBudgets()
    full, crop = settings.full_pixels or usual.full, settings.crop_pixels or usual.crop
    peers = (full, crop) if model.pixels else (settings.full_pixels, settings.crop_pixels)
    least = min(settings.min_pixels or usual.min, full, crop)
    return {"full": full, "crop": crop, "min": least, "peers_full": peers[0], "peers_crop": peers[1]}


def token_limits(settings: AskSettings, model: OpenModel) -> Limits:
    return {
        "max_tokens_locate": settings.max_tokens or model.rollout.max_tokens_locate,
        "max_tokens_answer": settings.max_tokens or model.rollout.max_tokens_answer,
        "max_tokens_peers": settings.max_tokens,
    }


def box_limits(model: OpenModel) -> dict[str, float]:
    return {name: getattr(model.rollout, name) for name in ("crop_pad", "max_boxes", "max_box_share")}
