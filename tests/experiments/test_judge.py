"""Reward and constraints told apart, against enumeration."""

import pytest

from experiments.judge import Judge
from inference import Enumeration, draw_from_prior, soften
from model import AlignmentModel, TextEvidence, contains, vader_sentiment


@pytest.mark.parametrize("penalty", [None, 1.0])
def test_judged_is_the_reward_without_what_constraints_cost(prior, prompts, penalty):
    evidence = {"taste": TextEvidence(vader_sentiment, prior), "very": contains("very", prior)}
    model = AlignmentModel(prior, evidence, beta=0.5)
    target = model if penalty is None else soften(model, penalty)
    truth, judge = Enumeration(target, prompts), Judge(model)
    reward = evidence["taste"](prompts, truth.support)
    forbidden = ~evidence["very"].holds(prompts, truth.support)

    def exactly(law):
        return (law.exp() * reward).sum(0).mean().item(), (law.exp() * forbidden).sum(0).mean().item()

    of_prior = judge.of_draws(prompts, prior(prompts), 2000)
    of_posterior = judge.of_posterior(prompts, draw_from_prior(target, prompts, 2000))
    for found, (wanted, share) in ((of_prior, exactly(truth.log_prior)), (of_posterior, exactly(truth.log_posterior))):
        assert found.reward.value == pytest.approx(wanted, abs=4 * found.reward.standard_error)
        assert 0 < found.reward.standard_error < 0.05
        assert found.forbidden == pytest.approx(share, abs=0.04)
