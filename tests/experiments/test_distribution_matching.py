"""Distribution matching: the tasks are what they are said to be, and findings fail where the claim does."""

import math

import pytest

from experiments.distribution_matching import (
    GDC,
    PENALISED,
    PRIOR,
    PURE,
    TARGET,
    DistributionMatching,
    distributional,
    findings_of,
    is_positive,
    lambda_finding,
    main,
    measure,
    objective,
    pointwise,
    positive,
)
from experiments.shared.training import RewardOnly, train
from guides import FineTuned
from inference import (
    Enumeration,
    Estimate,
    FDivergence,
    LeaveOneOut_ELBO,
    match_moments,
    random_state,
    sample_prior,
)
from model import AlignmentModel


@pytest.fixture
def moments(prior):
    base = AlignmentModel(prior, {}, 1.0)
    return match_moments(
        base, prior.encode(["the film was"]), {"positive": positive(prior)}, {"positive": 0.7}
    )


def test_positive_is_above_zero():
    assert is_positive(["a bad film", "a good film", "a film"]) == [0.0, 1.0, 0.0]


def test_the_distributional_target_has_its_share_and_rl_with_its_beta_has_the_same_posterior(
    prior, moments
):
    task, prompts = distributional(prior, moments), prior.encode(["the film was"])
    target, rewarded = Enumeration(task.target, prompts), Enumeration(task.rewarded, prompts)
    met = (target.log_posterior.exp() * task.feature(prompts, target.support)).sum().item()
    assert met == pytest.approx(0.7, abs=1e-8)
    assert task.goal == 0.7
    assert (target.log_posterior - rewarded.log_posterior).abs().max() < 1e-9
    assert lambda_finding(moments).held


def test_the_pointwise_target_is_the_limit_of_the_posteriors_of_rl(prior):
    prompts = prior.encode(["the film was"])
    tasks = [pointwise(prior, DistributionMatching(word="very", beta=beta)) for beta in (0.5, 0.02)]
    target = Enumeration(tasks[0].target, prompts)
    has_word = tasks[0].feature(prompts, target.support)
    assert (target.log_posterior.exp() * has_word).sum().item() == pytest.approx(1, abs=1e-12)
    laws = [Enumeration(task.rewarded, prompts).log_posterior.exp() for task in tasks]
    apart = [(law - target.log_posterior.exp()).abs().sum().item() for law in laws]
    assert apart[0] > 0.1
    assert apart[1] < 1e-8


def test_each_method_descends_its_own():
    kinds = {name: type(objective(name, 8)) for name in (GDC, PURE, PENALISED)}
    assert kinds == {GDC: FDivergence, PURE: RewardOnly, PENALISED: LeaveOneOut_ELBO}


def test_nearer_is_how_much_of_the_forward_kl_is_gone(prior):
    """Within five standard errors, which are smaller than those of the two divergences apart."""
    prompts = prior.encode(["the film was"])
    task = pointwise(prior, DistributionMatching(word="not"))
    with random_state.isolated(0):
        guide = train(
            FineTuned(prior), task.rewarded, prompts, LeaveOneOut_ELBO(64), 20, learning_rate=3e-3
        )
        draws = sample_prior(
            task.target,
            prompts,
            2000,
            log_likelihood_bound=task.target.log_likelihood_bound(prompts),
        )
        found = measure(task, guide, prompts, draws, draws.response[draws.accepted[:, 0]], 64)
    truth = Enumeration(task.target, prompts)
    exact = (truth.kl_posterior_guide(FineTuned(prior)) - truth.kl_posterior_guide(guide)).item()
    assert exact > 0.2
    assert abs(found["nearer"].value - exact) < 5 * found["nearer"].standard_error
    assert found["nearer"].standard_error < found["kl_posterior_guide"].standard_error


def row(met, kl, distinct, bleu):
    values = {
        "met": met,
        "kl_posterior_guide": kl,
        "nearer": 1.0 - kl,
        "distinct_2": distinct,
        "self_bleu": bleu,
    }
    return {name: Estimate(value, 0.01) for name, value in values.items()}


def test_findings_are_those_of_the_numbers(prior, moments):
    task = distributional(prior, moments)
    rows = {
        PRIOR: row(0.2, 1.0, 0.8, 0.1),
        TARGET: row(0.7, 0.0, 0.8, 0.1),
        PURE: row(1.0, 9.0, 0.1, 0.9),
    }
    good, bad = row(0.6, 0.4, 0.7, 0.1), row(0.22, 0.99, 0.3, 0.5)
    assert all(finding.held for finding in findings_of(task, {**rows, GDC: good, PENALISED: good}))
    held = [
        finding.held
        for finding in findings_of(
            task, {**rows, PURE: row(0.6, 1.01, 0.7, 0.1), GDC: bad, PENALISED: bad}
        )
    ]
    assert not any(held)


@pytest.mark.slow
def test_script(tmp_path, capsys):
    args = DistributionMatching(
        max_new_tokens=4,
        steps=1,
        particles=4,
        draws=512,
        samples=32,
        seeds=2,
        threads=1,
        out=tmp_path,
    )
    findings = main(args)
    assert findings[0].held
    assert findings[0].statement.startswith("lambda")
    assert len(findings) == 1 + 2 * 8
    assert not all(finding.held for finding in findings), "one step does nothing"
    printed = capsys.readouterr().out
    assert "self-BLEU-5" in printed
    assert "did NOT hold" in printed
    assert math.isfinite(float(printed.split("multiplier ")[1].split()[0]))
    assert len(list(tmp_path.rglob("dissociation.svg"))) == 1


def test_share_that_the_prior_has_already_is_refused(prior):
    base = AlignmentModel(prior, {}, 1.0)
    moments = match_moments(
        base, prior.encode(["the film was"]), {"positive": positive(prior)}, {"positive": 0.05}
    )
    with pytest.raises(SystemExit, match=r"--share 0.05: expected above 0\.\d+, that of the prior"):
        distributional(prior, moments)


def test_word_that_the_prior_hardly_says_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="draws of the prior are draws of p"):
        main(DistributionMatching(word="masterpiece", draws=64, steps=1, out=tmp_path))
