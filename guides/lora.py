"""LoRA: q_phi(x) is the prior with a matrix of low rank added to each linear layer, W + alpha/rank B A; phi is every A and B.

Hu et al. 2021, arXiv 2106.09685. B starts at 0, so that q = p0.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from guides.guide import Guide, OtherGuideError, check_prior, load_into
from guides.peft_format import adapter_config, adapter_weights, save_adapter
from guides.sharing import copy_sharing
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.checks import instance, positive, whole_number
from model.networks.adapter import adapter_tensors, check_settings

IRRELEVANT = {
    *(
        "base_model_name_or_path",
        "revision",
        "peft_version",
        "auto_mapping",
        "task_type",
        "inference_mode",
    ),
    *(
        "r",
        "rank_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
    ),
    *(
        "bias",
        "lora_dropout",
        "init_lora_weights",
        "eva_config",
        "loftq_config",
        "corda_config",
        "lora_ga_config",
    ),
    *("megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
}
"""Settings of an adapter that names and shapes of its weights tell, or that play no part once it is trained."""


@dataclass(frozen=True)
class LoRAOptions:
    """Options of `LoRA`."""

    rank: int = 8
    """Rank of the matrix B A that is added to each layer."""

    alpha: float | None = None
    """Scale of the added matrix, which is B A alpha / rank; default, twice the rank. A larger alpha
    acts like a larger learning rate."""

    target_modules: str = "all-linear"
    """Layers to adapt. `all-linear`, all linear layers but the output layer; or names separated by
    commas, such as `q_proj,v_proj`. Each name is a regular expression for the name of a layer or for
    the end of the name. Embeddings, and an output layer tied to them, cannot be adapted."""


class LoRA(Guide):
    """Adapters of `peft` around the prior's own weights, of which there is one copy in memory; q = p0 exactly at the start.

    The guide has modules of its own, which share their tensors with the prior's, and the adapters are in those: nothing is
    switched on or off in the prior. If the prior has an adapter already, the guide has both. In half precision the weights stay
    as they are, and the adapters are float32: training them in bfloat16 would lose small updates.

    Args:
        prior: the language model to start from; it stays as it is.
        rank: of the matrix added to a layer.
        alpha: the matrix is B A times alpha / rank; default twice the rank. A larger one acts as a larger learning rate.
        target_modules: which layers: `all-linear`, all linear layers but the output layer; or names such as `q_proj,v_proj`,
            with a comma between them, each a regular expression for the name of a layer or for the end of it. Embeddings,
            and an output layer that is tied to one, cannot be adapted.

    Raises:
        ValueError: if the rank or alpha is not positive, a name fits no layer, or the prior's own adapter is of a kind that
            cannot be combined with another.
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
        from peft import LoraConfig  # here, since only those who use it should wait for it

        check_prior(prior)
        instance(
            "target_modules",
            target_modules,
            str,
            why="all-linear, or names with commas between them",
        )
        layers = _linear_layers(prior.network)
        widest = max(
            size for layer in layers.values() for size in layer.get_parameter("weight").shape
        )
        rank = whole_number("rank", rank, at_most=widest, why="no layer has a higher one")
        alpha = 2 * rank if alpha is None else positive("alpha", alpha)
        _check_adapter(prior.network, layers)
        targets = _targets(prior.network, layers, target_modules)
        shared = [*prior.parameters(), *prior.buffers()]
        self.language_model = copy_sharing(prior, shared)
        self.config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=targets,
            fan_in_fan_out=any(isinstance(layers[name], Conv1D) for name in targets),
            task_type="CAUSAL_LM",
        )
        self.adapter = _add_adapter(self.language_model.network, self.config)
        kept = {id(tensor) for tensor in shared}
        for parameter in self.language_model.parameters():
            parameter.requires_grad_(id(parameter) not in kept)
            if parameter.requires_grad:
                parameter.data = parameter.data.to(
                    torch.promote_types(parameter.dtype, torch.float32)
                )
        self.prior = prior  # moves with its weights
        self.eval()

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return self.language_model(prompts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter, without the prior's, and the tokenizer; `peft` alone loads it onto the prior's network."""
        save_adapter(folder, self.config, self._weights(), self.language_model.tokenizer)

    def load_pretrained(self, folder: str | Path) -> None:
        saved = adapter_config(folder)
        check_settings(str(folder), saved)
        own, saved = (
            {key: value for key, value in settings.items() if value}
            for settings in (self.config.to_dict(), saved)
        )
        names = sorted((own.keys() | saved.keys()) - IRRELEVANT)
        differ = [
            f"{key} {saved.get(key)}, expected {own.get(key)}"
            for key in names
            if saved.get(key) != own.get(key)
        ]
        if differ:
            raise OtherGuideError(
                f"{folder} is of an adapter with other settings: it has {'; '.join(differ)}"
            )
        load_into(self._weights(), adapter_weights(folder), str(folder))

    @torch.no_grad()
    def merged(self) -> LanguageModel:
        """A language model of its own, with the adapters, the prior's included, added to a copy of the weights.

        The guide's distribution up to rounding, without `peft`: `transformers` alone loads what it saves.
        """
        from peft.tuners.lora import LoraLayer

        merged = copy_sharing(self.language_model, [])
        for name, module in list(merged.network.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                merged.network.set_submodule(name, module.get_base_layer())
        del merged.network.peft_config
        merged.network._hf_peft_config_loaded = False
        merged.network._weight_conversions = (
            None  # else names on disk would be those of the prior's adapter
        )
        return merged

    def _weights(self) -> dict[str, Tensor]:
        """The adapter's tensors, by the names that `peft` gives them on disk."""
        return adapter_tensors(self.language_model.network, self.adapter)


def _linear_layers(network: PreTrainedModel) -> dict[str, nn.Module]:
    """Linear layers by name, those inside an adapter's layer left out, and those whose weight is another module's too:
    what is added to it on merging would be added in both places."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = dict(network.named_modules())
    adapted = tuple(
        f"{name}." for name, module in modules.items() if isinstance(module, BaseTunerLayer)
    )
    layers = {
        name: module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        for name, module in modules.items()
        if not name.startswith(adapted)
    }
    uses = Counter(
        id(parameter) for _, parameter in network.named_parameters(remove_duplicate=False)
    )
    return {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear | Conv1D) and uses[id(layer.weight)] == 1
    }


def _targets(network: PreTrainedModel, layers: dict[str, nn.Module], wanted: str) -> list[str]:
    """The names of the layers to adapt."""
    if wanted == "all-linear":
        output = network.get_output_embeddings()
        return [name for name in layers if network.get_submodule(name) is not output]
    patterns = [part.strip() for part in wanted.split(",")]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"target_modules has {pattern!r}, which is no regular expression: {error}"
            ) from error
        if not any(_fits(pattern, name) for name in layers):
            names = sorted({name.rsplit(".", 1)[-1] for name in layers})
            raise ValueError(
                f"target_modules has {pattern!r}, which fits no linear layer: expected some of {', '.join(names)}"
            )
    return [name for name in layers if any(_fits(pattern, name) for pattern in patterns)]


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(rf"(.*\.)?(?:{pattern})", name) is not None


def _check_adapter(network: PreTrainedModel, layers: dict[str, nn.Module]) -> None:
    """Refuse a network with an adapter beside which another could not act, be saved or be merged."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and (
            type(module) is not Linear or name not in layers or module.merged
        ):
            kind = f"{type(module).__module__}.{type(module).__name__}"
            raise ValueError(
                f"the prior has an adapter, {kind} at {name}, that cannot be combined with another: expected LoRA on linear "
                "layers, not merged. Merge it for good with `merge_and_unload` of `peft`, and make a prior of the result."
            )


def _add_adapter(network: PreTrainedModel, config: Any) -> str:
    """Add an adapter, on together with those that are on already. Returns its name, which none of them has."""
    from peft.tuners.lora import LoraLayer

    adapters = {
        name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)
    }
    on = {
        name: [] if module.disable_adapters else list(module.active_adapters)
        for name, module in adapters.items()
    }
    taken = {adapter for module in adapters.values() for adapter in module.lora_A}
    new = next(
        name
        for name in ("guide", *(f"guide-{i}" for i in range(2, len(taken) + 3)))
        if name not in taken
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Already found a `peft_config`"
        )  # the prior's, as is meant
        network.add_adapter(config, new)
    if taken:
        config.base_model_name_or_path = None  # that is the network without its first adapter
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(True)
            module.set_adapter([*on.get(name, []), new])
    return new
