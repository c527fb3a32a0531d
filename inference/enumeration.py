"""The truth: every response listed, every expectation a finite sum, in float64.

For a model whose responses are few. It runs the same programs as any algorithm does, and so is the reference for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from inference.estimate import check_numbers, expectation
from inference.normalisation import check_law, name_of
from inference.programs import Program, joint_at, log_guide_at, response_distribution
from inference.response_site import SameResponses
from model import ImpossibleResponseError, Prompts
from model.common.checks import instance

CHUNK = 8192  # responses scored at a time


class Enumeration:
    """The exact posterior of a model, for each of N prompts.

    Args:
        model: a Pyro program with a sample site `response` whose support can be listed, and factors.
        prompts: N prompts.

    Attributes:
        support: `[S, N, T]`, every response.
        log_prior: `[S, N]`, log p0, nats, float64, as all that follow.
        log_likelihood: `[S, N]`, r/beta; -inf where a response is impossible.
        log_joint: `[S, N]`, log p0 + r/beta.
        log_z: `[N]`, log Z = logsumexp of `log_joint`.
        log_posterior: `[S, N]`, log p*.

    Raises:
        NotEnumerableError: with the size, if there are more than a million responses.
        NotANumberError: if the prior's log-probabilities, or those of a guide that a method is asked about, are NaN: neither is
            ever reported as exact.
        NotNormalisedError: if they do not sum to 1.
        ZeroDivisionError: if the evidence rules out every response to a prompt.
    """

    def __init__(self, model: Program, prompts: Prompts) -> None:
        self.prompts = prompts
        self._same = SameResponses()
        with self._same, torch.no_grad():
            self.support = response_distribution(model, prompts, role="model").enumerate_support()
            joints = [joint_at(model, prompts, chunk) for chunk in self._chunks()]
        self.log_prior = check_law(
            torch.cat([joint.log_prior for joint in joints]), f"the prior of {name_of(model)}"
        )
        self.log_likelihood = torch.cat([joint.log_likelihood for joint in joints])
        self.log_joint = self.log_prior + self.log_likelihood
        self.log_z = self.log_joint.logsumexp(0)
        for text, value in zip(prompts.texts, self.log_z.tolist(), strict=True):
            if value == -torch.inf:
                raise ZeroDivisionError(
                    f"the evidence rules out every response to {text!r}: Z = 0, there is no posterior"
                )
        self.log_posterior = self.log_joint - self.log_z

    def log_guide(self, guide: Program) -> Tensor:
        """log q of every response, `[S, N]`, nats, float64, without gradient."""
        with self._same, torch.no_grad():
            log_guide = torch.cat(
                [log_guide_at(guide, self.prompts, chunk) for chunk in self._chunks()]
            )
        return check_law(log_guide, f"the guide {name_of(guide)}")

    def elbo(self, guide: Program) -> Tensor:
        """ELBO = sum_x q(x) (log p0(x) + r(x)/beta - log q(x)), `[N]`, nats."""
        log_guide = self.log_guide(guide)
        return expectation(log_guide.exp(), self.log_joint - log_guide)

    def kl_guide_posterior(self, guide: Program) -> Tensor:
        """KL(q || p*), `[N]`, nats; infinite if q can draw what the evidence rules out."""
        log_guide = self.log_guide(guide)
        return expectation(log_guide.exp(), log_guide - self.log_posterior)

    def kl_posterior_guide(self, guide: Program) -> Tensor:
        """KL(p* || q), `[N]`, nats."""
        return expectation(self.log_posterior.exp(), self.log_posterior - self.log_guide(guide))

    def kl_guide_prior(self, guide: Program) -> Tensor:
        """KL(q || p0), `[N]`, nats."""
        log_guide = self.log_guide(guide)
        return expectation(log_guide.exp(), log_guide - self.log_prior)

    def expected_log_likelihood(self, guide: Program) -> Tensor:
        """E_q[r]/beta, `[N]`, nats."""
        return expectation(self.log_guide(guide).exp(), self.log_likelihood)

    def total_variation(self, guide: Program) -> Tensor:
        """1/2 sum_x |q(x) - p*(x)|, `[N]`, between 0 and 1."""
        return 0.5 * (self.log_guide(guide).exp() - self.log_posterior.exp()).abs().sum(0)

    def elbo_gradient(self, guide: nn.Module) -> dict[str, Tensor]:
        """The exact gradient of the ELBO, summed over prompts, for each trained parameter of the guide by name.

        grad ELBO = sum_x q(x) (log p0(x) + r(x)/beta - log q(x)) grad log q(x).

        Raises:
            ValueError: if nothing of the guide trains.
            NotANumberError: if a derivative is NaN or +inf.
            ImpossibleResponseError: if the guide can draw what the evidence rules out: the ELBO is -inf, and has no gradient.
        """
        instance("guide", guide, nn.Module)
        log_guide = self.log_guide(guide)
        prob = log_guide.exp()
        weight = prob * torch.where(prob == 0, 0.0, self.log_joint - log_guide)
        if bool(weight.isneginf().any()):
            raise ImpossibleResponseError(
                f"the guide {name_of(guide)} can draw what the evidence rules out: the ELBO is -inf, and has no gradient"
            )
        trained = [
            (name, parameter)
            for name, parameter in guide.named_parameters()
            if parameter.requires_grad
        ]
        if not trained:
            raise ValueError(
                f"the guide {name_of(guide)} has no parameter that trains: the ELBO has no gradient"
            )
        names, parameters = zip(*trained, strict=True)
        gradient = [torch.zeros_like(parameter) for parameter in parameters]
        for chunk, part in zip(self._chunks(), weight.split(self._chunk_size), strict=True):
            surrogate = (part * log_guide_at(guide, self.prompts, chunk)).sum()
            for total, new in zip(
                gradient, torch.autograd.grad(surrogate, parameters, allow_unused=True), strict=True
            ):
                if new is not None:
                    total += new
        return {
            name: check_numbers(f"the gradient of {name} of {name_of(guide)}", part).to(part)
            for name, part in zip(names, gradient, strict=True)
        }

    @property
    def _chunk_size(self) -> int:
        return max(1, CHUNK // len(self.prompts))

    def _chunks(self) -> Iterator[Tensor]:
        return iter(self.support.split(self._chunk_size))


def entropy(log_prob: Tensor) -> Tensor:
    """-sum_x p(x) log p(x) of a law over all responses, `[S, N]` -> `[N]`, nats.

    Raises:
        NotNormalisedError: if the probabilities do not sum to 1, or are NaN.
    """
    log_prob = check_law(instance("log_prob", log_prob, Tensor), "log_prob")
    return -expectation(log_prob.exp(), log_prob)
