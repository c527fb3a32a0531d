"""Self-play: a posterior whose reward is the rate of wins against the guide itself.

    gradient   E[(P(x beats y) - 1/2)/c grad log q(x)] - grad KL(q || p0),   x, y ~ q
    target       q(x) prop. to p0(x) exp(P(x beats q)/c),   `nash` in `TARGETS`, with c for beta

Nash learning from human feedback (Munos et al. 2023, arXiv 2312.00886), in which a judge compares
two responses. The judge needs no reward behind it: its preferences may go in circles. Online IPO
has this gradient too, up to a factor (Calandriello et al. 2024, arXiv 2403.08635). A rate of wins
is between 0 and 1, so that no response gains more than 1/c nats.

Preferences in a circle turn the guide around the equilibrium, and long steps keep it there: `fit`
with `step_kl=0.002` then, or less. With steps of 0.05 nats a guide ended 1.3 nats from the
equilibrium, with 0.0005 at 0.005.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from inference.objectives.leave_one_out import leave_one_out
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.programs import Program
from model import Prompts
from model.common.checks import first_index, function, positive
from model.likelihood import LikelihoodError
from model.values import values_of

Judge = Callable[[Prompts, Tensor, Tensor], Tensor]
"""A function judge(prompts, first, second) -> P(first beats second), `[M, N]`, of responses
`[M, N, T]`. P(second beats first) is the rest to 1."""


class SelfPlay(ResponseObjective):
    """Each response against the others of its prompt. Unbiased. Refuses hard constraints.

        def shorter(prompts, first, second):
            num_tokens = [prior.space.is_token(response).sum(-1) for response in (first, second)]
            return (0.5 * (num_tokens[1] - num_tokens[0])).sigmoid()

        objective = SelfPlay(32, judge=shorter)
        fit(AlignmentModel(prior, {}, beta=1.0), guide, prompts, num_steps=100, objective=objective)

    The particles of a prompt are opponents of each other: K(K - 1)/2 pairs for the judge in a step.
    `TextJudge` makes a judge of a function of texts.

    Args:
        num_particles: K, at least 2.
        judge: the probability that a response beats another. The model's likelihood then counts
            beside the judge, as in the ELBO. None for Bradley and Terry's judge, sigmoid(l(x) -
            l(y)) for log likelihoods l, which replaces the likelihood. Its scores are rewards if
            the model's beta is 1.
        kl_weight: c, rate of wins per nat.
    """

    min_particles, why_particles = 2, "a response plays against the others"

    def __init__(
        self, num_particles: int = 64, *, judge: Judge | None = None, kl_weight: float = 0.1
    ) -> None:
        super().__init__(num_particles)
        self.judge = None if judge is None else checked_judge(judge)
        self.kl_weight = positive("kl_weight", kl_weight)

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        joint = self.score(model, prompts, response)
        log_ratio = joint.log_prior - log_guide.detach()  # [K, N]
        if self.judge is None:
            wins = _bradley_terry(joint.log_likelihood)
        else:
            wins = _judged(self.judge, prompts, response).to(joint.log_likelihood)
            log_ratio = log_ratio + joint.log_likelihood
        # 1/2 is the mean of the rate; the rates of the others depend on this response
        advantage = leave_one_out(log_ratio) + (wins - 0.5) / self.kl_weight
        surrogate = -(advantage * log_guide).mean(0).sum()
        log_weight = log_ratio + wins / self.kl_weight
        elbo = (joint.log_joint - log_guide.detach()).mean()  # of the model's own posterior
        draws = (response, log_guide, log_weight, joint.log_likelihood)
        return Losses(-log_weight.mean(0).sum(), surrogate, *draws, elbo=elbo)


def _bradley_terry(score: Tensor) -> Tensor:
    """Mean rate of wins of each response against the others, `[K, N]`, from scores."""
    wins = (score[:, None] - score).sigmoid().sum(1)  # with 1/2 against itself
    return (wins - 0.5) / (len(score) - 1)


def _judged(judge: Judge, prompts: Prompts, response: Tensor) -> Tensor:
    """The same by a judge of responses `[K, N, T]`."""
    value = judged(judge, prompts, response)
    wins = value.new_zeros(len(response), len(prompts))
    for side, of_side in zip(pairs_of(response), (value, 1 - value), strict=True):
        wins.index_add_(0, side, of_side)
    return wins / (len(response) - 1)


def checked_judge(judge: Judge) -> Judge:
    """The judge, refused if it is no function of three arguments."""
    why = "prompts, first and second responses. `TextJudge` makes one of a function of texts"
    return function("judge", judge, takes=3, why=why)


def pairs_of(response: Tensor) -> Tensor:
    """Numbers of the two responses of all M pairs, `[2, M]`, of responses `[K, N, T]`."""
    return torch.triu_indices(len(response), len(response), 1, device=response.device)


def judged(judge: Judge, prompts: Prompts, response: Tensor) -> Tensor:
    """P(first beats second) of `pairs_of` the responses, `[M, N]`; the ranks of a run divide them.

    Raises:
        LikelihoodError: if the judge returns no probabilities.
    """
    length, (first, second) = response.shape[-1], pairs_of(response)

    def probability(prompts: Prompts, response: Tensor) -> Tensor:  # a pair in one row
        value = judge(prompts, *response.split(length, -1))
        return _checked(value, response.shape[:-1]).to(response.device)

    with torch.no_grad():
        pairs = torch.cat([response[first], response[second]], -1)
        return values_of("the judge", probability, prompts, pairs).value


def _checked(value: object, shape: torch.Size) -> Tensor:
    """Probabilities of a judge, refused by a `LikelihoodError` if they are none."""
    expected = "the first response beats the second"
    if not isinstance(value, Tensor) or value.shape != shape or value.is_complex():
        kind = type(value).__name__
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {kind}"
        raise LikelihoodError(
            f"the judge returned {got}, expected a real tensor of shape {tuple(shape)}: for each "
            f"pair and prompt the probability that {expected}. Wrap a judge of texts in `TextJudge`"
        )
    if (where := first_index(~((value >= 0) & (value <= 1)))) is not None:
        raise LikelihoodError(
            f"the judge returned {value[where].item():.3g} at index {where}, expected a "
            f"probability, from 0 to 1, that {expected}"
        )
    return value
