"""The exact posterior of a model with few responses: the reference for all algorithms."""

import warnings

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from inference import random_state
from inference.estimate import check_numbers, expectation
from inference.programs import (
    Program,
    check_normalised,
    joint_at,
    log_guide_at,
    name_of,
    response_distribution,
    run,
)
from inference.response_site import SameResponses
from model import ImpossibleResponseError, Prompts, ResponseDistribution
from model.common.checks import instance

CHUNK = 8192  # number of responses scored at a time


class Enumeration:
    """The exact posterior for each of N prompts: every expectation is a finite sum, in float64.

        truth = Enumeration(model, prompts)
        print(truth.log_z, truth.kl_guide_posterior(guide))
        best = truth.support[truth.log_posterior.argmax(0)[0], 0]

    Args:
        model: a Pyro program with an enumerable sample site `response`, and factors.
        prompts: N prompts.

    Attributes:
        support: `[S, N, T]`, every response.
        log_prior: `[S, N]`, log p0, nats. All numbers are float64.
        log_likelihood: `[S, N]`, nats; -inf for an impossible response.
        log_joint: `[S, N]`, log p0 + log likelihood.
        log_z: `[N]`, log Z = logsumexp of `log_joint`.
        log_posterior: `[S, N]`, log p*.

    Raises:
        NotEnumerableError: if there are more than a million responses, with their number.
        NotANumberError: if a log probability of the prior, or of the guide of a method, is NaN.
        NotNormalisedError: if the probabilities of the prior or of the guide do not sum to 1.
        ZeroDivisionError: if every response to a prompt is impossible.

    Warns if a factor is random: the posterior is then that of one draw of it.
    """

    def __init__(self, model: Program, prompts: Prompts) -> None:
        self.prompts = prompts
        self._same = SameResponses()
        with self._same, torch.no_grad():
            prior = response_distribution(model, prompts, role="model")
            self.support = prior.enumerate_support()
            self._chunk_size = max(1, CHUNK // len(prompts))  # once the prompts are checked
            before = random_state.capture()
            joints = [joint_at(model, prompts, chunk) for chunk in self._chunks()]
        if not random_state.is_still(before):
            warnings.warn(
                f"{name_of(model)} drew random numbers for its factors that no site shows: the "
                "exact posterior is that of these draws. Expected functions of the response: hide "
                "no site by `poutine.block`, and fix the noise of a reward",
                stacklevel=2,
            )
        log_prior = torch.cat([joint.log_prior for joint in joints])
        name = f"the prior of {name_of(model)}"
        self.log_prior = check_normalised(log_prior, name, is_half=_is_half(prior))
        self.log_likelihood = torch.cat([joint.log_likelihood for joint in joints])
        self.log_joint = self.log_prior + self.log_likelihood
        self.log_z = self.log_joint.logsumexp(0)
        for text, value in zip(prompts.texts, self.log_z.tolist(), strict=True):
            if value == -torch.inf:
                fault = f"the model rules out every response to {text!r}"
                raise ZeroDivisionError(f"{fault}: Z = 0, there is no posterior")
        self.log_posterior = self.log_joint - self.log_z

    def log_guide(self, guide: Program) -> Tensor:
        """log q of every response, `[S, N]`, nats, float64, without gradient."""
        with self._same, torch.no_grad():
            parts = [log_guide_at(guide, self.prompts, chunk) for chunk in self._chunks()]
            site = run(guide, self.prompts, self.support[:1], role="guide").nodes["response"]
        name = f"the guide {name_of(guide)}"
        return check_normalised(torch.cat(parts), name, is_half=_is_half(site["fn"]))

    def elbo(self, guide: Program) -> Tensor:
        """ELBO = sum_x q(x) (log p0(x) + log likelihood(x) - log q(x)), `[N]`, nats."""
        log_guide = self.log_guide(guide)
        return expectation(log_guide.exp(), self.log_joint - log_guide)

    def kl_guide_posterior(self, guide: Program) -> Tensor:
        """KL(q || p*), `[N]`, nats; infinite if q gives an impossible response probability."""
        return kl(self.log_guide(guide), self.log_posterior)

    def kl_posterior_guide(self, guide: Program) -> Tensor:
        """KL(p* || q), `[N]`, nats."""
        return kl(self.log_posterior, self.log_guide(guide))

    def kl_guide_prior(self, guide: Program) -> Tensor:
        """KL(q || p0), `[N]`, nats."""
        return kl(self.log_guide(guide), self.log_prior)

    def expected_log_likelihood(self, guide: Program) -> Tensor:
        """E_q[log likelihood], `[N]`, nats."""
        return expectation(self.log_guide(guide).exp(), self.log_likelihood)

    def total_variation(self, guide: Program) -> Tensor:
        """1/2 sum_x |q(x) - p*(x)|, `[N]`, between 0 and 1."""
        return 0.5 * (self.log_guide(guide).exp() - self.log_posterior.exp()).abs().sum(0)

    def elbo_gradient(self, guide: nn.Module) -> dict[str, Tensor]:
        """Exact gradient of the ELBO, summed over prompts, by the name of the guide's parameter.

        grad ELBO = sum_x q(x) (log p0(x) + log likelihood(x) - log q(x)) grad log q(x).

        Raises:
            ValueError: if the guide has no parameter that trains.
            NotANumberError: if a derivative is NaN or +inf.
            ImpossibleResponseError: if the guide can draw an impossible response.
        """
        instance("guide", guide, nn.Module)
        label = f"the guide {name_of(guide)}"
        log_guide = self.log_guide(guide)
        prob = log_guide.exp()
        weight = prob * torch.where(prob == 0, 0.0, self.log_joint - log_guide)
        if bool(weight.isneginf().any()):
            fault = f"{label} can draw an impossible response: the ELBO is -inf"
            raise ImpossibleResponseError(f"{fault}, and has no gradient")
        trained = {name: p for name, p in guide.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(f"{label} has no parameter that trains: the ELBO has no gradient")
        gradient = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
        for chunk, part in zip(self._chunks(), weight.split(self._chunk_size), strict=True):
            surrogate = (part * log_guide_at(guide, self.prompts, chunk)).sum()
            terms = torch.autograd.grad(surrogate, list(trained.values()), allow_unused=True)
            for total, term in zip(gradient.values(), terms, strict=True):
                if term is not None:
                    total += term
        return {
            name: check_numbers(f"the gradient of {name} of {name_of(guide)}", part).to(part)
            for name, part in gradient.items()
        }

    def _chunks(self) -> tuple[Tensor, ...]:
        return self.support.split(self._chunk_size)


def _is_half(distribution: TorchDistribution) -> bool:
    return isinstance(distribution, ResponseDistribution) and distribution.is_half


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of distributions over all responses, `[S, ...]` -> `[...]`, nats, with gradient.

    Infinite if p gives probability to a response that q excludes.
    """
    instance("log_q", log_q, Tensor)
    return expectation(instance("log_p", log_p, Tensor).exp(), log_p - log_q)


def entropy(log_prob: Tensor) -> Tensor:
    """-sum_x p(x) log p(x) of a distribution over all responses, `[S, N]` -> `[N]`, nats.

    Raises:
        NotNormalisedError: if the probabilities do not sum to 1, or are NaN.
    """
    log_prob = check_normalised(instance("log_prob", log_prob, Tensor), "log_prob")
    return -expectation(log_prob.exp(), log_prob)
