"""Online DPO: preferences between the guide's own draws, which a judge labels in every step.

    loss   - mean over pairs of E_label[log sigmoid(beta h)],   h = log q/p0 of the winner - loser
    P(x beats y) = sigmoid(beta (l(x) - l(y))),   x, y ~ q, not differentiated

Online AI feedback (Guo et al. 2024, arXiv 2402.04792). The mean update of log q(x) is
beta sum_y q(y) (P(x beats y) - sigmoid(beta h)). Where log q/p* is largest no term is above 0, so
that the update vanishes at the posterior alone (derived here): beta, the certainty of judge and
loss, does not move the target. With labels in the mean the gradient is 0 there on every sample.

With these labels and this loss the natural gradient, which moves log q(x) by the update, lowers
KL(q || p*): a pair adds q(x) q(y) times the difference of its log q/p* times a number of the other
sign. So a fit has warnings of the ELBO and a best step (`ascends_elbo`), and none otherwise.

Labels that always favour the larger reward, as those of trainers with a reward model, have no
target: no response can win for certain over another that has a share, and the guide ends at the
best response. Other likelihoods than DPO's have fixed points of their own: that of IPO has four
times the gradient of `SelfPlay`.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.objectives.self_play import Judge, checked_judge, judged, pairs_of
from inference.programs import Program
from model import Prompts
from model.common.checks import as_given, function, one_of, positive
from model.preferences import FIRST, SECOND

Labels = Literal["expected", "drawn", "best"]
Likelihood = Callable[[Tensor, Tensor, float], Tensor]
"""Log-likelihoods `[C]` of outcomes `[C]` of pairs, given two rewards over beta `[2, C]`, and beta,
as in `inference.direct_preferences.LIKELIHOODS`."""


def bradley_terry(rewards: Tensor, outcome: Tensor, beta: float) -> Tensor:
    """DPO's log sigmoid(beta h)."""
    h = rewards[0] - rewards[1]
    return logsigmoid(beta * torch.where(outcome == FIRST, h, -h))


class OnlineDPO(ResponseObjective):
    """DPO and its relatives on all pairs of the responses to a prompt. Refuses hard constraints.

        objective = OnlineDPO(16, likelihood=LIKELIHOODS["exo"], labels="drawn")
        fit(model, guide, prompts, num_steps=100, objective=objective)

    Args:
        num_particles: K, at least 2: K(K - 1)/2 pairs.
        likelihood: function of rewards, outcomes and beta, with one number for each pair: an entry
            of `LIKELIHOODS` that compares two responses.
        beta: log-odds of the judge, and of the loss, per nat.
        labels: `expected`, both outcomes of a pair by their probability; `drawn`, one of them; or
            `best`, the likelier one.
        judge: the probability that a response beats another, as in `SelfPlay`, with p0 times the
            model's likelihood in place of p0. None for that of Bradley and Terry on the likelihood.
    """

    min_particles, why_particles = 2, "a preference is between two responses"

    def __init__(
        self,
        num_particles: int = 64,
        *,
        likelihood: Likelihood = bradley_terry,
        beta: float = 1.0,
        labels: Labels = "expected",
        judge: Judge | None = None,
    ) -> None:
        super().__init__(num_particles)
        self.likelihood = function("likelihood", likelihood, takes=3)
        self.beta = positive("beta", beta)
        self.labels = one_of("labels", labels, get_args(Labels))
        self.judge = None if judge is None else checked_judge(judge)
        # p* is the target of a judge and a loss of one certainty
        self.ascends_elbo = judge is None and labels != "best" and likelihood is bradley_terry

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        joint = self.score(model, prompts, response)
        first, second = pairs_of(response)
        if self.judge is None:
            gap = joint.log_likelihood[first] - joint.log_likelihood[second]
            prob, reference = (self.beta * gap).sigmoid(), joint.log_prior
        else:
            prob, reference = judged(self.judge, prompts, response), joint.log_joint
        reward = log_guide.double() - reference
        pairs = torch.stack([reward[first], reward[second]]).flatten(1)  # [2, M N]
        loss = -self._log_likelihood(pairs, prob.flatten().to(reward)).sum() / len(first)
        log_weight = joint.log_joint - log_guide.detach()
        draws = (response, log_guide, log_weight, joint.log_likelihood)
        return Losses(loss.detach(), loss, *draws)

    def _log_likelihood(self, pairs: Tensor, prob: Tensor) -> Tensor:
        """Log-likelihoods of labels, `[C]`, whose first response wins with a probability `[C]`."""

        def of(outcome: Tensor) -> Tensor:
            value = self.likelihood(pairs, outcome, self.beta)
            return as_given("the likelihood of outcomes", value, pairs[0], is_finite=True)

        if self.labels == "expected":
            first, second = (of(torch.full_like(prob, side).long()) for side in (FIRST, SECOND))
            if len(prob) > 1 and first.stride(0) == 0:
                why = "a likelihood of a batch has one number for all pairs, and not one for each"
                raise ValueError(f"labels='expected', expected 'drawn' or 'best': {why}")
            return prob * first + (1 - prob) * second
        if self.labels == "best":
            prob = torch.heaviside(prob - 0.5, prob.new_tensor(0.5))
        is_first = torch.rand_like(prob) < prob
        return of(torch.where(is_first, FIRST, SECOND))
