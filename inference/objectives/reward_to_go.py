"""Reward-to-go: credit each token with the terms after it, which alone the token can have caused.

    grad ELBO_hat = 1/K sum_k sum_t (G_kt - b_t) grad log q(x_kt | x_k<t)
    G_t           = log likelihood(x) + sum_{s >= t} log p0(x_s | x_<s) - log q(x_s | x_<s)

Given x_<t the terms before t have mean zero, so that leaving the terms out is Rao-Blackwellisation
(Schulman et al. 2015, arXiv 1506.05254). Use reward-to-go early in training or for long responses,
where the omitted terms are noise; use `LeaveOneOut_ELBO` close to the posterior, where they make
log w = log Z for every response. `experiments.gradient_noise` measures both.

With `energy`, the baseline of place t is the mean of G_t over the other responses that have not
ended, each weighed by the squared norms of its scores up to t, by the logits of its tokens (OTB, Li
et al. 2026, arXiv 2602.07078, where the response itself counts too):

    W_t = sum_{s <= t} 1 - 2 q(x_s | x_<s) + sum_v q(v | x_<s)^2

With `rollouts`, each token has the advantage of VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679):

    A_t = V(x_<=t) - V(x_<t),   V(x_<t) = mean of log w over R draws that go on from x_<t

With `gae_lambda`, l below 1, the advantage of a token trusts the value of the next prefixes (GAE;
Schulman et al. 2015, arXiv 1506.02438), while V is fitted to G, as if l were 1 (VC-PPO, Yuan et al.
2025, arXiv 2503.01491):

    A_t = sum_{s >= t} l^(s - t) (e_s - e_{s+1}),   e_t = G_t - V(x_<t),   e = 0 after the end

The mean gradient is that of the ELBO for every l if V is the mean of G given x_<t. It has a bias
for another V: less noise of late tokens, and their errors of V. With `gae_alpha`, l grows with the
number n of tokens of the response, so that the powers of l sum to alpha n (VAPO, Yue et al. 2025,
arXiv 2504.05118):

    l = max(0, 1 - 1/(alpha n))

Then the gradient has a bias with the mean of G as V too: n depends on tokens that are drawn later.
At the posterior all e are 0 with this V, so that the posterior is a fixed point of both.
"""

from typing import Literal, get_args

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from inference.objectives.leave_one_out import BASELINE, leave_one_out
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.programs import Program, autoregressive
from model import Prompts, ResponseDistribution
from model.common.checks import finite, one_of, positive, whole_number

ROUNDING = 1e-9  # share of all weights below which the others have none
Baseline = Literal["leave-one-out", "energy", "value", "rollouts", "none"]


class RewardToGo_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO with token-wise credit. Unbiased, value and gradient. Refuses hard constraints.

    Args:
        num_particles: K, at least 2 for the baselines `leave-one-out` and `energy`.
        baseline: `leave-one-out`, the mean of G_t of the other particles; `energy`, the mean with
            weights W_t, or the former where no other has a weight; `value`, a function of
            the guide's state before the token, learned by least squares; `rollouts`, means of
            draws from each prefix, which also replace G_t; or `none`.
        gae_lambda: l, with the baseline `value`; 1 for no bias.
        gae_alpha: alpha of an l by the length of the response, in place of `gae_lambda`.
        num_rollouts: R, number of draws from each prefix of each particle: up to T R K for each
            prompt in a step, each scored by model and guide.
    """

    ascends_elbo = True

    def __init__(
        self,
        num_particles: int = 64,
        baseline: Baseline = "leave-one-out",
        *,
        gae_lambda: float = 1.0,
        gae_alpha: float | None = None,
        num_rollouts: int = 4,
    ) -> None:
        one_of("baseline", baseline, get_args(Baseline))
        super().__init__(num_particles)
        if baseline in ("leave-one-out", "energy"):
            why = f"{BASELINE}; the baselines `value`, `rollouts` and `none` take 1"
            whole_number("num_particles", self.num_particles, at_least=2, why=why)
        self.baseline = baseline
        self.gae_lambda = finite("gae_lambda", gae_lambda, at_least=0, at_most=1)
        self.gae_alpha = None if gae_alpha is None else positive("gae_alpha", gae_alpha)
        if baseline != "value" and (self.gae_lambda < 1 or gae_alpha is not None):
            why = "the value of a prefix stands in for what comes after it"
            option = "gae_lambda" if gae_alpha is None else "gae_alpha"
            number = gae_lambda if gae_alpha is None else gae_alpha
            raise ValueError(f"{option} is {number}, expected baseline='value': {why}")
        if self.gae_lambda < 1 and gae_alpha is not None:
            why = "one is for all responses, the other for each by its length: leave one out"
            raise ValueError(f"gae_lambda is {gae_lambda} and gae_alpha is {gae_alpha}: {why}")
        self.num_rollouts = whole_number("num_rollouts", num_rollouts)
        self.value: ValueFunction | None = None

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        q, values = autoregressive(distribution), None
        if self.baseline == "rollouts":
            values = self._values(model, q, prompts, response)
        # after the rollouts: the metrics of a step are those of the model's last run
        prior, log_likelihood = self.read_model(model, prompts, response)
        with torch.no_grad():
            log_prior = autoregressive(prior).log_prob_per_token(response).double()  # [K, N, T]
        hidden = energy = None
        if self.baseline == "value":
            log_guide, hidden = q.log_prob_and_hidden(response)
        elif self.baseline == "energy":
            log_guide, energy = q.in_chunks(_energy, response)
        else:
            log_guide = q.log_prob_per_token(response)
        log_ratio = log_prior - log_guide.detach()
        log_weight = log_likelihood + log_ratio.sum(-1)  # [K, N]
        if values is not None:
            after = log_weight[..., None].expand_as(response)
            values = torch.cat([values, after], -1)[..., : response.shape[-1] + 1]
            advantage, regression = values.diff(dim=-1), log_weight.new_zeros(())
        else:
            to_go = log_likelihood[..., None] + log_ratio.flip(-1).cumsum(-1).flip(-1)
            if energy is None:
                advantage, regression = self._advantage(to_go, hidden, q.space.is_token(response))
            else:
                advantage, regression = less_weighed_mean(to_go, energy), to_go.new_zeros(())
        surrogate = -(advantage * log_guide).sum(-1).mean(0).sum() + regression
        draws = (response, log_guide.sum(-1), log_weight, log_likelihood)
        return Losses(-log_weight.mean(0).sum(), surrogate, *draws)

    @torch.no_grad()
    def _values(
        self, model: Program, q: ResponseDistribution, prompts: Prompts, response: Tensor
    ) -> Tensor:
        """Mean of log w over draws that go on from x_<t, `[K, N, L]`, L the longest response.

        After the end of x it is log w of x itself.
        """
        start = response.expand(self.num_rollouts, *response.shape)
        values = []
        for t in range(int(q.space.is_token(response).sum(-1).max())):
            rollout = q.sample_suffix(start, torch.full_like(start[..., 0], t)).flatten(0, 1)
            prior, log_likelihood = self.read_model(model, prompts, rollout)
            log_weight = prior.log_prob(rollout).double() + log_likelihood - q.log_prob(rollout)
            values.append(log_weight.unflatten(0, start.shape[:2]).mean(0))
        return torch.stack(values, -1)

    def _advantage(
        self, to_go: Tensor, hidden: Tensor | None, is_token: Tensor
    ) -> tuple[Tensor, Tensor]:
        """G - b `[K, N, T]`, and the loss that trains b."""
        if hidden is None:
            advantage = to_go if self.baseline == "none" else leave_one_out(to_go)
            return advantage, to_go.new_zeros(())
        if self.value is None:
            wide = torch.promote_types(hidden.dtype, torch.float32)
            self.value = ValueFunction(hidden.shape[-1]).to(hidden.device, wide)
        pyro.module("value", self.value)
        error = (to_go - self.value(hidden.detach())).masked_fill(~is_token, 0.0)
        rate: float | Tensor = self.gae_lambda
        if self.gae_alpha is not None:
            rate = (1 - 1 / (self.gae_alpha * is_token.sum(-1))).clamp(min=0)
        advantage = telescoped(error.detach(), rate)
        return advantage, 0.5 * error.square().sum(-1).mean(0).sum()

    def get_state(self) -> dict[str, Tensor]:
        return {} if self.value is None else self.value.state_dict()

    def set_state(self, state: dict[str, Tensor]) -> None:
        if state:
            weight = state["head.weight"]
            if self.value is None:
                self.value = ValueFunction(weight.shape[-1]).to(weight.device, weight.dtype)
            self.value.load_state_dict(state)
            pyro.module("value", self.value)  # into Pyro's store, which the optimiser reads


def _energy(q: ResponseDistribution, response: Tensor) -> tuple[Tensor, Tensor]:
    """log q of the tokens of B responses, `[B, T]`, and W_t, without gradient; 0 at padding."""
    log_q, is_token = q.next_token_logits(response).log_softmax(-1), q.space.is_token(response)
    log_guide = log_q.gather(-1, response[..., None]).squeeze(-1).masked_fill(~is_token, 0.0)
    prob = log_q.detach().double().exp()
    of_token = 1 - 2 * log_guide.detach().double().exp() + prob.square().sum(-1)
    return log_guide, of_token.clamp(min=0).cumsum(-1).masked_fill(~is_token, 0.0)


def less_weighed_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Each value minus the mean of the others along dimension 0 by their weights, `[K, ...]`.

    By equal weights where the others have none.
    """
    total = weight.sum(0)
    others = total - weight
    mean = ((weight * values).sum(0) - weight * values) / others
    return torch.where(others > ROUNDING * total, values - mean, leave_one_out(values))


def telescoped(error: Tensor, rate: float | Tensor) -> Tensor:
    """Sum of rate^(s - t) (error_s - error_{s+1}) over the tokens s from t on, `[..., T]`.

    The rate is one number, or one of each response, `[...]`.
    """
    if not isinstance(rate, Tensor) and rate == 1:
        return error
    total, totals = torch.zeros_like(error[..., 0]), []
    for change in pad(error, (0, 1)).diff(dim=-1).neg().flip(-1).unbind(-1):
        total = rate * total + change
        totals.append(total)
    return torch.stack(totals[::-1], -1)


class ValueFunction(nn.Module):
    """V(x_<t), linear in the guide's last hidden state, `[..., H]` -> `[...]`; 0 at the start.

    In float32 or wider: half precision loses small updates and cannot hold a reward of many nats.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.head = nn.Linear(size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)
