"""The report of a run: every measured number in the right place."""

import math
from dataclasses import replace

import pytest

from experiments.steer.expectations import Expectations, Measurement
from experiments.steer.report import REMEDY, Report
from inference import Diagnostics, Estimate
from inference.diagnostics.prior_alone import PriorAlone
from inference.importance_weights import WeightQuality

NAMES = [
    *("elbo", "log_likelihood", "kl_guide_prior", "entropy", "log_z_bound", "log_z"),
    *("kl_guide_posterior", "kl_posterior_guide", "kl_posterior_prior"),
    *("posterior_log_likelihood", "posterior_log_ratio"),
]


def measurement(first):
    """Numbers of different size, `first`, `first` + 1, and so on; negative where better is more."""
    estimates = {name: Estimate(first + i, 0.5) for i, name in enumerate(NAMES)}
    for name in ("elbo", "posterior_log_ratio"):
        estimates[name] = estimates[name].times(-1)
    alone = [Estimate(first + 10 + i, 0.5) for i in range(3)]
    diagnostics = Diagnostics(
        **estimates,
        prior_alone=PriorAlone(*alone, 40, WeightQuality(100, 50.0, 0.1, 9.0)),
        acceptance=0.4,
        weights=WeightQuality(1000, first + 33, first / 100, 9.0),
        guide_weights=WeightQuality(1000, first + 31, first / 100 + 0.05, 9.0),
        distinct_2=first + 15,
    )
    return Measurement(diagnostics, Expectations(Estimate(first + 1.0, 0.5).times(0.5)))


def changed(measurement, **estimates):
    return measurement._replace(diagnostics=replace(measurement.diagnostics, **estimates))


@pytest.fixture
def report():
    return Report(
        title="A run",
        beta=0.5,
        before=measurement(20.0),
        after=measurement(0.0),
        posterior=Expectations(Estimate(4.5, 0.25)),
        samples={"prior": [("a text", 0.25)]},
        seconds=12.0,
    )


def test_a_mean_of_draws_with_one_value_is_marked(report):
    reward = Expectations(Estimate(0.0, 0.0), moments={"words": Estimate(0.5, 0.1)})
    one = replace(report, before=report.before._replace(expectations=reward))
    one = replace(
        one,
        after=one.after._replace(expectations=reward),
        posterior=reward._replace(reward=Estimate(0.4, 0.1)),
    )
    rows = {name: cells for name, *cells in one.rows()}
    marked = "0.000 ± 0.000 (?)"
    assert rows["E[r]"] == [marked, marked, "0.400 ± 0.100"]
    (note,) = one.notes()
    assert note.startswith("(?) E[r] (column prior, guide): all draws to a prompt have one value")


def test_every_number_is_in_the_right_place(report):
    rows = {name: cells for name, *cells in report.rows()}
    expected = {
        "E[r]": [(10.5, 0.25), (0.5, 0.25), (4.5, 0.25)],  # r/beta times beta
        "ELBO": [(-20.0, 0.5), (0.0, 0.5)],
        "KL(. || p0)": ["0", (2.0, 0.5), (8.0, 0.5)],
        "KL(. || p*)": [(26.0, 0.5), (6.0, 0.5), "0"],
        "KL(p* || .)": [(27.0, 0.5), (7.0, 0.5), "0"],
        "KL(. || p*), prior draws alone": [(31.0, 0.5), (11.0, 0.5)],
        "KL(p* || .), accepted draws alone": [(32.0, 0.5), (12.0, 0.5), ""],
        "entropy": [(23.0, 0.5), (3.0, 0.5), ""],
    }
    for name, cells in expected.items():
        texts = [cell if isinstance(cell, str) else str(Estimate(*cell)) for cell in cells]
        assert rows[name][: len(texts)] == texts, name
    assert rows["ELBO"][2] == f"log Z = {Estimate(5.0, 0.5)}"
    assert rows["KL(. || p*), prior draws alone"][2] == f"log Z = {Estimate(10.0, 0.5)}"
    assert rows["distinct-2"] == ["35.000", "15.000", ""]
    assert rows["effective sample size"] == ["51", "31", "33"]
    assert rows["Pareto k-hat"] == ["0.25", "0.05", "0.00"]
    assert report.notes() == []
    assert "(?)" not in report.text()


@pytest.mark.parametrize(
    ("start", "left", "share"), [(8.0, 2.0, " (25%)"), (8.0, -0.4, " (-5%)"), (0.15, 0.2, "")]
)
def test_remaining_gap_is_a_share_of_a_first_gap_above_its_noise(report, start, left, share):
    before = changed(report.before, kl_guide_posterior=Estimate(start, 0.1))
    after = changed(report.after, kl_guide_posterior=Estimate(left, 0.2))
    conclusion = replace(report, before=before, after=after).conclusion()
    assert conclusion.startswith(f"Of the {start:.3f} nats between prior and posterior, ")
    assert f" {Estimate(left, 0.2)} are left{share} after 12 s" in conclusion


def test_constraints_are_reported_with_the_forbidden_shares(report):
    expectations = [
        Expectations(Estimate(value, 0.1), share, {})
        for value, share in ((1.0, 0.75), (2.0, 0.25), (3.0, 0.0))
    ]
    infinite = changed(report.before, kl_guide_posterior=Estimate(math.inf, math.nan))
    before, after = (
        each._replace(expectations=mean)
        for each, mean in zip((infinite, report.after), expectations, strict=False)
    )
    columns = {"before": before, "after": after, "posterior": expectations[2]}
    constrained = replace(report, **columns, has_factors=True)
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
        name: getattr(report, name)._replace(expectations=reward) for name in ("before", "after")
    }
    tilted = replace(report, **parts, posterior=reward, has_factors=True)
    rows = {name: cells for name, *cells in tilted.rows()}
    log_likelihood = (Estimate(21.0, 0.5), Estimate(1.0, 0.5), Estimate(9.0, 0.5))
    assert rows["E[log likelihood]"] == [str(estimate) for estimate in log_likelihood]
    assert rows["E[r]"] == [str(reward.reward)] * 3
    assert rows["E[phi]"] == [str(reward.moments["phi"])] * 3
    assert "forbidden" not in rows


HEAVY = WeightQuality(2048, 400.0, 0.93, 90.0)


def test_numbers_of_heavy_weights_are_marked_and_the_note_has_the_reason(report):
    posterior = report.posterior._replace(warnings=["heavy weights"])
    doubtful = replace(report, after=changed(report.after, weights=HEAVY), posterior=posterior)
    rows = {name: cells for name, *cells in doubtful.rows()}
    assert rows["KL(. || p*)"] == [str(Estimate(26.0, 0.5)), f"{Estimate(6.0, 0.5)} (?)", "0"]
    assert rows["KL(p* || .)"][1] == f"{Estimate(7.0, 0.5)} (?)"
    assert rows["KL(. || p0)"][1:] == [str(Estimate(2.0, 0.5)), f"{Estimate(8.0, 0.5)} (?)"]
    assert rows["ELBO"] == [
        str(Estimate(-20.0, 0.5)),
        str(Estimate(0.0, 0.5)),
        f"log Z = {Estimate(5.0, 0.5)} (?)",
    ]
    assert rows["E[r]"][1:] == [str(Estimate(0.5, 0.25)), f"{Estimate(4.5, 0.25)} (?)"]
    assert "(?)" not in "".join(rows["KL(. || p*), prior draws alone"])
    assert f"{Estimate(6.0, 0.5)} (?) are left" in doubtful.conclusion()
    (note,) = doubtful.notes()
    assert note == (
        "(?) k-hat 0.93 of the weights of 2048 draws, above 0.70: log Z and "
        "everything made from it may be far off (column guide)."
    )
    assert doubtful.text().endswith(f"{note}\n{REMEDY}")
    assert "--prior-draws" in REMEDY
    assert REMEDY not in report.text()


def test_means_of_few_guide_draws_are_marked(report):
    """Intervals of the ELBO from 8 draws held in 59% of the runs of one trained guide."""
    few = report.after.diagnostics.guide_weights._replace(num_draws=8)
    doubtful = replace(report, after=changed(report.after, guide_weights=few))
    for name, *cells in doubtful.rows():
        if name in ("E[r]", "KL(. || p0)", "ELBO", "KL(. || p*)", "entropy"):
            assert [cell.endswith(" (?)") for cell in cells[:2]] == [False, True], name
    assert doubtful.notes()[-1] == (
        "(?) 8 draws of the guide, fewer than 30: KL(. || p*) and KL(. || p0) and ELBO and E[r] "
        "and entropy may be far off (column guide)."
    )


def test_few_accepted_and_few_effective_prior_draws_are_marked(report):
    alone = report.before.diagnostics.prior_alone
    few = changed(report.before, prior_alone=alone._replace(num_accepted=12))
    doubtful = replace(report, before=few)
    both = replace(doubtful, after=changed(report.after, prior_alone=few.diagnostics.prior_alone))
    assert [note.endswith("(column prior, guide).") for note in both.notes()] == [True]
    rows = {name: cells for name, *cells in doubtful.rows()}
    assert rows["KL(p* || .), accepted draws alone"][0] == f"{Estimate(32.0, 0.5)} (?)"
    assert doubtful.notes() == [
        "(?) 12 accepted draws of the prior, fewer than 30: KL(p* || .), accepted draws alone, may "
        "be far off (column prior)."
    ]
    unbounded = alone._replace(num_accepted=None, kl_posterior_guide=None)
    both = (changed(each, prior_alone=unbounded) for each in (report.before, report.after))
    without = replace(report, **dict(zip(("before", "after"), both, strict=True)))
    assert "accepted" not in without.text()
    assert "unknown" not in without.text()
    poor = alone._replace(weights=WeightQuality(2048, 9.0, 0.2, 90.0))
    doubtful = replace(report, after=changed(report.after, prior_alone=poor))
    rows = {name: cells for name, *cells in doubtful.rows()}
    assert rows["KL(. || p*), prior draws alone"][1].endswith(" (?)")
    assert rows["KL(. || p*), prior draws alone"][2].endswith(" (?)")
    assert "9 of 2048 draws effective, fewer than 30" in doubtful.notes()[0]


def test_means_of_the_posterior_from_few_effective_draws_are_marked(report):
    reward = Expectations(Estimate(1.0, 0.1), 0.25, {"phi": Estimate(0.5, 0.1)})
    before, after = (each._replace(expectations=reward) for each in (report.before, report.after))
    reason = "9 of 2048 draws of the prior effective, fewer than 30"
    columns = {"before": before, "after": after, "posterior": reward._replace(warnings=[reason])}
    doubtful = replace(report, **columns, has_factors=True)
    rows = {name: cells for name, *cells in doubtful.rows()}
    for name in ("E[r]", "E[phi]", "forbidden"):
        assert [cell.endswith(" (?)") for cell in rows[name]] == [False, False, True]
    assert doubtful.notes()[-1] == f"(?) {reason}: means of the posterior may be far off."


def test_a_divergence_below_0_by_three_errors_is_marked(report):
    trained = changed(report.after, kl_posterior_guide=Estimate(-1.15, 0.3))
    (note,) = replace(report, after=trained).notes()
    assert "were the draws used for training?" in note
    chance = changed(report.after, kl_posterior_guide=Estimate(-0.5, 0.3))
    assert replace(report, after=chance).notes() == []


def with_log_z(estimate):
    """A divergence with the error of log Z besides."""
    return estimate._replace(standard_error=estimate.standard_error + 2)


@pytest.mark.parametrize("name", ["kl_guide_posterior", "kl_posterior_guide"])
def test_the_divergence_that_rose_is_named(report, name):
    """A rise of two standard errors without those of log Z, or to infinity."""
    symbol, opposite = {
        "kl_guide_posterior": ("KL(q || p*)", "elbo"),
        "kl_posterior_guide": ("KL(p* || q)", "posterior_log_ratio"),
    }[name]
    for old, new, rises in [
        (Estimate(1.0, 0.3), Estimate(2.1, 0.4), True),
        (Estimate(1.0, 0.3), Estimate(1.9, 0.4), False),
        (Estimate(1.0, 0.3), Estimate(math.inf, math.nan), True),
        (Estimate(math.inf, math.nan), Estimate(math.inf, math.nan), False),
        (Estimate(3.0, 0.3), Estimate(1.0, 0.4), False),
    ]:
        before, after = (
            changed(each, **{name: with_log_z(estimate), opposite: estimate.times(-1)})
            for each, estimate in ((report.before, old), (report.after, new))
        )
        notes = replace(report, before=before, after=after).notes()
        start = f"{symbol} rose from {with_log_z(old)} nats of the prior to {with_log_z(new)} of"
        assert [note.startswith(start) for note in notes] == [True] * rises


def test_a_rise_of_both_divergences_has_a_remedy(report):
    high, low = Estimate(9.0, 0.1), Estimate(-99.0, 0.1)
    names = {"kl_guide_posterior": high, "kl_posterior_guide": high}
    opposite = {"elbo": low, "posterior_log_ratio": low}
    after = changed(report.after, **names, **opposite)
    *both, remedy = replace(report, after=after).notes()
    assert len(both) == 2
    assert "--particles" in remedy
