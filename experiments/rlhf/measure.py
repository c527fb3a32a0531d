"""Measurement of a guide tuned on a learned reward, beside the prior and the posterior."""

import torch
from torch import Tensor

from experiments.rlhf.text_sample import Gold, TextSample
from experiments.shared.tables import text_table
from guides import Guide
from inference import Estimate, diagnose, log_likelihood_at, response_distribution
from model import AlignmentModel, Prompts


def measure(
    model: AlignmentModel,
    guide: Guide,
    prompts: Prompts,
    num_samples: int,
    gold: Gold | None = None,
    sample: TextSample | None = None,
) -> str:
    """Table of rewards and KL: prior, guide, and the posterior if there is a sample for it."""
    prior, size = model.prior, torch.Size([num_samples])

    def rewards(response: Tensor) -> list[str]:
        values = [model.beta * log_likelihood_at(model, prompts, response).cpu()]
        if gold is not None:
            texts = [text for row in prior.decode(response, prompts) for text in row]
            values.append(gold(texts).view(num_samples, -1))
        return [str(Estimate.of_mean(value)) for value in values]

    proxy, *others = rewards(prior(prompts).sample(size))
    rows = {"prior": [proxy, "0", *others]}
    proxy, *others = rewards(response_distribution(guide, prompts).sample(size))
    diagnostics = diagnose(
        model, guide, prompts, num_samples=num_samples, num_prior_draws=num_samples
    )
    rows["guide"] = [proxy, str(diagnostics.kl_guide_prior), *others]
    if sample is not None:
        responses = sample.responses
        log_weight = log_likelihood_at(model, prompts, responses.response).cpu()
        draws = responses.effective_sample_size(log_weight)
        source = "all responses" if draws is None else f"draws worth {draws:.0f}"
        estimates = [
            responses.mean(log_weight, model.beta * log_weight),
            responses.kl(log_weight),
            responses.mean(log_weight, sample.gold[:, None]),
        ]
        rows[f"posterior, from {source}"] = [f"{estimate.value:.3f}" for estimate in estimates]
    columns = ["proxy reward", "KL to the prior", *["gold reward"] * (gold is not None)]
    return text_table(columns, rows)
