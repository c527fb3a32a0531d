"""The report of a run: every measured number in the right place."""

import math
from dataclasses import replace

import pytest

from experiments.steer.expectations import (
    Expectations,
    Measurement,
    PosteriorMeasurement,
)
from experiments.steer.report import Report
from inference import Diagnostics, Estimate

NAMES = [
    "elbo",
    "log_likelihood",
    "kl_guide_prior",
    "entropy",
    "log_z_bound",
    "log_z",
    "kl_guide_posterior",
    "kl_posterior_guide",
]


def measurement(first):
    """Numbers that are all different: `first`, `first` + 1, and so on."""
    estimates = {name: Estimate(first + i, 0.5) for i, name in enumerate(NAMES)}
    diagnostics = Diagnostics(
        **estimates,
        acceptance=None,
        effective_sample_size=first + 8,
        pareto_k=first + 9,
        distinct_2=first + 10,
    )
    return Measurement(diagnostics, None)


def changed(measurement, **estimates):
    return measurement._replace(diagnostics=replace(measurement.diagnostics, **estimates))


@pytest.fixture
def report():
    return Report(
        title="A run",
        beta=0.5,
        before=measurement(20.0),
        after=measurement(0.0),
        posterior=PosteriorMeasurement(Estimate(40.0, 0.5), Estimate(41.0, 0.5), None),
        samples={"prior": [("a text", 0.25)]},
        seconds=12.0,
    )


def test_every_number_is_in_the_right_place(report):
    rows = {name: cells for name, *cells in report.rows()}
    expected = {
        "E[r]": [(10.5, 0.25), (0.5, 0.25), (20.0, 0.25)],  # r/beta times beta
        "ELBO": [(20.0, 0.5), (0.0, 0.5)],
        "KL(. || p0)": ["0", (2.0, 0.5), (41.0, 0.5)],
        "KL(. || p*)": [(26.0, 0.5), (6.0, 0.5), "0"],
        "KL(p* || .)": [(27.0, 0.5), (7.0, 0.5), "0"],
        "entropy": [(23.0, 0.5), (3.0, 0.5), ""],
    }
    for name, cells in expected.items():
        texts = [cell if isinstance(cell, str) else str(Estimate(*cell)) for cell in cells]
        assert rows[name][: len(texts)] == texts, name
    assert rows["ELBO"][2] == f"log Z = {Estimate(25.0, 0.5)}"
    assert rows["distinct-2"] == ["30.000", "10.000", ""]
    assert rows["effective sample size"] == ["28", "8", ""]
    assert rows["Pareto k-hat"] == ["29.00", "9.00", ""]


@pytest.mark.parametrize(
    ("start", "left", "share"), [(8.0, 2.0, "25%"), (8.0, -0.4, "-5%"), (-0.1, 0.2, "nan%")]
)
def test_remaining_gap_is_a_share_of_the_first_gap(report, start, left, share):
    before = changed(report.before, kl_guide_posterior=Estimate(start, 0.1))
    after = changed(report.after, kl_guide_posterior=Estimate(left, 0.2))
    conclusion = replace(report, before=before, after=after).conclusion()
    assert (
        f"Of the {start:.3f} nats between prior and posterior, "
        f"{Estimate(left, 0.2)} are left ({share})"
    ) in conclusion
    assert "after 12 s" in conclusion


def test_constraints_are_reported_with_the_forbidden_shares(report):
    expectations = [
        Expectations(Estimate(value, 0.1), share, {})
        for value, share in ((1.0, 0.75), (2.0, 0.25), (3.0, 0.0))
    ]
    infinite = changed(report.before, kl_guide_posterior=Estimate(math.inf, math.nan))
    measured = zip((infinite, report.after, report.posterior), expectations, strict=True)
    before, after, posterior = (each._replace(expectations=mean) for each, mean in measured)
    constrained = replace(report, before=before, after=after, posterior=posterior)
    rows = {name: cells for name, *cells in constrained.rows()}
    assert rows["E[r]"] == [str(each.reward) for each in expectations]
    assert rows["forbidden"] == ["75.0%", "25.0%", "0.0%"]
    conclusion = constrained.conclusion()
    assert "Of the guide's draws 25.0% are forbidden, of the prior's 75.0%" in conclusion
    assert f"KL(p* || q) went from {Estimate(27.0, 0.5)} to {Estimate(7.0, 0.5)} nats" in conclusion


def test_soft_factors_have_a_row_of_the_log_likelihood(report):
    assert "E[log likelihood]" not in {name for name, *_ in report.rows()}
    reward = Expectations(Estimate(1.0, 0.1), 0.0, {"phi": Estimate(0.5, 0.1)})
    parts = {
        name: getattr(report, name)._replace(expectations=reward)
        for name in ("before", "after", "posterior")
    }
    rows = {name: cells for name, *cells in replace(report, **parts).rows()}
    log_likelihood = (Estimate(21.0, 0.5), Estimate(1.0, 0.5), Estimate(40.0, 0.5))
    assert rows["E[log likelihood]"] == [str(estimate) for estimate in log_likelihood]
    assert rows["E[r]"] == [str(reward.reward)] * 3
    assert rows["E[phi]"] == [str(reward.moments["phi"])] * 3
    assert "forbidden" not in rows
