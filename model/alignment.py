"""The model: p*(x) = p0(x) exp(r(x)/beta) prod_j f_j(x) / Z, written as a Pyro program.

The only place where a reward is divided by beta: `AlignmentModel.terms`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import validation_enabled
from torch import Tensor

from model.common.checks import function, instance, positive
from model.likelihood import (
    ARGUMENTS,
    Factor,
    HardConstraintSupport,
    Reward,
    any_applies,
    bound_at,
    check_made_for,
    check_made_for_beta,
    check_reward,
    for_each_prompt,
    is_partial,
    upper_bound_of,
)
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.prior.response_index import indexed_if_enumerated, is_enumerated
from model.values import total_of, values_of


class Term(NamedTuple):
    """One term of the log likelihood at some responses.

    Attributes:
        name: name of the reward or the factor.
        log_value: r(x)/beta of a reward, log f(x) of a factor; `[..., N]`, nats, float64.
        applies: `[N]`, False for a prompt to which the reward or the factor does not apply. There
            the value is 0.
        is_partial: True if `applies` may have a False.
    """

    name: str
    log_value: Tensor
    applies: Tensor
    is_partial: bool


class AlignmentModel:
    """Prior and likelihood, whose product is the posterior (Korbak et al. 2022, section 3).

    A Pyro program: one plate over the prompts, the sample site `response`, and a `pyro.factor` for
    each reward, divided by beta, and for each factor.

        reward = TextReward(vader_sentiment, prior)
        model = AlignmentModel(prior, reward, beta=0.1)
        model = AlignmentModel(prior, reward, 0.1, factors={"topic": contains("music", prior)})

    Args:
        prior: p0, a language model. The prior is frozen.
        reward: r, in units of reward; a callable of prompts and responses, or several by name.
        beta: reward per nat, one for all prompts or one for each, by `prompts.names()`. The larger
            beta, the closer the posterior is to the prior.
        factors: log f_j by name, callables of prompts and responses, nats, not divided by beta.

    Raises:
        ValueError: if a beta, a bound or a name is not allowed, or a factor is a reward.
        TypeError: if the prior is no `LanguageModel`, or a reward or factor is not callable.
        OtherLanguageModelError, OtherBetaError: if a reward or factor was made for another model.
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
        self._beta = _checked_beta(beta)
        self.rewards = dict(reward) if isinstance(reward, Mapping) else {"reward": reward}
        self.factors = {} if factors is None else dict(instance("factors", factors, Mapping))  # type: ignore[type-abstract]
        for name in [*self.rewards, *self.factors]:
            if not isinstance(name, str) or name in {"prompts", "response"}:
                other = "expected a text other than `prompts` and `response`, the model's own"
                raise ValueError(f"a reward or factor is named {name!r}, {other}")
        if both := self.rewards.keys() & self.factors.keys():
            raise ValueError(f"a reward and a factor are both named {min(both)!r}: rename one")
        for name, reward in self.rewards.items():
            check_reward(f"reward {name!r}", reward)
        for name, factor in self.factors.items():
            function(f"factor {name!r}", factor, takes=2, why=ARGUMENTS)
            check_made_for_beta(f"factor {name!r}", factor, self._beta)
        for _, label, piece, _ in self._pieces():
            check_made_for(label, piece, prior.space)
            upper_bound_of(label, piece)

    def __repr__(self) -> str:
        names = f"rewards={[*self.rewards]}, factors={[*self.factors]}"
        return f"{type(self).__name__}({names}, beta={self._beta})"

    def _pieces(
        self, beta: float | Tensor = 1.0
    ) -> Iterator[tuple[str, str, Reward | Factor, float | Tensor]]:
        """Name, label, reward or factor, and divisor: beta for a reward, 1 for a factor."""
        for name, reward in self.rewards.items():
            yield name, f"reward {name!r}", reward, beta
        for name, factor in self.factors.items():
            yield name, f"factor {name!r}", factor, 1.0

    def __call__(self, prompts: Prompts) -> Tensor:
        """Run the program. Returns the response, `[..., N, T]`."""
        with self.sampled_response(prompts) as response:
            for term in self.terms(prompts, response):
                with site_of(term):
                    pyro.factor(term.name, term.log_value)
        return response

    @contextmanager
    def sampled_response(self, prompts: Prompts) -> Iterator[Tensor]:
        """Enter the plate over prompts and draw the response, `[..., N, T]`."""
        prior = self.prior(prompts)
        with pyro.plate("prompts", len(prompts), dim=-1):
            with indexed_if_enumerated(prior):
                response = pyro.sample("response", prior)
            with HardConstraintSupport() if is_enumerated(prior) else nullcontext():
                yield response

    def terms(self, prompts: Prompts, response: Tensor) -> Iterator[Term]:
        """The checked terms of the log likelihood: r(x)/beta of rewards, log f(x) of factors.

        Args:
            prompts: N prompts.
            response: `[..., N, T]`, or `[..., 1, T]` for all prompts alike.
        """
        response = for_each_prompt(prompts, response)
        for name, label, piece, divisor in self._pieces(self.beta_at(prompts)):
            value, applies = values_of(label, piece, prompts, response, divisor)
            yield Term(name, value / divisor, applies, is_partial(piece))

    def log_bounds(self, prompts: Prompts) -> dict[str, float | Tensor | None]:
        """Largest value of each term, by name, one number or `[N]`, nats; None if unknown.

        0 for a prompt to which the reward or the factor does not apply.
        """
        bounds: dict[str, float | Tensor | None] = {}
        for name, label, piece, divisor in self._pieces(self.beta_at(prompts)):
            bound = bound_at(label, piece, prompts)
            bounds[name] = None if bound is None else bound / divisor
        return bounds

    def log_likelihood_bound(self, prompts: Prompts) -> float | Tensor | None:
        """Largest log likelihood, one number or `[N]`, nats; None if a bound is unknown."""
        total = 0.0 / self.beta_at(prompts)
        for bound in self.log_bounds(prompts).values():
            if bound is None:
                return None
            total = total + bound
        return total

    @torch.no_grad()
    def reward(self, prompts: Prompts, response: Tensor) -> Tensor:
        """r(x), the rewards added up, `[..., N]`, float64; 0 for a model without rewards.

        -inf where a reward rules the response out, NaN for a prompt to which no reward applies.
        """
        response = for_each_prompt(prompts, response)
        with HardConstraintSupport():
            values = [
                values_of(f"reward {name!r}", reward, prompts, response)
                for name, reward in self.rewards.items()
            ]
        return total_of(values, response).missing

    def applies(self, prompts: Prompts) -> Tensor:
        """True for the prompts to which a reward applies, `[N]`; all for a model without rewards.

        A mean of `reward` over prompts leaves the other prompts out.
        """
        return any_applies(self.rewards, prompts)

    @property
    def beta(self) -> float:
        """The one beta of all prompts, reward per nat; a `ValueError` if prompts have their own."""
        if isinstance(self._beta, dict):
            raise ValueError("the model has a beta for each prompt: ask for `beta_at(prompts)`")
        return self._beta

    def beta_at(self, prompts: Prompts) -> float | Tensor:
        """beta, one number or `[N]`, reward per nat; a `ValueError` if a prompt has none."""
        if not isinstance(self._beta, dict):
            return self._beta
        betas = []
        for name, text in zip(prompts.names(), prompts.texts, strict=True):
            if name not in self._beta:
                fix = (
                    "make beta by `dict(zip(prompts.names(), betas))`, of prompts encoded together"
                )
                raise ValueError(f"beta has no entry {name!r}, for the prompt {text!r}: {fix}")
            betas.append(self._beta[name])
        return torch.tensor(betas, dtype=torch.float64, device=prompts.ids.device)


@contextmanager
def site_of(term: Term) -> Iterator[None]:
    """Context in which a site of the term counts only for the prompts to which the term applies.

    Pyro does not check the values, which are checked: each check waits for a GPU.
    """
    is_everywhere = not term.is_partial or bool(term.applies.all())
    mask = nullcontext() if is_everywhere else poutine.mask(mask=term.applies)
    with validation_enabled(False), mask:
        yield


def _checked_beta(beta: float | Mapping[str, float]) -> float | dict[str, float]:
    """beta, one number or one for each prompt by its name, all positive and finite."""
    why = "at 0 only responses of the largest reward are left, and at infinity p* is the prior"
    if isinstance(beta, list | tuple) or getattr(beta, "ndim", 0) > 0:
        fix = "make one for each prompt by `dict(zip(prompts.names(), betas))`"
        raise TypeError(f"beta is {beta}, expected one number or a dict: {fix}")
    if not isinstance(beta, Mapping):
        return positive("beta", beta, why=why)
    if not beta:
        raise ValueError("beta is {}, expected a number, or one for each prompt by its name")
    each = beta.items()
    return {name: positive(f"for the prompt {name!r} beta", at, why=why) for name, at in each}
