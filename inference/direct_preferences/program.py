"""Preferences without a reward model: the guide itself is the head of the reward.

    r_q(x) = beta f'(q(x)/p0(x)),   f'(u) = log u for KL(q || p0)
    outcome of (x, y) ~ a likelihood of r_q(x) - r_q(y)

A Pyro program over pairs without a latent variable: the negative ELBO of an empty guide is the
negative log-likelihood, which `SVI` descends in the parameters of q. With the likelihood of Bradley
and Terry the loss is DPO (Rafailov et al. 2023, arXiv 2305.18290); with another f, f-DPO
(`LINKS`). With r_q divided by the number of tokens, length-normalised DPO (Tulu 3, arXiv
2411.15124); without p0 as well, SimPO (Meng et al. 2024, arXiv 2405.14734):

    r_q(x) = beta log q(x) / |x|,   likelihood `margin(gamma)`

An `offset` of each pair is to be exceeded by the difference of the rewards (ODPO: Amini, Vieira and
Cotterell 2024, arXiv 2402.10571). With `token_kl`, token-level DPO (TDPO_1 of Zeng et al. 2024,
arXiv 2404.11999):

    r_q(x) = beta (log q(x)/p0(x) + sum_t KL(p0(. | x_<t) || q(. | x_<t)))

r_q is then the sum of the advantages of the tokens under p0 if q is prop. to p0 exp(Q/beta) at each
token, Q the mean reward of the responses that p0 goes on with: the target is that of controlled
decoding and not p* (derived here, enumerated in the tests).
"""

from collections.abc import Callable
from functools import partial

import pyro
import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides import Guide
from guides.prior_match import kl_per_token
from inference.direct_preferences.judgements import Judgements
from inference.direct_preferences.likelihoods import EXPONENT, LIKELIHOODS, Likelihood, OfDifference
from inference.direct_preferences.of_batch import OfBatch
from inference.direct_preferences.of_list import OfList
from inference.programs import autoregressive
from model import LanguageModel
from model.common.checks import as_given, boolean, finite, function, instance, one_of, positive
from model.preferences import TIE

Link = Callable[[Tensor], Tensor]
"""f'(u) as a function of log u."""


def alpha_divergence(alpha: float = 0.5) -> Link:
    """Link (1 - u^-alpha)/alpha: 0 is the limit of KL(q || p0), 1 is KL(p0 || q).

    Without a reference and with a reward per token, AlphaPO (Gupta et al. 2025, arXiv 2501.03884):
    `PreferenceProgram(guide, None, beta, likelihood=margin(gamma), per_token=True,
    link=alpha_divergence(0.25))`.
    """
    if (power := finite("alpha", alpha)) == 0:
        raise ValueError("alpha is 0, expected another number: the limit is the link 'reverse-kl'")
    return lambda log_ratio: -(-power * log_ratio).clamp(max=EXPONENT).expm1() / power


LINKS: dict[str, Link] = {
    "reverse-kl": lambda log_ratio: log_ratio,
    "forward-kl": lambda log_ratio: -(-log_ratio).clamp(max=EXPONENT).exp(),
    # log 2u/(1 + u), up to a constant
    "jensen-shannon": lambda log_ratio: -softplus(-log_ratio),
    "alpha": alpha_divergence(),
    "chi-squared": lambda log_ratio: log_ratio + log_ratio.clamp(max=EXPONENT).exp(),
}
"""Links f'(u) as functions of log u, by the name of the divergence.

    max_q  E_q[r] - beta D_f(q || p0),   D_f = E_p0[f(q/p0)]      =>      r = beta f'(q/p0) + c

Wang et al. 2024, arXiv 2309.16240. `chi-squared` is the mixture of chi-PO."""


class PreferenceProgram:
    """The program over pairs of responses, with the guide's log-ratio as the reward.

        program = PreferenceProgram(guide, prior, beta=0.1)
        svi = pyro.infer.SVI(program, lambda pairs: None, optimizer, pyro.infer.Trace_ELBO())
        svi.step(pairs)  # the DPO loss, summed over pairs

    Args:
        guide: q, a module of `guides`.
        prior: p0, the reference; None for a reward beta log q without a reference.
        beta: reward per nat.
        likelihood: name in `LIKELIHOODS`, or a function of the rewards over beta, `[R, C]`, of
            outcomes `[C]` and beta that returns log-likelihoods `[C]`. An `OfBatch` also takes the
            weights of the pairs; a function around one does not. An `OfList` takes lists.
        link: name in `LINKS`, or a function f'(u) of log u.
        per_token: True to divide log q/p0 by the number of tokens of the response, its end
            included. A rich guide then has the target `length-normalised` of
            `inference.targets.fixed_points` in place of p*; without a reference, the same target
            with all tokens equally likely in place of p0 (enumerated in the tests).
        token_kl: True to add the sum of KL(p0 || q) of the tokens to log q/p0, TDPO. Every step
            reads the prior, and holds the logits of all tokens.
    """

    def __init__(
        self,
        guide: Guide,
        prior: LanguageModel | None,
        beta: float,
        *,
        likelihood: str | Likelihood = "dpo",
        link: str | Link = "reverse-kl",
        per_token: bool = False,
        token_kl: bool = False,
    ) -> None:
        self.guide = instance("guide", guide, Guide)  # type: ignore[type-abstract]
        self.prior = None if prior is None else instance("prior", prior, LanguageModel)
        self.beta = positive("beta", beta)
        if isinstance(likelihood, str):
            likelihood = LIKELIHOODS[one_of("likelihood", likelihood, LIKELIHOODS)]
        self.likelihood: Callable = function("likelihood", likelihood)
        if isinstance(link, str):
            link = LINKS[one_of("link", link, LINKS)]
        self.link: Link = function("link", link, takes=1)
        self.per_token = boolean("per_token", per_token)
        self.token_kl = boolean("token_kl", token_kl)
        if token_kl and prior is None:
            raise ValueError("token_kl is the KL from the prior, got None for the prior")

    def __call__(self, pairs: Judgements) -> None:
        """Run the program: register the guide, and score the outcomes."""
        pyro.module("guide", self.guide)
        log_likelihood = self.log_likelihood(pairs)
        if pairs.weight is not None:
            log_likelihood = pairs.weight * log_likelihood
        with pyro.plate("pairs", len(pairs), dim=-1):
            pyro.factor("outcome", log_likelihood)

    def log_likelihood(self, pairs: Judgements) -> Tensor:
        """Log-likelihood of each outcome, `[C]`, nats, with gradient."""
        rewards = self.rewards(pairs)
        if pairs.offset is not None:
            if not isinstance(self.likelihood, OfDifference):
                expected = "a likelihood of the difference of two rewards, such as `dpo`"
                raise ValueError(f"the pairs have an offset, expected {expected}")
            side = torch.where(pairs.outcome == TIE, 0.0, 0.5 - pairs.outcome.to(rewards))
            rewards = rewards - torch.stack([side, -side]) * pairs.offset / self.beta
        if pairs.outcome.dim() == 2 and not isinstance(self.likelihood, OfList):
            fix = "use `plackett-luce`, or the pairs of each list, `Ranking.preferences()`"
            raise ValueError(f"the likelihood does not read lists of responses: {fix}")
        weight = (pairs.weight,) if isinstance(self.likelihood, OfBatch) else ()
        log_likelihood = self.likelihood(rewards, pairs.outcome, self.beta, *weight)
        return as_given(
            "the likelihood of outcomes", log_likelihood, rewards.sum(0), is_finite=True
        )

    def rewards(self, pairs: Judgements) -> Tensor:
        """r_q/beta = f'(q/p0) of all responses, `[R, C]`, with gradient."""
        q = self.guide.distribution(pairs.prompts)
        log_ratio = q.log_prob(pairs.response).double()
        if self.prior is not None:
            scored = pairs if pairs.log_prior is not None else pairs.scored(self.prior)
            log_ratio = log_ratio - scored.log_prior
        if self.token_kl and self.prior is not None:
            of_tokens = partial(kl_per_token, self.prior(pairs.prompts))
            (nats,) = autoregressive(q).in_chunks(of_tokens, pairs.response)
            log_ratio = log_ratio + nats.double().sum(-1)
        if self.per_token:
            log_ratio = log_ratio / autoregressive(q).space.is_token(pairs.response).sum(-1)
        reward = self.link(log_ratio)
        return as_given("the reward of `link`", reward, log_ratio, is_finite=True)
