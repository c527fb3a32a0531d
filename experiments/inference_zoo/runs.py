"""One run of the inference zoo: an objective trains a guide, or a sampler draws; then measure."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from scipy.special import rel_entr
from torch import Tensor

from experiments.shared.early_stops import early_stops, record_early_stop
from experiments.shared.refusals import one_line
from experiments.shared.worlds import WORLDS, World
from experiments.shared.zoo import NUM_SAMPLES, Job, Result, measure_guide
from guides import GUIDES, Guide
from inference import OBJECTIVES, SAMPLERS, Posterior, fit, importance_sampling, random_state
from inference.diagnostics.diversity import distinct_n
from inference.enumeration import entropy
from inference.programs import log_likelihood_at, response_distribution

FROM_GUIDE = " from a guide"
"""End of the name of a sampler whose proposal is a trained guide."""
NUM_DISTINCT = 512
"""Number of responses behind `distinct_2`."""


def run(job: Job) -> Result:
    """Run one algorithm. The note of the result has the refusal, or warnings."""
    world = WORLDS[job.world]()
    world.sample  # noqa: B018 - computed before the clock starts
    began = time.process_time()
    assert job.seed is not None
    try:
        with random_state.isolated(job.seed), early_stops() as stops:
            if job.name in OBJECTIVES:
                guide = train(world, job.name, job.num_steps, job.seed)
                seconds = time.process_time() - began
                with random_state.measuring():
                    measured, warnings = measure_trained(world, guide)
            else:
                posterior = sample(world, job)
                seconds = time.process_time() - began
                measured, warnings = measure_posterior(world, posterior), ()
            note = "; ".join((*stops, *warnings))
            return Result(job, measured | {"seconds": seconds}, note=note)
    except (ValueError, ArithmeticError) as error:
        return Result(job, note=one_line(error))


def train(world: World, name: str, num_steps: int, seed: int) -> Guide:
    """Train the guide of an objective on a budget of so many batches."""
    objective = OBJECTIVES[name](num_particles=world.particles)
    guide = GUIDES[OBJECTIVES[name].guide].make(world.model.prior)
    # an objective with epochs takes several steps on each batch
    num_steps *= getattr(objective, "epochs", 1)
    how: dict[str, Any] = {"objective": objective, "seed": seed, "progress": False}
    fitted = fit(world.model, guide, world.prompts, num_steps=num_steps, **how)
    record_early_stop(fitted, "its fit")
    return guide


def sample(world: World, job: Job) -> Posterior:
    """Spend the budget on a sampler; with a guide for proposal, half of it on training."""
    if not job.name.endswith(FROM_GUIDE):
        return SAMPLERS[job.name](world.model, world.prompts, num_samples=job.budget)
    assert job.seed is not None
    guide = train(world, "trajectory-balance", max(1, job.num_steps // 2), job.seed)
    sampler = SAMPLERS[job.name.removesuffix(FROM_GUIDE)]
    with random_state.measuring():
        return sampler(world.model, world.prompts, guide=guide, num_samples=job.budget // 2)


def measure_trained(world: World, guide: Guide) -> tuple[dict[str, float], Sequence[str]]:
    """Measure a guide; log Z by importance sampling from the guide if the truth is known.

    Also returns the reasons to distrust the divergences.
    """
    measurements = measure_guide(world, guide)
    measured = {name: estimate.value for name, estimate in measurements.items()}
    if world.truth is None:
        response = response_distribution(guide, world.prompts).sample(torch.Size([NUM_DISTINCT]))
    else:
        weighted = importance_sampling(
            world.model, world.prompts, guide=guide, num_samples=NUM_SAMPLES
        )
        assert weighted.log_z is not None
        measured["log_z_error"] = (weighted.log_z - world.truth.log_z).abs().mean().item()
        response = weighted.response[:NUM_DISTINCT]
    return measured | {"distinct_2": distinct_2(world, response)}, measurements.warnings


def measure_posterior(world: World, posterior: Posterior) -> dict[str, float]:
    """Measure the weighted responses of a sampler against the posterior."""
    log_likelihood = log_likelihood_at(world.model, world.prompts, posterior.response)
    measured = {
        "reward": posterior.mean(log_likelihood).mean().item() * world.model.beta,
        "distinct_2": distinct_2(world, posterior.resample(NUM_DISTINCT)),
    }
    log_z, log_weight = posterior.log_z, posterior.log_weight
    if world.truth is None:
        if log_z is not None:
            gap = world.sample.log_z().value - log_z.mean().item()
            measured["log_z_error"] = abs(gap)
            # weights of 0 and 1 are of accepted responses, to which this KL does not belong
            if not bool(((log_weight == 0) | log_weight.isneginf()).all()):
                measured["kl_guide_posterior"] = gap
        return measured
    if log_z is not None:
        measured["log_z_error"] = (log_z - world.truth.log_z).abs().mean().item()
    sampled = empirical(world, posterior)
    q, p = sampled.numpy(), world.truth.log_posterior[:, 0].exp().numpy()
    return measured | {
        "kl_guide_posterior": float(rel_entr(q, p).sum()),
        "kl_posterior_guide": float(rel_entr(p, q).sum()),
        "entropy": entropy(sampled.log()[:, None]).item(),
    }


def empirical(world: World, posterior: Posterior) -> Tensor:
    """Probabilities of all responses under the weighted responses of a sampler, `[S]`."""
    assert world.truth is not None
    support = world.truth.support[:, 0]
    place = world.model.prior.vocab_size ** torch.arange(support.shape[-1])
    ids, order = (support * place).sum(-1).sort()
    index = order[torch.searchsorted(ids, (posterior.response[:, 0] * place).sum(-1))]
    weight = posterior.probability[:, 0].double()
    return torch.zeros(len(support), dtype=torch.float64).scatter_add_(0, index, weight)


def distinct_2(world: World, response: Tensor) -> float:
    """Share of different pairs of neighbouring tokens."""
    return distinct_n(response, world.model.prior.space.is_token(response), 2)
