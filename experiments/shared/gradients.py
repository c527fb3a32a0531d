"""Gradients over all parameters in a row, and the distance between two."""

import torch
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from guides import FineTuned
from inference.programs import parameter_scope
from model import AlignmentModel, LanguageModel, Prompts


def loss_gradient(
    objective: ELBO, model: AlignmentModel, guide: FineTuned, prompts: Prompts
) -> Tensor:
    """The gradient of one estimate of a loss."""
    guide.zero_grad()
    with parameter_scope(guide):
        objective.loss_and_grads(model, guide, prompts)
    return gradient_of(guide)


def gradient_of(module: nn.Module) -> Tensor:
    """Gradients that the parameters of a module hold."""
    return parameters_to_vector(p.grad for p in module.parameters() if p.grad is not None)


def relative_error(gradient: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of the expected gradient."""
    return ((gradient - expected).norm() / expected.norm()).item()


def moved_guide(prior: LanguageModel, scale: float = 0.02) -> FineTuned:
    """Guide away from the prior: a copy of the prior with Gaussian noise on its weights."""
    guide = FineTuned(prior)
    for parameter in guide.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return guide
