"""Distribution matching: targets of the tasks, metrics, and findings that fail with the claim."""

import math

import pytest

from experiments.distribution_matching.__main__ import DistributionMatching, main
from experiments.distribution_matching.report import (
    PRIOR,
    TARGET,
    findings_of,
    lambda_finding,
    measure,
    sample_target,
)
from experiments.distribution_matching.tasks import (
    GDC,
    PENALISED,
    PURE,
    distributional,
    pointwise,
    positive,
)
from experiments.shared.training import train
from guides import FineTuned
from inference import (
    Enumeration,
    Estimate,
    LeaveOneOut_ELBO,
    entropy,
    joint_at,
    log_guide_at,
    match_moments,
    random_state,
)
from model import AlignmentModel


def matched(prior, share):
    base, prompts = AlignmentModel(prior, {}, 1.0), prior.encode(["the film was"])
    return match_moments(base, prompts, {"positive": positive(prior)}, {"positive": share})


def test_positive_is_above_zero(prior):
    feature = positive(prior).function
    assert feature(["a bad film", "a good film", "a film"]) == [0.0, 1.0, 0.0]


def test_the_distributional_target_has_its_share_and_rl_has_the_same_posterior(prior):
    moments = matched(prior, 0.7)
    task, prompts = distributional(prior, moments), prior.encode(["the film was"])
    target, rewarded = Enumeration(task.target, prompts), Enumeration(task.rewarded, prompts)
    met = (target.log_posterior.exp() * task.feature(prompts, target.support)).sum().item()
    assert met == pytest.approx(0.7, abs=1e-8)
    assert task.goal == 0.7
    assert (target.log_posterior - rewarded.log_posterior).abs().max() < 1e-9
    assert lambda_finding(moments).held


def test_the_pointwise_target_is_the_limit_of_the_posteriors_of_rl(prior):
    prompts = prior.encode(["the film was"])
    tasks = [pointwise(prior, "very", beta) for beta in (0.5, 0.02)]
    target = Enumeration(tasks[0].target, prompts)
    has_word = tasks[0].feature(prompts, target.support)
    assert (target.log_posterior.exp() * has_word).sum().item() == pytest.approx(1, abs=1e-12)
    far, near = (Enumeration(task.rewarded, prompts).log_posterior.exp() for task in tasks)
    assert (far - target.log_posterior.exp()).abs().sum() > 0.1
    assert (near - target.log_posterior.exp()).abs().sum() < 1e-8


def test_nearer_is_the_fall_of_the_forward_kl(prior):
    """Within five standard errors, which are smaller than those of accepted draws alone."""
    prompts = prior.encode(["the film was"])
    task = pointwise(prior, "not", 0.2)
    with random_state.isolated(0):
        guide = train(FineTuned(prior), task.rewarded, prompts, LeaveOneOut_ELBO(64), 20)
        sample = sample_target(task, prompts, 2000)
        metrics = measure(task, prompts, sample, 256, guide)
    truth = Enumeration(task.target, prompts)
    accepted = sample.response[sample.accepted[:, 0]]
    log_ratio = (
        log_guide_at(guide, prompts, accepted) - joint_at(task.target, prompts, accepted).log_prior
    )
    exact = (truth.kl_posterior_guide(FineTuned(prior)) - truth.kl_posterior_guide(guide)).item()
    assert exact > 0.2
    assert abs(metrics["nearer"].value - exact) < 5 * metrics["nearer"].standard_error
    alone = Estimate.of_mean(log_ratio.detach().double())
    assert metrics["nearer"].standard_error < alone.standard_error


def test_metrics_of_the_target_are_those_of_the_posterior(prior):
    prompts = prior.encode(["the film was"])
    task = pointwise(prior, "not", 0.2)
    with random_state.isolated(0):
        metrics = measure(task, prompts, sample_target(task, prompts, 2000), 256, None)
    truth = Enumeration(task.target, prompts)
    kl, nats = (truth.log_z.mean() * -1).item(), entropy(truth.log_posterior).item()
    assert metrics["constraint"].value == 1.0
    assert abs(metrics["KL(q||p0)"].value - kl) < 5 * metrics["KL(q||p0)"].standard_error
    assert abs(metrics["entropy"].value - nats) < 5 * metrics["entropy"].standard_error


def row(met, kl, distinct, bleu):
    values = {"constraint": met, "KL(p*||q)": kl, "nearer": 1.0 - kl}
    values |= {"distinct-2": distinct, "self-BLEU-5": bleu}
    return {name: Estimate(value, 0.01) for name, value in values.items()}


def test_findings_fail_where_the_claim_does():
    rows = {
        PRIOR: row(0.2, 1.0, 0.8, 0.1),
        TARGET: row(0.7, 0.0, 0.8, 0.1),
        PURE: row(1.0, 9.0, 0.1, 0.9),
    }
    good, bad = row(0.6, 0.4, 0.7, 0.1), row(0.22, 0.99, 0.3, 0.5)
    findings = findings_of(0.7, {**rows, GDC: good, PENALISED: good})
    assert all(finding.held for finding in findings)
    wrong = {PURE: row(0.6, 1.01, 0.7, 0.1), GDC: bad, PENALISED: bad}
    assert not any(finding.held for finding in findings_of(0.7, {**rows, **wrong}))
    near = row(0.375, 0.4, 0.7, 0.1)  # 0.35 ± 0.02 of the way
    unclear = findings_of(0.7, {**rows, GDC: near, PENALISED: good})
    assert [each.statement.endswith("too noisy to say") for each in unclear if not each.held] == [
        True
    ]


@pytest.mark.slow
def test_script(tmp_path, capsys):
    sizes = {"max_new_tokens": 4, "steps": 1, "particles": 4, "draws": 512, "samples": 32}
    findings = main(DistributionMatching(**sizes, out=tmp_path))
    assert findings[0].held
    assert findings[0].statement.startswith("lambda")
    assert len(findings) == 1 + 2 * 9
    assert not all(finding.held for finding in findings), "one step does nothing"
    printed = capsys.readouterr().out
    assert "self-BLEU-5" in printed
    assert "did NOT hold" in printed
    assert math.isfinite(float(printed.split("multiplier ")[1].split()[0]))
    assert len(list(tmp_path.rglob("dissociation.svg"))) == 1


def test_share_that_the_prior_has_already_is_refused(prior):
    with pytest.raises(SystemExit, match=r"--share 0.05: expected above 0\.\d+, the prior's"):
        distributional(prior, matched(prior, 0.05))


def test_word_that_the_prior_hardly_says_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="draws of the prior are draws of p"):
        main(DistributionMatching(word="masterpiece", draws=64, steps=1, out=tmp_path))
