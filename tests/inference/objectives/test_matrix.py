"""Every registered objective against theory. An entry without a claim here fails."""

import itertools
import math
from dataclasses import replace
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI

from inference import (
    DIVERGENCES,
    OBJECTIVES,
    BestOfN_ELBO,
    Enumeration,
    FDivergence,
    FusedOptimizer,
    SquaredResidual,
    log_guide_at,
)
from inference.objectives import Proximal_ELBO
from inference.targets.fixed_points import TARGETS, Problem
from model import ImpossibleResponseError
from tests.inference.conftest import parameters_of, quiet
from tests.inference.objectives.table import (
    ONE,
    TWO,
    Drawn,
    Table,
    Target,
    autograd,
    gradient,
    mean_gradient,
    posterior_guide,
)
from tests.inference.objectives.uses import ONE_OF_EACH_USE, OURS
from tests.inference.targets.fixed_points.updates import UPDATES

DESCENDS = {
    "leave-one-out": "reverse-kl",
    "trace": "reverse-kl",
    "trace-graph": "reverse-kl",
    "renyi": "renyi",
    "reweighted-wake-sleep": "forward-kl",
    "reward-to-go": "reverse-kl",
    "reward-to-go-value": "reverse-kl",
    "analytic-kl": "reverse-kl",
    "log-variance": "reverse-kl",
    "trajectory-balance": "log-variance",
    "gauss-newton": "reverse-kl",
    "rebel": "reverse-kl",
    "a-star-po": "reverse-kl",
    "qrpo": "quantile",
    "proximal": "reverse-kl",
    "wake-phi": "forward-kl",
    "brain": "forward-kl",
    "multi-sample": "multi-sample",
    "forward-kl": "forward-kl",
    "forward-kl-adaptive": "forward-kl",
    "reverse-kl": "reverse-kl",
    "jensen-shannon": "jensen-shannon",
    "total-variation": "total-variation",
    "chi2-forward": "chi2-forward",
    "chi2-reverse": "chi2-reverse",
    "alpha": "alpha",
    "best-of-n-distillation": "best-of-n",
    "contrastive-twist": "contrastive",
    "grpo": "grpo-token-k3",
    "dr-grpo": "token-forward-kl",
    "dapo": "grpo-token-k3",
    "gdpo": "gdpo",
    "gspo": "grpo-mean-k3",
    "cispo": "grpo-token-k3",
    "sapo": "grpo-mean-k3",
    "gmpo": "grpo-mean-k3",
    "dppo": "grpo-token-k3",
    "rloo": "reverse-kl",
    "reinforce++": "reverse-kl",
    "self-play": "nash",
    "max-at-k": "max-at-k",
    "online-dpo": "online-dpo",
}
"""Quantity that each objective descends."""

UNBIASED = {
    name
    for name, what in DESCENDS.items()
    if what
    in ("reverse-kl", "multi-sample", "best-of-n", "quantile", "nash", "max-at-k", "online-dpo")
    and name not in ("gauss-newton", "reinforce++")
} | set(DIVERGENCES)
"""The gradient's mean is exact, for the f-divergences given log Z."""

CONSISTENT = {
    "renyi",
    "reweighted-wake-sleep",
    "wake-phi",
    "brain",
    "forward-kl-adaptive",
    "contrastive-twist",
    "grpo",
    "dr-grpo",
    "dapo",
    "gdpo",
    "gspo",
    "cispo",
    "sapo",
    "gmpo",
    "dppo",
    "reinforce++",
}
"""The gradient is exact with many particles, of `reinforce++` and `dapo` up to its length."""

VANISHES = {
    "leave-one-out",
    "log-variance",
    "gauss-newton",
    "trajectory-balance",
    "rebel",
    "proximal",
    "multi-sample",
    "brain",
    "forward-kl",
    "forward-kl-adaptive",
    "reverse-kl",
    "jensen-shannon",
    "chi2-forward",
    "chi2-reverse",
    "alpha",
    "rloo",
    "online-dpo",
}
"""At q = p* the gradient is 0 on every sample (for the f-divergences where log Z is known)."""

SUPPORTS_HARD_CONSTRAINTS = {
    "wake-phi",
    "brain",
    "forward-kl",
    "forward-kl-adaptive",
    "jensen-shannon",
    "total-variation",
    "chi2-forward",
    "alpha",
    "best-of-n-distillation",
    "contrastive-twist",
}
"""Objectives that learn from a log-likelihood of -inf; all others refuse -inf."""

WEIGHT = 0.8
TRAINERS = {"grpo", "dr-grpo", "dapo", "gdpo", "gspo", "cispo", "sapo", "gmpo", "dppo"}
"""Objectives whose target is in `TARGETS`."""
QUANTILE = {"quantile_beta": WEIGHT}
SMALL = {"num_particles": 8, "capacity": 128}  # a pass for each response
OPTIONS = {"best-of-n-distillation": {"n": 3}, "qrpo": QUANTILE, "gauss-newton": SMALL} | {
    name: {"kl_weight": WEIGHT} for name in TRAINERS | {"self-play"}
}
"""Options with which an objective reaches the optimum in the steps of these tests."""


def prompts_of(name):
    return TWO[: OBJECTIVES[name].max_prompts]


def knowing_log_z(name, num_particles, truth):
    """Objective with the exact log Z instead of a moving average."""
    objective = OBJECTIVES[name](num_particles=num_particles)
    if isinstance(objective, FDivergence):
        objective.log_z.update = lambda prompts, log_z_hat: truth.log_z
    return objective


def problem_of(truth):
    """Problem in nats of an objective with `kl_weight` = WEIGHT."""
    length = (truth.support != 0).cumprod(-1).sum(-1).add(1).clamp(max=2)  # with the end
    return Problem(truth.log_prior, truth.log_likelihood, WEIGHT, truth.support, length)


def log_ratio_of(objective, prompts, truth):
    """log of the target over the prior, up to a constant, by the ranks of the prior's draws."""
    if isinstance(objective, BestOfN_ELBO):
        return objective.log_ratio(prompts, truth.log_likelihood)
    return objective.log_z.log_reward(objective, prompts, truth.log_likelihood)


def exact_loss(name, model, guide, prompts, num_particles):
    """The quantity that an objective descends, as a sum over responses, with gradient."""
    truth = Enumeration(model, prompts)
    log_q = log_guide_at(guide, prompts, truth.support)
    log_p, what = truth.log_posterior, DESCENDS[name]
    q, p = log_q.exp(), log_p.exp()
    t = q / p
    if what == "renyi":
        return -2 * (log_q.exp() * (0.5 * (truth.log_joint - log_q)).exp()).sum(0).log().sum()
    if what == "multi-sample":
        pairs = list(itertools.product(range(len(q)), repeat=num_particles))
        bound = torch.stack(
            [(truth.log_joint - log_q)[list(d)].logsumexp(0) for d in pairs]
        ) - math.log(num_particles)
        return -(torch.stack([q[list(d)].prod(0) for d in pairs]) * bound).sum()
    if what == "contrastive":
        log_psi = guide.log_twist(prompts, truth.support)
        ended = ~guide.distribution(prompts).space.is_token(truth.support)[..., 1]
        log_psi = torch.stack(
            [log_psi[..., 0], torch.where(ended, log_psi[..., 0], log_psi[..., 1])], -1
        )
        return (
            (truth.log_prior[..., None] + log_psi).logsumexp(0) - (p[..., None] * log_psi).sum(0)
        ).sum()
    if name in TRAINERS:
        return -UPDATES[what](log_q, problem_of(truth))
    if what == "max-at-k":
        return -UPDATES[what](log_q, replace(problem_of(truth), beta=1.0))
    if what == "nash":
        weight = OBJECTIVES[name]().kl_weight
        return -UPDATES[what](log_q, replace(problem_of(truth), beta=weight)) / weight
    if what == "online-dpo":
        weight = (q[:, None] * q).detach()  # [S, S, N], and both orders of a pair
        h, gap = (each[:, None] - each for each in (log_q - truth.log_prior, truth.log_likelihood))
        return -2 * (weight * gap.sigmoid() * h.sigmoid().log()).sum()
    if what in ("best-of-n", "quantile"):
        objective = OBJECTIVES[name]()
        pyro.set_rng_seed(3)
        objective.prior_rewards.meet(model, prompts)
        return (q * (log_q - truth.log_prior - log_ratio_of(objective, prompts, truth))).sum()
    f = {
        "forward-kl": -t.log(),
        "reverse-kl": t * t.log(),
        "jensen-shannon": t * (2 * t / (1 + t)).log() + (2 / (1 + t)).log(),
        "total-variation": 0.5 * (t - 1).abs(),
        "chi2-forward": 1 / t - 1,
        "chi2-reverse": (t - 1) ** 2,
        "alpha": (t**0.5 - 1) / (0.5 * (0.5 - 1)),
    }[what]
    return (p * f).sum()


def test_every_objective_has_a_claim():
    assert DESCENDS.keys() == OBJECTIVES.keys()
    others = {name: entry.target for name, entry in OBJECTIVES.items()}
    del others["best-of-n-distillation"]
    trainers = TRAINERS | {"qrpo", "self-play", "max-at-k"}
    assert {name for name, target in others.items() if target != "posterior"} == trainers
    assert all(DESCENDS[name] == others[name] for name in trainers)
    others = {"trajectory-balance", "gauss-newton"}  # test_gauss_newton.py
    assert UNBIASED | CONSISTENT | others == OBJECTIVES.keys()


@pytest.mark.parametrize("name", sorted(UNBIASED))
def test_mean_gradient_over_all_draws_is_exact(name):
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    num = max(2, OBJECTIVES[name].min_particles)

    def make():
        pyro.set_rng_seed(3)  # best-of-n draws from the prior
        return knowing_log_z(name, num, truth)

    mean = mean_gradient(make, model, guide, ONE, num)
    exact = autograd(exact_loss(name, model, guide, ONE, num), guide)
    assert exact.norm() > 0.01
    assert torch.allclose(mean, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", sorted(CONSISTENT))
def test_gradient_from_draws_in_proportion_is_exact(name):
    """Draws whose frequencies are q, up to rounding: the limit of many particles."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    counts = (truth.log_guide(guide)[:, 0].exp() * 200_000).round().long()
    response = truth.support.repeat_interleave(counts, 0)
    objective = OBJECTIVES[name](num_particles=len(response), **OPTIONS.get(name, {}))
    exact = autograd(exact_loss(name, model, guide, ONE, None), guide)
    estimate = gradient(objective, model, guide, ONE, response)[1]
    if name in ("reinforce++", "dapo"):
        estimate = estimate * (exact.norm() / estimate.norm())
    assert torch.allclose(estimate, exact, atol=2e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_at_the_posterior(name):
    model = Target()
    prompts = prompts_of(name)
    guide, truth = posterior_guide(model, prompts), Enumeration(model, prompts)
    assert truth.kl_guide_posterior(guide).max() < 1e-12
    pyro.set_rng_seed(1)
    response = guide.distribution(prompts).sample((6,))
    size = gradient(knowing_log_z(name, 6, truth), model, guide, prompts, response)[1].norm()
    assert size < 1e-9 if name in VANISHES else size > 1e-3


# parameters shared by prompts share the least squares of `gauss-newton`
TOGETHER = {"gauss-newton", "reinforce++", "dapo", "gdpo"}


@pytest.mark.parametrize(
    "name",
    [n for n, entry in OBJECTIVES.items() if entry.max_prompts is None and n not in TOGETHER],
)
def test_prompts_are_kept_apart(name):
    """The gradient on two prompts of very different rewards is the sum of two gradients."""

    def reward(prompts, response):
        return 20.0 * (prompts.ids[:, -1] - 1.5) + (response[..., 0] * 0.3 - response[..., 1] * 0.2)

    model, guide = Target(reward), Table(1)
    response = guide.distribution(TWO).sample((5,))

    def of(prompts, response):
        pyro.set_rng_seed(3)
        objective = OBJECTIVES[name](num_particles=5)
        if hasattr(objective, "prior_rewards"):
            objective.prior_rewards.meet(model, TWO)
        if isinstance(objective, SquaredResidual):
            objective.buffer.draw = lambda prompts, num: (response[:0], response[:0, :, 0].double())
        return gradient(objective, model, guide, prompts, response)[1]

    apart = of(TWO[[0]], response[:, :1]) + of(TWO[[1]], response[:, 1:])
    assert torch.allclose(of(TWO, response), apart, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_impossible_responses_are_supported_or_refused(name):
    """A third of the draws is impossible: the objective learns to avoid these or refuses."""

    def reward(_, response):
        return torch.where(response[..., 0] == 2, -math.inf, 0.3 * response[..., 1].double())

    model, guide, prompts = Target(reward), Table(1), prompts_of(name)
    truth = Enumeration(model, prompts)
    optimizer = FusedOptimizer(options={"lr": 0.15})
    options = {"objective": OBJECTIVES[name](num_particles=32), "optimizer": optimizer}
    train = partial(quiet, model, guide, prompts, **options)
    before = parameters_of(guide)
    assert OBJECTIVES[name].supports_hard_constraints == (name in SUPPORTS_HARD_CONSTRAINTS)
    if name not in SUPPORTS_HARD_CONSTRAINTS:
        with pytest.raises(ImpossibleResponseError, match="'reward' is -inf"):
            train(num_steps=3)
        assert torch.equal(parameters_of(guide), before)
        return
    impossible = truth.log_posterior.isneginf()
    start = truth.log_guide(guide).exp()[impossible].sum()
    result = train(num_steps=30)
    assert result.stopped_early is None
    share = 0.4 if OBJECTIVES[name].target == "posterior" else 0.6
    assert truth.log_guide(guide).exp()[impossible].sum() < share * start


OF_EACH_TARGET = list({entry.target: name for name, entry in OBJECTIVES.items()}.values())


@pytest.mark.parametrize("name", dict.fromkeys([*ONE_OF_EACH_USE, *OF_EACH_TARGET]))
def test_reaches_its_target_through_plain_svi(name):
    """The family contains the target, for most objectives the posterior."""
    model, guide, prompts = Target(), Table(1), prompts_of(name)
    objective = OBJECTIVES[name](**{"num_particles": 64} | OPTIONS.get(name, {}))
    truth = Enumeration(model, prompts)
    schedule = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.2}, "gamma": 0.965}
    )
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        svi = SVI(model, guide, schedule, objective)
        for _ in range(120):
            svi.step(prompts)
            schedule.step()
    target, limit = truth.log_posterior, 0.02
    if isinstance(objective, BestOfN_ELBO):
        target = truth.log_prior + objective.log_ratio(prompts, truth.log_likelihood)
    elif OBJECTIVES[name].target != "posterior":
        weight = 1.0 if name == "max-at-k" else WEIGHT  # its penalty is that of the ELBO
        target = TARGETS[OBJECTIVES[name].target](replace(problem_of(truth), beta=weight))
        apart = (target.exp() * (target - truth.log_posterior)).sum(0)
        assert (apart > 0.01).all()
        limit = (apart / 3).clamp(max=limit)
    log_guide = truth.log_guide(guide)
    left = (log_guide.exp() * (log_guide - target.log_softmax(0))).sum(0)
    assert (left < limit).all()


@pytest.mark.parametrize("name", dict.fromkeys([*ONE_OF_EACH_USE, "forward-kl-adaptive", "qrpo"]))
def test_a_killed_fit_goes_on_as_if_nothing_had_happened(name, tmp_path):
    """Resume bit for bit, with the state of the objective: replay, averages, proposals, batches."""
    model, prompts = Target(), prompts_of(name)
    proposal = {"adapt_every": 4} if name == "forward-kl-adaptive" else {}

    def train(steps, folder=None, resume=False):
        guide, objective = Table(1), OBJECTIVES[name](num_particles=8, **proposal)
        options = {"checkpoint_folder": folder, "resume": resume, "optimizer": FusedOptimizer()}
        quiet(model, guide, prompts, steps, objective=objective, **options)
        return parameters_of(guide)

    whole = train(10)
    # between two questions of the adaptive proposal, and in the midst of a batch
    train(6, tmp_path)
    assert torch.equal(train(10, tmp_path, resume=True), whole)


@pytest.mark.parametrize("name", OURS)
def test_elbo_among_the_metrics_is_the_guides(name):
    """Metrics are exact for draws in proportion to their distribution, for every objective."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    explores = hasattr(OBJECTIVES[name](), "exploration")
    temperature = OBJECTIVES[name]().exploration.temperature if explores else 1.0
    drawn = guide.distribution(ONE).at_temperature(temperature).log_prob(truth.support).detach()
    response = truth.support.repeat_interleave((drawn[:, 0].exp() * 5_000).round().long(), 0)
    is_square = DESCENDS[name] == "multi-sample" or name == "gauss-newton"
    if is_square:  # in the number of particles: memory and time for fewer draws
        response = response[torch.randperm(len(response))[:800]]
    objective = OBJECTIVES[name](num_particles=len(response))
    gradient(objective, model, guide, ONE, response)
    near = {"abs": 0.15 if is_square else 1e-2}
    assert objective.metrics["elbo"] == pytest.approx(truth.elbo(guide).item(), **near)
    assert objective.metrics["log_likelihood"] == pytest.approx(
        truth.expected_log_likelihood(guide).item(), **near
    )


def test_off_policy_steps_of_proximal_are_unbiased_without_the_clip():
    """The second step on a batch of another guide has the ELBO's gradient in the mean."""
    model, old, new = Target(), Table(1), Table(2)
    truth = Enumeration(model, ONE)
    prob = truth.log_guide(old).exp()[:, 0]
    total, chosen = 0.0, list(itertools.product(range(len(prob)), repeat=2))
    for drawn in chosen:
        objective = Proximal_ELBO(2, clip=None, epochs=2)
        gradient(objective, model, old, ONE, truth.support[list(drawn)])
        # the draws given here are not looked at
        part = gradient(objective, model, new, ONE, truth.support[:2])[1]
        weight = prob[list(drawn)].prod()
        total = total + weight * part
    exact = autograd(exact_loss("leave-one-out", model, new, ONE, 2), new)
    # the ratios of the other particles normalise the baseline: the mean remains exact
    assert torch.allclose(total, exact, rtol=1e-9, atol=1e-10)


def test_off_policy_forward_kl_is_unbiased_given_log_z():
    model, old, new = Target(), Table(1), Table(2)
    truth = Enumeration(model, ONE)

    def make():
        objective = FDivergence("forward-kl", 2, adapt_every=5)
        objective.log_z.update = lambda prompts, log_z_hat: truth.log_z
        objective.set_state(
            proposal_state(old) | {"gain": torch.tensor(0.0), "steps": torch.tensor(1)}
        )
        return objective

    mean = mean_gradient(make, model, new, ONE, 2, proposal=old)
    exact = autograd(exact_loss("forward-kl", model, new, ONE, 2), new)
    assert torch.allclose(mean, exact, rtol=1e-9, atol=1e-10)


def test_adaptive_proposal_is_replaced_only_by_a_better_one():
    """By the sum of the gains since the last decision, also those before a resume."""
    model, near, far = Target(), posterior_guide(Target(), ONE), Table(5)
    cases = (far, near, 0.0, True), (near, far, 0.0, False), (far, near, -1e3, False)
    for proposal, guide, gain, replaced in cases:
        objective = FDivergence("forward-kl", 256, adapt_every=2)
        numbers = {"gain": torch.tensor(gain), "steps": torch.tensor(1)}
        objective.set_state(proposal_state(proposal) | numbers)
        with pyro.get_param_store().scope():
            guide(ONE)
            for _ in range(2):
                objective.loss_and_grads(
                    model, Drawn(guide, Table.distribution(proposal, ONE).sample((256,))), ONE
                )
        state = objective.get_state()
        first = state["proposal/guide$$$first"]
        assert torch.equal(first, (guide if replaced else proposal).first)
        assert (state["gain"] == 0) == replaced, "of the last step, whose draws are of the guide"


def proposal_state(guide):
    return {
        f"proposal/guide$$${name}": parameter.detach().clone()
        for name, parameter in guide.named_parameters()
    }


@pytest.mark.parametrize("name", OURS)
def test_asking_for_the_loss_leaves_no_trace(name):
    """`evaluate_loss` between two steps changes nothing that a later step depends on."""
    model, guide = Target(), Table(1)
    objective = OBJECTIVES[name](num_particles=8)
    with pyro.get_param_store().scope():
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), objective)
        svi.step(TWO)
        before = {key: value.clone() for key, value in objective.get_state().items()}
        assert math.isfinite(svi.evaluate_loss(TWO))
        after = objective.get_state()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        svi.step(TWO)
        assert all(store is parameter for store, parameter in _value_parameters(objective))


def _value_parameters(objective):
    value = getattr(objective, "value", None)
    return (
        []
        if value is None
        else [(pyro.param(f"value$$${name}"), p) for name, p in value.named_parameters()]
    )


def test_renyi_at_zero_and_rws_on_two_prompts_are_refused():
    with pytest.raises(ValueError, match="its gradient is exactly 0"):
        OBJECTIVES["renyi"](alpha=0)
    with pytest.raises(ValueError, match="got 2 prompts"):
        OBJECTIVES["reweighted-wake-sleep"]().loss_and_grads(Target(), Table(1), TWO)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_mean_loss_of_a_divergence_is_the_divergence(name):
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    prob = truth.log_guide(guide)[:, 0].exp()
    losses = [
        gradient(knowing_log_z(name, 1, truth), model, guide, ONE, x[None])[0]
        for x in truth.support
    ]
    assert (prob * torch.tensor(losses, dtype=torch.float64)).sum().item() == pytest.approx(
        exact_loss(name, model, guide, ONE, 1).item(), rel=1e-9
    )
    assert exact_loss(name, model, guide, ONE, 1) > 0.01


@pytest.mark.parametrize("name", sorted(SUPPORTS_HARD_CONSTRAINTS))
def test_a_hard_constraint_of_small_probability_is_supported_from_the_first_step(name):
    """With two responses a step, most batches hold no possible response."""

    def reward(_, response):
        return torch.where(
            (response[..., 0] == 1) & (response[..., 1] == 2), 0.0, -math.inf
        ).double()

    model, guide = Target(reward), Table(1)
    truth = Enumeration(model, TWO)
    possible = truth.log_posterior > -math.inf
    start = truth.log_guide(guide).exp()[possible]
    assert start.max() < 0.3
    options = {"optimizer": FusedOptimizer(options={"lr": 0.06})}
    result = quiet(model, guide, TWO, 50, objective=OBJECTIVES[name](num_particles=2), **options)
    assert result.stopped_early is None
    if OBJECTIVES[name].target == "posterior":
        assert (truth.log_guide(guide).exp()[possible] > start).all()


def test_analytic_kl_is_finite_for_tokens_that_neither_prior_nor_guide_has():
    model, guide = Target(), Table(1)
    with torch.no_grad():
        model.prior.first[:, 2] = guide.first[:, 2] = -math.inf
    loss, grad = gradient(
        OBJECTIVES["analytic-kl"](num_particles=4),
        model,
        guide,
        ONE,
        torch.tensor([1, 2]).expand(4, 1, 2),
    )
    assert math.isfinite(loss)
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", ["wake-phi", "contrastive-twist"])
def test_a_prompt_without_a_possible_draw_tells_nothing(name):
    """The impossible prompt has gradient 0; the other prompt has the same gradient as alone."""

    def reward(_, response):
        return torch.where(response[..., 0] == 2, -math.inf, 0.3 * response[..., 1].double())

    model, guide = Target(reward), Table(1)
    hopeless, other = torch.tensor([[[2, 1]], [[2, 0]]]), torch.tensor([[[1, 1]], [[1, 2]]])
    assert (
        gradient(OBJECTIVES[name](num_particles=2), model, guide, ONE, hopeless)[1].abs().max() == 0
    )
    alone = gradient(OBJECTIVES[name](num_particles=2), model, guide, TWO[[1]], other)[1]
    both = gradient(
        OBJECTIVES[name](num_particles=2), model, guide, TWO, torch.cat([hopeless, other], 1)
    )[1]
    assert alone.abs().max() > 0
    assert torch.allclose(both, alone, atol=1e-12)


def test_loss_of_proximal_is_of_the_given_prompts():
    def reward(prompts, response):
        return prompts.ids[:, -1].double().expand(response.shape[:-1])

    model, guide = Target(reward), posterior_guide(Target(reward), TWO)
    objective = Proximal_ELBO(8)
    with pyro.get_param_store().scope():
        objective.loss_and_grads(model, guide, TWO[[0]])
        for n in range(2):
            assert objective.loss(model, guide, TWO[[n]]) == pytest.approx(
                -Enumeration(model, TWO[[n]]).log_z.item()
            )
