"""Agents of a prior, p0(x) = sum_a p0(x) rho_a(x), and Bayes' rule for their weights.

    rho_a(x) = s_a g_a(x) / sum_b s_b g_b(x)

g_a is the distribution of speaker a over sentences, s_a the speaker's share. An agent `none` has
rho = 1 for a sentence that no speaker says. The rho_a sum to 1 for every response, so that they
split any distribution: pi_a = E_p0[rho_a], p_a(x) = p0(x) rho_a(x) / pi_a. "a spoke" is a factor of
the model, log rho_a(x), and log(pi_a Z_a) is log Z of the model with this factor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.agents.grammar import SPEAKERS
from experiments.shared.claims import largest
from experiments.shared.tables import table_of
from inference import Enumeration
from inference.estimate import expectation
from model import AlignmentModel, LanguageModel, Prompts, Reward, TextReward

AGENTS = (*SPEAKERS, "none")


def speaker_probs(text: str) -> list[float]:
    """rho_a of a text, prompt included, for each of `AGENTS`."""
    joint = [speaker.share * speaker.sentences().get(text, 0.0) for speaker in SPEAKERS.values()]
    total = sum(joint)
    return [*(part / total for part in joint), 0.0] if total else [*joint, 1.0]


def responsibilities(prior: LanguageModel, truth: Enumeration) -> Tensor:
    """rho_a of every response to one prompt, `[A, S]`, float64."""
    texts = prior.decode(truth.support, truth.prompts)
    return torch.tensor([speaker_probs(text) for [text] in texts], dtype=torch.float64).T


def log_agent_weights(log_prob: Tensor, rho: Tensor) -> Tensor:
    """log sum_x q(x) rho_a(x), the weights of the agents in q, `[A]`, nats, for log q `[S, 1]`."""
    return (log_prob[:, 0] + rho.log()).logsumexp(-1)


def kl(log_weights: Tensor, others: Tensor) -> float:
    """KL between two distributions over agents, by their logs `[A]`, nats."""
    return expectation(log_weights.exp(), log_weights - others).item()


def log_agent_z(name: str, model: AlignmentModel, prompts: Prompts) -> Tensor:
    """log(pi_a Z_a) for one prompt, nats: log Z of the model with the factor "a spoke"."""
    agent = AGENTS.index(name)

    def log_rho(texts: Sequence[str]) -> list[float]:
        rho = torch.tensor([speaker_probs(text)[agent] for text in texts], dtype=torch.float64)
        return rho.log().tolist()

    factors = {"speaker": TextReward(log_rho, model.prior)}
    spoken = AlignmentModel(model.prior, model.rewards, model.beta, factors)
    return Enumeration(spoken, prompts).log_z[0]


def without_not(texts: Sequence[str]) -> list[float]:
    """Reward: 1 for a text without the word "not", else 0."""
    return [float("not" not in text.split()) for text in texts]


def bayes_twice(
    prior: LanguageModel, prompts: Prompts, reward: Reward, beta: float
) -> tuple[str, float]:
    """Apply Bayes' rule to sentiment and to plain words, in both orders.

    Returns:
        A table of the weights; the largest error of a weight or of a response's probability,
        against the posterior of both rewards.
    """
    rewards = {"sentiment": reward, "plain words": TextReward(without_not, prior)}
    both = Enumeration(AlignmentModel(prior, rewards, beta), prompts)
    log_likelihood = {
        name: Enumeration(AlignmentModel(prior, one, beta), prompts).log_likelihood
        for name, one in rewards.items()
    }
    rho = responsibilities(prior, both)
    at_once = log_agent_weights(both.log_posterior, rho)
    table, errors = {"prior": log_agent_weights(both.log_prior, rho)}, []
    for first, second in (("sentiment", "plain words"), ("plain words", "sentiment")):
        log_weights, log_prob = table["prior"], both.log_prior
        for label, name in ((first, first), (f"then {second}", second)):
            log_weights = updated(log_weights, log_prob, rho, log_likelihood[name])
            table[label] = log_weights
            log_prob = (log_prob + log_likelihood[name]).log_softmax(0)
        errors.append((log_weights.exp() - at_once.exp()).abs().max().item())
        errors.append((log_prob.exp() - both.log_posterior.exp()).abs().max().item())
    rows = {
        name: dict(zip(AGENTS, logs.exp().tolist(), strict=True))
        for name, logs in {**table, "both at once": at_once}.items()
    }
    title = f"Weights after one reward and after two, beta {beta:g}"
    return table_of(title, rows), largest(errors)


def updated(log_weights: Tensor, log_prob: Tensor, rho: Tensor, log_likelihood: Tensor) -> Tensor:
    """Bayes' rule, w_a Z_a / sum_b w_b Z_b, with Z_a = E[exp(r/beta)] under q(x) rho_a(x) / w_a.

    The log weights are `[A]`, log q and r/beta `[S, 1]`, nats.
    """
    of_agent = log_prob[:, 0] + rho.log() - log_weights[:, None]  # [A, S], what each agent says
    log_z = (of_agent + log_likelihood[:, 0]).logsumexp(-1)
    return (log_weights + log_z).log_softmax(0)
