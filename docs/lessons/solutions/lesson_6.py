"""Answers of lesson 6, and common wrong answers, which the asserts refuse."""


def best_product(p):
    return p.sum(1)[:, None] * p.sum(0)


def joint(p):
    """Wrong: the table itself is no product."""
    return p


def mode(p):
    """Wrong: all mass on the largest entry is near to the best of the other direction."""
    return (p == p.max()).to(p)


def posterior_mean(log_weight, values):
    return (log_weight.softmax(0) * values).sum()


def mean_of_the_guide(log_weight, values):
    """Wrong: without weights the mean is under q."""
    return values.mean()


def with_weights_of_mean_one(log_weight, values):
    """Wrong: the weights have the unknown factor Z."""
    return (log_weight.exp() * values).mean()


def by_log_weights(log_weight, values):
    """Wrong: weights are exp(log w)."""
    return (log_weight * values).sum() / log_weight.sum()


ANSWERS = {"check_product": best_product, "check_mean": posterior_mean}
WRONG = {
    "check_product": [joint, mode],
    "check_mean": [mean_of_the_guide, with_weights_of_mean_one, by_log_weights],
}
