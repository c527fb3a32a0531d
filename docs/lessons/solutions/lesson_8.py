"""Answers of lesson 8, and common wrong answers, which the asserts refuse."""

import math

from torch.nn.functional import logsigmoid


def log_preference(first, second):
    return logsigmoid(first - second)


def without_log(first, second):
    """Wrong: the probability in place of the logarithm."""
    return (first - second).sigmoid()


def reversed_labels(first, second):
    """Wrong: the second is preferred."""
    return logsigmoid(second - first)


def difference(first, second):
    """Wrong: a difference of rewards is the log-odds."""
    return first - second


def log_marginal(rewards, beta):
    return (rewards / beta).logsumexp(0) - math.log(len(rewards))


def of_the_mean(rewards, beta):
    """Wrong: this ignores the uncertainty (Jensen's inequality)."""
    return rewards.mean(0) / beta


def sum_of_draws(rewards, beta):
    """Wrong: a sum in place of a mean, the same posterior but another log Z."""
    return (rewards / beta).logsumexp(0)


ANSWERS = {"check_preference": log_preference, "check_marginal": log_marginal}
WRONG = {
    "check_preference": [without_log, reversed_labels, difference],
    "check_marginal": [of_the_mean, sum_of_draws],
}
