"""Steps with a size in nats: the size is a KL, the limit holds, and units do not matter."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO

from guides import GUIDES, FineTuned, MeanField, SoftPrompt, Tabular
from inference import OBJECTIVES, Enumeration, LeaveOneOut_ELBO, fit
from inference.objectives.f_divergence import DIVERGENCES
from inference.objectives.parts.draws import DrawMatrices, matrices
from inference.programs import joint_at, log_guide_at, response_distribution
from inference.svi import step_numbers
from inference.svi.fit_objective import fit_objective
from inference.svi.optimizer import trust_region
from inference.svi.optimizer.trust_region import NEAR, STEP_KL, TrustRegion
from inference.svi.step_numbers import (
    MOST,
    NoDrawsError,
    distances_left,
    effective_share,
    slope_error,
    step_size,
)
from model import AlignmentModel, TextReward, TokenReward, contains, vader_sentiment
from model.prior.grammar import untrained_prior
from tests.inference.conftest import killed_and_resumed, moved_guide, parameters_of, quiet
from tests.inference.objectives.uses import ONE_OF_EACH_USE


@pytest.fixture(scope="module")
def fitted(model, small_prior, prompts):
    """Guide after 40 default steps, near the posterior."""
    pyro.set_rng_seed(0)
    guide = FineTuned(small_prior)
    quiet(model, guide, prompts, 40)
    return guide


def drawn(objective, model, guide, prompts):
    """Draws of one loss of an objective."""
    objective = fit_objective(objective)
    with pyro.get_param_store().scope():
        objective.loss_and_grads(model, guide, prompts)
    return objective.draws


def shifted(guide, scale=1e-3):
    """Move a guide by noise, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += scale * torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )


@pytest.mark.parametrize("name", ["leave-one-out", "trace", "trajectory-balance", "proximal"])
def test_the_size_of_a_step_is_the_kl_between_the_guides(name, model, prompts, truth, guide):
    """Up to third order in the step, and up to the noise of 4,000 responses."""
    draws = drawn(OBJECTIVES[name](num_particles=4000), model, guide, prompts)
    old = truth.log_guide(guide)
    response, log_old = draws[0].values["response"], draws[0].log_guide["response"]
    shifted(guide)
    kl = (old.exp() * (old - truth.log_guide(guide))).sum(0).mean().item()
    change = log_guide_at(guide, prompts, response) - log_old
    exact = 0.5 * change[: MOST // len(prompts)].square().mean().item()
    assert step_size(guide, draws).item() == pytest.approx(exact, rel=1e-9)
    if name != "trajectory-balance":  # whose draws are bolder than the guide's
        assert 0.5 * change.square().mean().item() == pytest.approx(kl, rel=0.15)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_draws_of_an_objective_have_the_guides_own_densities(name):
    """Also of responses that end early. Without a step, the size of the step is 0."""
    prior = untrained_prior(4, max_new_tokens=3, initializer_range=0.1, seed=0)
    reward = TokenReward(lambda response, is_token: is_token.double().mean(-1), prior)
    model, prompts = AlignmentModel(prior, reward, 0.3), prior.encode(["w1", "w2 w3"])
    prompts = prompts[: OBJECTIVES[name].max_prompts]
    guide = GUIDES[OBJECTIVES[name].guide](prior, prompts)
    shifted(guide, 0.02)
    draws = drawn(OBJECTIVES[name](num_particles=16), model, guide, prompts)
    assert step_size(guide, draws).item() == pytest.approx(0, abs=1e-9)
    for batch in draws:
        response = batch.values["response"]
        assert not prior.space.is_token(response).all()
        log_guide = log_guide_at(guide, batch.prompts, response).detach().double()
        assert torch.allclose(batch.log_guide["response"].double(), log_guide, atol=1e-5)
        if name not in ("best-of-n-distillation", "qrpo", "self-play"):  # which have other targets
            log_joint = joint_at(model, batch.prompts, response).log_joint
            assert torch.allclose(batch.log_weight.double(), log_joint - log_guide, atol=1e-4)


def test_pyros_enumeration_gives_size_and_distance_without_noise(model, small_prior, prompts):
    """All responses of a guide that Pyro enumerates, with the weights q."""
    guide = MeanField(small_prior, prompts)
    shifted(guide, 0.3)

    def enumerated(prompts):
        pyro.module("guide", guide)
        with pyro.plate("prompts", len(prompts), dim=-1):
            distribution = guide.distribution(prompts)
            return pyro.sample("response", distribution, infer={"enumerate": "parallel"})

    draws = drawn(TraceEnum_ELBO(max_plate_nesting=1), model, enumerated, prompts)
    support = response_distribution(guide, prompts).enumerate_support()
    old = log_guide_at(guide, prompts, support).detach()
    log_joint = draws[0].log_weight.double().reshape(old.shape) + old
    log_weight = log_joint - old
    q = old.exp()
    variance = (q * (log_weight - (q * log_weight).sum(0)).square()).sum(0)
    distance = distances_left(matrices(draws)).mean().item()
    assert distance == pytest.approx(0.5 * variance.mean().item(), rel=1e-6)
    shifted(guide, 0.01)
    change = log_guide_at(guide, prompts, support).detach() - old
    exact = 0.5 * (q * change.square()).sum(0).mean().item()
    with pyro.get_param_store().scope():
        assert step_size(enumerated, draws).item() == pytest.approx(exact, rel=1e-6)


def test_the_distance_left_is_the_kl_to_the_posterior_near_the_posterior(
    model, prompts, small_prior
):
    """At the prior, for a reward that is small beside beta."""
    near, guide = AlignmentModel(small_prior, model.reward, beta=3.0), FineTuned(small_prior)
    truth, num_draws = Enumeration(near, prompts), 10_000
    draws = drawn(LeaveOneOut_ELBO(num_particles=num_draws), near, guide, prompts)
    log_q = truth.log_guide(guide)
    log_weight, q = truth.log_posterior - log_q, log_q.exp()
    square = (log_weight - (q * log_weight).sum(0)).square()
    distance = 0.5 * (q * square).sum(0)  # [N], nats
    variance = (q * (0.5 * square - distance).square()).sum(0)
    error = variance.sum().sqrt().item() / len(variance) / num_draws**0.5
    distance_hat = distances_left(matrices(draws)).mean().item()
    assert distance_hat == pytest.approx(distance.mean().item(), abs=5 * error)
    kl = truth.kl_guide_posterior(guide).mean().item()
    assert distance.mean().item() == pytest.approx(kl, rel=0.1)
    assert 0.001 < kl < 0.1


def test_the_distance_left_to_a_hard_constraint_is_minus_the_log_of_its_probability(
    prompts, small_prior
):
    """All possible draws of the prior have one weight: their variance is 0, and no fit moved."""
    model = AlignmentModel(small_prior, {}, 1.0, {"very": contains("very", small_prior)})
    prompts, guide = prompts[:1], FineTuned(small_prior)
    truth = Enumeration(model, prompts)
    start = truth.kl_posterior_guide(guide)
    draws = drawn(OBJECTIVES["forward-kl"](num_particles=4096), model, guide, prompts)
    assert torch.allclose(distances_left(matrices(draws)), start, rtol=0.1)
    quiet(model, guide, prompts, 20, objective=OBJECTIVES["forward-kl"](num_particles=32))
    assert (truth.kl_posterior_guide(guide) < 0.5 * start).all()


@pytest.mark.parametrize("name", ONE_OF_EACH_USE)
def test_no_step_of_any_kind_of_objective_exceeds_the_limit(name, model, small_prior, prompts):
    chosen = prompts[[0]] if OBJECTIVES[name].max_prompts == 1 else prompts
    guide = GUIDES[OBJECTIVES[name].guide](small_prior, chosen)
    objective = OBJECTIVES[name](num_particles=8)
    result = quiet(model, guide, chosen, 6, objective=objective, step_kl=0.02)
    sizes = [metrics["step_size"] for metrics in result.metrics]
    assert result.stopped_early is None
    assert sizes[0] > 0
    for step, size in enumerate(sizes):
        assert size <= 0.02 * (1 - step / 6) * (1 + 1e-6)


def test_near_the_posterior_no_step_exceeds_its_share_of_the_distance_left(
    model, small_prior, prompts, monkeypatch
):
    distances, sizes = [], []
    measure = trust_region.TrustRegion._advance

    def recorded(self, trained, norm):
        measure(self, trained, norm)
        distances.append(self.distance * (1 - self.progress))
        sizes.append(self.step_size)

    monkeypatch.setattr(trust_region.TrustRegion, "_advance", recorded)
    quiet(model, FineTuned(small_prior), prompts, 40)
    assert max(s / d for s, d in zip(sizes, distances, strict=True)) <= STEP_KL / NEAR * (1 + 1e-6)
    assert min(distances) < 0.2


@pytest.mark.parametrize("rate", [1e-7, 1e-1])
def test_the_first_rate_does_not_matter(
    rate, model, small_prior, prompts, truth, fitted, monkeypatch
):
    """From a rate a thousand times too small or too large the guide gets as close."""
    monkeypatch.setattr(trust_region, "START", rate)
    guide = FineTuned(small_prior)
    start = truth.kl_guide_posterior(guide).mean().item()
    result = quiet(model, guide, prompts, 40)
    assert result.metrics[0]["learning_rate"] == rate
    for each in (fitted, guide):
        assert truth.kl_guide_posterior(each).mean().item() < 0.2 * start


@pytest.mark.parametrize(
    ("name", "seed"), [("leave-one-out", 0), ("leave-one-out", 62), ("forward-kl", 0)]
)
def test_momentum_does_not_carry_a_table_past_the_posterior(name, seed):
    """Momentum left 0.06 to 0.16 nats of 0.7, since all rows of the table move together at first.

    With the second seed the slope is 2 to 4 standard errors for nine steps.
    """
    prior = untrained_prior(8, max_new_tokens=3, initializer_range=0.15, seed=2)

    def share(response, is_token):
        return (torch.isin(response, response.new_tensor([4, 6])) & is_token).double().mean(-1)

    model, prompts = AlignmentModel(prior, TokenReward(share, prior), 0.25), prior.encode([""])
    truth, guide = Enumeration(model, prompts), Tabular(prior, prompts)
    assert truth.kl_posterior_guide(guide).mean() > 0.7
    quiet(model, guide, prompts, 60, objective=OBJECTIVES[name](num_particles=64), seed=seed)
    assert truth.kl_posterior_guide(guide).mean() < 0.03


@pytest.mark.parametrize(
    ("slopes", "drops"),
    [([3.9, 0.9, 4.1], [2]), ([2.1] * 6, [2, 5]), ([3.9, -9.0, 3.9], []), ([0.9] * 6, [])],
    ids=["one above 4", "three above 2", "downhill between", "noise"],
)
def test_momentum_is_dropped_where_slopes_add_up(slopes, drops, model, small_prior, prompts):
    """Slopes in standard errors; a drop starts the sum anew, and leaves the second moments."""
    optimizer = TrustRegion()
    quiet(model, FineTuned(small_prior), prompts, 2, optimizer=optimizer)
    moments = list(optimizer._optimizer.state.values())
    seconds = [state["exp_avg_sq"].clone() for state in moments]
    optimizer._optimizer.param_groups[0]["uphill"], optimizer.slope_error = 0.0, 0.5
    dropped = []
    for index, slope in enumerate(slopes):
        optimizer.slope = slope / 2
        for state in moments:
            state["exp_avg"].fill_(1.0)
        optimizer._drop_uphill_momentum()
        totals = {state["exp_avg"].sum().item() == 0.0 for state in moments}
        assert len(totals) == 1
        dropped += [index] * totals.pop()
    assert dropped == drops
    for state, second in zip(moments, seconds, strict=True):
        assert torch.equal(state["exp_avg_sq"], second)


def test_the_slope_is_the_gradient_along_the_last_step_for_one_nat(
    model, small_prior, prompts, monkeypatch
):
    """Both for steps that were shortened and for others."""
    guide, lasts, slopes = FineTuned(small_prior), [], []
    slope = TrustRegion._slope

    def recorded(self, norm):
        trained = [p for p in guide.parameters() if p.requires_grad and p.grad is not None]
        now = [(p, p.detach().clone()) for p in trained]
        if lasts:
            rise = sum(((p - old) * p.grad).sum().item() for p, old in lasts[-1])
            slopes.append((slope(self, norm).item(), rise / math.sqrt(self.step_size)))
        lasts.append(now)
        return torch.zeros(())

    monkeypatch.setattr(TrustRegion, "_slope", recorded)
    quiet(model, guide, prompts, 8)
    assert len(slopes) == 7
    for slope, exact in slopes[1:]:
        assert slope == pytest.approx(exact, rel=0.02)


def test_the_slope_of_fresh_draws_has_its_standard_error(model, small_prior, prompts, truth):
    """Over 100 gradients along one step from the prior, for prompts with other distances left."""
    guide = FineTuned(small_prior)
    before = [parameter.detach().clone() for parameter in guide.parameters()]
    old = truth.log_guide(guide)
    shifted(guide)
    size = 0.5 * (old.exp() * (truth.log_guide(guide) - old).square()).sum(0).mean().item()
    now = [parameter.detach().clone() for parameter in guide.parameters()]
    direction = [a - b for a, b in zip(now, before, strict=True)]
    slopes, errors = [], []
    torch.manual_seed(0)
    for _ in range(100):
        guide = FineTuned(small_prior)
        draws = matrices(drawn(LeaveOneOut_ELBO(num_particles=16), model, guide, prompts))
        pairs = zip(guide.parameters(), direction, strict=True)
        slopes.append(sum((p.grad * d).sum() for p, d in pairs) / math.sqrt(size))
        errors.append(slope_error(draws, distances_left(draws), torch.ones(())).item())
    assert torch.stack(slopes).std().item() == pytest.approx(sum(errors) / 100, rel=0.35)


def test_the_share_of_the_draws_that_carry_a_gradient_is_the_effective_sample_size():
    log_weight = torch.tensor([[2.0, 0.0], [2.0, 0.0], [-math.inf, 0.0], [-math.inf, math.log(4)]])
    equal = torch.full_like(log_weight, 0.25)
    draws = DrawMatrices(log_weight.double(), log_weight.double(), equal.double(), False)
    assert effective_share(draws, 0.0) == 1.0
    assert effective_share(draws, 1.0).item() == pytest.approx((0.5 + 49 / 19 / 4) / 2)
    assert effective_share(draws._replace(every=True), 1.0) == 1.0
    impossible = draws._replace(log_weight=torch.full_like(draws.log_weight, -math.inf))
    assert effective_share(impossible, 1.0) == 1.0


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_power_of_a_divergence_is_that_of_its_slope(name):
    """The slope of power 0 grows no faster than a logarithm."""
    divergence, far = DIVERGENCES[name], torch.tensor([30.0, 31.0], dtype=torch.float64)
    power = divergence.weight_power
    slopes = divergence.slope(far if power >= 0 else -far)
    grown = (slopes[1] / slopes[0]).log().item()
    assert grown == pytest.approx(abs(power), abs=1e-6 if power else 0.05)
    assert fit_objective(OBJECTIVES[name](num_particles=4)).weight_power == power


def test_objectives_with_weights_take_shorter_steps(model, small_prior, prompts, monkeypatch):
    """All draws carry the gradient of the ELBO, and a share of them that of forward KL."""
    shares = {}
    advance = TrustRegion._advance

    def recorded(self, trained, norm):
        advance(self, trained, norm)
        shares.setdefault(name, []).append(self.share)
        assert self.step_size <= STEP_KL * self.share * (1 - self.progress) * (1 + 1e-6)

    monkeypatch.setattr(TrustRegion, "_advance", recorded)
    names = ["leave-one-out", "renyi", "wake-phi", "reweighted-wake-sleep", "forward-kl"]
    for name in names:
        objective = OBJECTIVES[name](num_particles=32)
        guide = FineTuned(small_prior)
        quiet(model, guide, prompts[[0]], 3, objective=objective)
    assert shares["leave-one-out"] == [1.0] * 3
    assert shares["renyi"][0] < 0.95
    for name in names[2:]:
        assert shares[name][0] < shares["renyi"][0]


@pytest.mark.parametrize("is_needed", [True, False], ids=["trust region", "rate"])
def test_limits_are_computed_where_a_step_has_a_size_in_nats(
    is_needed, model, small_prior, prompts, monkeypatch
):
    limits = []
    measure = step_numbers.step_limits
    monkeypatch.setattr(
        step_numbers, "step_limits", lambda *args: limits.append(measure(*args)) or limits[-1]
    )
    options = {} if is_needed else {"learning_rate": 1e-4}
    quiet(model, FineTuned(small_prior), prompts, 2, **options)
    assert len(limits) == 2 * is_needed


@pytest.mark.parametrize("uphill", [trust_region.UPHILL, 0.0], ids=["by default", "often"])
def test_a_killed_fit_resumes_bit_for_bit(
    uphill, model, small_prior, prompts, tmp_path, monkeypatch
):
    """With a random subset of the prompts in each step, also where momentum is dropped often."""
    monkeypatch.setattr(trust_region, "UPHILL", uphill)

    def run(folder, **options):
        guide = FineTuned(small_prior)
        options |= {"checkpoint_folder": folder, "checkpoint_every": 3}
        return guide, quiet(model, guide, prompts, 8, prompts_per_step=1, **options).metrics

    whole, metrics = run(tmp_path / "whole")
    resumed, rest = killed_and_resumed(partial(run, tmp_path / "killed"), step=5)
    assert rest == metrics[-len(rest) :]
    assert torch.equal(parameters_of(whole), parameters_of(resumed))


class Opaque(ELBO):
    """An objective that shows no traces."""

    def _get_trace(self, model, guide, args, kwargs):
        raise NotImplementedError

    def loss(self, model, guide, prompts):
        raise NotImplementedError

    def loss_and_grads(self, model, guide, prompts):
        guide(prompts)  # registers the parameters
        loss = -guide.distribution(prompts).log_prob(guide.distribution(prompts).sample()).sum()
        loss.backward()
        return loss.item()


def test_an_objective_without_draws_needs_a_learning_rate(model, small_prior, prompts):
    options = {"num_steps": 1, "objective": Opaque(), "progress": False}
    with pytest.raises(NoDrawsError, match=r"Opaque does not show the draws .* `learning_rate`"):
        fit(model, FineTuned(small_prior), prompts, **options)
    fit(model, FineTuned(small_prior), prompts, **options, learning_rate=1e-3)


def test_a_step_leaves_the_objective_as_it_was(model, guide, prompts):
    objective = Trace_ELBO()
    before = dict(vars(objective))
    assert drawn(objective, model, guide, prompts)
    assert vars(objective) == before


REFUSED = {
    "step_kl": {"step_kl": 0.0},
    "step_kl and learning_rate are given": {"step_kl": 0.1, "learning_rate": 1e-3},
    "step_kl and clip_norm are given": {"step_kl": 0.1, "clip_norm": 1.0},
} | {
    f"^both optimizer and {name} are given": {name: 0.1, "optimizer": TrustRegion()}
    for name in ("step_kl", "learning_rate", "clip_norm")
}


@pytest.mark.parametrize("message", REFUSED)
def test_contradictory_settings_are_refused(message, model, small_prior, prompts):
    with pytest.raises(ValueError, match=message):
        fit(model, FineTuned(small_prior), prompts, num_steps=1, **REFUSED[message])


def test_a_trust_region_outside_a_fit_is_refused():
    pyro.clear_param_store()
    parameter = pyro.param("a", torch.tensor([1.0])).unconstrained()
    parameter.grad = torch.ones(1)
    with pytest.raises(TypeError, match=r"expected `inference\.fit`"):
        TrustRegion()([parameter])


def test_guides_with_several_sites_are_measured_as_one(prompts, small_prior, model):
    """A guide of Pyro with a continuous site besides the response, reparameterised."""
    guide = moved_guide(small_prior, 0.01)

    def wide(prompts):
        loc = pyro.param("loc", torch.tensor(0.3))
        pyro.sample("bias", dist.Normal(loc, 1.0))
        return guide(prompts)

    def wide_model(prompts):
        pyro.sample("bias", dist.Normal(0.0, 1.0))
        return model(prompts)

    draws = drawn(Trace_ELBO(num_particles=3), wide_model, wide, prompts)
    assert len(draws) == 3
    with pyro.get_param_store().scope():
        pyro.param("loc", torch.tensor(0.3))
        assert step_size(wide, draws).item() == pytest.approx(0.0, abs=1e-12)
    with pyro.get_param_store().scope():
        pyro.param("loc", torch.tensor(0.5))
        values = torch.stack([d.values["bias"] for d in draws])
        moved = dist.Normal(0.5, 1.0).log_prob(values) - dist.Normal(0.3, 1.0).log_prob(values)
        exact = 0.5 * moved.square().mean().item()
        assert step_size(wide, draws).item() == pytest.approx(exact, rel=1e-5)
    assert math.isfinite(distances_left(matrices(draws)).mean().item())


def test_the_rate_of_parameters_before_a_normalisation_does_not_rise_without_end(prior):
    """Longer virtual tokens turn less in a step of one rate: the rate rose to 1e26 in 60 steps."""
    prompts = prior.encode(["the film was"])
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
    guide, rates = SoftPrompt(prior), []
    quiet(model, guide, prompts, 30, on_step=lambda metrics: rates.append(metrics["learning_rate"]))
    assert 0.01 < max(rates) < 1.0
    assert guide.virtual_tokens.abs().max() < 20.0
