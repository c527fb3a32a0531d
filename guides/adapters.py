"""Adapters of `peft`: the layers they adapt, the place beside the prior's own, and their folder."""

import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from model.common.files import check_digests, saved_together
from model.networks.adapter import CONFIG, forget_base
from model.networks.source import PretrainedError, read_tensors

WEIGHTS = "adapter_model.safetensors"  # the name that `peft` looks for
OF_NETWORKS = ("transformers.models.", "transformers_modules.")
"""Modules of the code of networks, whose subclasses of linear layers may compute something else."""


def linear_layers(network: "transformers.PreTrainedModel") -> dict[str, nn.Module]:
    """Linear layers by name, outside adapters and of untied weights, which alone can be merged.

    Subclasses that a network defines are linear layers if they compute W x + b, as those of Falcon
    and unlike routers of experts. Those of other packages, such as quantized layers, always are.
    Layers that `peft` would not adapt are left out, see `_is_of_experts`.

    Raises:
        ValueError: if the network has no linear layer.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = dict(network.named_modules())
    inside = tuple(f"{name}." for name, m in modules.items() if isinstance(m, BaseTunerLayer))
    uses = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    layers = {}
    for name, module in modules.items():
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        is_linear = isinstance(layer, nn.Linear | Conv1D) and uses[id(layer.weight)] == 1
        if is_linear and not name.startswith(inside) and _is_affine(layer):
            layers[name] = layer
    ends = {name.rpartition(".")[2] for name in layers}
    of_experts = {end for end in ends if _is_of_experts(network, end)}
    layers = {n: layer for n, layer in layers.items() if n.rpartition(".")[2] not in of_experts}
    if not layers:
        kind = type(network).__name__
        raise ValueError(f"{kind} has no linear layer that `peft` adapts: use another guide")
    return layers


@torch.no_grad()
def _is_affine(layer: nn.Module) -> bool:
    """True if a layer computes W x + b, up to rounding."""
    if not type(layer).forward.__module__.startswith(OF_NETWORKS):
        return True
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    x = torch.linspace(-1, 1, weight.shape[1]).to(weight)[None]
    try:
        out = layer(x)
    except Exception:  # of other inputs
        return False
    expected = nn.functional.linear(x, weight, bias)
    if not isinstance(out, Tensor) or out.shape != expected.shape:
        return False
    return bool((out - expected).abs().max() <= 0.02 * expected.abs().max())


def _is_of_experts(network: "transformers.PreTrainedModel", end: str) -> bool:
    """True if `peft` takes layers of this name for those of experts, and adapts the experts.

    In a mixture of experts, `gate_proj`, `up_proj` and `down_proj` are such names. A layer outside
    of the experts may have one of them too.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=[end])
    try:
        convert_peft_config_for_transformers(config, network, None)
    except ValueError:  # without the other names that make up a weight of the experts
        return True
    return end not in config.target_modules


@torch.no_grad()
def _of_texts(
    network: "transformers.PreTrainedModel", layers: dict[str, nn.Module]
) -> dict[str, nn.Module]:
    """The layers without those of parts that no text reaches, such as a tower for images.

    Layers whose names differ in numbers alone belong together, so that experts that a few tokens
    are not sent to stay in.
    """
    if not network.config.sub_configs:
        return layers
    reached: set[str] = set()
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: reached.add(name)
        )
        for name in layers
    ]
    try:
        network(torch.zeros(1, 2, dtype=torch.long, device=network.device))
    finally:
        for hook in hooks:
            hook.remove()
    kinds = {_without_numbers(name) for name in reached}
    return {name: layer for name, layer in layers.items() if _without_numbers(name) in kinds}


def _without_numbers(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def target_layers(
    network: "transformers.PreTrainedModel", layers: dict[str, nn.Module], modules: str
) -> list[str]:
    """Names of the layers to adapt, of those that read texts."""
    layers = _of_texts(network, layers)
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


def check_adapter(network: "transformers.PreTrainedModel", layers: dict[str, nn.Module]) -> None:
    """Refuse a network whose adapter excludes a second adapter, saving or merging."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    from model.networks.layers.adapted_linear import AdaptedLinear

    kinds = (Linear, AdaptedLinear)
    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and (
            type(module) not in kinds or name not in layers or module.merged or _adds_bias(module)
        ):
            kind = f"{type(module).__module__}.{type(module).__name__}"
            raise ValueError(
                f"the prior's adapter, {kind} at {name}, cannot be combined with another, expected "
                "LoRA on linear layers, not merged, with a bias only where the layer has one: use "
                "the result of `merge_and_unload`"
            )


def _adds_bias(module: Any) -> bool:
    """True if a layer of LoRA has a bias and its base has none, which cannot be merged."""
    return any(module.lora_bias.values()) and module.get_base_layer().bias is None


def add_adapter(network: "transformers.PreTrainedModel", config: Any) -> str:
    """Add an adapter and activate it beside the active ones; return its name, which is new."""
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    from model.networks.layers.adapted_linear import faster_adapters

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
        inject_adapter_in_model(config, network, new)
    network._hf_peft_config_loaded = True
    faster_adapters(network)
    # with an adapter of its own, the path names the network without that adapter
    config.base_model_name_or_path = None if taken else network.name_or_path
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(True)
            module.set_adapter([*active.get(name, []), new])
    return new


def save_adapter(
    folder: str | Path, config: Any, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write a configuration of `peft`, tensors by `peft`'s names and the base's tokenizer.

    The base is named only if it is on the hub: a path of this machine is left out.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    with saved_together(folder) as new:
        config.save_pretrained(new)
        forget_base(new)
        save_file(tensors, new / WEIGHTS)
        tokenizer.save_pretrained(new)


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """Settings of the adapter in a folder whose files have not changed since they were saved."""
    check_digests(folder)
    file = Path(folder) / CONFIG
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        fault = f"{file} is missing or damaged, expected settings of `peft`: {error}"
        raise PretrainedError(fault) from error


def adapter_weights(folder: str | Path) -> dict[str, Tensor]:
    """Tensors of the adapter in a folder, by `peft`'s names."""
    return read_tensors(Path(folder) / WEIGHTS)
