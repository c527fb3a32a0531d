"""Answers of lesson 1, and common wrong answers, which the asserts refuse."""


def probability_of_not(log_prior, texts):
    has_not = [n for n, text in enumerate(texts) if "not" in text.split()]
    return log_prior[has_not].exp().sum()


def probability_of_one_text(log_prior, texts):
    """Wrong: the event is a set, not a text."""
    return log_prior[texts.index("not good")].exp()


def sum_of_logarithms(log_prior, texts):
    """Wrong: log probabilities do not add up to a probability."""
    return sum(log_prior[n] for n, text in enumerate(texts) if "not" in text.split())


def entropy_of(log_prob):
    return -(log_prob.exp() * log_prob).sum()


def unweighted_entropy(log_prob):
    """Wrong: a mean over responses is no mean under the model."""
    return -log_prob.mean()


def negative_entropy(log_prob):
    """Wrong: the sign."""
    return (log_prob.exp() * log_prob).sum()


ANSWERS = {"check_event": probability_of_not, "check_entropy": entropy_of}
WRONG = {
    "check_event": [probability_of_one_text, sum_of_logarithms],
    "check_entropy": [unweighted_entropy, negative_entropy],
}
