"""Metrics of a guide, of the prior and of the target, for one prompt."""

from collections.abc import Mapping, Sequence

import torch

from experiments.distribution_matching.tasks import Task
from experiments.shared.tables import mean_and_error
from guides import Guide
from inference import Estimate, PriorSample, diagnose, sample_prior
from inference.diagnostics.diagnose import distinct_n
from inference.diagnostics.self_bleu import self_bleu
from model import Prompts

PARTS = 4
"""Number of parts of the responses, for standard errors of distinct-n and self-BLEU."""

Row = Mapping[str, Estimate]


def sample_target(task: Task, prompts: Prompts, num_draws: int) -> PriorSample:
    """Draws of the prior, of which the accepted ones are draws of p*.

    Raises:
        SystemExit: if too few are accepted.
    """
    bound = task.target.log_likelihood_bound(prompts)
    sample = sample_prior(task.target, prompts, num_draws, log_likelihood_bound=bound)
    accepted = 0 if sample.accepted is None else int(sample.accepted.sum())
    if accepted < 2 * PARTS:
        few = f"{accepted} of {num_draws} draws of the prior are draws of p*"
        fix = "raise --draws, or choose a more frequent constraint"
        raise SystemExit(f"{task.name}: {few}, expected at least {2 * PARTS}: {fix}")
    return sample


@torch.no_grad()
def measure(
    task: Task, prompts: Prompts, sample: PriorSample, num_samples: int, guide: Guide | None
) -> Row:
    """Metrics of a guide, or of p* if the guide is None.

    `nearer` is KL(p* || p0) - KL(p* || q) = E_p*[log q/p0]: log Z and the entropy of p* cancel.

    Args:
        task: constraint.
        prompts: one prompt.
        sample: from `sample_target`, for means under p*.
        num_samples: number of responses, at most as many as are accepted.
        guide: guide.
    """
    assert sample.accepted is not None
    target = sample.response[sample.accepted[:, 0]]  # [A, N, T], draws of p*
    size = min(num_samples, len(target)) // PARTS * PARTS
    log_prior = task.target.prior(prompts).log_prob(target).double()
    if guide is None:
        response, kl = target[:size], sample.kl(sample.log_likelihood)
        # -log p* = -log p0 - log p*/p0
        entropy = Estimate.of_mean(-log_prior[:size]).minus(kl)
        metrics = {"KL(q||p0)": kl, "entropy": entropy}
    else:
        diagnostics = diagnose(task.target, guide, prompts, num_samples=size, prior_sample=sample)
        assert diagnostics.kl_posterior_guide is not None
        distribution = guide.distribution(prompts)
        response = distribution.sample((size,))
        log_guide = distribution.log_prob(target).double()
        metrics = {
            "KL(p*||q)": diagnostics.kl_posterior_guide,
            "KL(q||p0)": diagnostics.kl_guide_prior,
            "entropy": diagnostics.entropy,
            "nearer": Estimate.of_mean(log_guide - log_prior),
        }
    parts = []
    for part in response.chunk(PARTS):
        is_token = task.target.prior.space.is_token(part)
        distinct = {f"distinct-{n}": distinct_n(part, is_token, n) for n in (1, 2)}
        parts.append(distinct | {"self-BLEU-5": self_bleu(part, is_token)})
    diversity = {name: Estimate(*mean_and_error(parts, name)) for name in parts[0]}
    met = Estimate.of_mean(task.feature(prompts, response))
    return {"constraint": met, **metrics, **diversity}


def over_seeds(rows: Sequence[Row]) -> Row:
    """Means over guides with standard errors over guides, or the row of the only guide."""
    if len(rows) == 1:
        return rows[0]
    values = [{name: estimate.value for name, estimate in row.items()} for row in rows]
    return {name: Estimate(*mean_and_error(values, name)) for name in values[0]}
