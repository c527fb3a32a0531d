"""The protocol of a guide: q(x | prompt), something that can be sampled, scored and trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pyro
import torch
from pyro.distributions import TorchDistribution
from safetensors.torch import save_file
from torch import Tensor, nn

from model import LanguageModel, Prompts
from model.common.checks import finite, instance
from model.common.digests import check_digests, saved_together
from model.networks.source import read_tensors

FILE = "guide.safetensors"


class GuideRegistrationError(RuntimeError):
    """Pyro would train other tensors than the guide's own."""


class OtherGuideError(ValueError):
    """What was saved is of another guide than the one it is loaded into."""


def check_prior(prior: object) -> LanguageModel:
    """The prior of a guide.

    Raises:
        TypeError: if it is no `LanguageModel`.
    """
    return instance(
        "prior",
        prior,
        LanguageModel,
        why="`LanguageModel.from_pretrained` loads one from a folder, and `LanguageModel(network, tokenizer, "
        "max_new_tokens=...)` makes one of a network",
    )


class Guide(nn.Module, ABC):
    """A variational family over responses: a module whose `distribution` is q, and a Pyro program that samples it.

    A new guide implements `distribution` and nothing else; its trainable parameters are those with `requires_grad`. It is
    always in evaluation mode: with dropout, what is sampled would not be what is scored.
    """

    @abstractmethod
    def distribution(self, prompts: Prompts) -> TorchDistribution:
        """q(response | prompts): batch shape `[N]`, event shape `[T]`."""

    def forward(self, prompts: Prompts) -> Tensor:
        """Run the program: register the parameters, sample `response`. Returns `[..., N, T]`, token ids."""
        self.eval()
        pyro.module("guide", self)
        _check_registered("guide", self)
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample("response", self.distribution(prompts))

    def train(self, mode: bool = True) -> Self:
        """Does nothing but leave evaluation mode on."""
        return super().train(False)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the trained parameters to `guide.safetensors`. A family with a format of its own writes that instead."""
        with saved_together(folder) as new:
            save_file(
                {
                    name: parameter.detach().contiguous()
                    for name, parameter in self.trained().items()
                },
                new / FILE,
            )

    def load_pretrained(self, folder: str | Path) -> None:
        """Take up what `save_pretrained` wrote, bit for bit, into a guide that was made with the same arguments.

        Raises:
            OtherGuideError: if it was not.
            DamagedFileError: if a file is not as it was saved.
        """
        check_digests(folder)
        load_into(self.trained(), read_tensors(Path(folder) / FILE), str(folder))

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def jitter(self, noise: float, generator: torch.Generator | None = None) -> None:
        """Set the guide apart from others of its family: Gaussian noise on all that trains, in place.

        Args:
            noise: its size, as a share of each tensor's standard deviation (of 1 where that is 0).
            generator: of the noise; default torch's own.
        """
        noise = finite("noise", noise, at_least=0)
        for parameter in self.trained().values():
            scale = parameter.std().item() if parameter.numel() > 1 else 0.0
            drawn = torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype, device=parameter.device
            )
            parameter.add_(drawn, alpha=noise * (scale or 1.0))

    def num_trained_parameters(self) -> int:
        """How many numbers the guide trains."""
        return sum(parameter.numel() for parameter in self.trained().values())


@torch.no_grad()
def load_into(parameters: dict[str, Any], saved: dict[str, Tensor], where: str) -> None:
    """Copy `saved` tensors into `parameters`, by name.

    Raises:
        OtherGuideError: if names, shapes or types differ, before anything is copied.
    """
    check_like(parameters, saved, where)
    for name, parameter in parameters.items():
        parameter.copy_(saved[name])


def check_like(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor], where: str) -> None:
    """Refuse `saved` tensors that are not those of `parameters`: other names, shapes or types.

    Raises:
        OtherGuideError: with the first one.
    """
    kinds, expected = (
        {name: _kind(tensor) for name, tensor in tensors.items()} for tensors in (saved, parameters)
    )
    if kinds != expected:
        odd = sorted(
            name for name in kinds.keys() | expected.keys() if kinds.get(name) != expected.get(name)
        )
        raise OtherGuideError(
            f"{where} is of another guide: {len(odd)} parameters differ, first {odd[0]} with {kinds.get(odd[0], 'nothing')} "
            f"where {expected.get(odd[0], 'nothing')} was expected. Build the guide with the arguments of the run that wrote "
            "it."
        )


def _kind(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"


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
