"""Answers of lesson 5, and common wrong answers, which the asserts refuse."""


def gaps(log_z, best_elbo, elbo):
    return log_z - best_elbo, best_elbo - elbo


def exchanged(log_z, best_elbo, elbo):
    """Wrong: the order of the two gaps."""
    return best_elbo - elbo, log_z - best_elbo


def whole_distance(log_z, best_elbo, elbo):
    """Wrong: this counts the approximation gap twice."""
    return log_z - best_elbo, log_z - elbo


def update(log_joint, q_b):
    return (log_joint @ q_b).softmax(0)


def marginal(log_joint, q_b):
    """Wrong: the mean of the joint is the marginal, the answer for KL(p* || q)."""
    return (log_joint.exp() @ q_b) / (log_joint.exp() @ q_b).sum()


def unnormalised(log_joint, q_b):
    """Wrong: proportional is not equal."""
    return (log_joint @ q_b).exp()


ANSWERS = {"check_gaps": gaps, "check_update": update}
WRONG = {
    "check_gaps": [exchanged, whole_distance],
    "check_update": [marginal, unnormalised],
}
