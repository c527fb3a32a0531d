"""Answers of lesson 7, and common wrong answers, which the asserts refuse."""

import math


def log_z_hat(log_weight):
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def mean_of_logs(log_weight):
    """Wrong: the mean of log w is the estimate of the ELBO."""
    return log_weight.mean()


def without_number(log_weight):
    """Wrong: a sum in place of a mean."""
    return log_weight.logsumexp(0)


def overflow(log_weight):
    """Wrong: exp of a large number is infinite."""
    return log_weight.exp().mean().log()


def acceptance(log_z, bound, beta):
    return math.exp(log_z - bound / beta)


def without_temperature(log_z, bound, beta):
    """Wrong: the bound is in units of reward, log Z in nats."""
    return math.exp(log_z - bound)


def without_z(log_z, bound, beta):
    """Wrong: the acceptance is a mean over the prior, not that of a reward of 0."""
    return math.exp(-bound / beta)


ANSWERS = {"check_log_z": log_z_hat, "check_acceptance": acceptance}
WRONG = {
    "check_log_z": [mean_of_logs, without_number, overflow],
    "check_acceptance": [without_temperature, without_z],
}
