"""LoRA: q_phi(x) is the prior with W + alpha/rank B A in place of each linear layer's weight W.

phi is every A and B, matrices of low rank (Hu et al. 2021, arXiv 2106.09685). B starts at 0, so
that q = p0 at the start.
"""

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from guides.guide import Guide, OtherGuideError, check_prior, load_into
from guides.peft_format import adapter_config, adapter_weights, save_adapter
from guides.sharing import copy_sharing
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.checks import instance, positive, whole_number
from model.networks.adapter import adapter_tensors, check_settings

IRRELEVANT = re.compile(
    "base_model_name_or_path|revision|peft_version|auto_mapping|task_type|inference_mode|r|bias|"
    "rank_pattern|target_modules|exclude_modules|layers_to_transform|layers_pattern|lora_dropout|"
    "modules_to_save|init_lora_weights|eva_config|loftq_config|corda_config|lora_ga_config|"
    "megatron_core|runtime_config|qalora_group_size|ensure_weight_tying"
)
"""Settings of an adapter that follow from its weights, or that play no part after training."""


@dataclass(frozen=True)
class LoRAOptions:
    """Options of `LoRA`."""

    rank: int = 8
    """Rank of the matrix B A that is added to each layer."""

    alpha: float | None = None
    """Scale of the added matrix, which is B A alpha / rank; default, twice the rank. A larger alpha
    acts like a larger learning rate, and matters little to steps of a size in nats."""

    target_modules: str = "all-linear"
    """Layers to adapt. `all-linear`, all linear layers but the output layer; or names separated by
    commas, such as `q_proj,v_proj`. Each name is a regular expression for a layer's name or for
    the end of the name. Embeddings, and an output layer tied to them, cannot be adapted."""


class LoRA(Guide):
    """Adapters of `peft` around the prior's weights, which are in memory once; starts at p0.

    The guide's own modules share tensors with the prior's, so that the prior stays unchanged. If
    the prior has an adapter, the guide has both. Adapters are float32 also on a prior in half
    precision, where bfloat16 would lose small updates.

    Args:
        prior: Language model to start from.
        rank, alpha, target_modules: See `LoRAOptions`.

    Raises:
        ValueError: If a name fits no layer, or the prior's own adapter excludes a second adapter.
    """

    def __init__(
        self,
        prior: LanguageModel,
        *,
        rank: int = 8,
        alpha: float | None = None,
        target_modules: str = "all-linear",
    ) -> None:
        super().__init__()
        from peft import LoraConfig  # takes seconds to import

        network = check_prior(prior).network
        why = "all-linear, or names with commas between them"
        instance("target_modules", target_modules, str, why=why)
        layers = _linear_layers(network)
        widest = max(max(layer.get_parameter("weight").shape) for layer in layers.values())
        rank = whole_number("rank", rank, at_most=widest, why="no layer has a higher one")
        alpha = 2 * rank if alpha is None else positive("alpha", alpha)
        _check_adapter(network, layers)
        targets = _targets(network, layers, target_modules)
        shared = [*prior.parameters(), *prior.buffers()]
        self.language_model = copy_sharing(prior, shared)
        sizes = {"r": rank, "lora_alpha": alpha, "target_modules": targets}
        transposed = any(isinstance(layers[name], Conv1D) for name in targets)
        self.config = LoraConfig(**sizes, fan_in_fan_out=transposed, task_type="CAUSAL_LM")
        self.adapter = _add_adapter(self.language_model.network, self.config)
        frozen = {id(tensor) for tensor in shared}
        for parameter in self.language_model.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
            if parameter.requires_grad:
                wide = torch.promote_types(parameter.dtype, torch.float32)
                parameter.data = parameter.data.to(wide)
        self.prior = prior  # a submodule, so that shared weights move to another device together
        self.eval()

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return self.language_model(prompts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the guide's adapter and the tokenizer; `peft` alone loads the adapter."""
        save_adapter(folder, self.config, self._weights(), self.language_model.tokenizer)

    def load_pretrained(self, folder: str | Path) -> None:
        saved, own = adapter_config(folder), self.config.to_dict()
        check_settings(str(folder), saved)
        # an empty value and an absent key mean the same
        got, expected = ({key: v for key, v in part.items() if v} for part in (saved, own))
        keys = sorted(got.keys() | expected.keys())
        relevant = [key for key in keys if not IRRELEVANT.fullmatch(key)]
        if differing := [key for key in relevant if got.get(key) != expected.get(key)]:
            faults = [f"{key} {got.get(key)}, expected {expected.get(key)}" for key in differing]
            fault = f"an adapter with other settings: {'; '.join(faults)}"
            raise OtherGuideError(f"{folder} is of {fault}")
        load_into(self._weights(), adapter_weights(folder), str(folder))

    def whole_tensors(self) -> list[Tensor]:
        """The adapter: small, and of another type than the network."""
        return list(self.trained().values())

    @torch.no_grad()
    def merged(self) -> LanguageModel:
        """Same distribution, up to rounding, as a language model without `peft`.

        All adapters, the prior's own included, are added to a copy of the weights. `transformers`
        alone loads the checkpoint.
        """
        from peft.tuners.lora import LoraLayer

        merged = copy_sharing(self.language_model, [])
        network = merged.network
        for name, module in list(network.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                network.set_submodule(name, module.get_base_layer())
        del network.peft_config
        network._hf_peft_config_loaded = False
        # otherwise the checkpoint has the names of the prior's adapter
        network._weight_conversions = None
        return merged

    def _weights(self) -> dict[str, Tensor]:
        """Tensors of the adapter, by `peft`'s names on disk."""
        return adapter_tensors(self.language_model.network, self.adapter)


def _linear_layers(network: "transformers.PreTrainedModel") -> dict[str, nn.Module]:
    """Linear layers by name, outside adapters and of untied weights, which alone can be merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = dict(network.named_modules())
    inside = tuple(f"{name}." for name, m in modules.items() if isinstance(m, BaseTunerLayer))
    uses = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    layers = {}
    for name, module in modules.items():
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        is_linear = isinstance(layer, nn.Linear | Conv1D) and uses[id(layer.weight)] == 1
        if is_linear and not name.startswith(inside):
            layers[name] = layer
    return layers


def _targets(
    network: "transformers.PreTrainedModel", layers: dict[str, nn.Module], modules: str
) -> list[str]:
    """Names of the layers to adapt."""
    if modules == "all-linear":
        output = network.get_output_embeddings()
        return [name for name in layers if network.get_submodule(name) is not output]
    patterns = [part.strip() for part in modules.split(",")]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            fault = f"target_modules has {pattern!r}, which is no regular expression: {error}"
            raise ValueError(fault) from error
        if not any(_fits(pattern, name) for name in layers):
            names = sorted({name.rsplit(".", 1)[-1] for name in layers})
            fault = f"target_modules has {pattern!r}, which fits no linear layer: expected some of"
            raise ValueError(f"{fault} {', '.join(names)}")
    return [name for name in layers if any(_fits(pattern, name) for pattern in patterns)]


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(rf"(.*\.)?(?:{pattern})", name) is not None


def _check_adapter(network: "transformers.PreTrainedModel", layers: dict[str, nn.Module]) -> None:
    """Refuse a network whose adapter excludes a second adapter, saving or merging."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and (
            type(module) is not Linear or name not in layers or module.merged
        ):
            kind = f"{type(module).__module__}.{type(module).__name__}"
            raise ValueError(
                f"the prior's adapter, {kind} at {name}, cannot be combined with another, expected "
                "LoRA on linear layers, not merged: use the result of `merge_and_unload`"
            )


def _add_adapter(network: "transformers.PreTrainedModel", config: Any) -> str:
    """Add an adapter and activate it beside the active ones; return its name, which is new."""
    from peft.tuners.lora import LoraLayer

    adapters = {name: m for name, m in network.named_modules() if isinstance(m, LoraLayer)}
    active = {
        name: [] if module.disable_adapters else list(module.active_adapters)
        for name, module in adapters.items()
    }
    taken = {adapter for module in adapters.values() for adapter in module.lora_A}
    names = ["guide", *(f"guide-{i}" for i in range(2, len(taken) + 3))]
    new = next(name for name in names if name not in taken)
    with warnings.catch_warnings():
        # the prior's own configuration is expected
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        network.add_adapter(config, new)
    if taken:
        config.base_model_name_or_path = None  # the path names the network without its adapter
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(True)
            module.set_adapter([*active.get(name, []), new])
    return new
