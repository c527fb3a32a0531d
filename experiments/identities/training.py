"""Short fits: how near to the posterior each objective comes on the same responses."""

from experiments.identities.findings import beyond
from experiments.identities.world import World
from experiments.shared.claims import Finding
from experiments.shared.tables import mean_and_error
from experiments.shared.training import train
from guides import FineTuned, Fixed, LoRA
from inference import OBJECTIVES, Enumeration, Estimate, random_state
from inference.svi.ascend import ascend
from model import Prompts

STEPS, BATCH, SEEDS = 40, 32, 3
"""Numbers of batches of fresh responses, of responses in a batch, and of fits."""
EXACT_STEPS = 300
"""Number of steps of the exact gradient."""
ONCE = "leave-one-out"
"""Objective that takes one step on each batch."""


def left(world: World, name: str, steps: int) -> Estimate:
    """KL(q || p*) after some steps, nats, with the error over seeds."""
    runs = []
    for seed in range(SEEDS):
        guide = FineTuned(world.model.prior)
        train(
            guide,
            world.model,
            world.prompts,
            OBJECTIVES[name](num_particles=BATCH),
            steps,
            seed=seed,
        )
        runs.append({"kl": world.truth.kl_guide_posterior(guide).mean().item()})
    return Estimate(*mean_and_error(runs, "kl"))


def against_once(world: World, name: str, epochs: int) -> list[Finding]:
    """KL left by an objective with several steps a batch, against one step a batch."""
    several, once = left(world, name, STEPS * epochs), left(world, ONCE, STEPS)
    responses = f"{STEPS * BATCH:,} fresh responses"
    start = world.truth.kl_guide_posterior(FineTuned(world.model.prior)).mean().item()
    return [
        beyond(f"{name}, KL(q || p*) after {responses}, nats", several, below=0.1 * start),
        beyond(f"{ONCE} less {name}, KL after {responses}, nats", once.minus(several), above=0.0),
    ]


def balance(world: World) -> list[Finding]:
    """Trajectory balance with replay (arXiv 2310.04363)."""
    return against_once(world, "trajectory-balance", 4)


def clipped(world: World) -> list[Finding]:
    """Several clipped steps on each batch (PPO, arXiv 1707.06347)."""
    return against_once(world, "proximal", 4)


def gaps(world: World) -> list[Finding]:
    """KL left by one guide of all prompts = best of the family + shared (arXiv 1801.03558).

    The family is LoRA of rank 1 on the prior, trained by the exact gradient on three prompts at
    once, and on each prompt alone. The difference is the amortisation gap.
    """
    prompts = world.model.prior.encode(["w1", "w2", "w3"])
    together = nats_left(world, prompts)
    alone = sum(nats_left(world, prompts[[n]]) for n in range(len(prompts))) / len(prompts)
    start = (
        Enumeration(world.model, prompts).kl_guide_posterior(Fixed(world.model.prior)).mean().item()
    )
    return [
        Finding.of_limits(
            f"KL(q || p*) of a guide for each prompt, {EXACT_STEPS} steps, nats",
            [alone],
            below=start,
        ),
        Finding.of_limits(
            "KL of one shared guide above that of theirs, nats", [together - alone], above=0
        ),
        Finding.of_limits(
            "amortisation gap over approximation gap", [(together - alone) / alone], above=1.0
        ),
    ]


def nats_left(world: World, prompts: Prompts) -> float:
    """KL(q || p*) of a guide of low rank after the exact gradient, nats, mean over prompts."""
    truth = Enumeration(world.model, prompts)
    with random_state.isolated(0):
        guide = LoRA(world.model.prior, rank=1)
        ascend(guide, truth, EXACT_STEPS, learning_rate=0.01, kl_penalty=True)
    return truth.kl_guide_posterior(guide).mean().item()
