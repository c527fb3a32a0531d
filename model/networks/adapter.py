"""Adapters of `peft`: every number of one from its folder, on a network as the adapter was trained, or not at all.

`peft` and `transformers` pass over tensors that they have no place for, and leave those that are missing as they happen to be.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from model.networks.source import PretrainedError, find_checkpoint, hub_name, refused_by_name

CONFIG, PREFIX = "adapter_config.json", "base_model.model."
NAME = "default"  # as `transformers` calls the adapter of a checkpoint

STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Starts of LoRA that leave the network's own weights as they are."""

UNSUPPORTED = (
    "adapters",
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "megatron_config",
)
"""Settings by which the adapter depends on the text, makes another network of the base, or loads or runs what it names."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that is still in its folder.

    Attributes:
        source: folder, or name on the hub.
        config: settings, of `peft`.
        base: the network that the adapter is for, a folder or a name on the hub.
        weights: tensors by the names that `peft` gives them on disk.
        has_tokenizer: whether a tokenizer lies beside it.
        base_options: of `transformers`, to load the base and nothing else.
    """

    source: str
    config: Any
    base: str
    weights: dict[str, Tensor]
    has_tokenizer: bool
    base_options: dict[str, Any] = field(default_factory=dict)

    @property
    def replaced(self) -> tuple[str, ...]:
        """Weights of the base that the adapter brings whole, such as a head: `modules_to_save`."""
        return tuple(name.removeprefix(PREFIX) for name in self.weights)

    def labels(self, auto: Any, source: str, options: dict[str, Any]) -> dict[str, Any]:
        """Options of `transformers` for a base whose head the adapter replaces by one for another number of labels."""
        shapes = {
            name.removeprefix(PREFIX): tuple(tensor.shape) for name, tensor in self.weights.items()
        }
        heads = {name: shape for name, shape in shapes.items() if shape and ".lora_" not in name}
        if "SequenceClassification" not in auto.__name__ or not heads:
            return {}
        config = AutoConfig.from_pretrained(source, **options)
        for count in dict.fromkeys([config.num_labels, *(shape[0] for shape in heads.values())]):
            sized = copy.deepcopy(config)
            sized.num_labels = count
            with torch.device("meta"):
                network = auto.from_config(sized, trust_remote_code=options["trust_remote_code"])
            shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
            if all(shapes.get(name, shape) == shape for name, shape in heads.items()):
                return {} if count == config.num_labels else {"num_labels": count}
        return {}

    def add_to(self, network: PreTrainedModel) -> None:
        """Put the adapter on its base, in place.

        Raises:
            PretrainedError: if the tensors of the folder are not exactly those that the adapter adds.
        """
        from peft import inject_adapter_in_model

        before = {tensor.data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
        inject_adapter_in_model(self.config, network, NAME)
        network._hf_peft_config_loaded = True
        own, state = adapter_tensors(network, NAME), network.state_dict()
        for name in (
            self.weights.keys() - own.keys()
        ):  # of adapted embeddings `peft` writes the network's own tensor too
            if name.endswith(".base_layer.weight") and name.removeprefix(PREFIX) in state:
                own[name] = state[name.removeprefix(PREFIX)]
        shapes = [
            {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            for tensors in (own, self.weights)
        ]
        if shapes[0] != shapes[1]:
            odd = sorted(
                name
                for name in own.keys() | self.weights.keys()
                if shapes[0].get(name) != shapes[1].get(name)
            )
            raise PretrainedError(
                f"the adapter in {self.source} does not fit the network {self.base}: {len(odd)} tensors differ, first {odd[0]} "
                f"with shape {shapes[1].get(odd[0])} in the folder where {shapes[0].get(odd[0])} was expected"
            )
        for name, tensor in self.weights.items():
            if own[name].is_floating_point() and not tensor.is_floating_point():
                raise PretrainedError(
                    f"the adapter in {self.source} has {name} in {tensor.dtype}, expected floating-point weights"
                )
        of_adapter = {tensor.data_ptr() for tensor in own.values()}  # views of the network's own
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.numel() and tensor.data_ptr() not in before | of_adapter:
                raise PretrainedError(
                    f"the adapter in {self.source} does not say what {name} is, which it adds to the network"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(self.weights[name])
        network.eval()


def find_adapter(
    source: str, options: dict[str, Any], base: str | Path | None = None
) -> Adapter | None:
    """The adapter in a folder or on the hub; None if there is none.

    Args:
        source: that `find_checkpoint` found.
        options: of `transformers`: `local_files_only`, `revision`.
        base: the network that the adapter is for; default the one in the folder itself, else the one that it names.

    Raises:
        PretrainedError: if the adapter's kind cannot be put on a network, or no base is known.
    """
    from transformers.utils import find_adapter_config_file

    hub = {key: options[key] for key in ("local_files_only", "revision") if key in options}
    with refused_by_name(source, "adapter"):
        file = find_adapter_config_file(source, **hub)
        if file is None:
            return None
        from peft import PeftConfig
        from peft.utils import load_peft_weights

        record = json.loads(Path(file).read_text(encoding="utf-8"))
        check_settings(source, record)
        config = PeftConfig.from_pretrained(source, **hub)
        weights = load_peft_weights(source, device="cpu", **hub)
    if base is not None:
        find_checkpoint(base)
    embedded = os.path.isfile(os.path.join(source, "config.json"))
    named = source if embedded and base is None else base or record.get("base_model_name_or_path")
    if not named:
        raise PretrainedError(
            f"{source} is an adapter that does not say of which network: name it (`base=...`); or load that network, make "
            "the guide on it that wrote the adapter, and take the folder up with its `load_pretrained`"
        )
    files = [Path(file).parent / name for name in ("tokenizer.json", "tokenizer_config.json")]
    has_tokenizer = not os.path.isdir(source) or any(path.is_file() for path in files)
    alone = {"adapter_kwargs": {"subfolder": "none"}} if named == source else {}
    return Adapter(source, config, str(named), weights, has_tokenizer, alone)


def adapter_tensors(network: PreTrainedModel, adapter: str) -> dict[str, Tensor]:
    """The tensors of an adapter on a network, not copied, by the names that `peft` gives them on disk."""
    from peft import get_peft_model_state_dict

    # told not to look for changed embeddings, for which it would ask the hub
    weights = get_peft_model_state_dict(network, adapter_name=adapter, save_embedding_layers=False)
    return {PREFIX + name: tensor for name, tensor in weights.items()}


def forget_base(folder: Path) -> None:
    """Leave the base of an adapter in the folder named only if it is a name on the hub, and no path of this machine."""
    file = folder / CONFIG
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        record["base_model_name_or_path"] = hub_name(record.get("base_model_name_or_path"))
        file.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def unwrapped(network: Any) -> Any:
    """The network inside `peft`'s wrapper, with the adapter on it; any other network as it is.

    Raises:
        ValueError: if the wrapper does more than its adapter's layers do.
    """
    if not any(kind.__module__ == "peft.peft_model" for kind in type(network).__mro__):
        return network
    if network.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"the network is in a {type(network).__name__} with virtual tokens, which only the wrapper reads: expected the "
            "network itself. Virtual tokens are the guide `SoftPrompt`, whose `load_pretrained` takes their folder"
        )
    inner = network.get_base_model()
    inner._hf_peft_config_loaded = True
    return inner


def check_settings(source: str, record: dict[str, Any]) -> None:
    """Refuse an adapter whose layers alone are not what was trained."""
    kind, start = record.get("peft_type"), record.get("init_lora_weights", True)
    if kind in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING"):
        raise PretrainedError(
            f"{source} is an adapter of kind {kind}: virtual tokens, not weights. Make the guide `SoftPrompt` on its "
            "network, and take them up with its `load_pretrained`"
        )
    if start not in STARTS:
        raise PretrainedError(
            f"{source} is an adapter that began with init_lora_weights={start!r}, which changes the network's own weights too: "
            "convert it to plain LoRA with `peft` (`path_initial_model_for_weight_conversion`)"
        )
    for name in UNSUPPORTED:
        if record.get(name):
            raise PretrainedError(
                f"{source} is an adapter with {name}={record[name]!r}, expected one without: merge it with `peft`"
            )
