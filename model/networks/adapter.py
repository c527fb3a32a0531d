"""Adapters of `peft`: all weights of an adapter on its network, or an error.

`peft` and `transformers` ignore unknown tensors, and leave missing tensors at initial values.
"""

import copy
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from model.networks.source import PretrainedError, find_checkpoint, hub_name, refused_by_name

CONFIG, PREFIX = "adapter_config.json", "base_model.model."
NAME = "default"  # name that `transformers` gives to the adapter of a checkpoint

STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initialisations of LoRA that leave the network's own weights as they are."""

KINDS = (
    *("LORA", "ADALORA", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA"),
    *("HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "PEANUT", "ROAD", "SHIRA"),
    *("SUPERTUNING", "TRAINABLE_TOKENS", "WAVEFT"),
)
"""Kinds of `peft` whose saved folder, with the base, is the whole adapter on any machine."""

CONSTANT = re.compile(
    r"\.(ranknum\.\w+|boft_P|oft_R\.\w+\.(rows|cols)|trainable_tokens_original\.\w+)$"
)
"""Tensors of an adapter that are not saved and follow from its settings and its base."""

UNSUPPORTED = ["alora_invocation_tokens", "arrow_config", "layer_replication", "megatron_config"]
"""Settings of adapters that depend on the text, change the base, or run other code."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that is still in its folder."""

    source: str  # folder, or name on the hub
    config: Any
    base: str  # the network of the adapter, a folder or a name on the hub
    weights: dict[str, Tensor]  # tensors by the names that `peft` gives them on disk
    has_tokenizer: bool
    base_options: dict[str, Any]  # options of `transformers` that load the base alone

    @property
    def replaced(self) -> tuple[str, ...]:
        """Weights of the base that the adapter replaces, such as a head: `modules_to_save`."""
        return tuple(name.removeprefix(PREFIX) for name in self.weights)

    def labels(self, auto: Any, source: str, options: dict[str, Any]) -> dict[str, Any]:
        """Options for a base whose head the adapter replaces by one of another number of labels."""
        heads = {
            name.removeprefix(PREFIX): shape
            for name, shape in _shapes(self.weights).items()
            if shape and ".lora_" not in name
        }
        if "SequenceClassification" not in auto.__name__ or not heads:
            return {}
        config = transformers.AutoConfig.from_pretrained(source, **options)
        for count in dict.fromkeys([config.num_labels, *(shape[0] for shape in heads.values())]):
            sized = copy.deepcopy(config)
            sized.num_labels = count
            with torch.device("meta"):
                network = auto.from_config(sized, trust_remote_code=options["trust_remote_code"])
            shapes = _shapes(network.state_dict())
            if all(shapes.get(name, shape) == shape for name, shape in heads.items()):
                return {} if count == config.num_labels else {"num_labels": count}
        return {}

    def add_to(self, network: "transformers.PreTrainedModel") -> None:
        """Put the adapter on its base, in place; a `PretrainedError` if tensors do not fit."""
        from peft import inject_adapter_in_model

        before = {tensor.data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
        inject_adapter_in_model(self.config, network, NAME)
        network._hf_peft_config_loaded = True
        own, state = adapter_tensors(network, NAME), network.state_dict()
        for name in self.weights.keys() - own.keys():
            # for adapted embeddings `peft` writes the network's own tensor too
            if name.endswith(".base_layer.weight") and name.removeprefix(PREFIX) in state:
                own[name] = state[name.removeprefix(PREFIX)]
        self._check_tensors(own)
        # the adapter's tensors may be views of the network's own
        known = before | {tensor.data_ptr() for tensor in own.values()}
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            is_known = tensor.data_ptr() in known or CONSTANT.search(name)
            if tensor.numel() and not is_known:
                fault = f"the adapter in {self.source} does not say what {name} is"
                raise PretrainedError(f"{fault}: merge it with `peft` (`merge_and_unload`)")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(self.weights[name])
        network.eval()

    def _check_tensors(self, own: dict[str, Tensor]) -> None:
        """Refuse tensors of other names, shapes or types than the adapter's own."""
        expected, shapes = _shapes(own), _shapes(self.weights)
        names = sorted(own.keys() | self.weights.keys())
        place = f"the adapter in {self.source}"
        if odd := [name for name in names if shapes.get(name) != expected.get(name)]:
            raise PretrainedError(
                f"{place} does not fit the network {self.base}: {len(odd)} tensors differ, first "
                f"{odd[0]}: shape {shapes.get(odd[0])}, expected {expected.get(odd[0])}"
            )
        for name, tensor in self.weights.items():
            if own[name].is_floating_point() and not tensor.is_floating_point():
                kind = f"{tensor.dtype}, expected floating-point"
                raise PretrainedError(f"{place} has {name} in {kind}")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def find_adapter(
    source: str, options: dict[str, Any], base: str | Path | None = None
) -> Adapter | None:
    """The adapter in a folder or on the hub; None if there is none.

    The base is `base`, else the network in the folder, else the network that the adapter names.
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
        fix = "name it (`base=...`), or use `load_pretrained` of the guide that wrote it"
        raise PretrainedError(f"{source} is an adapter that does not say of which network: {fix}")
    files = [Path(file).parent / name for name in ("tokenizer.json", "tokenizer_config.json")]
    has_tokenizer = not os.path.isdir(source) or any(path.is_file() for path in files)
    alone = {"adapter_kwargs": {"subfolder": "none"}} if named == source else {}
    return Adapter(source, config, str(named), weights, has_tokenizer, alone)


def check_settings(source: str, record: dict[str, Any]) -> None:
    """Refuse an adapter that is more than layers on an unchanged network."""
    kind, start = record.get("peft_type"), record.get("init_lora_weights", True)
    kind = getattr(kind, "value", kind)
    if kind in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"):
        raise PretrainedError(
            f"{source} has an adapter of kind {kind}: virtual tokens, not weights. Make the guide "
            "`SoftPrompt` on its network, and use its `load_pretrained`"
        )
    if kind in ("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING"):
        fault = f"{source} has an adapter of kind {kind}: virtual tokens, not weights"
        raise PretrainedError(f"{fault}, of a kind that is not supported")
    if kind not in KINDS:
        fault = f"{source} has an adapter of kind {kind}, which is not known to be saved whole"
        fix = f"merge it, if `peft` can (`merge_and_unload`), or use a kind of {', '.join(KINDS)}"
        raise PretrainedError(f"{fault}: {fix}")
    if start not in STARTS:
        raise PretrainedError(
            f"{source} has an adapter that began with init_lora_weights={start!r}, which changes "
            "the network's own weights too: merge it, or convert it to plain LoRA, with `peft`"
        )
    for name in UNSUPPORTED:
        if record.get(name):
            setting = f"{name}={record[name]!r}"
            raise PretrainedError(f"{source} has an adapter with {setting}: merge it with `peft`")


def adapter_tensors(network: "transformers.PreTrainedModel", adapter: str) -> dict[str, Tensor]:
    """The tensors of an adapter on a network, not copied, by their names on disk."""
    from peft import get_peft_model_state_dict

    # to look for changed embeddings, `peft` would ask the hub
    weights = get_peft_model_state_dict(network, adapter_name=adapter, save_embedding_layers=False)
    return {PREFIX + name: tensor for name, tensor in weights.items()}


def forget_base(folder: Path) -> None:
    """Delete the base's name from an adapter's folder if the name is a path of this machine."""
    file = folder / CONFIG
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        record["base_model_name_or_path"] = hub_name(record.get("base_model_name_or_path"))
        file.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
