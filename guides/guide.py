"""The protocol of a guide: q(x | prompt), something that can be sampled, scored and trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pyro
from safetensors.torch import save_file
from torch import Tensor, nn

from model import Prompts, ResponseDistribution


class GuideRegistrationError(RuntimeError):
    """Pyro would train other tensors than the guide's own."""


class Guide(nn.Module, ABC):
    """A variational family over responses: a module whose `distribution` is q, and a Pyro program that samples it.

    A new guide implements `distribution` and nothing else; its trainable parameters are those with `requires_grad`.
    """

    @abstractmethod
    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        """q(response | prompts): batch shape `[N]`, event shape `[T]`."""

    def forward(self, prompts: Prompts) -> Tensor:
        """Run the program: register the parameters, sample `response`. Returns `[..., N, T]`, token ids."""
        pyro.module("guide", self)
        _check_registered("guide", self)
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample("response", self.distribution(prompts))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the trained parameters to `guide.safetensors`. A family with a format of its own writes that instead."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        trained = {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}
        save_file(trained, Path(folder) / "guide.safetensors")

    def num_trained_parameters(self) -> int:
        """How many numbers the guide trains."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def _check_registered(name: str, module: nn.Module) -> None:
    """`pyro.module` keeps what its store already has under a name, and copies non-contiguous tensors, both silently."""
    store = pyro.get_param_store()
    for parameter_name, parameter in module.named_parameters():
        if parameter.requires_grad and store[f"{name}$$${parameter_name}"] is not parameter:
            raise GuideRegistrationError(
                f"Pyro's parameter store holds another tensor for {name}.{parameter_name}, so training would not reach this "
                "guide. Most likely another guide was trained before it: use `inference.fit`, which gives each fit a store of "
                "its own, or call `pyro.clear_param_store()` first. Else the parameter is not contiguous: make it so."
            )
