"""Log-variance: the posterior is where log w is the same for every response, so descend its variance (trajectory balance).

    L(q) = 1/2 Var_a[log w],   w = p0(x) exp(r(x)/beta) / q(x),   x ~ a, any distribution, not differentiated

L is 0 exactly where q is proportional to p* on the support of a, so that the responses need not be the guide's own: it learns
from what was drawn before, and from a guide made bolder. Drawn from the guide itself it is VarGrad (Richter et al. 2020, arXiv
2010.10436), whose gradient is `LeaveOneOut_ELBO`'s on every sample. With log Z in place of the batch's mean it is the
trajectory balance of GFlowNets (Malkin et al. 2022, arXiv 2201.13259), fine-tuning language models in Hu et al. 2023, arXiv
2310.04363.
"""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from inference.objectives.replay_buffer import ReplayBuffer
from inference.objectives.response_objective import Losses, ResponseObjective, tempered
from inference.programs import Program
from model import Prompts
from model.common.checks import positive, whole_number


class LogVariance(ResponseObjective):
    """Half the variance of the log-weights, over fresh and replayed responses together, for each prompt on its own.

    It is the variance over the batch at hand; which responses are in it decides what is learned first, not what is learned.
    Refuses evidence of -inf: log w is infinite there.

    Args:
        num_particles: K, fresh responses a step for each prompt.
        replay: R, responses a step for each prompt from all that were drawn so far, the fresh ones included; 0 keeps none.
        capacity: of the buffer, different responses for each prompt.
        exploration: draw the fresh ones with the guide's logits divided by this temperature as well. The guide's ELBO is then
            estimated from them with self-normalised weights.
    """

    def __init__(
        self,
        num_particles: int = 64,
        *,
        replay: int = 0,
        capacity: int = 4096,
        exploration: float = 1.0,
    ) -> None:
        super().__init__(num_particles)
        replay = whole_number("replay", replay, at_least=0)
        whole_number(
            "num_particles + replay",
            self.num_particles + replay,
            at_least=2,
            why="one has no variance",
        )
        self.replay = replay
        self.exploration = positive("exploration", exploration, why="a temperature")
        self.buffer = ReplayBuffer(capacity)

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts, temperature=self.exploration)
        joint = self.score(model, prompts, response)
        both, log_joint = response, joint.log_joint
        if self.replay:
            self.buffer.add(prompts, response, log_joint)
            old, old_log_joint = self.buffer.draw(prompts, self.replay)
            both, log_joint = torch.cat([response, old]), torch.cat([log_joint, old_log_joint])
        log_weight = log_joint - distribution.log_prob(both)  # [K + R, N]
        loss = 0.5 * log_weight.var(0).sum()
        fresh = log_weight[: self.num_particles].detach()
        share = self._share_of_guide(distribution, response, joint.log_joint - fresh)
        elbo, log_likelihood = (
            (share * values).sum(0).mean() for values in (fresh, joint.log_likelihood)
        )
        return Losses(loss.detach(), loss, elbo, log_likelihood)

    def _share_of_guide(
        self, distribution: TorchDistribution, response: Tensor, log_guide: Tensor
    ) -> Tensor:
        """What each fresh response counts for in a mean under the guide, `[K, N]`, sum 1 over K."""
        if self.exploration == 1.0:
            return torch.full_like(log_guide, 1 / len(log_guide))
        with torch.no_grad():
            log_drawn = tempered(distribution, self.exploration).log_prob(response)
        return (log_guide - log_drawn).softmax(0)

    def get_state(self) -> dict[str, Tensor]:
        return self.buffer.get_state()

    def set_state(self, state: dict[str, Tensor]) -> None:
        self.buffer.set_state(state)
