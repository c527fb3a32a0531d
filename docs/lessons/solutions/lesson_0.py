"""Answers of lesson 0, and common wrong answers, which the asserts refuse."""


def weight(reward_with_kl, beta):
    return reward_with_kl / beta


def times_beta(reward_with_kl, beta):
    """Wrong: beta is reward per nat, so nats are reward over beta."""
    return reward_with_kl * beta


def without_beta(reward_with_kl, beta):
    """Wrong: a reward is no number of nats."""
    return reward_with_kl


def forward_kl(log_guide, log_weight):
    return -(log_weight.detach().softmax(0) * log_guide).sum()


def not_normalised(log_guide, log_weight):
    """Wrong: the weights have the mean Z, which scales the gradient."""
    return -(log_weight.detach().exp() * log_guide).mean(0).sum()


def with_gradient(log_guide, log_weight):
    """Wrong: the weights are numbers; their gradient is no part of E_p*[grad log q]."""
    return -(log_weight.softmax(0) * log_guide).sum()


def weighted_by_log(log_guide, log_weight):
    """Wrong: log w, less its mean, weighs the gradient of the other direction, KL(q || p*)."""
    log_weight = log_weight.detach()
    return -((log_weight - log_weight.mean(0)) * log_guide).mean(0).sum()


ANSWERS = {"check_weight": weight, "check_forward": forward_kl}
WRONG = {
    "check_weight": [times_beta, without_beta],
    "check_forward": [not_normalised, with_gradient, weighted_by_log],
}
