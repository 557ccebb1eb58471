"""Which tensor of a checkpoint's files is which parameter of the model.

The Hub's Qwen2.5-VL has `model.layers.0..` and `visual.blocks.0..` where the model in transformers 5 has
`model.language_model.layers.0..` and `model.visual.blocks.0..`. The rules by which transformers renames at loading are
applied here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from hart_lite.errors import ModelError
from hart_lite.export.lora import Pair
from hart_lite.export.shards import FLOATS, Checkpoint


@dataclass(frozen=True)
class TensorNames:
    checkpoint: Checkpoint
    model: nn.Module  # on the meta device: shapes and names, no weights
    stored: dict[str, str]  # parameter of the model -> its name in the files
    shared: frozenset[str]  # parameters that are one tensor with another, such as a tied head

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> TensorNames:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        times = Counter(id(parameter) for parameter in parameters.values())
        shared = frozenset(name for name, parameter in parameters.items() if times[id(parameter)] > 1)
        return cls(checkpoint, model, _stored(checkpoint, model), shared)

    def weight(self, module: str, pair: Pair) -> str:
        """The stored name of the weight that a pair belongs to. Raises `ModelError` where it has no place."""
        parameter = f"{module}.weight"
        name = self.stored.get(parameter)
        if parameter in self.shared:
            raise ModelError(
                f"the adapter changes {parameter}, which is one tensor for words going in and coming out here; merged, "
                "it would change both. Train without an adapter on it"
            )
        if name is None:
            raise ModelError(
                f"the adapter changes {parameter}, which the base in {self.checkpoint.folder} does not have: it "
                "belongs to another base, or was saved with another version of transformers"
            )
        slot, shape = self.checkpoint.slots[name], (pair.B.shape[0], pair.A.shape[1])
        if slot.shape != shape or slot.dtype not in FLOATS:
            raise ModelError(
                f"the adapter's {parameter} is {shape}, the base's {name} is {slot.dtype} {slot.shape}: it belongs "
                "to another base"
            )
        return name

    def with_tied(self) -> dict[str, str]:
        """{parameter: stored name}, where tied parameters each have an entry."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        tensors = {id(parameters[name]): stored for name, stored in self.stored.items() if name in parameters}
        return {name: tensors[id(tensor)] for name, tensor in parameters.items() if id(tensor) in tensors}

    def quantised(self, left_out: tuple[str, ...]) -> set[str]:
        """The stored names of the weights that are kept in 4 bits when the model is loaded so, all but `left_out`."""
        from bitsandbytes.nn import Linear4bit
        from transformers.integrations import replace_with_bnb_linear

        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        with torch.device("meta"):
            model = type(self.model)(self.model.config)
        model = replace_with_bnb_linear(model, list(left_out), config)
        found = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear4bit)}
        if missing := sorted(found - self.stored.keys()):
            raise ModelError(f"the base in {self.checkpoint.folder} lacks {missing[0]}; it is not a whole checkpoint")
        return {self.stored[parameter] for parameter in found}


def _stored(checkpoint: Checkpoint, model: nn.Module) -> dict[str, str]:
    rules = get_model_conversion_mapping(model, add_legacy=False)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    parameters = model.state_dict()
    stored: dict[str, str] = {}
    for name in checkpoint.slots:
        parameter, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        if parameter not in parameters and name in parameters:
            parameter = name
        if converted is not None or parameter not in parameters:
            continue  # made of several tensors, or not a parameter of the model: no adapter changes it
        if parameter in stored:
            raise ModelError(f"{checkpoint.folder}: {stored[parameter]} and {name} are both {parameter}")
        stored[parameter] = name
    return stored
