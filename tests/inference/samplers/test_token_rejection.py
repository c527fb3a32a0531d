"""Rejection of single tokens: unbiased with every number of tests, exact where one word is left.

`experiments/identities/token_rejection.py` sums the weights over all orders of the tokens.
"""

import pytest
import torch

from inference.samplers.posterior import NoSupportError
from inference.samplers.smc import sequential_monte_carlo
from inference.samplers.token_rejection import TokenRejection
from model import TokenReward
from tests.inference.samplers.three_tokens import NUM_WORDS, assert_unbiased, graded, may_stand

RUNS = 1_000


def allowed(prompts, response, t):
    assert response.shape == (1, len(prompts), 3)
    assert (response[..., t:] == 0).all()
    return may_stand(response)


def run(model, prompts, allowed, *, num_samples=16, extra_tests=1, max_tests=64, **options):
    rejection = TokenRejection(allowed, extra_tests=extra_tests, max_tests=max_tests)
    return sequential_monte_carlo(
        model, prompts, num_samples=num_samples, rejection=rejection, **options
    )


@pytest.mark.parametrize(
    ("extra_tests", "max_tests"), [(1, 1), (1, 2), (1, 64), (3, 4), (NUM_WORDS, 64)]
)
@pytest.mark.parametrize("proposal", ["prior", "guide"])
def test_z_is_unbiased_with_every_number_of_tests(
    constrained, prior, proposal, extra_tests, max_tests
):
    """The model has the constraint, or only the rejection has the constraint."""
    free = constrained.program(constrained.log_prior, TokenReward(graded, prior))
    guide = constrained.guide if proposal == "guide" else None
    options = {"extra_tests": extra_tests, "max_tests": max_tests, "ess_threshold": 2.0}
    for model, twist in ((constrained.model, None), (free, constrained.optimal_twist)):
        posterior = run(
            model, constrained.repeated(RUNS), allowed, guide=guide, twist=twist, **options
        )
        assert_unbiased(constrained.z_ratio(posterior), torch.ones(2))
        assert_unbiased(constrained.mass(posterior), constrained.exact_mass(), power=0.06)
        assert (posterior.diagnostics["num_resamplings"] > 0).any()
        assert may_stand(posterior.response[posterior.probability > 0]).all()


@pytest.mark.parametrize(("extra_tests", "max_tests"), [(1, 64), (3, NUM_WORDS)])
def test_one_allowed_word_has_its_probability_as_weight_in_every_run(
    constrained, extra_tests, max_tests
):
    """After all other words failed, also in the last test, or as the first word drawn."""
    words = torch.tensor([6, 2, 4])

    def only(prompts, response, t):
        return (response[..., :t] == words[:t]).all(-1)

    options = {"extra_tests": extra_tests, "max_tests": max_tests, "ess_threshold": 0.0}
    posterior = run(constrained.model, constrained.repeated(20), only, **options)
    which = (constrained.truth.support[:, 0] == words).all(-1)
    expected = constrained.truth.log_joint[which].expand(20, 2)
    assert torch.allclose(posterior.log_z.view(-1, 2), expected, rtol=0, atol=1e-6)


def test_a_constraint_that_allows_everything_leaves_the_weights_alone(constrained):
    prompts = constrained.prompts
    posterior = run(constrained.model, prompts, lambda p, x, t: (x >= 0).all(-1), ess_threshold=0.0)
    expected = graded(posterior.response, constrained.space.is_token(posterior.response))
    possible = posterior.log_weight.isfinite()
    assert torch.equal(possible, may_stand(posterior.response))
    assert torch.allclose(posterior.log_weight[possible], expected[possible], atol=1e-9)


def test_number_of_tests_is_that_of_all_calls_and_limited(constrained):
    calls = []

    def counted(prompts, response, t):
        calls.append(len(prompts))
        return allowed(prompts, response, t)

    for extra_tests, max_tests in ((1, 64), (3, 64), (64, 64), (64, 5)):
        calls.clear()
        options = {"num_samples": 50, "extra_tests": extra_tests, "max_tests": max_tests}
        posterior = run(constrained.model, constrained.prompts, counted, **options)
        total = posterior.diagnostics["num_tests"].sum().item()
        assert total == sum(calls)
        assert 2 * 50 <= total <= 2 * 50 * 3 * min(max_tests, NUM_WORDS)


def test_a_constraint_without_a_word_is_an_error_that_names_the_prompt(constrained):
    with pytest.raises(NoSupportError, match="all 16 responses drawn for 'the film was'"):
        run(constrained.model, constrained.prompts, lambda p, x, t: (x < 0).all(-1))


def test_errors_name_the_expected_value(constrained):
    model, prompts = constrained.model, constrained.prompts
    with pytest.raises(ValueError, match=r"allowed returned shape \(2, 3\).*expected \(1, 8\)"):
        run(model, prompts, lambda p, x, t: torch.ones(2, 3), num_samples=4)
    with pytest.raises(TypeError, match="what allowed returned"):
        run(model, prompts, lambda p, x, t: True)
    with pytest.raises(ValueError, match="extra_tests is 0"):
        TokenRejection(allowed, extra_tests=0)
    with pytest.raises(ValueError, match="max_tests is 0"):
        TokenRejection(allowed, max_tests=0)
    with pytest.raises(TypeError, match="rejection"):
        sequential_monte_carlo(model, prompts, rejection=allowed)
    sample = constrained.exact_samples(1)[0]
    with pytest.raises(ValueError, match="got retained and rejection"):
        run(model, prompts, allowed, retained=sample, resampling="multinomial")
