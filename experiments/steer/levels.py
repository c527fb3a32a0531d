"""Numbers that the figures of a run show beside its metrics."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from experiments.steer.report import Report
from inference import Estimate

Metrics = Sequence[dict[str, float]]


class Levels(NamedTuple):
    """Numbers that the figures of a run show beside the metrics, nats.

    Attributes:
        log_z: log Z.
        before, after: ELBO of the prior and of the guide.
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
        return cls(after.log_z, before.elbo, after.elbo, None if report.expectations else end)
