"""Values that every callable refuses under the name of an argument, before any work."""

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from model import AlignmentModel

NAN, INF = math.nan, math.inf
THING = object()
COUNT = [0, -1, NAN, INF, 1e12, 10**12, 0.5, True, np.True_, "3", [3], THING, None]
"""Values that are no count of at least 1."""
NUMBER = [NAN, INF, -INF, "3", True, [0.5], 1j, THING, None]
POSITIVE = [*NUMBER, 0, -1]
SHARE = [*NUMBER, -0.1]
TENSOR = [None, 3, [1.0], THING]
PROGRAM = [3, "x", AlignmentModel, THING, None]
NAME = ["nonsense", 3, ["x"], THING, None]
BY_KIND = [
    (COUNT, "num_samples num_draws num_prior_draws num_particles num_steps num_chains num_bins"),
    (COUNT, "num_simulations num_temperatures warmup_steps thinning capacity epochs adapt_every"),
    (COUNT, "num_layers num_virtual_tokens num_components num_features hidden_size top_k"),
    (COUNT, "prompts_per_step micro_batch checkpoint_every match_micro_batch num_rollouts"),
    (COUNT[1:], "cache_size match_steps"),
    (COUNT, "max_new_tokens max_length batch_size embedding_size hidden limit chunk n"),
    (TENSOR, "response posterior_sample retained log_weight log_prior_weight log_likelihood"),
    (TENSOR, "log_target log_proposal log_prob prob cdf cdf_left values samples is_token outcome"),
    (TENSOR, "probability center projection prior_mean log_ratio"),
    (PROGRAM, "model guide program"),
    (
        [3, "no", THING, None],
        "whole exact independent per_prompt label_noise progress per_token count",
    ),
    (
        [3, "no", THING, None],
        "ignore_case whiten trust_remote_code keep_best checkpoint_activations",
    ),
    ([3, "no", THING, None], "resume gather_draws compile_decode stop_at_noise"),
    (SHARE, "ess_threshold scale floor decay exploration_kl flip noise"),
    (POSITIVE, "penalty clip rate learning_rate quantile_beta ridge power prior_scale temperature"),
    (POSITIVE, "clip_norm step_kl margin"),
    (NUMBER, "alpha kl max_kl log_likelihood_bound beta"),
    (NAME, "subset component output aggregation divide kind engine method"),
    ([*NUMBER, torch.zeros(5), torch.full((2,), NAN), torch.zeros(2) * 1j], "log_bound"),
    ([3, b"x", ["x"], "", THING, None], "folder checkpoint_folder"),
    ([3, "x", [], int, THING, lambda: None], "on_step"),
    ([3, "x", ["x"], THING], "generator"),
    ([3, "x", (-1,), (0,), (2.5,), THING, None], "sample_shape"),
    ([*NUMBER[:-1]], "upper_bound"),
    ([3, ["x"], True, THING], "text system column"),
    ([None, "the film was", ["the film was"], 3, THING], "prompts"),
    (["model/film_reviews", 3, THING, None], "prior language_model"),
    ([None, 3, "x", THING], "comparisons features head posterior tokenizer"),
    ([-1, 0.5, "0", None, True, 2**40, THING], "seed"),
]
REFUSED = {name: values for values, names in BY_KIND for name in names.split()}
"""Refused values by the name of an argument; None where the annotation does not allow it."""

Call = tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]
"""A callable, arguments that work, and values that this callable refuses besides, by argument."""
WORDS = {
    "log_bound": "bound",
    "log_likelihood_bound": "bound",
    "penalties": "penalt(y|ies)",
    "targets": "targets?",
    "factors": "factors?",
    "features": "features?",
}
"""Expression for an argument that the error names by part or kind."""


def assert_refuses(call: Callable[..., Any], arguments: dict, own: dict[str, list[Any]]) -> None:
    """Pass one refused value at a time; the error names the argument."""
    parameters = inspect.signature(call).parameters
    assert own.keys() <= parameters.keys()
    for argument, parameter in parameters.items():
        for value in [*REFUSED.get(argument, []), *own.get(argument, [])]:
            if value is None and "None" in str(parameter.annotation):
                continue
            with pytest.raises((ValueError, TypeError, FloatingPointError)) as error:
                call(**arguments | {argument: value})
            word, message = WORDS.get(argument, argument), str(error.value)
            assert re.search(rf"\b{word}\b", message), f"{argument}={value!r}: {message}"
            assert " at 0x" not in message, message
