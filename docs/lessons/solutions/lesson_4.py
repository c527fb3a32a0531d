"""Answers of lesson 4, and common wrong answers, which the asserts refuse."""


def leave_one_out_factor(log_weight):
    others = (log_weight.sum() - log_weight) / (len(log_weight) - 1)
    return log_weight - others


def mean_of_all(log_weight):
    """Wrong: the mean includes the draw itself, which shrinks the gradient by (K - 1) / K."""
    return log_weight - log_weight.mean()


def standardised(log_weight):
    """Wrong, as the mean is another vector; right in exercise 3, where a bias is allowed."""
    return leave_one_out_factor(log_weight) / (log_weight.std() + 1e-6)


def no_baseline(log_weight):
    """Wrong: without bias, but with noise at the posterior."""
    return log_weight


def price(log_z, c, beta, num_draws, trace_of_fisher):
    return abs(log_z + c / beta) * (trace_of_fisher / num_draws) ** 0.5


def constant_in_units_of_reward(log_z, c, beta, num_draws, trace_of_fisher):
    """Wrong: log Z grows by c / beta nats."""
    return abs(log_z + c) * (trace_of_fisher / num_draws) ** 0.5


def draws_without_root(log_z, c, beta, num_draws, trace_of_fisher):
    """Wrong: the variance falls with K, the standard deviation with its root."""
    return abs(log_z + c / beta) * trace_of_fisher**0.5 / num_draws


def downhill(log_weight):
    """Wrong: the sign."""
    return log_weight.mean() - log_weight


ANSWERS = {"check_baseline": leave_one_out_factor, "check_price": price, "check_own": standardised}
WRONG = {
    "check_own": [no_baseline, downhill],
    "check_baseline": [mean_of_all, standardised, no_baseline],
    "check_price": [constant_in_units_of_reward, draws_without_root],
}
