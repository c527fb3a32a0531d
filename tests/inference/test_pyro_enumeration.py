"""Pyro's enumeration of the site `response`, parallel or sequential, equals `Enumeration`."""

import math

import pyro
import pytest
import torch
from pyro.distributions import Categorical
from pyro.infer import TraceEnum_ELBO, config_enumerate, infer_discrete
from torch.testing import assert_close

from guides import GUIDES, FineTuned
from inference import Enumeration, FusedOptimizer
from model import (
    AlignmentModel,
    Constraint,
    Expert,
    ImpossibleResponseError,
    Length,
    OptimalityModel,
    ResponseIndex,
    RewardPosterior,
    TextReward,
    Tilt,
    TokenReward,
    UncertainReward,
    WeightedSum,
)
from model.preferences import LinearHead, PriorFeatures, StandardisedFeatures
from tests.inference.conftest import quiet
from tests.model.tiny import PROMPTS, tiny

EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module")
def prior():
    """21 responses to a prompt."""
    return tiny(max_new_tokens=2)


def letters(texts):
    """Different for each prompt and response."""
    return [0.7 * text.count("a") - 0.4 * text.count("b") ** 2 + 0.1 * len(text) for text in texts]


def uncertain(prior):
    double = {"dtype": torch.float64, "device": "cpu"}  # features of texts are there
    weights = torch.randn(5, 16, generator=torch.Generator().manual_seed(3), **double)
    mean, matrix = torch.zeros(16, **double), torch.eye(16, **double)
    features = StandardisedFeatures(PriorFeatures(prior), mean, matrix)
    return TextReward(
        UncertainReward(RewardPosterior(LinearHead(16), features, weights), "mean"), prior
    )


REWARDS = {
    "texts": lambda prior: TextReward(letters, prior),
    "response alone": lambda prior: TextReward(letters, prior, whole=False),
    "token ids": lambda prior: TokenReward(
        lambda ids, is_token: (ids * is_token).sum(-1).double(), prior
    ),
    "length": Length,
    "expert": lambda prior: Expert(tiny("llama", max_new_tokens=2), prior),
    "sum": lambda prior: WeightedSum(
        {"texts": (0.5, TextReward(letters, prior)), "length": (-1.0, Length(prior))}
    ),
    "preferences": uncertain,
    "several": lambda prior: {"texts": TextReward(letters, prior), "length": Length(prior)},
}
FACTORS = {
    "tilt": lambda prior: Tilt({"texts": TextReward(letters, prior)}, {"texts": 0.7}),
    "constraint": lambda prior: Constraint(TextReward(letters, prior), at_least=0.3),
}


def empty(prompts):
    """A guide that leaves every site to the model."""


def plain(prior, reward, beta):
    """The program of README, which calls the reward itself."""

    def model(prompts):
        with pyro.plate("prompts", len(prompts)):
            response = pyro.sample("response", prior(prompts))
            pyro.factor("reward", reward(prompts, response) / beta)
        return response

    return model


def log_z(model, prompts):
    """By Pyro alone, the sum over prompts."""
    return -TraceEnum_ELBO(max_plate_nesting=1).loss(
        config_enumerate(model, "parallel"), empty, prompts
    )


@pytest.mark.parametrize("texts", [PROMPTS[:1], PROMPTS], ids=["1", "3"])
@pytest.mark.parametrize("kind", REWARDS | FACTORS)
def test_log_z_of_the_enumerated_model(prior, kind, texts):
    prompts, piece = prior.encode(texts), (REWARDS | FACTORS)[kind](prior)
    parts = {"reward": {}, "factors": {kind: piece}} if kind in FACTORS else {"reward": piece}
    model = AlignmentModel(prior, beta=0.5, **parts)
    exact = Enumeration(model, prompts).log_z
    assert exact.unique().numel() == len(texts)
    assert_close(log_z(model, prompts), exact.sum().item(), **EXACT)
    if kind != "several":
        beta = 1.0 if kind in FACTORS else 0.5
        assert_close(log_z(plain(prior, piece, beta), prompts), exact.sum().item(), **EXACT)


def test_log_z_with_a_beta_for_each_prompt_and_as_optimality(prior):
    prompts = prior.encode(PROMPTS)
    reward = TextReward(letters, prior, upper_bound=5.0)
    model = AlignmentModel(prior, reward, dict(zip(prompts.names(), (0.2, 0.5, 1.0), strict=True)))
    assert_close(log_z(model, prompts), Enumeration(model, prompts).log_z.sum().item(), **EXACT)
    optimality = OptimalityModel(model)
    assert_close(
        log_z(optimality, prompts), Enumeration(optimality, prompts).log_z.sum().item(), **EXACT
    )


PARTICLES = {
    "one": {},
    "vectorised": {"num_particles": 3, "vectorize_particles": True},
    "in turn": {"num_particles": 2},
}


def assert_elbo_and_gradient(model, guide, prompts, how="parallel", **particles):
    truth = Enumeration(model, prompts)
    elbo = TraceEnum_ELBO(max_plate_nesting=1, **particles)
    loss = elbo.loss_and_grads(model, config_enumerate(guide, how), prompts)
    assert_close(-loss, truth.elbo(guide).sum().item(), **EXACT)
    if not guide.trained():
        return
    exact, parameters = truth.elbo_gradient(guide), dict(guide.named_parameters())
    assert max(gradient.abs().max() for gradient in exact.values()) > 1e-3
    for name, gradient in exact.items():
        grad = parameters[name].grad
        assert_close(torch.zeros_like(gradient) if grad is None else -grad, gradient, **EXACT)


@pytest.mark.parametrize("how", ["parallel", "sequential"])
@pytest.mark.parametrize("particles", PARTICLES.values(), ids=PARTICLES)
def test_elbo_and_gradient_of_the_enumerated_guide(prior, how, particles):
    model = AlignmentModel(
        prior, {"texts": TextReward(letters, prior), "length": Length(prior)}, beta=0.5
    )
    torch.manual_seed(1)
    guide = FineTuned(prior)
    guide.jitter(0.2)
    assert_elbo_and_gradient(model, guide, prior.encode(PROMPTS), how, **particles)


@pytest.mark.parametrize("name", GUIDES)
def test_every_guide_can_be_enumerated(small_prior, model, prompts, name):
    torch.manual_seed(1)
    guide = GUIDES[name](small_prior, prompts)
    guide.jitter(0.1)
    assert_elbo_and_gradient(model, guide, prompts)


def programs(prior):
    """Same posterior by `AlignmentModel`, `OptimalityModel`, by hand, and indexed twice."""
    reward = TextReward(letters, prior, upper_bound=5.0)
    model = AlignmentModel(prior, reward, beta=0.5)
    by_hand = {
        "by hand": ResponseIndex()(plain(prior, reward, 0.5)),
        "twice": ResponseIndex()(model),
    }
    return {"alignment": model, "optimality": OptimalityModel(model)} | by_hand


@pytest.mark.parametrize("name", ["alignment", "optimality", "by hand", "twice"])
def test_marginals_and_the_best_response(prior, name):
    prompts, model = prior.encode(PROMPTS), config_enumerate(programs(prior)[name])
    truth = Enumeration(programs(prior)["alignment"], prompts)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    marginal = elbo.compute_marginals(model, empty, prompts)["response"]
    assert_close(marginal.logits.log_softmax(-1).T, truth.log_posterior, **EXACT)
    best = infer_discrete(model, first_available_dim=-2, temperature=0)(prompts)
    picked = (truth.support == best).all(-1)  # [S, N]
    assert_close(truth.log_posterior[picked], truth.log_posterior.amax(0), **EXACT)


@pytest.mark.parametrize("enumerated", ["model", "model in a plate", "guide"])
def test_a_factor_in_float32_is_that_factor_in_float64(prior, enumerated):
    """A plain program, enumerated by the model, with its plate outside, or by the guide."""
    prompts, elbo = prior.encode(PROMPTS), TraceEnum_ELBO(max_plate_nesting=1)
    guide = ResponseIndex()(FineTuned(prior)) if enumerated == "guide" else empty
    losses = []
    for dtype in (torch.float32, torch.float64):

        def model(prompts, dtype=dtype):
            handlers = [ResponseIndex(), pyro.plate("prompts", len(prompts))]
            outer, inner = handlers[::-1] if enumerated == "model in a plate" else handlers
            with outer, inner:
                response = pyro.sample("response", prior(prompts))
                pyro.factor("count", 2 * (response == 3).sum(-1).to(dtype))

        pair = {"model": model, "guide": guide}
        name = enumerated.split()[0]
        pair[name] = config_enumerate(pair[name])
        losses.append(elbo.loss(pair["model"], pair["guide"], prompts))
    assert losses[0] == losses[1]


def test_another_latent_variable_is_enumerated_too(prior):
    """A topic in float32 changes the sign of the reward: log Z, and p(topic), by own sums."""
    prompts, reward = prior.encode(PROMPTS), TextReward(letters, prior)
    signs = [Enumeration(plain(prior, reward, beta), prompts).log_z for beta in (0.5, -0.5)]
    log_z = torch.stack(signs) + torch.tensor([0.75, 0.25]).log()[:, None]  # [topics, N]

    def by_hand(prompts):
        with pyro.plate("prompts", len(prompts)):
            topic = pyro.sample("topic", Categorical(torch.tensor([0.75, 0.25])))
            response = pyro.sample("response", prior(prompts))
            value = reward(prompts, response) / 0.5
            pyro.factor("reward", torch.where(topic == 0, value, -value))

    model = ResponseIndex()(by_hand)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    loss = elbo.loss(config_enumerate(model), empty, prompts)
    assert_close(-loss, log_z.logsumexp(0).sum().item(), **EXACT)
    marginals = elbo.compute_marginals(config_enumerate(model), empty, prompts)
    assert_close(marginals["topic"].probs.T, log_z.softmax(0), **EXACT)


@pytest.mark.parametrize(
    "kind", [lambda model: model, OptimalityModel], ids=["alignment", "optimality"]
)
def test_the_impossible_has_probability_0(prior, kind):
    """Hard constraint in an enumerated model; a guide with impossible draws has no ELBO."""
    prompts, soft = prior.encode(PROMPTS), TextReward(letters, prior, upper_bound=5.0)
    hard = {"hard": Constraint(soft, at_least=0.3)}
    model = kind(AlignmentModel(prior, {"letters": soft}, 0.5, hard))
    enumerated, truth, elbo = (
        config_enumerate(model),
        Enumeration(model, prompts),
        TraceEnum_ELBO(max_plate_nesting=1),
    )
    assert truth.log_likelihood.isneginf().any(0).all()
    assert_close(-elbo.loss(enumerated, empty, prompts), truth.log_z.sum().item(), **EXACT)
    marginal = elbo.compute_marginals(enumerated, empty, prompts)["response"]
    assert_close(marginal.probs.T, truth.log_posterior.exp(), **EXACT)
    for temperature in (0, 1):
        drawn = infer_discrete(enumerated, first_available_dim=-2, temperature=temperature)(prompts)
        assert truth.log_posterior[(truth.support == drawn).all(-1)].isfinite().all()
    guide = FineTuned(prior)
    for how in ("parallel", "sequential"):
        with pytest.raises(ImpossibleResponseError, match="factor 'hard' is -inf"):
            elbo.loss(model, config_enumerate(guide, how), prompts)


def test_a_response_for_another_number_of_prompts_is_refused(prior):
    match = r"response has shape \(4, 2, 2\), expected \(\.\.\., 3, T\)"
    with pytest.raises(ValueError, match=match):
        TextReward(letters, prior)(prior.encode(PROMPTS), torch.zeros(4, 2, 2, dtype=torch.long))


@pytest.mark.parametrize("how", ["parallel", "sequential"])
def test_fit_by_enumeration_says_the_exact_elbo_and_nothing_of_a_list(prior, how):
    """The mean of a factor over a list of all responses is no mean under the guide."""
    model = AlignmentModel(prior, TextReward(letters, prior), beta=0.5)
    prompts, guide = prior.encode(PROMPTS[:2]), FineTuned(prior)
    start = Enumeration(model, prompts).elbo(guide).mean().item()
    options = {"objective": TraceEnum_ELBO(max_plate_nesting=1), "optimizer": FusedOptimizer()}
    result = quiet(model, config_enumerate(guide, how), prompts, 1, **options)
    assert result.metrics[0]["elbo"] == pytest.approx(start, abs=1e-10)
    assert math.isnan(result.metrics[0]["log_likelihood"])
