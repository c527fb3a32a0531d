"""Few preferences of the judge: DPO beside a reward that is inferred first, on one budget."""

from collections.abc import Sequence
from typing import Any

from experiments.dpo.worlds import FAMILIES, RICH, World
from experiments.shared.tables import summary
from inference import Estimate, LeaveOneOut_ELBO, fit
from inference.direct_preferences import PreferenceProgram, fit_preferences
from inference.enumeration import kl
from inference.reward_posterior import REWARD_INFERENCE
from model.preferences import BradleyTerry, LinearHead

RATE = 0.05
"""Adam's peak learning rate."""
WEIGHT_SCALE = 5.0
"""Prior standard deviation of each response's reward, in nats of the judge."""


def few(
    world: World, numbers: Sequence[int], num_seeds: int, steps: int, per_step: int
) -> dict[str, dict[str, Estimate]]:
    """KL(q || p*) of the rich guide by number of preferences, directly and by a reward first."""
    rows = {}
    for size in numbers:
        runs = [once(world, size, seed, steps, per_step) for seed in range(num_seeds)]
        rows[f"{size} preferences"] = summary(runs)
    return rows


def once(world: World, size: int, seed: int, steps: int, per_step: int) -> dict[str, float]:
    """KL(q || p*) of DPO; of SVI on a reward that is inferred first; and of its exact posterior."""
    pairs, comparisons = world.preferences(size, seed)
    direct, indirect = FAMILIES[RICH](world), FAMILIES[RICH](world)
    budget: dict[str, Any] = {"num_steps": steps, "learning_rate": RATE, "progress": False}
    program = PreferenceProgram(direct, world.model.prior, world.beta)
    fit_preferences(program, pairs, pairs_per_step=per_step, seed=seed, **budget)
    model = BradleyTerry(LinearHead(len(world.reward)), prior_scale=WEIGHT_SCALE)
    (reward,) = REWARD_INFERENCE["map"](model, comparisons)
    objective = LeaveOneOut_ELBO(2 * per_step)
    fit(world.by(reward), indirect, world.truth.prompts, objective=objective, seed=seed, **budget)
    log_q = (world.truth.log_prior[:, 0] + reward / world.beta).log_softmax(0)
    return {
        "dpo": world.truth.kl_guide_posterior(direct).item(),
        "reward first, then SVI": world.truth.kl_guide_posterior(indirect).item(),
        "reward first, exact posterior": kl(log_q, world.truth.log_posterior[:, 0]).item(),
    }
