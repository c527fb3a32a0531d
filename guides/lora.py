"""LoRA: q_phi(x) is the prior with W + alpha/rank B A in place of each linear layer's weight W.

phi is every A and B, matrices of low rank (Hu et al. 2021, arXiv 2106.09685). B starts at 0, so
that q = p0 at the start.
"""

import re
from pathlib import Path

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from guides.adapters import (
    adapter_config,
    adapter_weights,
    add_adapter,
    check_adapter,
    linear_layers,
    save_adapter,
    target_layers,
)
from guides.guide import Guide, OtherGuideError, check_prior, copy_sharing, load_into
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


class LoRA(Guide):
    """Adapters of `peft` around the prior's weights, which are in memory once; starts at p0.

    The guide's own modules share tensors with the prior's, so that the prior stays unchanged. If
    the prior has an adapter, the guide has both. Adapters are float32 also on a prior in half
    precision, where bfloat16 would lose small updates. A pass rounds the adapters to the type of
    the prior, which is less than the rounding of the sum (`adapted_linear.py`).

    Args:
        prior: Language model to start from.
        rank: Rank of the matrix B A that is added to each layer.
        alpha: Scale of the added matrix, which is B A alpha / rank; default, twice the rank. A
            larger alpha acts like a larger learning rate, and matters little to steps of a size in
            nats.
        target_modules: Layers to adapt, of those that a text reaches. `all-linear`, all linear
            layers but the output layer; or names separated by commas, such as `q_proj,v_proj`. Each
            name is a regular expression for a layer's name or for the end of the name. Three kinds
            of layer cannot be adapted: embeddings, an output layer tied to them, and what `peft`
            takes for experts, such as `gate_proj` of a block without experts.

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
        layers = linear_layers(network)
        widest = max(max(layer.get_parameter("weight").shape) for layer in layers.values())
        rank = whole_number("rank", rank, at_most=widest, why="no layer has a higher one")
        alpha = 2 * rank if alpha is None else positive("alpha", alpha)
        check_adapter(network, layers)
        names = target_layers(network, layers, target_modules)
        shared = [*prior.parameters(), *prior.buffers()]
        self.language_model = copy_sharing(prior, shared)
        sizes = {"r": rank, "lora_alpha": alpha, "target_modules": names}
        transposed = any(isinstance(layers[name], Conv1D) for name in names)
        self.config = LoraConfig(**sizes, fan_in_fan_out=transposed, task_type="CAUSAL_LM")
        self.adapter = add_adapter(self.language_model.network, self.config)
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
