"""GRPO's losses on a batch of an older guide, written out response by response."""

import math
from functools import partial

import pyro
import pytest
import torch

from inference import Enumeration, LeaveOneOut_ELBO, log_guide_at
from inference.objectives.grpo import EPSILON, GRPO
from inference.objectives.parts.engine import EngineDraws
from inference.objectives.parts.surrogates import (
    SURROGATES,
    Tokens,
    clip_cov,
    kl_cov,
    quadratic,
    rejected,
    soft,
    token,
)
from inference.targets.fixed_points.squared_residual import at_constant
from tests.inference.objectives.table import (
    ONE,
    SPACE,
    TWO,
    Table,
    Target,
    autograd,
    gradient,
    posterior_guide,
)
from tests.inference.objectives.test_squared_residual import put

CLIP, WEIGHT = 0.3, 0.7


def loss_by_hand(new, log_old, log_prior, log_likelihood, response, choices):
    """The loss of one prompt, in plain loops over K responses."""
    size, (below, above) = len(response), choices.get("clip") or (CLIP, CLIP)
    mean_length = SPACE.is_token(response).sum() / size
    mean = sum(log_likelihood) / size
    deviation = (sum((value - mean) ** 2 for value in log_likelihood) / (size - 1)) ** 0.5
    total = 0.0
    for k in range(size):
        advantage = log_likelihood[k] - mean
        if choices["scale"] == "std":
            advantage = advantage / (deviation + EPSILON)
        length = int(SPACE.is_token(response[k]).sum())
        gains, sign = [], 1 if advantage > 0 else -1
        whole = sum(new[k, t] - log_old[k, t] for t in range(length)) / length
        of_response = (whole * length).exp().item()
        for t in range(length):
            change = new[k, t] - log_old[k, t]
            ratio = (whole if choices["ratio"] == "response" else change).exp()
            moved = (new[k, t].exp() - log_old[k, t].exp()).item()
            if choices["ratio"] == "constant":
                gain = min(ratio.item(), 1 + above) * advantage * new[k, t]
            elif choices["ratio"] == "tapered":
                weight = 1.0 if advantage >= 0 else min(of_response, 1.0)
                gain = weight * advantage * new[k, t]
            elif choices["ratio"] == "response-constant":
                gain = min(of_response, 1 + above) * advantage * new[k, t]
            elif choices["ratio"] == "response-masked":
                is_near = 1 - below <= of_response <= 1 + above
                gain = of_response * advantage * new[k, t] if is_near else 0.0
            elif choices["ratio"] == "rejected":
                is_near = -below <= -whole.item() <= above
                gain = ratio * advantage if is_near else 0.0
            elif choices["ratio"] == "quadratic":
                gain = advantage * new[k, t] - 0.05 * change**2
            elif choices["ratio"] == "kernel":
                power, rate = (2.0, 3.0) if advantage >= 0 else (3.0, 2.0)
                weight = of_response**power * math.exp(rate * (1 - of_response))
                gain = weight * advantage * new[k, t]
            elif choices["ratio"] == "masked":
                gain = ratio * advantage if 1 - below <= ratio <= 1 + above else 0.0
            elif choices["ratio"] in ("divergence", "binary-kl"):
                limit, p = above if sign > 0 else below, log_old[k, t].exp().item()
                nats = p * math.log(p / (p + moved))
                nats += (1 - p) * math.log((1 - p) / (1 - p - moved))
                far = nats if choices["ratio"] == "binary-kl" else abs(moved)
                gain = ratio * advantage if moved * sign <= 0 or far <= limit else 0.0
            elif choices["ratio"] == "soft":
                tau = 1.0 if advantage > 0 else 1.05
                gain = 4 / tau / (1 + (tau * (1 - ratio)).exp()) * advantage
            elif choices["ratio"] == "geometric":
                each = [new[k, s] - log_old[k, s] for s in range(length)]
                limited = [min(sign * one, sign * one.clamp(-below, above)) * sign for one in each]
                gain = (sum(limited) / length).exp() * advantage
            else:
                bounded = ratio.clamp(1 - below, 1 + above)
                gain = torch.minimum(ratio * advantage, bounded * advantage)
            if advantage < 0 and ratio > choices.get("dual_clip", torch.inf):
                gain = choices["dual_clip"] * advantage
            if advantage < 0 and -whole > choices.get("off_policy_mask", torch.inf):
                gain = 0.0
            to_prior = log_prior[k, t] - new[k, t]
            gains.append(gain - WEIGHT * (to_prior.exp() - 1 - to_prior))
        divisor = {"none": 1, "response": length, "batch": mean_length}
        total = total - sum(gains) / divisor[choices["average"]]
    return total / size


@pytest.mark.parametrize(
    "choices",
    [
        {"scale": "std", "ratio": "token", "average": "none"},
        {"scale": "none", "ratio": "token", "average": "response"},
        {"scale": "std", "ratio": "response", "average": "response"},
        {"scale": "none", "ratio": "constant", "average": "none", "clip": (0.3, 0.1)},
        {"scale": "none", "ratio": "tapered", "average": "none", "clip": None},
        {"scale": "std", "ratio": "token", "average": "batch", "clip": (0.05, 0.3)},
        {"scale": "none", "ratio": "token", "average": "none", "dual_clip": 1.3},
        {"scale": "none", "ratio": "response", "average": "response", "dual_clip": 1.3},
        {"scale": "none", "ratio": "masked", "average": "none", "clip": (0.3, 0.1)},
        {"scale": "none", "ratio": "divergence", "average": "none", "clip": (0.02, 0.05)},
        {"scale": "none", "ratio": "binary-kl", "average": "none", "clip": (0.01, 0.02)},
        {"scale": "none", "ratio": "response-constant", "average": "none", "clip": (0.2, 0.1)},
        {"scale": "none", "ratio": "response-masked", "average": "none", "clip": (0.6, 0.2)},
        {"scale": "none", "ratio": "rejected", "average": "none", "clip": (0.2, 0.1)},
        {"scale": "none", "ratio": "quadratic", "average": "none", "clip": None},
        {"scale": "none", "ratio": "kernel", "average": "none", "clip": None},
        {"scale": "std", "ratio": "token", "average": "none", "off_policy_mask": 0.1},
        {"scale": "none", "ratio": "soft", "average": "none", "clip": None},
        {"scale": "none", "ratio": "geometric", "average": "response", "clip": (0.05, 0.1)},
    ],
    ids=lambda choices: "-".join(map(str, choices.values())),
)
def test_second_step_on_a_batch_has_the_gradient_of_the_loss_by_hand(choices):
    model, old, new = Target(), Table(1), Table(2)
    truth = Enumeration(model, TWO)
    response = truth.support
    objective = GRPO(len(response), **{"clip": CLIP} | choices, kl_weight=WEIGHT, epochs=2)
    gradient(objective, model, old, TWO, response)  # draws every response once
    _, actual = gradient(objective, model, new, TWO, response)
    tables = [table.distribution(TWO).log_prob_per_token(response) for table in (new, old)]
    log_prior = model.prior.distribution(TWO).log_prob_per_token(response)
    loss = 0.0
    for n in range(2):
        likelihood = truth.log_likelihood[:, n].tolist()
        parts = (tables[0][:, n], tables[1][:, n].detach(), log_prior[:, n], likelihood)
        loss = loss + loss_by_hand(*parts, response[:, n], choices)
    expected = torch.autograd.grad(loss, list(new.parameters()))
    assert torch.allclose(actual, torch.cat([part.flatten() for part in expected]), atol=1e-10)
    assert actual.norm() > 0.01


def test_no_scale_and_k1_in_the_reward_have_the_gradient_of_leave_one_out():
    model, guide = Target(), Table(1)
    response = guide.distribution(TWO).sample((6,))
    choices = {"scale": "none", "baseline": "leave-one-out", "kl": "reward", "estimator": "k1"}
    _, ours = gradient(GRPO(6, **choices, kl_weight=1.0), model, guide, TWO, response)
    _, plain = gradient(LeaveOneOut_ELBO(6), model, guide, TWO, response)
    assert torch.allclose(ours, plain, atol=1e-12)


def test_only_prefixes_of_high_entropy_have_a_gradient_which_is_that_of_the_kl():
    """On draws in proportion to q. The posterior has none; a penalty in the loss is of all."""
    model, guide = Target(), Table(1)
    indifferent = Target(lambda _, response: response[..., 0] * 0.0)
    truth, at_posterior = Enumeration(model, ONE), posterior_guide(model, ONE)
    counts = (truth.log_guide(guide)[:, 0].exp() * 200_000).round().long()
    response = truth.support.repeat_interleave(counts, 0)

    def rows(gradient):
        """Gradient of the logits after each of three prefixes."""
        first, then = gradient.split([9, 27])
        return torch.stack([first.view(3, 3)[1], *then.view(3, 3, 3)[1, 1:]])

    def of(guide, response=response, model=model, **options):
        choices = {"scale": "none", "kl": "reward", "estimator": "k1", "kl_weight": 1.0}
        objective = GRPO(len(response), **choices | options)
        return rows(gradient(objective, model, guide, ONE, response)[1])

    log_guide = log_guide_at(guide, ONE, truth.support)
    kl = (log_guide.exp() * (log_guide - truth.log_posterior)).sum()
    exact, loss = rows(autograd(kl, guide)), {"kl": "loss", "estimator": "k3"}
    assert exact.norm(dim=1).min() > 0.01
    logits = torch.stack([guide.first[1], *guide.then[1, 1:]]).detach()
    order = torch.distributions.Categorical(logits=logits).entropy().argsort(descending=True)
    mass = torch.tensor([1.0, *logits[0].softmax(0)[1:]])[order]  # tokens in each response
    for num, share in enumerate((mass.cumsum(0) / mass.sum()).tolist(), 1):
        top = {"top_entropy_quantile": share - 0.01}
        high, low = order[:num], order[num:]
        actual, penalised = of(guide, **top), of(guide, **loss, **top)
        assert torch.allclose(actual[high], exact[high], atol=1e-4)
        assert not actual[low].any()
        assert torch.allclose(penalised[high], of(guide, **loss)[high])
        assert torch.allclose(penalised[low], of(guide, model=indifferent, **loss)[low])
        assert of(at_posterior, response[::999], **top).norm() < 1e-9


def test_k1_as_a_loss_has_no_mean_gradient_and_k2_has_the_one_of_k3_plus():
    model, guide = Target(lambda _, response: response[..., 0] * 0.0), Table(1)
    truth = Enumeration(model, ONE)
    counts = (truth.log_guide(guide)[:, 0].exp() * 200_000).round().long()
    response = truth.support.repeat_interleave(counts, 0)

    def mean(estimator):
        objective = GRPO(len(response), scale="none", estimator=estimator, kl_weight=1.0)
        return gradient(objective, model, guide, ONE, response)[1]

    assert mean("k1").norm() < 1e-4
    assert torch.allclose(mean("k2"), mean("k3+"), atol=1e-12)
    assert (mean("k2") - mean("k3")).norm() > 0.02


@pytest.mark.parametrize("epochs", [1, 2])
def test_each_reward_is_scaled_by_its_own_deviation_and_the_sum_by_that_of_all_prompts(epochs):
    """Also in a second step after a resume. A reward that all responses meet has no advantage."""
    target, guide = Target(), Table(1)
    sizes = {"length": 1.0, "words": 40.0, "met": 7.0}

    def values(prompts, response):
        of_length = SPACE.is_token(response).sum(-1).double()
        return of_length, response.sum(-1) * prompts.ids[:, -1] + 0.0, 0.0 * of_length

    def model(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            response = pyro.sample("response", target.prior.distribution(prompts))
            for (name, size), value in zip(sizes.items(), values(prompts, response), strict=True):
                pyro.factor(name, size * value)

    response = guide.distribution(TWO).sample((6,))
    advantage = torch.zeros(6, 2).double()
    for weight, value in zip((2.0, 1.0, 1.0), values(TWO, response), strict=True):
        advantage += weight * (value - value.mean(0)) / (value.std(0) + 1e-30)
    advantage /= (advantage.square().sum() / 11).sqrt()
    log_guide = log_guide_at(guide, TWO, response)
    expected = autograd(-(advantage * log_guide).mean(0).sum(), guide)

    choices = {"kl_weight": 0.0, "weights": {"length": 2.0}, "epochs": epochs, "clip": None}
    objective, resumed = (GRPO(6, scale="each", **choices) for _ in range(2))
    if epochs > 1:
        gradient(objective, model, guide, TWO, response)
        resumed.set_state(objective.get_state())
    assert expected.norm() > 0.1
    actual = gradient(resumed, model, guide, TWO, response)[1]
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-3 * float(expected.norm()))
    with pytest.raises(ValueError, match=r"weights has \['size'\], expected names of .*'words'"):
        gradient(GRPO(6, scale="each", weights={"size": 1}), model, guide, TWO, response)


@pytest.mark.parametrize("average", ["none", "response", "batch"])
def test_all_surrogates_have_one_gradient_on_draws_of_the_guide(average):
    model, guide = Target(), Table(1)
    response = guide.distribution(TWO).sample((6,))

    def of(ratio):
        return gradient(GRPO(6, ratio=ratio, average=average), model, guide, TWO, response)[1]

    expected = of("token")
    assert expected.norm() > 0.01
    for name in SURROGATES.keys() - {"clip-cov"}:
        assert torch.allclose(of(name), expected, atol=1e-12), name


@pytest.mark.parametrize("ratio", SURROGATES)
def test_a_token_of_an_engine_that_the_guide_cannot_draw_has_a_finite_loss(ratio):
    guide, old = Table(1), Table(2).distribution(ONE)
    response = Enumeration(Target(), ONE).support
    draws = EngineDraws(response, old.log_prob_per_token(response).detach())
    with torch.no_grad():
        guide.first[1, 2] = -torch.inf
    choices = {"ratio": ratio, "kl_weight": 0.0, "clip": None}
    objective = GRPO(len(response), **choices, engine=lambda *_: draws)
    loss, actual = gradient(objective, Target(), guide, ONE, response)
    assert torch.tensor(loss).isfinite()
    assert actual.isfinite().all()
    assert actual.norm() > 0.01


@pytest.mark.parametrize(
    ("share", "expected_held"), [(0.01, [0.5, 0, 0, 0]), (0.7, [0.5, 0, 0.2, 0])]
)
def test_tokens_of_the_highest_covariance_are_dropped_or_held(share, expected_held):
    """Tokens between the limits are dropped, here one, and no clipped token."""
    log_ratio = torch.tensor([[[0.5, 0.1]], [[-0.2, 0.3]]]).double().requires_grad_()
    is_token = torch.tensor([[[True, True]], [[True, False]]])
    log_proposal = torch.tensor([[[-0.5, -3.0]], [[-2.0, 0.0]]]).double()
    tokens = Tokens(log_ratio, log_proposal, torch.tensor([[[1.5]], [[-1.0]]]).double(), is_token)
    guide = [0.0, -2.9, -2.2]
    centred = [value - sum(guide) / 3 for value in guide]
    expected = [a * b for a, b in zip([5 / 6, 5 / 6, -5 / 3], centred, strict=True)]
    assert tokens.covariance()[is_token].tolist() == pytest.approx(expected)
    assert sorted(expected)[0] < 0 < 0.8 < expected[2] < 1.0 < 1.4 < expected[0]
    plain = token(tokens, (0.2, 0.2)).detach()
    for limits, rows in (((0.8, 1.0), [1]), ((1.0, 5.0), []), ((0.8, 5.0), [1])):
        gain = clip_cov(tokens, (0.2, 0.2), share=share, covariances=limits)
        assert (gain != plain).flatten().nonzero().flatten().tolist() == [2 * row for row in rows]
    held = (log_ratio.exp() * tokens.advantage - kl_cov(tokens, None, share=share)).flatten()
    assert held.tolist() == pytest.approx(expected_held)
    lighter = log_ratio.exp() * tokens.advantage - kl_cov(tokens, None, share=share, weight=0.1)
    assert lighter.flatten().tolist() == pytest.approx([0.1 * each for each in expected_held])
    assert tokens.highest(torch.ones(2, 1, 2), share).sum() == max(1, int(3 * share)), "ties"


def test_greedy_baseline_is_the_log_weight_of_the_most_likely_tokens():
    model, guide = Target(), Table(1)
    choices = {"scale": "none", "kl": "reward", "estimator": "k1", "kl_weight": 1.0}
    objective = GRPO(8, baseline="greedy", **choices)
    with pyro.get_param_store().scope():
        objective.loss_and_grads(model, guide, TWO)
    first = guide.first[[1, 2]].argmax(-1)
    second = guide.then[torch.tensor([1, 2]), first].argmax(-1)
    response = torch.stack([first, second.where(first != 0, 0)], -1)[None]
    truth = Enumeration(model, TWO)
    log_weight = truth.log_joint - truth.log_guide(guide)
    index = (truth.support == response).all(-1).int().argmax(0)
    actual = objective._batch.per_token["greedy"]
    assert torch.allclose(actual, log_weight.gather(0, index[None]), atol=1e-9)


@pytest.mark.on_cpu  # as `at_constant`
def test_quadratic_surrogate_has_the_target_of_squared_residuals_at_each_token():
    """On a batch of an older guide, drawn in proportion, whatever the number of steps."""
    model, old, weight = Target(), Table(1), 2.0
    truth = Enumeration(model, ONE)
    log_a, support = truth.log_guide(old)[:, 0].detach(), truth.support[:, 0]
    advantage = truth.log_likelihood[:, 0] - log_a.exp() @ truth.log_likelihood[:, 0]
    parts = [(support[:, 0] == word).nonzero()[:, 0] for word in range(3)]
    log_first = torch.stack([log_a[rows].logsumexp(0) for rows in parts])
    values = [(log_a[rows].softmax(0) @ advantage[rows]) for rows in parts]
    log_q = at_constant(log_first, torch.stack(values) / weight)[support[:, 0]]
    for rows in parts:
        log_q[rows] += at_constant(log_a[rows].log_softmax(0), advantage[rows] / weight)
    response = truth.support.repeat_interleave((log_a.exp() * 200_000).round().long(), 0)
    choices = {"scale": "none", "kl_weight": 0.0, "ratio": partial(quadratic, weight=weight)}
    objective, sizes = GRPO(len(response), **choices, epochs=4), []
    gradient(objective, model, old, ONE, response)
    for log_guide in (log_q, log_a, truth.log_posterior[:, 0]):
        put(guide := Table(2), truth, log_guide[:, None])
        sizes.append(gradient(objective, model, guide, ONE, response)[1].norm())
    assert sizes[0] < 1e-4
    assert min(sizes[1:]) > 0.1


def test_responses_are_rejected_by_an_estimate_of_their_kl():
    """Limits that the first response just exceeds, for each estimator and reduction."""
    log_ratio = torch.tensor([[[0.5, -0.2]], [[-0.1, 0.0]]]).double()
    is_token = torch.tensor([[[True, True]], [[True, False]]])
    tokens = Tokens(log_ratio, -torch.ones(2, 1, 2), torch.ones(2, 1, 1), is_token)
    for estimator, nats in {
        "k1": (-0.5, 0.2),
        "k2": (0.125, 0.02),
        "k3": (math.exp(0.5) - 1.5, math.exp(-0.2) - 0.8),
    }.items():
        for over, number in {"mean": sum(nats) / 2, "sum": sum(nats), "max": max(nats)}.items():
            for room, expected in ((1e-6, [True, True]), (-1e-6, [False, True])):
                limits = (-number + room, 9.0) if number < 0 else (9.0, number + room)
                gain = rejected(tokens, limits, estimator=estimator, over=over)
                assert (gain[:, 0, 0] != 0).tolist() == expected, (estimator, over)
    assert torch.equal(rejected(tokens, None), log_ratio.exp())
    sure = Tokens(log_ratio.abs() + 0.5, tokens.log_proposal, tokens.advantage, is_token)
    gain = rejected(sure, (0.4, 9.0), over="max")  # padding has no nats, and not 0
    assert not gain[is_token].any()


def test_a_surrogate_is_a_function_too():
    assert GRPO(2, ratio=token, dual_clip=3.0).surrogate == SURROGATES["token"]
    log_ratio, sign = torch.full((1, 1, 1), 0.5), torch.ones(1, 1, 1)
    tokens = Tokens(log_ratio, -log_ratio, -sign, sign.bool())
    gains = [GRPO(2, ratio=partial(soft, temperatures=(1.0, tau))) for tau in (1.05, 2.0)]
    first, second = (each.surrogate.gain(tokens, None) for each in gains)
    assert first == SURROGATES["soft"].gain(tokens, None) != second


@pytest.mark.parametrize("ratio", sorted(SURROGATES.keys() - {"quadratic"}))  # which pulls back
def test_equal_rewards_have_no_advantage(ratio):
    model, old = Target(lambda _, response: 0.3 + response[..., 0] * 0.0), Table(1)
    response = old.distribution(TWO).sample((6,))
    objective = GRPO(6, kl_weight=0.0, ratio=ratio, epochs=2)
    for guide in (old, Table(2)):
        assert gradient(objective, model, guide, TWO, response)[1].norm() < 1e-9


def test_a_greedy_response_of_another_reward_leaves_a_bounded_advantage():
    signal, length = torch.ones(4, 1).double(), torch.ones(4, 1)
    objective = GRPO(4, baseline="greedy", scale="batch")
    assert objective._advantage(signal, length, {"greedy": torch.tensor([[3.0]])}).abs().max() < 1


@pytest.mark.parametrize(
    ("gain", "message"),
    [
        (lambda tokens, _: None, "is a NoneType, expected a Tensor"),
        (lambda tokens, _: tokens.advantage, r"has shape \(6, 2, 1\) .* of shape \(6, 2, 2\)"),
        (lambda tokens, _: tokens.log_ratio.detach(), "has no gradient"),
    ],
)
def test_a_gain_that_is_no_function_of_each_token_is_refused(gain, message):
    response = Table(1).distribution(TWO).sample((6,))
    with pytest.raises((TypeError, ValueError), match=f"^the gain of `ratio` {message}"):
        gradient(GRPO(6, ratio=gain), Target(), Table(1), TWO, response)


REFUSED = {
    "scale is 'sd'": {"scale": "sd"},
    "kl is 'penalty'": {"kl": "penalty"},
    "estimator is 'k4'": {"estimator": "k4"},
    "ratio is 'sequence'": {"ratio": "sequence"},
    "kl_weight is -1": {"kl_weight": -1.0},
    "clip is 0": {"clip": 0.0},
    "dual_clip is 1": {"dual_clip": 1.0},
    "off_policy_mask is 0": {"off_policy_mask": 0.0},
    "top_entropy_quantile is 0": {"top_entropy_quantile": 0.0},
    "top_entropy_quantile is 20": {"top_entropy_quantile": 20},
    "dual_clip is 3.0, expected None": {"ratio": "constant", "dual_clip": 3.0},
    "clip is 0.1, expected None": {"ratio": "soft", "clip": 0.1},
    "clip is 0.01, expected None": {"ratio": partial(soft), "clip": 0.01},
    "clip is -0.1": {"clip": (0.2, -0.1)},
    "average is 'tokens'": {"average": "tokens"},
    "num_particles is 1": {"num_particles": 1},
    "baseline='batch' leaves of a group of equal": {"scale": "std", "baseline": "batch"},
    "baseline='greedy' leaves of a group of equal": {"baseline": "greedy"},
    "scale='each' divides what baseline='batch'": {"scale": "each", "baseline": "batch"},
    "kl is 'reward' with scale='each', expected 'loss'": {"scale": "each", "kl": "reward"},
    "weights are .*, expected scale='each'": {"weights": {"reward": 2.0}},
    "weights is a list": {"scale": "each", "weights": []},
    "the weight of 'reward' is nan": {"scale": "each", "weights": {"reward": math.nan}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_choices_that_do_not_exist_are_refused(message):
    with pytest.raises((TypeError, ValueError), match=message):
        GRPO(**REFUSED[message])


@pytest.mark.parametrize("scale", ["none", "batch"])
def test_a_pooled_mean_leaves_the_spread_of_log_z_at_the_posterior(scale):
    """The means of groups leave nothing. Every log-weight is log Z of its prompt."""
    model, prompts = Target(), TWO
    guide, log_z = posterior_guide(model, prompts), Enumeration(model, prompts).log_z
    response = guide.distribution(prompts).sample((6,))
    choices = {"scale": scale, "kl": "reward", "estimator": "k1", "kl_weight": 1.0}

    def of(baseline):
        return gradient(GRPO(6, baseline=baseline, **choices), model, guide, prompts, response)[1]

    assert log_z.std() > 0.1
    advantage = (log_z - log_z.mean()).expand(6, -1)
    if scale == "batch":
        advantage = advantage / (advantage.std() + EPSILON)
    log_guide = log_guide_at(guide, prompts, response)
    expected = autograd(-(advantage * log_guide).mean(0).sum(), guide)
    assert expected.norm() > 0.1
    assert torch.allclose(of("batch"), expected, rtol=1e-9, atol=1e-9)
    for name in ("mean", "length", "greedy"):
        assert of(name).norm() < 1e-9
