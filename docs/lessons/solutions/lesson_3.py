"""Answers of lesson 3, and common wrong answers, which the asserts refuse."""


def rlhf_objective(log_guide, log_prior, reward, beta):
    guide = log_guide.exp()
    return (guide * reward).sum() - beta * (guide * (log_guide - log_prior)).sum()


def other_divergence(log_guide, log_prior, reward, beta):
    """Wrong: KL(p0 || q) in place of KL(q || p0)."""
    kl = (log_prior.exp() * (log_prior - log_guide)).sum()
    return (log_guide.exp() * reward).sum() - beta * kl


def without_beta(log_guide, log_prior, reward, beta):
    """Wrong: a KL in nats is subtracted from a reward in units of reward."""
    guide = log_guide.exp()
    return (guide * reward).sum() - (guide * (log_guide - log_prior)).sum()


def best_value(log_prior, reward, beta):
    return beta * (log_prior + reward / beta).logsumexp(0)


def largest_reward(log_prior, reward, beta):
    """Wrong: this maximum is reached without the KL penalty."""
    return reward.max()


def reward_of_the_posterior(log_prior, reward, beta):
    """Wrong: the posterior pays its KL."""
    return ((log_prior + reward / beta).softmax(0) * reward).sum()


ANSWERS = {"check_objective": rlhf_objective, "check_maximum": best_value}
WRONG = {
    "check_objective": [other_divergence, without_beta],
    "check_maximum": [largest_reward, reward_of_the_posterior],
}
