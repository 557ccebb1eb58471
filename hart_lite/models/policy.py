"""The policy: a base model (16 bit, 32 bit or 4-bit) with adapters, and three of the four things a loop asks of it.

encode    pixels -> one feature tensor per view; frozen vision towers run once per view and optimizer step
logps     packs -> log-probs of the sampled tokens, with gradient
reference the same with the adapters switched off; there is no second model

The fourth, sampling, is `hart_lite.models.generation.generate`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from hart_lite.config.limits import ENCODE_TOKENS, HEAD_TILE
from hart_lite.config.sections import Lora
from hart_lite.data.view_loader import ViewLoader
from hart_lite.errors import ModelError
from hart_lite.models.decoder import Decoder
from hart_lite.models.families.base import Family
from hart_lite.models.lora import speed_up_adapters
from hart_lite.models.oom import Budget, within_memory
from hart_lite.models.packing import Pack
from hart_lite.models.tree_attention import attend
from hart_lite.rl.losses import token_kl
from hart_lite.types import ImageView, Slot


class Policy:
    """`model` is the family's model with adapters injected; `peft` wraps the same modules for saving."""

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        lora: Lora,
        adapter: str | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.family, self.model, self.lora = family, model, lora
        model.requires_grad_(False)
        if adapter:
            self.peft = PeftModel.from_pretrained(model, adapter, is_trainable=True)
        else:
            config = LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=family.lora_targets(lora.parts),
                task_type="CAUSAL_LM",
            )
            self.peft = get_peft_model(model, config)
        speed_up_adapters(self.peft)
        language = family.language(model)
        self.decoder = Decoder(language, family.rotary_rows(language), checkpointing)
        # Asked of the model: a loaded adapter may have other parts than the recipe names.
        self.trains_vision = any(p.requires_grad for p in family.vision(model).parameters())
        self.views, self.encoded = ViewLoader(), Budget("image tokens", ENCODE_TOKENS, in_recipe=False)
        self._features: dict[ImageView, torch.Tensor] = {}

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def adapter_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """pi_ref: the adapters are off inside."""
        cached, self._features = self._features, {} if self.trains_vision else self._features
        try:
            with self.peft.disable_adapter(), torch.no_grad():
                yield
        finally:
            self._features = cached

    @contextlib.contextmanager
    def adapters(self, values: Sequence[torch.Tensor]) -> Iterator[None]:
        """These values stand in for those of `adapter_parameters` inside, without gradient: the policy as it was."""
        cached, self._features = self._features, {} if self.trains_vision else self._features
        parameters = self.adapter_parameters
        own = [parameter.data for parameter in parameters]
        try:
            for parameter, value in zip(parameters, values, strict=True):
                parameter.data = value
            with torch.no_grad():
                yield
        finally:
            for parameter, value in zip(parameters, own, strict=True):
                parameter.data = value
            self._features = cached

    # -- images ----------------------------------------------------------------------------------------------------

    def forget_images(self) -> None:
        """To be called once per optimizer step: features live as long as the weights that made them."""
        self._features.clear()

    def encode(self, views: Sequence[ImageView]) -> dict[ImageView, torch.Tensor]:
        """One (tokens, E) tensor per distinct view, as the family makes them.

        Without gradient and cached until `forget_images`, unless vision adapters are training.
        """
        distinct = list(dict.fromkeys(views))
        if self.trains_vision and torch.is_grad_enabled():
            return self._encode(distinct)
        missing = [view for view in distinct if view not in self._features]
        with torch.no_grad():
            fresh = self._encode(missing)
        # In the host's memory: the crops of a step are more than fits a small card beside everything else.
        self._features.update({view: features.cpu() for view, features in fresh.items()})
        return {view: fresh[view] if view in fresh else self._features[view].to(self.device) for view in distinct}

    def _encode(self, views: list[ImageView]) -> dict[ImageView, torch.Tensor]:
        """In calls of the tower within its budget of tokens, which shrinks where memory runs out."""
        out: dict[ImageView, torch.Tensor] = {}
        while waiting := [view for view in views if view not in out]:
            batch = self._first_batch(waiting)
            images = self.views.load(batch)
            if torch.is_grad_enabled():  # the update is made again as a whole
                features = self.family.features(self.model, images)
            else:
                features = within_memory(partial(self.family.features, self.model, images))
            if features is not None:
                out.update(zip(batch, features, strict=True))
            elif len(batch) == 1:
                width, height = batch[0].size
                raise ModelError(
                    f"out of memory: an image of {width} x {height} pixels does not fit the vision tower alone. "
                    "Lower pixels.full and pixels.crop; `hart-lite plan` says what fits"
                )
            else:
                self.encoded.halve("the vision tower")
        return out

    def _first_batch(self, views: list[ImageView]) -> list[ImageView]:
        ends = accumulate(self.family.image_tokens(view.size) for view in views)
        return views[: max(sum(end <= self.encoded.value for end in ends), 1)]

    def embed(self, ids_T: torch.Tensor, slots: Sequence[Slot]) -> torch.Tensor:
        """(T, E) inputs of the decoder: word embeddings, with image features in their slots. Features may go on behind
        the embedding with what the first layers add to it (DeepStack, arXiv 2406.04334); words add nothing there."""
        embeds = self.model.get_input_embeddings()(ids_T.to(self.device))
        if not slots:
            return embeds
        features = self.encode([slot.view for slot in slots])
        at = torch.cat([torch.arange(s.start, s.start + s.length) for s in slots]).to(self.device)
        filled = torch.cat([features[s.view] for s in slots]).to(embeds.dtype)
        inputs = embeds.new_zeros(len(embeds), filled.shape[1])
        inputs[:, : embeds.shape[1]] = embeds
        return inputs.index_copy_(0, at, filled)

    # -- scoring ---------------------------------------------------------------------------------------------------

    def logps(self, pack: Pack, temperature: float = 1.0) -> torch.Tensor:
        """(N,) float32 log-probs of the pack's sampled tokens, in the pack's order.

        `temperature` is the one they were sampled at: the gradient is then that of the policy that acted.
        """
        return self._logps(self.states(pack), pack.targets_N.to(self.device), temperature)

    def logps_and_hits(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        """`logps`, and (N,) whether each token is the model's first choice, as float32 numbers 0 and 1."""
        hidden, targets = self.states(pack), pack.targets_N.to(self.device)
        with torch.no_grad():
            first = [self.model.lm_head(tile).argmax(-1) for tile in hidden.split(HEAD_TILE)]
        return self._logps(hidden, targets, 1.0), (torch.cat(first) == targets).float()

    def kl(self, pack: Pack, teacher_N_H: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """(N,) KL(policy || teacher) of the distributions that the pack's sampled tokens come from; the teacher's are
        those of hidden states `teacher_N_H`, as `states` gives them. Logits exist for a tile of tokens at one time."""
        tiles = zip(self.states(pack).split(HEAD_TILE), teacher_N_H.split(HEAD_TILE), strict=True)
        return torch.cat([checkpoint(self._head_kl, *tile, temperature, use_reentrant=False) for tile in tiles])

    def _head_kl(self, hidden: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        with torch.no_grad():
            taught = self.model.lm_head(teacher).float() / temperature
        return token_kl(self.model.lm_head(hidden).float() / temperature, taught)

    def states(self, pack: Pack) -> torch.Tensor:
        """(N, H) hidden states that predict the pack's sampled tokens."""
        tree, decoder = pack.tree(self.device), self.decoder
        hidden = decoder(
            self.embed(pack.ids_T, pack.slots)[None],
            pack.positions_R_T[:, None].to(self.device),
            lambda layer, q, k, v: attend(q[0], k[0], v[0], tree, decoder.scale)[None],
        )[0]
        return hidden[pack.predict_N.to(self.device)]

    def _logps(self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        if not len(hidden):
            return hidden.new_zeros(0).float()
        tiles = zip(hidden.split(HEAD_TILE), targets.split(HEAD_TILE), strict=True)
        return torch.cat([self._score(h, t, temperature) for h, t in tiles])

    def _score(self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        if torch.is_grad_enabled():  # the logits of a tile are made again in the backward pass, never kept
            return checkpoint(self._head_logps, hidden, targets, temperature, use_reentrant=False)
        return self._head_logps(hidden, targets, temperature)

    def _head_logps(self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        return chosen_logps(self.model.lm_head(hidden).float() / temperature, targets)


def chosen_logps(logits_N_V: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    """(N,) log-probs of one id in each row."""
    return logits_N_V.gather(-1, ids_N[:, None])[:, 0] - logits_N_V.logsumexp(-1)
