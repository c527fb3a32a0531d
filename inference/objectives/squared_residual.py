"""Squared residuals: log w is log Z for all responses only at the posterior.

    L(q) = 1/2 E_a[(log w - c)^2],   w = p0(x) exp(l(x)) / q(x),   x ~ a, not differentiated

One loss with a choice of c, the constant in place of log Z:

| `log_z` | c | methods |
|---|---|---|
| `batch` | the mean of log w over the batch: L is half its variance | VarGrad, TBA |
| `pairs` | log w of the next response: L is half the variance of two | REBEL |
| `learned` | a number per prompt, trained on L too | trajectory balance |
| `prior` | log of the mean of exp(l) over prior draws | A*-PO |
| `quantile` | log of b (exp(1/b) - 1), for the reward P(l(y) <= l(x))/b, y ~ p0 | QRPO |

On-policy, a = q, the mean gradient is that of KL(q || p*) for every c that does not depend on the
response, as E_q[grad log q] = 0: c changes the noise alone. Off-policy, the residuals can vanish
only if c = log Z. `batch`, `pairs` and a converged `learned` have the posterior as their target for
any a with all responses. A wrong constant has the target `squared_residual` of
`inference.targets.fixed_points`, which depends on a (`experiments.log_z`).

VarGrad: Richter et al. 2020, arXiv 2010.10436; TBA: Bartoldson et al. 2025, arXiv 2503.18929;
REBEL: Gao et al. 2024, arXiv 2404.16767, here with p0 as the reference; trajectory balance: Malkin
et al. 2022, arXiv 2201.13259, for language models Hu et al. 2023, arXiv 2310.04363; A*-PO: 2025,
arXiv 2505.20686; QRPO: 2025, arXiv 2507.08068.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.objectives.parts.engine import Engine
from inference.objectives.parts.off_policy import Exploration, ReplayBuffer
from inference.objectives.parts.prior_rewards import PriorRewards
from inference.objectives.parts.repeated_batch import RepeatedBatchObjective
from inference.objectives.parts.response_objective import Losses
from inference.objectives.parts.states import part_of, with_prefix
from inference.programs import Program
from model import Prompts
from model.common.checks import finite, one_of, positive, whole_number


class SquaredResidual(RepeatedBatchObjective):
    """Half the mean square of log w - c over fresh and replayed responses, for each prompt.

    Refuses hard constraints, where log w is infinite. With c from the batch the gradient is 0 on
    every sample at the posterior, so that more steps on each batch cost the guide's passes and no
    noise.

    Args:
        num_particles: K, number of fresh responses to each prompt in a batch.
        log_z: choice of c, a name in `LOG_Z`.
        replay: R, number of responses to each prompt in a step from the buffer, which holds the
            fresh responses too; 0 for no buffer. Every step draws other ones from the buffer.
        capacity: Largest number of different responses to a prompt in the buffer.
        exploration_kl: KL(a || q) of fresh responses drawn from a, bolder than the guide, nats a
            response; 0 for draws of the guide. See `off_policy.py`.
        epochs: Number of steps on each batch of fresh responses. With several epochs, or bolder
            draws, the metrics of the guide are self-normalised estimates.
        clip: Largest change of log q, nats, to which later steps on a batch fit a fresh response,
            as PPO's clip: beyond it the response gives no gradient in the direction of the change.
            None for no clip, with which a large guide learns its few draws by heart.
        rate: Step of a `learned` c towards the mean of log w, a share of the distance. The first
            mean is the start.
        num_prior_draws: Draws behind c of `prior`, and behind the ranks of `quantile`, for each
            prompt, in the first step with the prompt.
        quantile_beta: b, quantile per nat, of `quantile`.
        engine: Other program that draws the fresh responses, see `engine.py`; None for the guide.
            Responses that the guide cannot draw are refused.
    """

    def __init__(
        self,
        num_particles: int = 64,
        *,
        log_z: str = "batch",
        replay: int = 0,
        capacity: int = 4096,
        exploration_kl: float = 0.0,
        epochs: int = 1,
        clip: float | None = None,
        rate: float = 0.1,
        num_prior_draws: int = 1024,
        quantile_beta: float = 0.2,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(num_particles, epochs, engine)
        self.log_z = LOG_Z[one_of("log_z", log_z, LOG_Z)]
        self.replay = whole_number("replay", replay, at_least=0)
        total, why = self.num_particles + self.replay, "one has no variance"
        at_least = self.log_z.min_responses
        whole_number("num_particles + replay", total, at_least=at_least, why=why)
        self.exploration = Exploration(exploration_kl)
        if engine is not None and self.exploration.kl:
            raise ValueError(
                f"exploration_kl is {self.exploration.kl} beside an engine, which has a "
                "temperature of its own: leave one of them out"
            )
        self.clip = None if clip is None else positive("clip", clip, why="nats, or None")
        # self-normalised estimates from bolder draws are too rough to choose an iterate by
        self.ascends_elbo = not self.exploration.kl and engine is None
        self.buffer = ReplayBuffer(capacity)
        self.rate = finite("rate", rate, above=0, at_most=1)
        self.learned: dict[str, Tensor] = {}  # c of each prompt, nats
        self.prior_rewards = PriorRewards(num_prior_draws, "log Z of squared residuals")
        self.quantile_beta = positive("quantile_beta", quantile_beta)

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        if self.log_z.reads_prior and not self.reuses_draws:
            self.prior_rewards.meet(model, prompts)
        temperature = self.exploration.temperature
        batch, distribution = self.next_batch(model, guide, prompts, temperature=temperature)
        prompts, response = batch.prompts, batch.response
        log_joint = batch.log_prior + self.log_z.log_reward(self, prompts, batch.log_likelihood)
        log_target = log_joint  # of the fresh responses
        if self.replay:
            if batch.num_steps == 1:
                self.buffer.add(prompts, response, log_joint)
            old, old_log_joint = self.buffer.draw(prompts, self.replay)
            response, log_joint = torch.cat([response, old]), torch.cat([log_joint, old_log_joint])
        log_guide = distribution.log_prob(response)
        if self.engine is not None and bool(log_guide.isneginf().any()):
            raise ValueError(
                "the engine drew a response that the guide cannot draw, whose residual is "
                "infinite: restrict the engine's tokens as the guide's, or use `Proximal_ELBO`"
            )
        if self.clip is not None:
            clip_gradient(log_guide, batch.change(log_guide[: self.num_particles]), self.clip)
        residual = self.log_z.residual(self, prompts, log_joint - log_guide)  # [K + R, N]
        loss = 0.5 * residual.square().mean(0).sum()
        log_guide = log_guide[: self.num_particles].detach()
        log_ratio = batch.log_ratio(log_guide)
        if batch.num_steps == 1:
            self.exploration.measure(-log_ratio)
        share = log_ratio.softmax(0)  # weights of a mean under the guide, [K, N]
        elbo = (share * (batch.log_joint - log_guide)).sum(0).mean()
        draws = (batch.response, log_guide, log_target - log_guide, batch.log_likelihood)
        return Losses(loss.detach(), loss, *draws, share, elbo)

    def get_state(self) -> dict[str, Tensor]:
        state = super().get_state() | self.buffer.get_state()
        state |= with_prefix("learned/", self.learned)
        state |= with_prefix("prior/", self.prior_rewards.get_state())
        return state | with_prefix("exploration/", self.exploration.get_state())

    def set_state(self, state: dict[str, Tensor]) -> None:
        super().set_state(state)
        self.buffer.set_state(state)
        self.learned = part_of(state, "learned/")
        self.prior_rewards.set_state(part_of(state, "prior/"))
        self.exploration.set_state(part_of(state, "exploration/"))


def clip_gradient(log_guide: Tensor, change: Tensor, clip: float) -> None:
    """Drop the gradient of responses whose log q has changed by more than `clip` along its descent.

    Args:
        log_guide: `[K + R, N]`, nats, with gradient, the fresh responses first.
        change: Change of log q of the K fresh responses so far, `[K, N]`, nats.
        clip: Largest change, nats.
    """
    change = change.detach()

    def clipped(gradient: Tensor) -> Tensor:
        fresh, old = gradient.tensor_split([len(change)])
        return torch.cat([fresh.masked_fill(-fresh.sign() * change > clip, 0.0), old])

    if log_guide.requires_grad:
        log_guide.register_hook(clipped)


@dataclass(frozen=True)
class LogZ:
    """A choice of c.

    Attributes:
        residual: Function of the objective, the prompts and log w `[n, N]`, nats, with gradient.
            Returns residuals whose half mean square is the loss, `[n, N]`.
        min_responses: Fewest responses that give a gradient.
        reads_prior: True if the choice needs draws of the prior.
        log_reward: Function of the objective, the prompts and the log likelihood `[K, N]`. Returns
            the log of the target over the prior, up to c.
    """

    residual: Callable[[SquaredResidual, Prompts, Tensor], Tensor]
    min_responses: int = 1
    reads_prior: bool = False
    log_reward: Callable[[SquaredResidual, Prompts, Tensor], Tensor] = lambda *args: args[-1]


def _from_mean(_: SquaredResidual, __: Prompts, log_weight: Tensor) -> Tensor:
    num = len(log_weight)
    return (log_weight - log_weight.mean(0)) * math.sqrt(num / (num - 1))


def _from_next(_: SquaredResidual, __: Prompts, log_weight: Tensor) -> Tensor:
    """Differences within pairs of neighbours, in a ring."""
    return (log_weight - log_weight.roll(1, 0)) / math.sqrt(2)


def _from_learned(objective: SquaredResidual, prompts: Prompts, log_weight: Tensor) -> Tensor:
    means, learned = log_weight.detach().mean(0), objective.learned
    names = prompts.names()
    constants = [learned.get(name, mean) for name, mean in zip(names, means, strict=True)]
    for name, constant, mean in zip(names, constants, means, strict=True):
        learned[name] = constant + objective.rate * (mean - constant)
    return log_weight - torch.stack(constants)


def _from_prior(objective: SquaredResidual, prompts: Prompts, log_weight: Tensor) -> Tensor:
    return log_weight - objective.prior_rewards.log_z(prompts)


def _from_formula(objective: SquaredResidual, _: Prompts, log_weight: Tensor) -> Tensor:
    return log_weight - log_z_of_quantile(objective.quantile_beta)


def _quantile(objective: SquaredResidual, prompts: Prompts, log_likelihood: Tensor) -> Tensor:
    cdf, _ = objective.prior_rewards.cdf(prompts, log_likelihood)
    return cdf / objective.quantile_beta


def log_z_of_quantile(beta: float) -> float:
    """log of beta (exp(1/beta) - 1), log Z of a quantile without ties, nats."""
    return 1 / beta + math.log(beta) + math.log(-math.expm1(-1 / beta))


LOG_Z = {
    "batch": LogZ(_from_mean, min_responses=2),
    "pairs": LogZ(_from_next, min_responses=2),
    "learned": LogZ(_from_learned),
    "prior": LogZ(_from_prior, reads_prior=True),
    "quantile": LogZ(_from_formula, reads_prior=True, log_reward=_quantile),
}
"""Choices of log Z by name."""
