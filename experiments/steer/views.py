"""A run during its fit, as the live page and the report of an interrupt show it."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.shared.run_folder import RunFolder
from experiments.steer.report import Sample, sample_texts
from guides import Guide
from inference import Estimate, PriorSample, random_state
from inference.diagnostics.prior_alone import reaches
from inference.importance_weights import WeightQuality
from model import AlignmentModel, Prompts

Metrics = Sequence[dict[str, float]]
MOST_PROMPTS = 4
"""Largest number of prompts with samples."""


class RunSoFar(NamedTuple):
    """A run during its fit.

    Attributes:
        folder: run folder.
        title: title of the run.
        model: model of the run.
        guide: q.
        prompts: prompts to draw samples for; the first are taken.
        prior_sample: draws of the prior, for log Z and the frontier.
        before: ELBO of the start, nats.
        start: name of the start, `prior` or `student`.
    """

    folder: RunFolder
    title: str
    model: AlignmentModel
    guide: Guide
    prompts: Prompts
    prior_sample: PriorSample
    before: Estimate
    start: str = "prior"

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust log Z of the draws of the prior; empty if there is none."""
        if self.prior_sample.exact:
            return []
        log_likelihood = self.prior_sample.log_likelihood
        is_bounded = reaches(log_likelihood, self.model.log_likelihood_bound(self.prompts))
        return WeightQuality.of(log_likelihood, is_bounded, "the prior").warnings

    def samples(self) -> list[Sample]:
        """Texts of the guide as it is now, with their rewards."""
        with random_state.measuring():
            return sample_texts(self.model, self.guide, self.prompts[:MOST_PROMPTS])
