"""Impossible arguments of `inference` are refused by name, before any work: see `refusals.py`."""

import inspect
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import pytest
import torch

from guides import Tabular
from inference import (
    OBJECTIVES,
    REWARD_INFERENCE,
    SAMPLERS,
    Enumeration,
    Estimate,
    FDivergence,
    FusedOptimizer,
    LeaveOneOut_ELBO,
    Posterior,
    PriorSample,
    RewardToGo_ELBO,
    SquaredResidual,
    anneal,
    cosine,
    diagnose,
    entropy,
    fit,
    importance_sampling,
    joint_at,
    log_guide_at,
    log_likelihood_at,
    match_moments,
    metropolis_hastings,
    random_state,
    response_distribution,
    sample_prior,
    sequential_monte_carlo,
    solve_beta,
)
from inference.diagnostics.diversity import distinct_n, self_bleu
from inference.diagnostics.simulation_based_calibration import Ranks, simulation_based_calibration
from inference.direct_preferences import (
    PreferenceProgram,
    ResponseLabels,
    fit_preferences,
    info_nca,
    robust_mean,
)
from inference.enumeration import kl
from inference.importance_weights import effective_sample_size, pareto_k
from inference.kl_estimators import KL_ESTIMATORS
from inference.objectives import MaxAtK_ELBO, Proximal_ELBO
from inference.objectives.f_divergence import alpha_divergence
from inference.objectives.parts.log_z_average import LogZAverage
from inference.objectives.parts.off_policy import ReplayBuffer
from inference.objectives.pyro_objectives import renyi
from inference.order_statistics import (
    best_of_n_kl,
    best_of_n_log_ratio,
    best_of_n_win_rate_bound,
    level_cdf,
)
from inference.reward_posterior.calibration import calibrate, predict
from inference.reward_posterior.ties import tie_strength
from inference.samplers import LikelihoodTwist, annealed_smc
from inference.samplers.log_z_bounds import log_z_bounds
from inference.samplers.metropolis_hastings import ResponseKernel, mixing
from inference.samplers.quasi_rejection import quasi_rejection
from inference.samplers.suffix_move import suffix_move
from inference.svi.anneal import soften
from model import (
    AlignmentModel,
    BradleyTerry,
    Comparisons,
    Pattern,
    TextReward,
    contains,
    grammar_prior,
    vader_sentiment,
)
from model.preferences import LinearHead
from tests.refusals import COUNT, NAME, NAN, NUMBER, SHARE, TENSOR, Call, assert_refuses

PRIOR = grammar_prior(max_new_tokens=2)
BOTH = PRIOR.encode(["the film was", "the"])
REWARD = TextReward(vader_sentiment, PRIOR, upper_bound=1.0)
MODEL = AlignmentModel(PRIOR, REWARD, 0.3)
GUIDE = Tabular(PRIOR, BOTH)
TRUTH = Enumeration(MODEL, BOTH)
SAMPLE = PriorSample.of_enumeration(TRUTH)
RESPONSE = TRUTH.support[:8].contiguous()
IS_TOKEN = PRIOR.space.is_token(RESPONSE)
ZERO = torch.zeros(8, 2, dtype=torch.float64)
QUARTER = torch.full((4, 2), 0.25, dtype=torch.float64)
DESIGN = torch.arange(16, dtype=torch.float64).view(8, 2).sin()
COMPARISONS = Comparisons(DESIGN, DESIGN.flip(0), torch.tensor([0, 1, 2, 0, 1, 0, 1, 0]))
TIES = BradleyTerry(LinearHead(2), tie_strength=1.0)
GOOD = {"good": TextReward(Pattern.of_words("good"), PRIOR)}
HARD = AlignmentModel(PRIOR, {}, 0.3, {"not": contains("not", PRIOR)})
JUDGED = ResponseLabels.of_texts(["the film was"], [" good"], [True], PRIOR)

SAMPLED = {"model": MODEL, "prompts": BOTH, "num_samples": 64}
SCHEMES = [
    lambda probability: None,
    lambda probability: probability,
    lambda probability: torch.full((64, 2), 64),
]
RESAMPLING = [*NAME, int, *SCHEMES]
SCORED = {"prompts": BOTH, "response": RESPONSE}
NO_RESPONSES = [RESPONSE.double(), RESPONSE[..., :1], RESPONSE + 90, -1 - RESPONSE]
INFERRED = {"model": TIES, "comparisons": COMPARISONS, "num_samples": 2}
WEIGHTS = [torch.zeros(4), torch.zeros(0, 2), torch.full((30, 2), NAN)]
OF_OTHERS = [QUARTER[:2], QUARTER * NAN]
OF_OTHERS_TOO = [ZERO[:3], ZERO * NAN, ZERO * 1j]
RETURNS = [lambda *_, value=value, **options: value for value in (None, *OF_OTHERS_TOO)]
POSTERIOR = Posterior(RESPONSE, ZERO, None)
RANKS = torch.tensor([[0], [1]])

CALLS: dict[str, Call] = {
    "metropolis-hastings": (
        metropolis_hastings,
        SAMPLED | {"num_chains": 4},
        {"warmup": [*SHARE, 1.0]},
    ),
    "smc": (
        sequential_monte_carlo,
        SAMPLED | {"ess_threshold": 2.0, "resampling": "multinomial"},
        {
            "resampling": RESAMPLING,
            "twist": [3, "x", lambda prompts, t: t, *RETURNS],
        },
    ),
    "annealed-smc": (
        annealed_smc,
        SAMPLED | {"num_temperatures": 2, "ess_threshold": 2.0},
        {"resampling": RESAMPLING, "moves": COUNT[1:]},
    ),
    "log_z_bounds": (
        log_z_bounds,
        {"model": MODEL, "prompts": BOTH, "posterior_sample": TRUTH.support[:1], "num_samples": 4},
        {"posterior_sample": [torch.full(s, v) for s, v in (((1, 2, 5), 0), ((1, 2, 2), 99))]},
    ),
    "LikelihoodTwist": (LikelihoodTwist, {"model": MODEL}, {}),
    "ResponseKernel": (ResponseKernel, {"model": MODEL}, {}),
    "suffix_move": (
        suffix_move,
        {
            "distribution": PRIOR(BOTH),
            "response": RESPONSE,
            "log_weight": ZERO,
            "score": lambda _: ZERO,
        },
        {
            "distribution": TENSOR,
            "log_weight": OF_OTHERS_TOO,
            "score": [*TENSOR, *RETURNS],
            "temper": RETURNS,
        },
    ),
    "mixing": (
        mixing,
        {"values": torch.randn(8, 4, 2)},
        {"values": [torch.zeros(8), torch.full((8, 4, 2), NAN)]},
    ),
    "Posterior": (
        Posterior,
        {"response": RESPONSE, "log_weight": ZERO, "log_z": ZERO[0]},
        {
            "log_weight": [ZERO[:3], ZERO * NAN],
            "log_z": [3, "x", ZERO[:, 0], ZERO[0] * NAN],
            "group": [3, [1.0], ZERO, ZERO[0].long()],
        },
    ),
    "Posterior.estimate": (POSTERIOR.estimate, {"values": ZERO}, {"values": [ZERO[0]]}),
    "Posterior.mean": (POSTERIOR.mean, {"values": ZERO}, {"values": [ZERO[0]]}),
    "Posterior.resample": (POSTERIOR.resample, {"num_samples": 2}, {}),
    "PriorSample": (
        PriorSample,
        {"response": RESPONSE, "log_prior_weight": ZERO, "log_likelihood": ZERO, "exact": False},
        {
            "log_prior_weight": [ZERO[:3]],
            "log_likelihood": [ZERO[:3]],
            "accepted": [3, "x", ZERO, ZERO[:3].bool()],
            "log_prior": [3, "x", ZERO[:3], ZERO + NAN],
        },
    ),
    "PriorSample.mean": (
        SAMPLE.mean,
        {"log_weight": TRUTH.log_likelihood, "values": TRUTH.log_likelihood},
        {"log_weight": [ZERO], "values": [ZERO]},
    ),
    "PriorSample.kl": (
        SAMPLE.kl,
        {"log_weight": TRUTH.log_likelihood},
        {"log_weight": [ZERO], "log_base_weight": [3, ZERO]},
    ),
    "PriorSample.frontier": (
        SAMPLE.frontier,
        {"factors": [1.0]},
        {"factors": [3, None, [0], [-1.0], [NAN], ["1"], [True]]},
    ),
    "PriorSample.frontier_at": (SAMPLE.frontier_at, {"kl": 0.1}, {}),
    "of_enumeration": (PriorSample.of_enumeration, {"truth": TRUTH}, {"truth": [SAMPLE]}),
    "kl": (kl, {"log_p": ZERO, "log_q": ZERO}, {"log_p": TENSOR, "log_q": TENSOR}),
    "PriorSample.of_draws": (
        PriorSample.of_draws,
        {"response": RESPONSE, "log_likelihood": ZERO},
        {"accepted": [3, "x", ZERO, ZERO[:3].bool()]},
    ),
    "sample_prior": (sample_prior, {"model": MODEL, "prompts": BOTH, "num_draws": 20}, {}),
    "sample_prior of draws": (
        partial(sample_prior, independent=True),
        {"model": MODEL, "prompts": BOTH, "num_draws": 20},
        {},
    ),
    "diagnose": (
        diagnose,
        {"model": MODEL, "guide": GUIDE, "prompts": BOTH, "num_samples": 30, "num_prior_draws": 20},
        {"prior_sample": [3, "x", PriorSample.of_draws(RESPONSE[:, :1], ZERO[:, :1])]},
    ),
    "distinct_n": (
        distinct_n,
        {"response": RESPONSE, "is_token": IS_TOKEN, "n": 2},
        {"response": [RESPONSE[0]], "is_token": [IS_TOKEN[0]]},
    ),
    "self_bleu": (
        self_bleu,
        {"response": RESPONSE, "is_token": IS_TOKEN, "n": 2},
        {"response": [RESPONSE[0], RESPONSE[:1]], "is_token": [IS_TOKEN[0]]},
    ),
    "Enumeration": (Enumeration, {"model": MODEL, "prompts": BOTH}, {}),
    "Enumeration.elbo": (TRUTH.elbo, {"guide": GUIDE}, {}),
    "Enumeration.elbo_gradient": (TRUTH.elbo_gradient, {"guide": GUIDE}, {"guide": [MODEL]}),
    "entropy": (entropy, {"log_prob": QUARTER.log()}, {"log_prob": [ZERO, ZERO * NAN]}),
    "joint_at": (joint_at, SCORED | {"model": MODEL}, {"response": NO_RESPONSES}),
    "log_likelihood_at": (log_likelihood_at, SCORED | {"model": MODEL}, {"response": NO_RESPONSES}),
    "log_guide_at": (log_guide_at, SCORED | {"guide": GUIDE}, {"response": NO_RESPONSES}),
    "response_distribution": (response_distribution, {"program": MODEL, "prompts": BOTH}, {}),
    "effective_sample_size": (effective_sample_size, {"log_weight": ZERO}, {"log_weight": WEIGHTS}),
    "pareto_k": (pareto_k, {"log_weight": ZERO}, {"log_weight": WEIGHTS}),
    "Estimate.of_mean": (Estimate.of_mean, {"values": ZERO}, {"values": WEIGHTS}),
    "Estimate.of_share": (Estimate.of_share, {"values": ZERO}, {"values": WEIGHTS}),
    "soften": (soften, {"model": HARD, "penalty": 1.0}, {}),
    "anneal": (
        anneal,
        {"model": HARD, "guide": GUIDE, "prompts": BOTH, "num_steps": 1, "penalties": (1.0,)},
        {
            "penalties": [(), 3, None, (2.0, 1.0), ("1",), (NAN,), (1.0, NAN), (True,)],
            "objective": [3, LeaveOneOut_ELBO()],
            "optimizer": [3, "x"],
        },
    ),
    "solve_beta": (
        solve_beta,
        {"prior": PRIOR, "reward": REWARD, "prompts": BOTH, "max_kl": 0.2},
        {"prior": TENSOR, "reward": TENSOR[:2], "factors": [3, {"a": 3}]},
    ),
    "match_moments": (
        match_moments,
        {"model": MODEL, "prompts": BOTH, "features": GOOD, "targets": {"good": 0.5}},
        {
            "features": [None, 3, {}, {"good": 3}],
            "targets": [None, 3, {}, {"good": NAN}, {"good": "1"}, {"good": True}, {"bad": 1.0}],
        },
    ),
    "calibrate": (
        calibrate,
        {"probability": QUARTER[:, 0], "outcome": torch.tensor([0, 1, 0, 1])},
        {"probability": [QUARTER, QUARTER[:, 0] * NAN], "outcome": [ZERO]},
    ),
    "predict": (
        predict,
        {"model": TIES, "comparisons": COMPARISONS, "samples": ZERO},
        {"samples": [ZERO[0], ZERO[:0], ZERO * NAN]},
    ),
    "simulation_based_calibration": (
        simulation_based_calibration,
        INFERRED | {"infer": lambda *_, **options: torch.zeros(2, 2), "num_simulations": 1},
        {"infer": [*TENSOR, *RETURNS], "quantities": [*TENSOR[1:], *RETURNS[1:], lambda w: w[:1]]},
    ),
    "Ranks": (
        Ranks,
        {"rank": RANKS, "num_samples": 3},
        {"rank": [*TENSOR, torch.tensor([[9]]), torch.tensor([[-1]]), ZERO]},
    ),
    "Ranks.histogram": (Ranks(RANKS, 3).histogram, {"num_bins": 2}, {}),
    "tie_strength": (
        tie_strength,
        {"comparisons": COMPARISONS, "prior_scale": 1.0},
        {"flip": [0.5]},
    ),
    "isolated": (lambda seed: random_state.isolated(seed).__enter__(), {"seed": 0}, {}),
    "best_of_n_log_ratio": (
        best_of_n_log_ratio,
        {"cdf": QUARTER, "cdf_left": QUARTER, "n": 4},
        {"cdf": OF_OTHERS},
    ),
    "best_of_n_kl": (
        best_of_n_kl,
        {"prob": QUARTER, "cdf": QUARTER, "cdf_left": QUARTER, "n": 4},
        {"prob": OF_OTHERS},
    ),
    "best_of_n_win_rate_bound": (best_of_n_win_rate_bound, {"n": 1}, {}),
    "level_cdf": (
        level_cdf,
        {"values": QUARTER, "prob": QUARTER},
        {"values": OF_OTHERS, "prob": OF_OTHERS},
    ),
    "quasi_rejection": (
        quasi_rejection,
        {"log_target": QUARTER.log(), "log_proposal": QUARTER.log(), "log_bound": 0.0},
        {"log_proposal": [QUARTER[:2]], "log_target": [QUARTER.log() - torch.inf]},
    ),
    "fit": (fit, {"model": MODEL, "guide": GUIDE, "prompts": BOTH, "num_steps": 1}, {}),
    "fit of responses": (
        partial(fit, MODEL, GUIDE, BOTH),
        {"num_responses": 1, "num_steps": None},
        {"num_steps": [3], "num_responses": [0, 0.5, "3"]},
    ),
    "fit of seconds": (
        partial(fit, MODEL, GUIDE, BOTH),
        {"max_seconds": 1, "num_steps": None},
        {"num_steps": [3], "max_seconds": [0, NAN, "3"]},
    ),
    "FusedOptimizer": (
        FusedOptimizer,
        {},
        {"constructor": [3, "x"], "schedule": [3, "x"], "options": [3, "x"]},
    ),
    "cosine": (cosine, {"num_steps": 10}, {"warmup": [*COUNT[1:], 11]}),
    "fit_preferences": (
        fit_preferences,
        {
            "program": PreferenceProgram(GUIDE, PRIOR, 1.0, likelihood="kto"),
            "pairs": JUDGED,
            "num_steps": 1,
        },
        {"pairs_per_step": COUNT, "pairs": [3, []]},
    ),
    "alpha_divergence": (alpha_divergence, {"alpha": 0.5}, {"alpha": [0.0, 1.0]}),
    "LogZAverage": (LogZAverage, {}, {"decay": [1.0]}),
    "ReplayBuffer": (ReplayBuffer, {"capacity": 1}, {}),
    "renyi": (renyi, {}, {"alpha": [0.0, 1.0]}),
    "LeaveOneOut_ELBO": (LeaveOneOut_ELBO, {}, {"max_plate_nesting": [-1, NAN, 0.5, "3", None]}),
    "RewardToGo_ELBO": (
        RewardToGo_ELBO,
        {"baseline": "value"},
        {"baseline": NAME, "gae_lambda": [-0.1, 1.1, NAN, "1"], "gae_alpha": [0.0, NAN, "1"]},
    ),
    "MaxAtK_ELBO": (MaxAtK_ELBO, {}, {"k": COUNT}),
    "info_nca": (info_nca, {}, {"scale": [0]}),
    "robust_mean": (robust_mean, {}, {"robustness": [0, -1.0, NAN, "2"]}),
    "SquaredResidual": (
        SquaredResidual,
        {},
        {"replay": [-1, NAN, 0.5, "3", None, True], "log_z": NAME, "rate": [1.1]},
    ),
    "FDivergence": (FDivergence, {}, {"divergence": NAME, "decay": [1.0]}),
}
CALLS |= {f"KL_ESTIMATORS[{k}]": (of, {"log_ratio": ZERO}, {}) for k, of in KL_ESTIMATORS.items()}
CALLS |= {f"OBJECTIVES[{name}]": (entry.make, {}, {}) for name, entry in OBJECTIVES.items()}
CALLS |= {
    f"REWARD_INFERENCE[{name}]": (entry.infer, INFERRED, {})
    for name, entry in REWARD_INFERENCE.items()
}
CALLS |= {
    f"SAMPLERS[{name}]": (
        sampler.sample,
        SAMPLED | {"log_bound": 4.0} if sampler.needs_bound else SAMPLED,
        {},
    )
    for name, sampler in SAMPLERS.items()
    if not sampler.lists_all
}
SEEDED = ["fit", "fit_preferences", "anneal", "simulation_based_calibration", "diagnose"]
SEEDED += ["sample_prior of draws"]
SEEDED += [f"REWARD_INFERENCE[{name}]" for name in REWARD_INFERENCE]


@pytest.mark.parametrize("name", CALLS)
def test_impossible_value_is_refused_by_name(name: str) -> None:
    assert_refuses(*CALLS[name])


@pytest.mark.on_cpu
@pytest.mark.parametrize("name", SEEDED)
def test_the_seed_is_for_the_device_of_the_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a computation on the CPU beside an accelerator has an open order of sums."""
    devices, isolated = [], random_state.isolated

    def record(seed: int, device: torch.device | None = None) -> AbstractContextManager[None]:
        devices.append(device)
        return isolated(seed, device)

    monkeypatch.setattr(random_state, "isolated", record)
    function, arguments, _ = CALLS[name]
    options = {"num_steps", "warmup_steps"} & inspect.signature(function).parameters.keys()
    function(**arguments | dict.fromkeys(options, 1))
    assert set(devices) == {torch.device("cpu")}


def test_numbers_of_numpy_are_numbers() -> None:
    assert type(Proximal_ELBO(np.int64(4), epochs=np.int32(2), clip=np.float32(0.5)).epochs) is int
    posterior = importance_sampling(MODEL, BOTH, num_samples=np.int64(3), chunk=np.uint8(2))
    assert len(posterior.response) == 3


def test_a_minimum_reward_is_a_number() -> None:
    for value in NUMBER[:-1]:
        with pytest.raises(ValueError, match=r"min_reward is .*, expected a finite number"):
            solve_beta(PRIOR, REWARD, BOTH, min_reward=value)
