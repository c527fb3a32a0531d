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

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from experiments.agents.figure import agents_figure
from experiments.agents.speakers import (
    AGENTS,
    agent_weights,
    bayes_twice,
    kl,
    log_agent_z,
    responsibilities,
)
from experiments.shared.argument_types import DISTINCT, Count, Out, Positive, Seeds, Threads, count
from experiments.shared.claims import Finding, conclude
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.figures import save_all
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.training import early_stops, train
from experiments.shared.workers import set_threads
from guides import FineTuned
from inference import Enumeration, LeaveOneOut_ELBO
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from model.prior.grammar import SPEAKERS, spoken_sentences

EXACT = 1e-10
COLUMNS = ["pi_a", "log Z_a", "pi_a Z_a / Z", "p*(a)", "guides by SVI"]


@dataclass(frozen=True)
class Agents(Arguments):
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
    threads: Threads | None = 1
    """Number of CPU threads; None for torch's choice."""
    out: Out = Path("runs")
    """Parent folder of the run folder."""


def main(args: Agents) -> list[Finding]:
    set_threads(args.threads)
    prior = grammar_prior(args.max_new_tokens, sentences=spoken_sentences(SPEAKERS))
    prompts, reward = prior.encode([args.prompt]), TextReward(vader_sentiment, prior)
    truth = Enumeration(AlignmentModel(prior, reward, args.betas[0]), prompts)
    rho = responsibilities(prior, truth)
    before = agent_weights(truth.log_prior, rho)
    if silent := [name for name, weight in zip(AGENTS, before, strict=True) if weight == 0]:
        where = f"--prompt {args.prompt!r}: the speaker {silent[0]} says nothing"
        raise SystemExit(f"{where} of {args.max_new_tokens} tokens after it")

    rows, guide_weights = {}, {}
    errors: list[float] = []
    shares: list[float] = []
    with early_stops() as stops:
        for beta in args.betas:
            model = AlignmentModel(prior, reward, beta)
            truth = Enumeration(model, prompts)
            log_z = torch.stack([log_agent_z(name, model, prompts) for name in AGENTS])
            by_bayes, after = (log_z - truth.log_z).exp(), agent_weights(truth.log_posterior, rho)
            errors.append((by_bayes - after).abs().max().item())
            runs, left = [], 0.0
            for seed in range(args.seeds):
                guide, objective = FineTuned(prior), LeaveOneOut_ELBO(args.particles)
                train(guide, model, prompts, objective, args.steps, learning_rate=2e-3, seed=seed)
                weights = agent_weights(truth.log_guide(guide), rho)
                left += kl(weights, after) / args.seeds
                runs.append(dict(zip(AGENTS, weights.tolist(), strict=True)))
            shares.append(left / kl(before, after))
            guide_weights[beta] = {name: mean_and_error(runs, name) for name in AGENTS}
            numbers = torch.stack([before, log_z - before.log(), by_bayes, after], -1)
            for name, row in zip(AGENTS, numbers.tolist(), strict=True):
                cells = [f"{value:.4f}" for value in row]
                rows[f"beta {beta:g}, {name}"] = [*cells, cell(*guide_weights[beta][name])]

    twice, error_twice = bayes_twice(prior, prompts, reward, args.betas[-1])
    share = "guides, share of the KL between the agents of prior and posterior that is left"
    findings = [
        Finding.of_limits("error of Bayes' rule for the posterior's weights", errors, below=EXACT),
        Finding.of_limits("error of Bayes' rule applied twice", [error_twice], below=EXACT),
        Finding.of_limits(share, shares, below=0.1),
    ]
    title = f'After "{args.prompt}", rewarded for sentiment; {args.steps} steps, {args.seeds} seeds'
    rewards = model.reward(prompts, truth.support)
    figure = agents_figure(truth.log_prior, rewards, rho, guide_weights)
    save_all(args, "agents", {"agents": figure})
    return conclude(__doc__, [f"{title}\n{text_table(COLUMNS, rows)}", twice], findings, stops)


if __name__ == "__main__":
    run_script(main, Agents)
