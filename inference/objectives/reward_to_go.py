"""Reward-to-go: each token is credited with what comes after it, and not with what it cannot have caused.

    grad ELBO_hat = 1/K sum_k sum_t (G_kt - b_t) grad log q(x_kt | x_k<t)
    G_t           = r(x)/beta + sum_{s >= t} log p0(x_s | x_<s) - log q(x_s | x_<s)

The terms before t have mean zero given x_<t, so that leaving them out is Rao-Blackwellisation (Schulman et al. 2015, arXiv
1506.05254). It is what `TraceGraph_ELBO` does with a program of one site per token, here for all tokens at once.

Which to choose. What is left out is noise where the guide is far from the posterior, and more of it the longer the responses.
Close to the posterior it is what makes the whole sum constant: log w = log Z for every response there, and the leave-one-out
gradient vanishes on each sample, while this one does not. Early or long: this one. Late: `LeaveOneOut_ELBO`.
`experiments.gradient_noise` measures both.
"""

from __future__ import annotations

from typing import Literal, get_args

import pyro
import torch
from torch import Tensor, nn

from inference.objectives.leave_one_out import BASELINE, leave_one_out
from inference.objectives.response_objective import Losses, ResponseObjective
from inference.programs import Program, autoregressive
from model import Prompts
from model.common.checks import one_of, whole_number

Baseline = Literal["leave-one-out", "value", "none"]


class RewardToGo_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO with its gradient token by token. Unbiased, value and gradient. Refuses evidence of -inf.

    Args:
        num_particles: K, at least 2 for the baseline `leave-one-out`.
        baseline: `leave-one-out`, the other particles' mean of G_t; `value`, a function of the guide's state before the token,
            learned alongside by least squares; `none`.
    """

    def __init__(self, num_particles: int = 64, baseline: Baseline = "leave-one-out") -> None:
        one_of("baseline", baseline, get_args(Baseline))
        super().__init__(num_particles)
        if baseline == "leave-one-out":
            why = f"{BASELINE}; the baselines `value` and `none` take 1"
            whole_number("num_particles", self.num_particles, at_least=2, why=why)
        self.baseline = baseline
        self.value: ValueFunction | None = None

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        q = autoregressive(distribution)
        prior, log_likelihood = self.read_model(model, prompts, response)
        with torch.no_grad():
            log_prior = autoregressive(prior).log_prob_per_token(response).double()  # [K, N, T]
        if self.baseline == "value":
            log_guide, hidden = q.log_prob_and_hidden(response)
        else:
            log_guide, hidden = q.log_prob_per_token(response), None
        log_ratio = log_prior - log_guide.detach()
        to_go = log_likelihood[..., None] + log_ratio.flip(-1).cumsum(-1).flip(-1)
        advantage, regression = self._advantage(to_go, hidden, q.space.is_token(response))
        surrogate = -(advantage * log_guide).sum(-1).mean(0).sum() + regression
        log_weight = log_likelihood + log_ratio.sum(-1)  # [K, N]
        return Losses(
            -log_weight.mean(0).sum(), surrogate, log_weight.mean(), log_likelihood.mean()
        )

    def _advantage(
        self, to_go: Tensor, hidden: Tensor | None, is_token: Tensor
    ) -> tuple[Tensor, Tensor]:
        """G - b `[K, N, T]`, and the loss that teaches b."""
        none = to_go.new_zeros(())
        if hidden is None:
            return (to_go if self.baseline == "none" else leave_one_out(to_go)), none
        if self.value is None:
            self.value = ValueFunction(hidden.shape[-1]).to(
                hidden.device, torch.promote_types(hidden.dtype, torch.float32)
            )
        pyro.module("value", self.value)
        error = (to_go - self.value(hidden.detach())).masked_fill(~is_token, 0.0)
        return error.detach(), 0.5 * error.square().sum(-1).mean(0).sum()

    def get_state(self) -> dict[str, Tensor]:
        return {} if self.value is None else self.value.state_dict()

    def set_state(self, state: dict[str, Tensor]) -> None:
        if state:
            weight = state["head.weight"]
            if self.value is None:
                self.value = ValueFunction(weight.shape[-1]).to(weight.device, weight.dtype)
            self.value.load_state_dict(state)
            pyro.module("value", self.value)  # into Pyro's store, where its optimiser finds it


class ValueFunction(nn.Module):
    """V(x_<t), a linear function of the guide's last hidden state, `[..., H]` -> `[...]`; 0 everywhere at the start.

    In float32 or wider: in half precision it would learn next to nothing, and not hold a reward of many nats.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.head = nn.Linear(size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)
