"""The model: p*(x) = p0(x) exp(r(x)/beta) prod_j f_j(x) / Z, written as a Pyro program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from model.common.checks import instance
from model.common.provenance import through
from model.likelihood import (
    Factor,
    HardConstraintSupport,
    Reward,
    check_callable,
    check_made_for,
    check_made_for_beta,
    check_product,
    check_unit,
    check_values,
    for_each_prompt,
    upper_bound_of,
)
from model.per_prompt import beta_at, checked_beta
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.prior.response_index import indexed_if_enumerated, is_enumerated


class Term(NamedTuple):
    """One term of the log likelihood at some responses.

    Attributes:
        name: of the reward or the factor.
        log_value: r(x)/beta of a reward, log f(x) of a factor; `[..., N]`, nats, float64.
        bound: largest possible value, one or `[N]`, nats; None if unknown.
    """

    name: str
    log_value: Tensor
    bound: float | Tensor | None


class AlignmentModel:
    """Prior and likelihood, whose product is the posterior (Korbak, Perez and Buckley 2022, section 3).

    A Pyro program: one plate over the prompts, the sample site `response`, and a `pyro.factor` for each reward, divided by
    beta, and for each factor.

        model = AlignmentModel(prior, TextReward(vader_sentiment, prior), beta=0.1)
        model = AlignmentModel(prior, reward, 0.1, factors={"on topic": contains("music", prior)})

    Args:
        prior: p0, a language model. The prior is frozen.
        reward: r, a callable of prompts and responses, or several by name, whose values add up. In units of reward.
        beta: reward per nat. The smaller beta, the more the reward counts; the larger, the closer the posterior is to the
            prior. Or one beta for each prompt, by the prompt's text.
        factors: log f_j by name, callables of prompts and responses, in nats, which beta does not divide. -inf rules a response
            out.

    Raises:
        ValueError: if a beta or an upper bound is out of range, a name is taken, or a factor is passed as a reward.
        TypeError: if the prior is no `LanguageModel`, or a reward or factor is not callable.
        OtherLanguageModelError: if a reward or factor was made for another language model than the prior.
        OtherBetaError: if a factor was made for another beta.
    """

    def __init__(
        self,
        prior: LanguageModel,
        reward: Reward | Mapping[str, Reward],
        beta: float | Mapping[str, float],
        factors: Mapping[str, Factor] | None = None,
    ) -> None:
        instance("prior", prior, LanguageModel, why="`LanguageModel.from_pretrained` loads one")
        self.prior = prior
        self._beta = checked_beta(beta)
        self.rewards = dict(reward) if isinstance(reward, Mapping) else {"reward": reward}
        self.factors = {} if factors is None else dict(instance("factors", factors, Mapping))  # type: ignore[type-abstract]
        self._check()

    def _check(self) -> None:
        for name in [*self.rewards, *self.factors]:
            if not isinstance(name, str) or name in {"prompts", "response"}:
                raise ValueError(
                    f"a reward or factor is named {name!r}, expected a text other than `prompts` and `response`, the model's own"
                )
        if both := self.rewards.keys() & self.factors.keys():
            raise ValueError(f"a reward and a factor are both named {min(both)!r}: rename one")
        for label, piece in self._labelled():
            check_callable(label, piece)
            upper_bound_of(label, piece)
            check_made_for(label, piece, self.prior.space)
            check_made_for_beta(label, piece, self._beta)
        for name, reward in self.rewards.items():
            check_unit(f"reward {name!r}", reward)

    def _labelled(self) -> Iterator[tuple[str, Reward | Factor]]:
        for name, reward in self.rewards.items():
            yield f"reward {name!r}", reward
        for name, factor in self.factors.items():
            yield f"factor {name!r}", factor

    def __call__(self, prompts: Prompts) -> Tensor:
        """Run the program. Returns the response, `[..., N, T]`."""
        with self.sampled_response(prompts) as response:
            for term in self.terms(prompts, response):
                pyro.factor(term.name, term.log_value)
        return response

    @contextmanager
    def sampled_response(self, prompts: Prompts) -> Iterator[Tensor]:
        """Inside the plate over prompts: the response, `[..., N, T]`, at its sample site."""
        prior = self.prior(prompts)
        with pyro.plate("prompts", len(prompts), dim=-1):
            with indexed_if_enumerated(prior):
                response = pyro.sample("response", prior)
            with HardConstraintSupport() if is_enumerated(prior) else nullcontext():
                yield response

    def terms(self, prompts: Prompts, response: Tensor) -> Iterator[Term]:
        """The terms of the log likelihood, checked, at responses `[..., N, T]`, or `[..., 1, T]` for all prompts alike."""
        response, beta = for_each_prompt(prompts, response), self.beta_at(prompts)
        for name, reward in self.rewards.items():
            label, bound = f"reward {name!r}", upper_bound_of(f"reward {name!r}", reward)
            value = _values(label, reward, prompts, response)
            log_value = check_product(label, value, value / beta, "divided by beta")
            yield Term(name, log_value, None if bound is None else bound / beta)
        for name, factor in self.factors.items():
            label = f"factor {name!r}"
            yield Term(
                name, _values(label, factor, prompts, response), upper_bound_of(label, factor)
            )

    @torch.no_grad()
    def reward(self, prompts: Prompts, response: Tensor) -> Tensor:
        """r(x), the rewards added up, `[..., N]`, float64; 0 for a model without rewards."""
        response = for_each_prompt(prompts, response)
        total = torch.zeros(response.shape[:-1], dtype=torch.float64, device=response.device)
        with HardConstraintSupport():
            for name, reward in self.rewards.items():
                total = total + _values(f"reward {name!r}", reward, prompts, response)
        return total

    @property
    def beta(self) -> float:
        """The one beta, reward per nat.

        Raises:
            ValueError: if the model has one for each prompt.
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

    def log_likelihood_bound(self, prompts: Prompts) -> float | Tensor | None:
        """Largest possible log likelihood, one or `[N]`, nats; None unless every reward and factor has an `upper_bound`."""
        bounds = [upper_bound_of(label, piece) for label, piece in self._labelled()]
        known = [bound for bound in bounds if bound is not None]
        if len(known) < len(bounds):
            return None
        num_rewards = len(self.rewards)
        return sum(known[:num_rewards]) / self.beta_at(prompts) + sum(known[num_rewards:])


def _values(label: str, piece: Reward | Factor, prompts: Prompts, response: Tensor) -> Tensor:
    return check_values(label, through(partial(piece, prompts), response), response.shape[:-1])
