"""Log-variance: log w is equal for all responses only at the posterior, so descend its variance.

    L(q) = 1/2 Var_a[log w],   x ~ a, not differentiated

L is 0 exactly where q is proportional to p* on the support of a, for any distribution a: earlier
draws and draws from a bolder guide serve as well as the guide's own. With a = q, L is VarGrad
(Richter et al. 2020, arXiv 2010.10436), whose gradient is that of `LeaveOneOut_ELBO` on every
sample. With log Z in place of the batch's mean, L is the trajectory balance of GFlowNets (Malkin et
al. 2022, arXiv 2201.13259; for language models Hu et al. 2023, arXiv 2310.04363).
"""

import torch
from torch import Tensor

from inference.objectives.repeated_batch import RepeatedBatchObjective
from inference.objectives.replay_buffer import ReplayBuffer
from inference.objectives.response_objective import Losses
from inference.programs import Program
from model import Prompts
from model.common.checks import positive, whole_number


class LogVariance(RepeatedBatchObjective):
    """Half the variance of the log-weights over fresh and replayed responses, for each prompt.

    Refuses hard constraints, where log w is infinite. At the posterior the gradient is 0 on every
    sample, so that more steps on each batch cost the guide's passes and no noise.

    Args:
        num_particles: K, number of fresh responses to each prompt in a batch.
        replay: R, number of responses to each prompt in a step from the buffer, which holds the
            fresh responses too; 0 for no buffer. Every step draws other ones from the buffer.
        capacity: Largest number of different responses to a prompt in the buffer.
        exploration: Temperature that divides the guide's logits in drawing, besides the guide's
            own.
        epochs: Number of steps on each batch of fresh responses. With several epochs, or an
            exploration other than 1, the metrics of the guide are self-normalised estimates.
    """

    def __init__(
        self,
        num_particles: int = 64,
        *,
        replay: int = 0,
        capacity: int = 4096,
        exploration: float = 1.0,
        epochs: int = 1,
    ) -> None:
        super().__init__(num_particles, epochs)
        self.replay = whole_number("replay", replay, at_least=0)
        total, why = self.num_particles + self.replay, "one has no variance"
        whole_number("num_particles + replay", total, at_least=2, why=why)
        self.exploration = positive("exploration", exploration, why="a temperature")
        # self-normalised estimates from bolder draws are too rough to choose an iterate by
        self.ascends_elbo = self.exploration == 1.0  # type: ignore[misc]
        self.buffer = ReplayBuffer(capacity)

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        batch, distribution = self.next_batch(model, guide, prompts, temperature=self.exploration)
        response, log_joint = batch.response, batch.log_joint
        if self.replay:
            if batch.num_steps == 1:
                self.buffer.add(batch.prompts, response, log_joint)
            old, old_log_joint = self.buffer.draw(batch.prompts, self.replay)
            response, log_joint = torch.cat([response, old]), torch.cat([log_joint, old_log_joint])
        log_guide = distribution.log_prob(response)
        log_weight = log_joint - log_guide  # [K + R, N]
        loss = 0.5 * log_weight.var(0).sum()
        fresh = log_weight[: self.num_particles].detach()
        log_guide = log_guide[: self.num_particles].detach()
        share = batch.log_ratio(log_guide).softmax(0)  # weights of a mean under the guide, [K, N]
        elbo = (share * fresh).sum(0).mean()
        numbers = (loss, elbo, (share * batch.log_likelihood).sum(0).mean())
        return Losses(loss.detach(), *numbers, batch.response, log_guide, fresh, share)

    def get_state(self) -> dict[str, Tensor]:
        return super().get_state() | self.buffer.get_state()

    def set_state(self, state: dict[str, Tensor]) -> None:
        super().set_state(state)
        self.buffer.set_state(state)
