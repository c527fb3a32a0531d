"""Agents: a language model speaks for many, and a reward reweights them by Bayes' rule.

Question: what does fine-tuning do to a model that was trained on the texts of many agents?
Claim: the prior is a mixture of agents, p0(x) = sum_a pi_a p_a(x). A reward turns the prior into
another mixture of the same agents, p*(x) = sum_a p*(a) p*(x | a), with the weights of Bayes' rule:

    p*(a) = pi_a Z_a / Z,  Z_a = E_{p_a}[exp(r(x)/beta)],  p*(x | a) = p_a(x) exp(r(x)/beta) / Z_a

RL with a KL penalty teaches the agents nothing: agents with much reward speak more often, and each
agent says more of the rewarded texts. Two rewards in sequence are their product.
Source: Korbak, Perez and Buckley 2022, arXiv 2205.11275, section 4.
Printed: for several beta, the weights before, by Bayes' rule, of the posterior, and of guides by
SVI with standard errors over seeds; Bayes' rule applied twice. Written: the weights by 1/beta.

The prior is trained on three speakers of the grammar. `speakers` splits the trained prior itself,
and not only the grammar, into agents.

    python -m experiments.agents
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.agents import speakers
from experiments.agents.grammar import spoken_sentences
from experiments.agents.speakers import AGENTS, log_agent_weights
from experiments.shared.argument_types import DISTINCT, Count, Positive, Seeds, count
from experiments.shared.claims import FigureArguments, Finding, conclude, within
from experiments.shared.command_line import run_script
from experiments.shared.figures import legend_below, looks, new_axes, save_all
from experiments.shared.tables import Row, summary, table_of
from experiments.shared.training import train
from guides import FineTuned
from inference import Enumeration, Estimate, LeaveOneOut_ELBO
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment

EXACT = 1e-10


@dataclass(frozen=True)
class Agents(FigureArguments):
    """Measure the weights of the agents in prior, posterior and trained guides."""

    betas: Annotated[tuple[Positive, ...], DISTINCT] = (1.0, 0.5, 0.3)
    """Rewards per nat. The last one is the beta of Bayes' rule applied twice."""
    max_new_tokens: Annotated[int, count(1, 5, "all 9^T responses are listed")] = 3
    """Largest number of tokens in a response, T. With 3 tokens there are 820 responses."""
    prompt: str = "the film was"
    """Prompt of all responses."""
    steps: Count = 120
    """Number of SVI steps."""
    particles: Annotated[int, count(2)] = 64
    """Number of responses in each step."""
    seeds: Seeds = 3
    """Number of guides for each beta."""


def main(args: Agents) -> list[Finding]:
    prior = grammar_prior(args.max_new_tokens, sentences=spoken_sentences())
    prompts, reward = prior.encode([args.prompt]), TextReward(vader_sentiment, prior)
    truth = Enumeration(AlignmentModel(prior, reward, args.betas[0]), prompts)
    rho = speakers.responsibilities(prior, truth)
    before = log_agent_weights(truth.log_prior, rho)
    if silent := [name for name, log in zip(AGENTS, before, strict=True) if log == -torch.inf]:
        where = f"--prompt {args.prompt!r}: the speaker {silent[0]} says nothing"
        raise SystemExit(f"{where} of {args.max_new_tokens} tokens after it")

    rows: dict[str, Row] = {}
    guide_weights, errors, shares = {}, [], []
    for beta in args.betas:
        model = AlignmentModel(prior, reward, beta)
        truth = Enumeration(model, prompts)
        log_z = torch.stack([speakers.log_agent_z(name, model, prompts) for name in AGENTS])
        by_bayes = (log_z - truth.log_z).exp()
        after = log_agent_weights(truth.log_posterior, rho)
        errors.append((by_bayes - after.exp()).abs().max().item())
        runs, left = [], 0.0
        for seed in range(args.seeds):
            guide, objective = FineTuned(prior), LeaveOneOut_ELBO(args.particles)
            train(guide, model, prompts, objective, args.steps, seed=seed)
            weights = log_agent_weights(truth.log_guide(guide), rho)
            left += speakers.kl(weights, after) / args.seeds
            runs.append(dict(zip(AGENTS, weights.exp().tolist(), strict=True)))
        shares.append(left / speakers.kl(before, after))
        guide_weights[beta] = summary(runs)
        for a, name in enumerate(AGENTS):
            rows[f"beta {beta:g}, {name}"] = {
                "pi_a": before[a].exp().item(),
                "log Z_a": (log_z[a] - before[a]).item(),
                "pi_a Z_a / Z": by_bayes[a].item(),
                "p*(a)": after[a].exp().item(),
                "guides by SVI": guide_weights[beta][name],
            }

    twice, error_twice = speakers.bayes_twice(prior, prompts, reward, args.betas[-1])
    share = "guides, share of the KL between the agents of prior and posterior that is left"
    findings = [
        within("error of Bayes' rule for the posterior's weights", *errors, below=EXACT),
        within("error of Bayes' rule applied twice", error_twice, below=EXACT),
        within(share, *shares, below=0.1),
    ]
    title = f'After "{args.prompt}", rewarded for sentiment; {args.steps} steps, {args.seeds} seeds'
    figure = agents_figure(truth, model.reward(prompts, truth.support), rho, guide_weights)
    save_all(args, "agents", {"agents": figure})
    return conclude(__doc__, [table_of(title, rows), twice], findings)


def agents_figure(
    truth: Enumeration,
    reward: Tensor,
    rho: Tensor,
    guide_weights: Mapping[float, Mapping[str, Estimate]],
) -> Figure:
    """Weights of the agents in the posteriors of all beta, and in the guides, by beta."""
    figure, axes = new_axes()
    inverse = torch.linspace(0, 1.2 / min(guide_weights), 60)
    posteriors = [(truth.log_prior + reward * at).log_softmax(0) for at in inverse.tolist()]
    exact = torch.stack([log_agent_weights(each, rho).exp() for each in posteriors])
    for name, line, look in zip(AGENTS, exact.T, looks(len(AGENTS)), strict=True):
        axes.plot(inverse, line, color=look["color"], label=name)
        means, errors = zip(*(weights[name] for weights in guide_weights.values()), strict=True)
        at = [1 / beta for beta in guide_weights]
        bars = [2 * error for error in errors]
        axes.errorbar(at, means, bars, **look, linestyle="", markersize=5)
    axes.set(xlabel="1/beta, nats per unit of reward", ylabel="weight of the agent", ylim=(0, None))
    axes.set_title(
        "A reward reweights agents by Bayes' rule (lines);\nguides by SVI ± 2 s.e. (dots)"
    )
    legend_below(figure, axes, 4)
    return figure


if __name__ == "__main__":
    run_script(main, Agents)
