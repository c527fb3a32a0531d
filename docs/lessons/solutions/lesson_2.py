"""Answers of lesson 2, and common wrong answers, which the asserts refuse."""

import math


def log_posterior_of(log_prior, reward, beta):
    log_joint = log_prior + reward / beta
    return log_joint - log_joint.logsumexp(0)


def without_z(log_prior, reward, beta):
    """Wrong: the joint is not normalised."""
    return log_prior + reward / beta


def beta_multiplies(log_prior, reward, beta):
    """Wrong: beta divides the reward."""
    return (log_prior + beta * reward).log_softmax(0)


def without_prior(log_prior, reward, beta):
    """Wrong: a softmax of rewards forgets the prior."""
    return (reward / beta).log_softmax(0)


def beta_for(p, t):
    return 1 / (math.log(t / (1 - t)) - math.log(p / (1 - p)))


def log_ratio(p, t):
    """Wrong: the log-odds move by 1 / beta, not the log probabilities."""
    return 1 / math.log(t / p)


def inverse(p, t):
    """Wrong: this is 1 / beta."""
    return 1 / beta_for(p, t)


ANSWERS = {"check_posterior": log_posterior_of, "check_beta": beta_for}
WRONG = {
    "check_posterior": [without_z, beta_multiplies, without_prior],
    "check_beta": [log_ratio, inverse],
}
