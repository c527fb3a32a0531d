"""Parts of a run that its views share: the live page, the report of an interrupt, the figures."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from experiments.shared.run_folder import RunFolder
from experiments.steer.report import Report, Sample, sample_texts
from guides import Guide
from inference import Estimate, PriorSample, random_state
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
        before: ELBO of prior or student, before the fit, nats.
    """

    folder: RunFolder
    title: str
    model: AlignmentModel
    guide: Guide
    prompts: Prompts
    prior_sample: PriorSample
    before: Estimate

    def samples(self) -> list[Sample]:
        """Texts of the guide as it is now, with their rewards."""
        with random_state.measuring():
            return sample_texts(self.model, self.guide, self.prompts[:MOST_PROMPTS])


class Levels(NamedTuple):
    """Numbers that the figures of a run show beside the metrics, nats.

    Attributes:
        log_z: log Z.
        before, after: ELBO before the fit and of the guide after it.
        end: KL(q || p0) and E[r] of the guide; None for a model with factors, whose log likelihood
            is not r/beta.
    """

    log_z: Estimate
    before: Estimate
    after: Estimate
    end: tuple[Estimate, Estimate] | None

    @classmethod
    def of_report(cls, report: Report) -> Self:
        """Numbers of a finished run."""
        before, after = report.before.diagnostics, report.after.diagnostics
        end = (after.kl_guide_prior, after.log_likelihood.times(report.beta))
        return cls(after.log_z, before.elbo, after.elbo, None if report.has_factors else end)
