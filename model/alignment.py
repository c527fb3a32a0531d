"""The model: p*(x) = p0(x) exp(r(x)/beta) / Z, written as a Pyro program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import pyro
from torch import Tensor

from model.checks import instance
from model.evidence import (
    BearsZeroEvidence,
    Evidence,
    at_beta,
    check_evidence,
    check_made_for,
    check_product,
    check_reward,
    for_each_prompt,
    upper_bound_of,
)
from model.language_model import LanguageModel
from model.per_prompt import beta_at, checked_beta
from model.prompts import Prompts
from model.provenance import through
from model.response_index import indexed_if_enumerated, is_enumerated


class Factor(NamedTuple):
    """What one piece of evidence says of some responses.

    Attributes:
        name: of the evidence.
        log_evidence: r(x)/beta, `[..., N]`, nats, float64 whatever the reward's own type is.
        bound: the largest it can be, one or `[N]`, nats; None if that is not known.
    """

    name: str
    log_evidence: Tensor
    bound: float | Tensor | None


class AlignmentModel:
    """Prior and evidence, whose product is the posterior (Korbak, Perez and Buckley 2022, section 3).

    A Pyro program: one plate over the prompts, the sample site `response`, and a factor for each piece of evidence.

    Args:
        prior: p0, a language model. It is frozen.
        evidence: r, a callable of prompts and responses, or several by name, whose values add up. What depends on beta (see
            `DependsOnBeta`) is taken at this one.
        beta: reward per nat. The smaller, the more the evidence counts; the larger, the closer to the prior. Or one for each
            prompt, by its text.

    Raises:
        ValueError: if a beta or an upper bound is not as it should be, or evidence has a name that is taken.
        TypeError: if the prior is no `LanguageModel`, or evidence is not callable.
        OtherLanguageModelError: if evidence was made for another language model than the prior.
    """

    def __init__(
        self, prior: LanguageModel, evidence: Evidence | Mapping[str, Evidence], beta: float | Mapping[str, float]
    ) -> None:
        instance("prior", prior, LanguageModel, why="`LanguageModel.from_pretrained` loads one")
        self._beta = checked_beta(beta)
        pieces = evidence if isinstance(evidence, Mapping) else {"evidence": evidence}
        self.evidence = {name: at_beta(piece, self._beta) for name, piece in pieces.items()}
        for name, piece in self.evidence.items():
            check_evidence(name, piece)
            upper_bound_of(name, piece)
            if not isinstance(name, str) or name in {"prompts", "response"}:
                raise ValueError(
                    f"evidence is named {name!r}, expected a text, and not `prompts` or `response`, the model's own"
                )
            check_made_for(name, piece, prior.space)
        self.prior = prior

    def __call__(self, prompts: Prompts) -> Tensor:
        """Run the program. Returns the response, `[..., N, T]`."""
        prior = self.prior(prompts)
        with pyro.plate("prompts", len(prompts), dim=-1):
            with indexed_if_enumerated(prior):
                response = pyro.sample("response", prior)
            with BearsZeroEvidence() if is_enumerated(prior) else nullcontext():
                for factor in self.factors(prompts, response):
                    pyro.factor(factor.name, factor.log_evidence)
        return response

    def factors(self, prompts: Prompts, response: Tensor) -> Iterator[Factor]:
        """Each piece of evidence on responses `[..., N, T]`, or `[..., 1, T]` for all prompts alike, checked."""
        response, beta = for_each_prompt(prompts, response), self.beta_at(prompts)
        for name, evidence in self.evidence.items():
            reward = check_reward(name, through(partial(evidence, prompts), response), response.shape[:-1])
            log_evidence = check_product(name, reward, reward / beta, "divided by beta")
            bound = upper_bound_of(name, evidence)
            yield Factor(name, log_evidence, None if bound is None else bound / beta)

    @property
    def beta(self) -> float:
        """The one beta, reward per nat.

        Raises:
            ValueError: if there is one for each prompt.
        """
        if isinstance(self._beta, dict):
            raise ValueError("the model has a beta for each prompt: ask for `beta_at(prompts)`")
        return self._beta

    def beta_at(self, prompts: Prompts) -> float | Tensor:
        """beta, one number or `[N]` for N prompts, reward per nat.

        Raises:
            ValueError: if a prompt has none.
        """
        return beta_at(self._beta, prompts)

    def log_evidence_bound(self, prompts: Prompts) -> float | Tensor | None:
        """The largest possible r/beta, one or `[N]`, nats, if every piece of evidence has an `upper_bound`; else None."""
        bounds = [upper_bound_of(name, evidence) for name, evidence in self.evidence.items()]
        known = [bound for bound in bounds if bound is not None]
        return sum(known) / self.beta_at(prompts) if len(known) == len(bounds) else None
