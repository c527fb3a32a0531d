"""Preferences or rankings of a file: DPO beside a reward that is inferred first, then SVI."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from experiments.shared.refusals import FAULTS, blamed
from guides import GUIDES, Guide
from inference import (
    Estimate,
    LeaveOneOut_ELBO,
    PriorSample,
    diagnose,
    fit,
    random_state,
    sample_prior,
)
from inference.direct_preferences import (
    Judgements,
    PreferenceProgram,
    ResponseLists,
    ResponsePairs,
    fit_preferences,
)
from inference.reward_posterior import REWARD_INFERENCE
from inference.reward_posterior.calibration import calibrate
from model import AlignmentModel, LanguageModel, Prompts
from model.preferences import (
    PriorFeatures,
    Ranking,
    encode_distinct_prompts,
    read_judged,
    split_preferences,
    uncertain_model,
)
from model.prior.named_priors import load_prior

MAX_PROMPTS, PROMPTS_PER_STEP = 16, 4
"""Largest number of the file's prompts that SVI sees, and of prompts in a step of SVI."""
CHUNK = 16
"""Number of responses to each prompt that are drawn and scored at a time, and move a bar."""
COMPONENTS, PRIOR_SCALE = 64, 2.0
"""Principal components of the features; prior standard deviation of a reward, log-odds."""
Row = dict[str, Estimate | str]


@dataclass(frozen=True)
class Study:
    """Preferences or rankings of a file, in two parts, and a reward of the first part.

    Attributes:
        prompts: the first distinct prompts of `train`.
        model: posterior of the reward, the target of both ways.
        log_odds: `[C]`, log-odds by the reward that the first of two held-out responses wins.
        group: the texts of the preference or ranking of each held-out pair, C.
    """

    prior: LanguageModel
    train: Judgements
    held_out: ResponsePairs
    prompts: Prompts
    model: AlignmentModel
    log_odds: Tensor
    group: list[frozenset[str]]

    @property
    def has_rankings(self) -> bool:
        return isinstance(self.train, ResponseLists)

    @classmethod
    def of(
        cls, path: str, column: str, prior_name: str, length: int, share: float, beta: float
    ) -> Self:
        """Read a file, hold a share of the preferences out, and infer the reward of the others."""
        with blamed(f"--prior {prior_name}", FAULTS):
            prior = load_prior(prior_name, max_new_tokens=length)
        with blamed("--preferences"):
            every = read_judged(path, prior.tokenizer, prompt_column=column)
            parts = split_preferences(every, share)
            is_list = isinstance(every[0], Ranking)
            train: Judgements = (ResponseLists if is_list else ResponsePairs).of(parts[0], prior)
            pairs = [pair for each in parts[1] for pair in each.preferences()]
            held_out = ResponsePairs.of(pairs, prior)
        prompts = encode_distinct_prompts(parts[0], prior, MAX_PROMPTS)
        _, reward = REWARD_INFERENCE["map"].from_preferences(
            parts[0], PriorFeatures(prior), num_components=COMPONENTS, prior_scale=PRIOR_SCALE
        )
        chosen, rejected = (reward([each.texts[side] for each in pairs]).mean(0) for side in (0, 1))
        model = uncertain_model(prior, reward, "mean", beta)
        group = [each.pair for each in parts[1] for _ in each.preferences()]
        return cls(prior, train, held_out, prompts, model, chosen - rejected, group)


def compare(
    study: Study, guide_name: str, *, steps: int, pairs: int, rate: float, samples: int
) -> dict[str, Row]:
    """Train by both ways on one budget, and measure.

    Args:
        steps: number of steps of each way.
        pairs: number of pairs or rankings in a step of DPO; a step of SVI has twice as many
            responses.
        rate: Adam's peak learning rate.
        samples: number of responses of a guide to each prompt in its measurement.
    """
    prior, prompts, beta = study.prior, study.prompts, study.model.beta
    direct, indirect = (GUIDES[guide_name](prior, prompts) for _ in range(2))
    budget: dict[str, Any] = {"num_steps": steps, "learning_rate": rate}
    likelihood = "plackett-luce" if study.has_rankings else "dpo"
    program = PreferenceProgram(direct, prior, beta, likelihood=likelihood)
    fit_preferences(program, study.train, pairs_per_step=pairs, **budget)
    per_step = min(PROMPTS_PER_STEP, len(prompts))
    objective = LeaveOneOut_ELBO(max(2, 2 * pairs // per_step))
    fit(study.model, indirect, prompts, objective=objective, prompts_per_step=per_step, **budget)
    rows = {"reward alone": judged(study, study.log_odds)}
    draws = sample_prior(study.model, prompts, samples, independent=True, chunk=CHUNK)
    for name, guide in {"dpo": direct, "reward first, then SVI": indirect}.items():
        with torch.no_grad():
            implied = PreferenceProgram(guide, prior, beta).rewards(study.held_out)
        log_odds = beta * (implied[0] - implied[1])
        rows[name] = judged(study, log_odds) | measured(study, guide, draws)
    return rows


def judged(study: Study, log_odds: Tensor) -> Row:
    """Held-out accuracy and log loss, nats, of the log-odds `[C]` of the first response."""
    calibration = calibrate(log_odds.sigmoid(), study.held_out.outcome, pair=study.group)
    return {"held-out accuracy": calibration.accuracy, "log loss": calibration.log_loss}


def measured(study: Study, guide: Guide, draws: PriorSample) -> Row:
    """KL to the prior and to the posterior of the reward, nats, with warnings; the mean reward."""
    with random_state.measuring():
        sizes = {"num_samples": len(draws.response), "chunk": CHUNK}
        diagnostics = diagnose(study.model, guide, study.prompts, prior_sample=draws, **sizes)
    return {
        "KL(q || p0)": diagnostics.kl_guide_prior,
        "E[reward]": diagnostics.log_likelihood.times(study.model.beta),
        "KL(q || p* of the reward)": diagnostics.kl_guide_posterior,
        "warnings": "; ".join(diagnostics.warnings_of("kl_guide_posterior")) or "none",
    }
