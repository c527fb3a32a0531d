"""Guide: q(response | prompt), an `nn.Module` that samples, scores and trains."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from safetensors.torch import save_file
from torch import Tensor, nn

from model import LanguageModel, Prompts
from model.common.checks import finite, instance
from model.common.files import check_digests, saved_together
from model.common.sharded_tensors import sharded_like
from model.networks.source import read_tensors
from model.prior.prompts import check_prompts

FILE = "guide.safetensors"
Options = dict[str, Any]


class GuideRegistrationError(RuntimeError):
    """Pyro's parameter store holds other tensors than the guide, and would train those."""


class OtherGuideError(ValueError):
    """The saved parameters belong to a different guide than the guide that loads them."""


def check_prior(prior: object) -> LanguageModel:
    """Return the prior of a guide, or raise `TypeError` if it is no `LanguageModel`."""
    why = "`LanguageModel.from_pretrained` loads one, and `LanguageModel(...)` wraps a network"
    return instance("prior", prior, LanguageModel, why=why)


class Guide(nn.Module, ABC):
    """A variational family: a module whose `distribution` is q, and a Pyro program that samples q.

    A new guide implements `distribution`; parameters with `requires_grad` train. A guide is always
    in evaluation mode: with dropout, `sample` and `log_prob` would be of different distributions.

        class Copy(Guide):
            def __init__(self, prior):
                super().__init__()
                self.tuned = copy.deepcopy(prior).requires_grad_(True)

            def distribution(self, prompts):
                return self.tuned(prompts)
    """

    @abstractmethod
    def distribution(self, prompts: Prompts) -> TorchDistribution:
        """q(response | prompts), batch shape `[N]`, event shape `[T]`."""

    def forward(self, prompts: Prompts) -> Tensor:
        """Register the parameters and sample the site `response`: token ids `[..., N, T]`."""
        self.eval()
        pyro.module("guide", self)
        _check_registered(self)
        with pyro.plate("prompts", len(check_prompts(prompts)), dim=-1):
            return pyro.sample("response", self.distribution(prompts))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the mode."""
        return super().train(False)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the trained parameters: `guide.safetensors`, or a format of the family's own."""
        tensors = {name: p.detach().contiguous() for name, p in self.trained().items()}
        with saved_together(folder) as new:
            save_file(tensors, new / FILE)

    def load_pretrained(self, folder: str | Path) -> None:
        """Load the files of `save_pretrained`, bit for bit, into a guide with the same arguments.

        Raises:
            OtherGuideError: If the arguments differ.
            DamagedFileError: If a file has changed since it was saved.
        """
        check_digests(folder)
        load_into(self.trained(), read_tensors(Path(folder) / FILE), str(folder))

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that train, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def jitter(self, noise: float, generator: torch.Generator | None = None) -> None:
        """Add Gaussian noise to all trained parameters, in place, to tell equal guides apart.

        Args:
            noise: Standard deviation, as a share of each tensor's own (of 1 where that is 0).
            generator: Source of the noise, on any device; default, torch's own.
        """
        noise = finite("noise", noise, at_least=0)
        if generator is not None:
            instance("generator", generator, torch.Generator)
        for parameter in self.trained().values():
            scale = parameter.std().item() if parameter.numel() > 1 else 0.0
            place = parameter.device if generator is None else generator.device
            drawn = torch.empty_like(parameter, device=place).normal_(generator=generator)
            parameter.add_(drawn.to(parameter.device), alpha=noise * (scale or 1.0))

    def whole_tensors(self) -> list[Tensor]:
        """Tensors of networks that each rank holds whole, where the networks are sharded."""
        return []

    def num_trained_parameters(self) -> int:
        """Number of scalars that train."""
        return sum(parameter.numel() for parameter in self.trained().values())


@torch.no_grad()
def load_into(parameters: dict[str, Any], saved: dict[str, Tensor], where: str) -> None:
    """Copy `saved` tensors into `parameters`, by name, after `check_like`."""
    check_like(parameters, saved, where)
    for name, parameter in parameters.items():
        parameter.copy_(sharded_like(saved[name], parameter))


def check_like(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor], where: str) -> None:
    """Raise `OtherGuideError` if names, shapes or types of `saved` and `parameters` differ."""
    got = {name: _kind(tensor) for name, tensor in saved.items()}
    expected = {name: _kind(tensor) for name, tensor in parameters.items()}
    names = sorted(got.keys() | expected.keys())
    if differing := [name for name in names if got.get(name) != expected.get(name)]:
        first = differing[0]
        raise OtherGuideError(
            f"{where} is of another guide: {len(differing)} parameters differ, first {first} with "
            f"{got.get(first, 'nothing')}, expected {expected.get(first, 'nothing')}: build the "
            "guide with the arguments of the run that wrote the folder"
        )


def _kind(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"


def _check_registered(guide: nn.Module) -> None:
    """Raise if `pyro.module` silently kept an older tensor, or copied a non-contiguous tensor."""
    store = pyro.get_param_store()
    for key, parameter in guide.named_parameters():
        name = f"guide$$${key}"
        if parameter.requires_grad and (name not in store or store[name] is not parameter):
            what = "another tensor" if name in store else "no tensor, as under `poutine.lift`,"
            raise GuideRegistrationError(
                f"Pyro's parameter store holds {what} for guide.{key}, so training would "
                "not reach this guide: use `inference.fit`, call `pyro.clear_param_store()` first, "
                "or make the parameter contiguous. A loaded store becomes a guide's parameters by "
                "`load_state_dict` (inference/README.md, `get_param_store`)"
            )


M = TypeVar("M", bound=nn.Module)


def copy_sharing(module: M, shared: Iterable[Tensor]) -> M:
    """Copy a module with all its submodules, but share the tensors in `shared` with the original.

    Changes to the copy's modules, such as inserted adapters, leave the original unchanged. Moving
    a shared parameter to another device or type moves the parameter in both modules.
    """
    priors = [part for part in module.modules() if isinstance(part, LanguageModel)]
    parts = [part for prior in priors for part in (prior.tokenizer, prior.space.end_ids)]
    return copy.deepcopy(module, {id(part): part for part in [*shared, *parts]})
