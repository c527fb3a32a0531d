"""Fine-tuning: q_phi(x) is the prior with all or some weights free; phi starts at the prior's."""

from pathlib import Path
from typing import Literal, get_args

import torch
import transformers
from torch import nn

from guides.guide import Guide, check_prior, copy_sharing, load_into
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.checks import one_of, whole_number
from model.common.devices import named_dtype
from model.common.files import check_digests
from model.networks.loading import load_network

Subset = Literal["all", "last-layers", "norms-and-biases"]


class FineTuned(Guide):
    """A copy of the prior that trains; q = p0 exactly at the start.

    Weights that do not train are shared with the prior, which stays unchanged.

        guide = FineTuned(prior, subset="last-layers", num_layers=2)
        fit(model, guide, prompts, num_steps=500)
        guide.save_pretrained("tuned")  # a Hugging Face checkpoint

    Args:
        prior: Language model to start from.
        subset: Weights that train. `all`; `last-layers`, the last blocks of the network; or
            `norms-and-biases`, all normalisations and biases (BitFit, Zaken et al. 2022, arXiv
            2106.10199).
        num_layers: Number of blocks that train with the subset `last-layers`.
        dtype: Data type of the copy's weights, such as `float32`; default, the prior's data type.
            Training in bfloat16 loses most updates. The copy shares no weights with the prior if a
            type is named.

    Raises:
        ValueError: If the prior has an adapter of `peft`, without which the weights would be saved.
    """

    def __init__(
        self,
        prior: LanguageModel,
        *,
        subset: Subset = "all",
        num_layers: int = 1,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        super().__init__()
        network = check_prior(prior).network
        whole_number("num_layers", num_layers)
        one_of("subset", subset, get_args(Subset))
        if getattr(network, "peft_config", None):
            raise ValueError(
                "the prior has an adapter of `peft`, which would be saved without the weights: "
                "merge the adapter (`merge_and_unload`), or choose `LoRA`, which adds a second"
            )
        dtype = None if dtype is None else named_dtype(dtype)
        trained = {id(parameter) for parameter in _select(network, subset, num_layers)}
        shared = [p for p in network.parameters() if dtype is None and id(p) not in trained]
        self.language_model = copy_sharing(prior, shared)
        copies = self.language_model.network.parameters()
        for original, parameter in zip(network.parameters(), copies, strict=True):
            if id(original) in trained:
                parameter.requires_grad_(True)
        self.language_model.to(dtype=dtype)
        # a submodule, so that shared weights move to another device together
        self.prior = prior if shared else None

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return self.language_model(prompts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the network and its tokenizer in Hugging Face format, for `transformers` alone."""
        self.language_model.save_pretrained(folder)

    def load_pretrained(self, folder: str | Path) -> None:
        check_digests(folder)
        network = self.language_model.network
        # by the class of the network, so that no code in the folder runs
        saved = load_network(type(network), folder, device="cpu")
        load_into(dict(network.named_parameters()), dict(saved.named_parameters()), str(folder))


def _select(
    network: "transformers.PreTrainedModel", subset: Subset, num_layers: int
) -> list[nn.Parameter]:
    """Parameters of a network that train."""
    if subset == "all":
        return list(network.parameters())
    if subset == "last-layers":
        blocks = _blocks(network)
        if not 1 <= num_layers <= len(blocks):
            most = f"the network's {len(blocks)} blocks"
            raise ValueError(f"num_layers is {num_layers}, expected between 1 and {most}")
        return list(blocks[-num_layers:].parameters())
    # not a network of that name, such as `RobertaPreLayerNormForCausalLM`
    layers = [module for module in network.modules() if not [*module.children()]]
    norms = [layer for layer in layers if "norm" in type(layer).__name__.lower()]
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    selected = [parameter for norm in norms for parameter in norm.parameters()] + biases
    if not selected:
        kind = type(network).__name__
        raise ValueError(f"{kind} has neither weights of norms nor biases: choose another subset")
    return selected


def _blocks(network: "transformers.PreTrainedModel") -> nn.ModuleList:
    """Blocks of a network, from first to last."""
    depth = network.config.get_text_config().num_hidden_layers
    lists = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        kind = type(network).__name__
        raise ValueError(f"{kind} has no list of its {depth} blocks: choose another subset")
    return lists[0]
