"""The layers as we run them: what they keep, how many operations they start, and which decoders they refuse. That they
say what the library's do is in tests/models/test_policy.py and the tests of each family."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2_5_VLForConditionalGeneration

from hart_lite.config.sections import Lora
from hart_lite.errors import ModelError
from hart_lite.models import decoder as decoder_module
from hart_lite.models import kernels
from hart_lite.models.attention import Branches, Level
from hart_lite.models.decoder import Decoder
from hart_lite.models.policy import Policy
from hart_lite.models.tree_attention import Tree, attend
from hart_lite.perf.step_time.presets import PRESETS, FixedLength, config_of

TOKENS, RUN = 512, 384


@pytest.fixture(scope="module")
def seven(tiny_base) -> Policy:
    """One layer of the 7B's dimensions in bfloat16 on a device that holds no values."""
    preset = PRESETS["cuda"]
    preset = replace(
        preset,
        text=preset.text | {"num_hidden_layers": 1, "vocab_size": 1024},
        vision=preset.vision | {"depth": 1, "fullatt_block_indexes": [0]},
    )
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config_of(preset)).to(torch.bfloat16)
    policy = Policy(FixedLength(str(tiny_base)), model, Lora())
    policy.model.to("meta").train()
    return policy


@pytest.fixture
def no_kernels(monkeypatch):
    """Attention of the right shapes on that device."""

    def forward(q, k, v, call, scale):
        return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32), None

    monkeypatch.setattr(kernels, "forward", forward)


def test_a_layer_keeps_at_most_190_kb_of_a_token(seven, no_kernels):
    """Without what checkpointing makes again, in the update: 336 KB before adapters computed in 16 bits."""
    tree = Tree.of([RUN, TOKENS - RUN], [[], [range(RUN)]], torch.device("meta"))
    hidden = torch.empty(1, TOKENS, 3584, dtype=torch.bfloat16, device="meta", requires_grad=True)
    positions = torch.empty(3, 1, TOKENS, dtype=torch.long, device="meta")
    weights = {p.untyped_storage()._cdata for p in seven.model.parameters()}
    kept: dict[int, int] = {}
    alive: list = []  # an address counts once, as long as nothing else takes it

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and tensor.numel() >= TOKENS:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        seven.decoder(hidden, positions, lambda layer, q, k, v: attend(q[0], k[0], v[0], tree, 0.1)[None])
    a_token = sum(kept.values()) / TOKENS / 1024
    assert 100 < a_token <= 190


class Operations(TorchDispatchMode):
    """What starts a kernel: views do not."""

    VIEWS = ("view", "transpose", "permute", "unsqueeze", "expand", "select", "slice", "split", "t.default", "unbind")
    VIEWS += ("as_strided", "detach", "unfold", "alias", "squeeze", "_unsafe_view")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        if not name.startswith(self.VIEWS):
            self.names.append(name)
            devices = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dim()}
            assert devices <= {"meta"}, f"{name} is given a tensor of the host, which a recording does not allow"
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_layer_starts_at_most_70_operations_for_a_token(seven, monkeypatch):
    """Of 64 rows under three levels of runs, as the second turn has them: 122 before. On a card RMSNorm is a kernel."""
    monkeypatch.setattr(decoder_module, "rms_norm", lambda x, *_: x.clone())
    rows, device = 64, torch.device("meta")

    def level(runs: int, tokens: int) -> Level:
        """Made on a device with values, since the rows' places are looked up."""
        like = torch.empty(runs, 4, tokens, 128, dtype=torch.bfloat16, device=device)
        one = Level(torch.ones(runs, tokens, dtype=torch.bool), torch.arange(rows) % runs, [like], [like])
        for name, value in vars(one).items():
            if isinstance(value, torch.Tensor):
                setattr(one, name, value.to(device))
        return one

    branches = Branches([level(1, 20), level(8, 300), level(64, 100)], room=64)
    branches.go_to(3)
    hidden = torch.empty(rows, 1, 3584, dtype=torch.bfloat16, device=device)
    positions = torch.empty(3, rows, 1, dtype=torch.long, device=device)
    decoder = seven.decoder

    def attention(layer, q, k, v):
        return branches.attend(layer, q, k, v, 0.1)

    counts = []
    for layers in (1, 2):  # the difference is a layer, without what a pass does once
        decoder.layers = [decoder.language.layers[0]] * layers
        for part in (*branches.levels, branches.samples):
            part.keys, part.values = [part.keys[0]] * layers, [part.values[0]] * layers
        with Operations() as seen:
            decoder(hidden, positions, attention)
        counts.append(len(seen.names))
    decoder.layers = decoder.language.layers
    assert 30 < counts[1] - counts[0] <= 70


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m.config, "layer_types", ["sliding_attention"]), "sliding_attention"),
        (lambda m: setattr(m.config, "hidden_act", "gelu"), r"activation silu \(it has gelu\)"),
        (lambda m: setattr(m.layers[0].self_attn, "q_norm", torch.nn.LayerNorm(4)), "self_attn.q_norm"),
        (lambda m: delattr(m.layers[0].mlp, "gate_proj"), "without mlp.gate_proj"),
    ],
)
def test_a_decoder_of_another_kind_is_refused(policy, change, message):
    language = copy.deepcopy(policy.family.language(policy.model))
    change(language)
    with pytest.raises(ModelError, match=message):
        Decoder(language, torch.zeros(8, dtype=torch.long))
