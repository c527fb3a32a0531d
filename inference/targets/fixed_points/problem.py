"""All responses of an enumerable world, on which fixed points are computed, and the posterior."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from inference.enumeration import Enumeration
from inference.programs import check_normalised
from model import AlignmentModel, HardConstraintSupport, Prompts
from model.common.checks import instance, positive


class NoFixedPointError(ValueError):
    """The updates of an algorithm vanish at no distribution that gives all responses a share."""


@dataclass(frozen=True)
class Problem:
    """Prior, reward and beta on all S responses to N prompts: what a trainer is given.

        problem = Problem.of(model, prompts)
        log_q = TARGETS["grpo"](problem)  # [S, N]

    Attributes:
        log_prior: `[S, N]`, log p0, nats, float64.
        reward: `[S, N]`, r, finite, float64.
        beta: reward per nat.
        response: `[S, N, T]`, token ids, padded behind the end; None for outcomes without tokens.
        length: `[S, N]`, number of tokens of each response; None for outcomes without tokens.
        parts: `[J, S, N]`, J rewards that add up to r, float64; None for the one reward r.
    """

    log_prior: Tensor
    reward: Tensor
    beta: float
    response: Tensor | None = None
    length: Tensor | None = None
    parts: Tensor | None = None

    def __post_init__(self) -> None:
        positive("beta", self.beta)
        shape = instance("reward", self.reward, Tensor).shape
        if self.log_prior.shape != shape or len(shape) != 2:
            shapes = f"log_prior has shape {tuple(self.log_prior.shape)} and reward {tuple(shape)}"
            raise ValueError(f"{shapes}, expected [S, N] for both: S responses to N prompts")
        for name, values in (("log_prior", self.log_prior), ("reward", self.reward)):
            object.__setattr__(self, name, values.double())
        if not bool(self.reward.isfinite().all()):
            fix = "a constraint has its posterior, and no trainer's fixed point is defined with it"
            raise ValueError(f"the reward is infinite or NaN somewhere, expected numbers: {fix}")
        if self.parts is not None:
            object.__setattr__(self, "parts", self.parts.double())
            if self.parts.shape[1:] != shape or not torch.allclose(self.parts.sum(0), self.reward):
                expected = f"rewards [J, {', '.join(map(str, shape))}] that add up to `reward`"
                got = tuple(self.parts.shape)
                raise ValueError(f"parts has shape {got}, expected {expected}, or None")
        check_normalised(self.log_prior, "log_prior")

    @classmethod
    def of(cls, model: AlignmentModel, prompts: Prompts) -> Self:
        """The problem of a model with rewards alone, and one beta."""
        if model.factors:
            names = sorted(model.factors)
            raise ValueError(f"the model has the factors {names}, expected rewards alone")
        if not bool(model.applies(prompts).all()):
            raise ValueError("no reward applies to one of the prompts: leave the prompt out")
        truth = Enumeration(model, prompts)
        space = model.prior.space
        length = space.is_token(truth.support).sum(-1)
        reward = model.reward(prompts, truth.support)
        with HardConstraintSupport():
            terms = [term.log_value * model.beta for term in model.terms(prompts, truth.support)]
        parts = torch.stack(terms) if len(terms) > 1 else None
        return cls(truth.log_prior, reward, model.beta, truth.support, length, parts)

    def tokens(self, name: str) -> tuple[Tensor, Tensor]:
        """Responses and lengths; a `ValueError` by the name of a target if there are none."""
        if self.response is None or self.length is None:
            raise ValueError(
                f"the target {name!r} depends on tokens, expected `response`, `length`"
            )
        return self.response, self.length

    def tilted(self, log_ratio: Tensor) -> Tensor:
        """log of p0 exp(log_ratio), normalised, `[S, N]`, nats."""
        return (self.log_prior + log_ratio).log_softmax(0)


def posterior(problem: Problem) -> Tensor:
    """log p* = log p0 exp(r/beta)/Z, `[S, N]`, nats, which two algorithms reach.

    n exact steps of mirror descent, q_{k+1} prop. to q_k exp(r/tau), from q_0 = p0, end at the
    posterior of beta = tau/n: the exponents add up. DPO (Rafailov et al. 2023, arXiv 2305.18290)
    minimises the negative log-likelihood of a Bradley-Terry model with the reward beta log q/p0. On
    preferences by r, over pairs that connect all responses, its minimum is beta log q/p0 = r + c.
    """
    return problem.tilted(problem.reward / problem.beta)


def by_prompt(target: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Target `[S]` of each of N prompts from its columns of the parts `[S, N, ...]`, `[S, N]`.

    Computed on the CPU: a root is found by numbers read one after another.
    """
    columns = zip(*(part.cpu().unbind(1) for part in parts), strict=True)
    return torch.stack([target(*column) for column in columns], 1).to(parts[0].device)
