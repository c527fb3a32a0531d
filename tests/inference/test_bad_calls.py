"""Impossible numbers and objects are refused by the name of their argument, before any work.

A table: a callable, arguments that work, and for each argument values that are refused.
"""

import math
from collections.abc import Callable
from typing import Any

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
    LeaveOneOut_ELBO,
    Posterior,
    PriorSample,
    RewardToGo_ELBO,
    SquaredResidual,
    anneal,
    diagnose,
    entropy,
    importance_sampling,
    joint_at,
    log_guide_at,
    log_likelihood_at,
    match_moments,
    metropolis_hastings,
    random_state,
    rejection_sampling,
    response_distribution,
    sample_prior,
    sequential_monte_carlo,
    solve_beta,
)
from inference.diagnostics.diversity import distinct_n, self_bleu
from inference.diagnostics.simulation_based_calibration import Ranks, simulation_based_calibration
from inference.importance_weights import effective_sample_size, pareto_k
from inference.objectives import Proximal_ELBO
from inference.objectives.best_of_n import BestOfN_ELBO
from inference.objectives.f_divergence import alpha_divergence
from inference.objectives.gauss_newton import GaussNewton
from inference.objectives.parts.log_z_average import LogZAverage
from inference.objectives.parts.off_policy import ReplayBuffer
from inference.objectives.pyro_objectives import renyi
from inference.order_statistics import (
    best_of_n_kl,
    best_of_n_log_ratio,
    best_of_n_win_rate_bound,
    level_cdf,
)
from inference.reward_posterior import autoguide, nuts
from inference.reward_posterior.calibration import calibrate, predict
from inference.reward_posterior.ties import tie_strength
from inference.samplers import LikelihoodTwist, annealed_smc, best_of_n, quasi_rejection_sampling
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

NAN, INF = math.nan, math.inf
COUNT = [0, -1, NAN, INF, 1e12, 10**12, 0.5, True, np.True_, "3", [3]]
"""Values that are no count of at least 1."""
NUMBER = [NAN, INF, -INF, "3", True, [0.5], 1j]
POSITIVE = [*NUMBER, 0, -1]
SHARE = [*NUMBER, -0.1]
SEED = [-1, 0.5, "0", None, True, 2**40]
PROMPTS = [None, "the film was", ["the film was"], 3]
PROGRAM = [3, "x", AlignmentModel]
TENSOR = [None, 3, [1.0]]
FLAG = ["yes", None, 3]
NAME = ["nonsense", 3, ["x"]]

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

SAMPLER = {
    "model": [*PROGRAM, None],
    "prompts": PROMPTS,
    "guide": PROGRAM,
    "num_samples": [*COUNT, None],
}
CHUNKS = SAMPLER | {"chunk": [*COUNT, None]}
SCHEMES = [
    lambda probability: None,
    lambda probability: probability,
    lambda probability: torch.full((64, 2), 64),
]
SMC = SAMPLER | {"resampling": [*NAME, None, int, *SCHEMES], "ess_threshold": SHARE}
SAMPLED = {"model": MODEL, "prompts": BOTH, "num_samples": 64}
LOG_BOUND = {"log_bound": [*NUMBER, torch.zeros(5), torch.full((2,), NAN), torch.zeros(2) * 1j]}
SCORED = {
    "prompts": PROMPTS,
    "response": [*TENSOR, RESPONSE.double(), RESPONSE[..., :1], RESPONSE + 90, -1 - RESPONSE],
}
INFERRED = {"model": TIES, "comparisons": COMPARISONS, "num_samples": 2}
INFERENCE = {
    "model": [None, 3, "x"],
    "comparisons": [None, 3, "x"],
    "num_samples": [*COUNT, None],
    "seed": SEED,
}
WEIGHTS = [*TENSOR, torch.zeros(4), torch.zeros(0, 2), torch.full((30, 2), NAN)]

Call = tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]
CALLS: dict[str, Call] = {
    "importance": (importance_sampling, SAMPLED, CHUNKS),
    "rejection": (rejection_sampling, SAMPLED | {"log_bound": 4.0}, CHUNKS | LOG_BOUND),
    "quasi-rejection": (quasi_rejection_sampling, SAMPLED, CHUNKS | LOG_BOUND),
    "best-of-n": (best_of_n, SAMPLED, CHUNKS | {"n": [*COUNT, None]}),
    "metropolis-hastings": (
        metropolis_hastings,
        SAMPLED | {"num_chains": 4},
        CHUNKS | {"num_chains": [*COUNT, None], "warmup": [*SHARE, 1.0, None], "whole": FLAG},
    ),
    "smc": (
        sequential_monte_carlo,
        SAMPLED | {"ess_threshold": 2.0, "resampling": "multinomial"},
        SMC
        | {
            "retained": TENSOR[1:],
            "twist": [
                3,
                "x",
                lambda prompts, t: t,
                lambda *_: None,
                lambda *_: torch.zeros(1) * NAN,
            ],
        },
    ),
    "annealed-smc": (
        annealed_smc,
        SAMPLED | {"num_temperatures": 2, "ess_threshold": 2.0},
        SMC | {"num_temperatures": COUNT, "moves": COUNT[1:]},
    ),
    "log_z_bounds": (
        log_z_bounds,
        {"model": MODEL, "prompts": BOTH, "posterior_sample": TRUTH.support[:1], "num_samples": 4},
        {
            "prompts": PROMPTS,
            "num_samples": [*COUNT, None],
            "ess_threshold": SHARE,
            "posterior_sample": [
                *TENSOR,
                torch.zeros(1, 2, 5).long(),
                torch.full((1, 2, 2), 99),
                torch.full((1, 2, 2), -1),
            ],
        },
    ),
    "LikelihoodTwist": (
        LikelihoodTwist,
        {"model": MODEL},
        {"model": PROGRAM, "scale": SHARE, "floor": SHARE},
    ),
    "ResponseKernel": (
        ResponseKernel,
        {"model": MODEL},
        {"model": PROGRAM, "guide": PROGRAM, "num_chains": [*COUNT, None], "whole": FLAG},
    ),
    "suffix_move": (
        suffix_move,
        {
            "distribution": PRIOR(BOTH),
            "response": RESPONSE,
            "log_weight": ZERO,
            "score": lambda response: ZERO,
        },
        {
            "distribution": TENSOR,
            "response": TENSOR,
            "log_weight": [*TENSOR, ZERO[:3], ZERO * NAN],
            "score": TENSOR,
        },
    ),
    "mixing": (
        mixing,
        {"values": torch.randn(8, 4, 2)},
        {"values": [*TENSOR, torch.zeros(8), torch.full((8, 4, 2), NAN)]},
    ),
    "Posterior": (
        Posterior,
        {"response": RESPONSE, "log_weight": ZERO, "log_z": ZERO[0]},
        {
            "response": TENSOR,
            "log_weight": [*TENSOR, ZERO[:3], ZERO * NAN],
            "log_z": [3, "x", ZERO[:, 0], ZERO[0] * NAN],
            "group": [3, [1.0], ZERO, ZERO[0].long()],
        },
    ),
    "Posterior.estimate": (
        Posterior(RESPONSE, ZERO, None).estimate,
        {"values": ZERO},
        {"values": [*TENSOR, ZERO[0]]},
    ),
    "Posterior.mean": (
        Posterior(RESPONSE, ZERO, None).mean,
        {"values": ZERO},
        {"values": [*TENSOR, ZERO[0]]},
    ),
    "Posterior.resample": (
        Posterior(RESPONSE, ZERO, None).resample,
        {"num_samples": 2},
        {"num_samples": [*COUNT, None]},
    ),
    "PriorSample": (
        PriorSample,
        {"response": RESPONSE, "log_prior_weight": ZERO, "log_likelihood": ZERO, "exact": False},
        {
            "response": TENSOR,
            "log_prior_weight": [*TENSOR, ZERO[:3]],
            "log_likelihood": [*TENSOR, ZERO[:3]],
            "exact": FLAG,
            "accepted": [3, "x", ZERO, ZERO[:3].bool()],
            "log_prior": [3, "x", ZERO[:3], ZERO + math.nan],
        },
    ),
    "PriorSample.mean": (
        SAMPLE.mean,
        {"log_weight": TRUTH.log_likelihood, "values": TRUTH.log_likelihood},
        {"log_weight": [*TENSOR, ZERO], "values": [*TENSOR, ZERO]},
    ),
    "PriorSample.kl": (
        SAMPLE.kl,
        {"log_weight": TRUTH.log_likelihood},
        {"log_weight": [*TENSOR, ZERO], "log_base_weight": [3, ZERO]},
    ),
    "PriorSample.frontier": (
        SAMPLE.frontier,
        {"factors": [1.0]},
        {"factors": [3, None, [0], [-1.0], [NAN], ["1"], [True]]},
    ),
    "PriorSample.frontier_at": (SAMPLE.frontier_at, {"kl": 0.1}, {"kl": [*NUMBER, None]}),
    "PriorSample.of_draws": (
        PriorSample.of_draws,
        {"response": RESPONSE, "log_likelihood": ZERO},
        {"response": TENSOR, "log_likelihood": TENSOR, "accepted": [3, "x", ZERO, ZERO[:3].bool()]},
    ),
    "sample_prior": (
        sample_prior,
        {"model": MODEL, "prompts": BOTH, "num_draws": 20},
        {
            "model": PROGRAM,
            "prompts": PROMPTS,
            "num_draws": [*COUNT, None],
            "chunk": [*COUNT, None],
            "independent": FLAG,
            "log_likelihood_bound": LOG_BOUND["log_bound"],
        },
    ),
    "diagnose": (
        diagnose,
        {"model": MODEL, "guide": GUIDE, "prompts": BOTH, "num_samples": 30, "num_prior_draws": 20},
        {
            "model": PROGRAM,
            "guide": PROGRAM,
            "prompts": PROMPTS,
            "num_samples": [*COUNT, None],
            "num_prior_draws": [*COUNT, None],
            "chunk": [*COUNT, None],
            "prior_sample": [3, "x", PriorSample.of_draws(RESPONSE[:, :1], ZERO[:, :1])],
        },
    ),
    "distinct_n": (
        distinct_n,
        {"response": RESPONSE, "is_token": IS_TOKEN, "n": 2},
        {
            "response": [*TENSOR, RESPONSE[0]],
            "is_token": [*TENSOR, IS_TOKEN[0]],
            "n": [*COUNT, None],
        },
    ),
    "self_bleu": (
        self_bleu,
        {"response": RESPONSE, "is_token": IS_TOKEN, "n": 2},
        {
            "response": [*TENSOR, RESPONSE[0], RESPONSE[:1]],
            "is_token": [*TENSOR, IS_TOKEN[0]],
            "n": [*COUNT, None],
        },
    ),
    "Enumeration": (
        Enumeration,
        {"model": MODEL, "prompts": BOTH},
        {"model": PROGRAM, "prompts": PROMPTS},
    ),
    "Enumeration.elbo": (TRUTH.elbo, {"guide": GUIDE}, {"guide": PROGRAM}),
    "Enumeration.elbo_gradient": (
        TRUTH.elbo_gradient,
        {"guide": GUIDE},
        {"guide": [*PROGRAM, MODEL]},
    ),
    "entropy": (entropy, {"log_prob": QUARTER.log()}, {"log_prob": [*TENSOR, ZERO, ZERO * NAN]}),
    "joint_at": (
        joint_at,
        {"model": MODEL, "prompts": BOTH, "response": RESPONSE},
        SCORED | {"model": PROGRAM},
    ),
    "log_likelihood_at": (
        log_likelihood_at,
        {"model": MODEL, "prompts": BOTH, "response": RESPONSE},
        SCORED | {"model": PROGRAM},
    ),
    "log_guide_at": (
        log_guide_at,
        {"guide": GUIDE, "prompts": BOTH, "response": RESPONSE},
        SCORED | {"guide": PROGRAM},
    ),
    "response_distribution": (
        response_distribution,
        {"program": MODEL, "prompts": BOTH},
        {"program": PROGRAM, "prompts": PROMPTS},
    ),
    "effective_sample_size": (effective_sample_size, {"log_weight": ZERO}, {"log_weight": WEIGHTS}),
    "pareto_k": (pareto_k, {"log_weight": ZERO}, {"log_weight": WEIGHTS}),
    "Estimate.of_mean": (Estimate.of_mean, {"values": ZERO}, {"values": WEIGHTS}),
    "Estimate.of_share": (Estimate.of_share, {"values": ZERO}, {"values": WEIGHTS}),
    "soften": (
        soften,
        {"model": HARD, "penalty": 1.0},
        {"model": PROGRAM, "penalty": [*POSITIVE, None]},
    ),
    "anneal": (
        anneal,
        {"model": HARD, "guide": GUIDE, "prompts": BOTH, "num_steps": 1, "penalties": (1.0,)},
        {
            "model": PROGRAM,
            "guide": PROGRAM,
            "prompts": PROMPTS,
            "num_steps": [*COUNT, None],
            "num_samples": [*COUNT, None],
            "penalties": [(), 3, None, (2.0, 1.0), ("1",), (NAN,), (1.0, NAN), (True,)],
            "seed": SEED,
            "objective": [3, LeaveOneOut_ELBO()],
            "optimizer": [3, "x"],
        },
    ),
    "solve_beta": (
        solve_beta,
        {"prior": PRIOR, "reward": REWARD, "prompts": BOTH, "max_kl": 0.2},
        {
            "prior": TENSOR,
            "reward": TENSOR[:2],
            "factors": [3, {"a": 3}],
            "prompts": PROMPTS,
            "max_kl": NUMBER,
            "num_draws": [*COUNT, None],
            "per_prompt": FLAG,
        },
    ),
    "match_moments": (
        match_moments,
        {"model": MODEL, "prompts": BOTH, "features": GOOD, "targets": {"good": 0.5}},
        {
            "model": PROGRAM,
            "prompts": PROMPTS,
            "features": [None, 3, {}, {"good": 3}],
            "targets": [None, 3, {}, {"good": NAN}, {"good": "1"}, {"good": True}, {"bad": 1.0}],
            "num_draws": [*COUNT, None],
        },
    ),
    "calibrate": (
        calibrate,
        {"probability": QUARTER[:, 0], "outcome": torch.tensor([0, 1, 0, 1])},
        {
            "probability": [*TENSOR, QUARTER, QUARTER[:, 0] * NAN],
            "outcome": [*TENSOR, ZERO],
            "num_bins": [*COUNT, None],
        },
    ),
    "predict": (
        predict,
        {"model": TIES, "comparisons": COMPARISONS, "samples": ZERO},
        {
            "model": TENSOR,
            "comparisons": TENSOR,
            "samples": [*TENSOR, ZERO[0], ZERO[:0], ZERO * NAN],
            "label_noise": FLAG,
        },
    ),
    "simulation_based_calibration": (
        simulation_based_calibration,
        {
            "model": TIES,
            "comparisons": COMPARISONS,
            "infer": print,
            "num_simulations": 1,
            "num_samples": 3,
        },
        {
            "model": TENSOR,
            "comparisons": TENSOR,
            "infer": TENSOR,
            "quantities": TENSOR[1:],
            "num_simulations": [*COUNT, None],
            "num_samples": [*COUNT, None],
            "seed": SEED,
        },
    ),
    "Ranks": (
        Ranks,
        {"rank": torch.tensor([[0], [1]]), "num_samples": 3},
        {
            "rank": [*TENSOR, torch.tensor([[9]]), torch.tensor([[-1]]), ZERO],
            "num_samples": [*COUNT, None],
        },
    ),
    "Ranks.histogram": (
        Ranks(torch.tensor([[0], [1]]), 3).histogram,
        {"num_bins": 2},
        {"num_bins": [*COUNT, None]},
    ),
    "tie_strength": (
        tie_strength,
        {"comparisons": COMPARISONS, "prior_scale": 1.0},
        {"comparisons": TENSOR, "prior_scale": [*POSITIVE, None], "flip": [*SHARE, 0.5, None]},
    ),
    "autoguide": (
        autoguide,
        INFERRED,
        INFERENCE
        | {
            "num_steps": [*COUNT, None],
            "num_particles": [*COUNT, None],
            "learning_rate": [*POSITIVE, None],
        },
    ),
    "nuts": (nuts, INFERRED, INFERENCE | {"warmup_steps": COUNT, "thinning": [*COUNT, None]}),
    "isolated": (
        lambda **seed: random_state.isolated(**seed).__enter__(),
        {"seed": 0},
        {"seed": SEED},
    ),
    "best_of_n_log_ratio": (
        best_of_n_log_ratio,
        {"cdf": QUARTER, "cdf_left": QUARTER, "n": 4},
        {"cdf": [*TENSOR, QUARTER[:2], QUARTER * NAN], "cdf_left": TENSOR, "n": [*COUNT, None]},
    ),
    "best_of_n_kl": (
        best_of_n_kl,
        {"prob": QUARTER, "cdf": QUARTER, "cdf_left": QUARTER, "n": 4},
        {"prob": [*TENSOR, QUARTER[:2], QUARTER * NAN], "n": [*COUNT, None]},
    ),
    "best_of_n_win_rate_bound": (best_of_n_win_rate_bound, {"n": 1}, {"n": [*COUNT, None]}),
    "level_cdf": (
        level_cdf,
        {"values": QUARTER, "prob": QUARTER},
        {
            "values": [*TENSOR, QUARTER[:2], QUARTER * NAN],
            "prob": [*TENSOR, QUARTER[:2], QUARTER * NAN],
        },
    ),
    "quasi_rejection": (
        quasi_rejection,
        {"log_target": QUARTER.log(), "log_proposal": QUARTER.log(), "log_bound": 0.0},
        {"log_target": TENSOR, "log_proposal": [*TENSOR, QUARTER[:2]], **LOG_BOUND},
    ),
    "alpha_divergence": (alpha_divergence, {"alpha": 0.5}, {"alpha": [*NUMBER, 0.0, 1.0]}),
    "LogZAverage": (LogZAverage, {}, {"decay": [*SHARE, 1.0]}),
    "ReplayBuffer": (ReplayBuffer, {"capacity": 1}, {"capacity": [*COUNT, None]}),
    "renyi": (renyi, {}, {"alpha": [*NUMBER, 0.0, 1.0]}),
    "LeaveOneOut_ELBO": (LeaveOneOut_ELBO, {}, {"max_plate_nesting": [-1, NAN, 0.5, "3", None]}),
    "RewardToGo_ELBO": (RewardToGo_ELBO, {}, {"baseline": [*NAME, None]}),
    "SquaredResidual": (
        SquaredResidual,
        {},
        {
            "replay": [-1, NAN, 0.5, "3", None, True],
            "capacity": [*COUNT, None],
            "exploration_kl": [*SHARE, None],
            "epochs": [*COUNT, None],
            "clip": POSITIVE,
            "log_z": [*NAME, None],
            "rate": [*POSITIVE, 1.1, None],
            "num_prior_draws": [*COUNT, None],
            "quantile_beta": [*POSITIVE, None],
        },
    ),
    "Proximal_ELBO": (Proximal_ELBO, {}, {"epochs": [*COUNT, None], "clip": POSITIVE}),
    "FDivergence": (
        FDivergence,
        {},
        {"divergence": [*NAME, None], "adapt_every": COUNT, "decay": [*SHARE, 1.0]},
    ),
    "GaussNewton": (GaussNewton, {}, {"capacity": [*COUNT, None], "ridge": [*POSITIVE, None]}),
    "BestOfN_ELBO": (BestOfN_ELBO, {}, {"n": [*COUNT, None], "num_prior_draws": [*COUNT, None]}),
}
CALLS |= {
    f"OBJECTIVES[{name}]": (entry, {}, {"num_particles": [*COUNT, None]})
    for name, entry in OBJECTIVES.items()
}
CALLS |= {
    f"REWARD_INFERENCE[{name}]": (infer, INFERRED, INFERENCE)
    for name, infer in REWARD_INFERENCE.items()
}
CALLS |= {
    f"SAMPLERS[{name}]": (sampler, SAMPLED, {"prompts": PROMPTS, "num_samples": [*COUNT, None]})
    for name, sampler in SAMPLERS.items()
    if not sampler.lists_all
}
WORDS = {
    "log_bound": "bound",
    "log_likelihood_bound": "bound",
    "penalties": "penalt",
    "targets": "target",
    "factors": "factor",
}
"""Word in the error for an argument that the error names by part or kind."""


@pytest.mark.parametrize("name", CALLS)
def test_impossible_value_is_refused_by_name(name: str) -> None:
    call, arguments, bad = CALLS[name]
    for argument, values in bad.items():
        for value in values:
            with pytest.raises((ValueError, TypeError, FloatingPointError)) as error:
                call(**arguments | {argument: value})
            message = str(error.value)
            assert WORDS.get(argument, argument) in message, f"{argument}={value!r}: {message}"
            assert "unexpected keyword" not in message


def test_numbers_of_numpy_are_numbers() -> None:
    assert type(Proximal_ELBO(np.int64(4), epochs=np.int32(2), clip=np.float32(0.5)).epochs) is int
    assert (
        importance_sampling(MODEL, BOTH, num_samples=np.int64(3), chunk=np.uint8(2)).response.shape[
            0
        ]
        == 3
    )


def test_a_minimum_reward_is_a_number() -> None:
    for value in NUMBER:
        with pytest.raises(ValueError, match=r"min_reward is .*, expected a finite number"):
            solve_beta(PRIOR, REWARD, BOTH, min_reward=value)
