"""A language model speaks for many agents; evidence reweights them by Bayes' rule.

Question: what does fine-tuning do to a model that was trained on the writings of many?
Claim (Korbak, Perez and Buckley 2022, section 4): the prior is a mixture of agents, p0(x) = sum_a pi_a p_a(x), and evidence
turns it into another, p*(x) = sum_a p*(a) p*(x | a), whose weights are those of Bayes' rule:

    p*(a) = pi_a Z_a / Z,   Z_a = E_{p_a}[exp(r(x)/beta)],   p*(x | a) = p_a(x) exp(r(x)/beta) / Z_a

so that RL with a KL penalty does not teach anyone anything: it asks more often those whom the evidence speaks for, and has
each of them say more of what it speaks for. Evidence after evidence is the product of both.

The prior is a language model trained on three speakers of the grammar, with laws g_a and shares s_a. Who spoke is told from
what was said, by rho_a(x) = s_a g_a(x) / sum_b s_b g_b(x), and what no speaker says is laid to a fourth agent, `none`, with
rho = 1. As the rho_a sum to 1 for every response, p0(x) = sum_a p0(x) rho_a(x) splits the trained model itself, and not only
the grammar that it was trained on, into agents: pi_a = E_p0[rho_a], p_a(x) = p0(x) rho_a(x) / pi_a. "a spoke" is then
evidence too, of beta log rho_a(x) by the side of the reward, and log(pi_a Z_a) is log Z of the model with both.

Printed: for several beta, the weights before, those by Bayes' rule, those of the posterior itself, and those that SVI gives a
guide, with standard errors over seeds; Bayes' rule applied twice. Written: the weights against 1/beta.

    python -m experiments.agents
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.shared import figures
from experiments.shared.argument_types import DISTINCT, Count, Out, Positive, Seeds, Threads, count
from experiments.shared.claims import Finding, finished, largest, report
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.run_folder import new_folder
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.training import early_stops, train
from experiments.shared.workers import set_threads
from guides import FineTuned
from inference import Enumeration, LeaveOneOut_ELBO
from model import AlignmentModel, LanguageModel, Prompts, Reward, TextReward, grammar_prior
from model.prior.grammar import SPEAKERS, Speaker, spoken_sentences
from model.registry import REWARDS

CLAIM = "evidence reweights the agents of a prior exactly as Bayes' rule says, p*(a) = pi_a Z_a / Z, and a tuned guide follows"
SOURCE = "Korbak, Perez and Buckley 2022, arXiv 2205.11275, section 4"
NONE = "none"
"""The agent of responses that no speaker says."""
EXACT = 1e-10
LEFT = 0.1
"""Of the KL from the posterior's agents to the prior's: guides that leave less have followed."""


@dataclass(frozen=True)
class Agents(Arguments):
    """See evidence reweight the agents of a prior."""

    betas: Annotated[tuple[Positive, ...], DISTINCT] = (1.0, 0.5, 0.3)
    """Reward per nat."""
    max_new_tokens: Annotated[int, count(1, 5, "all 9^T responses are listed")] = 3
    """T: at 3 there are 820 responses."""
    prompt: str = "the film was"
    """What is judged."""
    steps: Count = 120
    """Of SVI."""
    particles: Annotated[int, count(2)] = 64
    """Responses a step."""
    seeds: Seeds = 3
    """Guides for each beta."""
    threads: Threads | None = 1
    """CPU threads; None for torch's choice. More help small networks little, and do harm where cores are shared."""
    out: Out = Path("runs")
    """The run folder is made in here."""


def main(args: Agents) -> list[Finding]:
    set_threads(args.threads)
    prior = grammar_prior(args.max_new_tokens, sentences=spoken_sentences(SPEAKERS))
    prompts, reward = prior.encode([args.prompt]), REWARDS["vader"](prior)
    rows, weights = {}, {}
    errors: list[float] = []
    left: list[float] = []
    unfinished: list[Finding] = []
    for beta in args.betas:
        model = AlignmentModel(prior, reward, beta)
        truth = Enumeration(model, prompts)
        rho = responsibilities(prior, truth, SPEAKERS)
        before, after = mixture(truth.log_prior, rho), mixture(truth.log_posterior, rho)
        if silent := [name for name, weight in before.items() if weight == 0]:
            raise SystemExit(
                f"--prompt {args.prompt!r}: the speaker {silent[0]} says nothing of {args.max_new_tokens} tokens after it"
            )
        log_z = {name: log_z_of(name, prior, prompts, reward, beta) for name in after}
        by_bayes = {name: (log_z[name] - truth.log_z).exp().item() for name in after}
        errors += [abs(by_bayes[name] - after[name]) for name in after]
        with early_stops() as stops:
            guides = [train_guide(model, prompts, seed, args) for seed in range(args.seeds)]
        unfinished += finished(stops)
        of_guides = [mixture(truth.log_guide(guide), rho) for guide in guides]
        left += [sum(kl(found, after) for found in of_guides) / args.seeds / kl(before, after)]
        weights[beta] = {name: mean_and_error(of_guides, name) for name in after}
        for name in after:
            found = weights[beta][name]
            log_z_a = log_z[name].item() - math.log(before[name])
            rows[f"beta {beta:g}, {name}"] = [
                *(f"{value:.4f}" for value in (before[name], log_z_a, by_bayes[name], after[name])),
                cell(*found),
            ]
    columns = ["pi_a", "log Z_a", "pi_a Z_a / Z", "p*(a)", "guides by SVI"]
    twice, error_twice = bayes_twice(prior, prompts, reward, args.betas[-1])
    title = f'After "{args.prompt}", rewarded for sentiment; {args.steps} steps, {args.seeds} seeds'
    most = largest(left)
    findings = [
        Finding(
            f"the posterior's weights are Bayes' rule's to {largest(errors):.0e}",
            largest(errors) < EXACT,
        ),
        Finding(
            f"Bayes' rule twice is Bayes' rule once with the product to {error_twice:.0e}",
            error_twice < EXACT,
        ),
        Finding(
            f"of the KL between the agents of prior and posterior the guides leave {most:.1%} at most (under {LEFT:.0%})",
            most < LEFT,
        ),
        *unfinished,
    ]
    print(report(CLAIM, SOURCE, [f"{title}\n{text_table(columns, rows)}", twice], findings))
    figure = agents_figure(curve(prior, prompts, reward, min(args.betas)), weights)
    with new_folder(args, "agents") as folder:
        print(f"Figure: {figures.save(figure, folder.path / 'agents.svg')}")
    return findings


def train_guide(model: AlignmentModel, prompts: Prompts, seed: int, args: Agents) -> FineTuned:
    """A guide, knowing nothing of agents."""
    return train(
        FineTuned(model.prior),
        model,
        prompts,
        LeaveOneOut_ELBO(args.particles),
        args.steps,
        learning_rate=2e-3,
        seed=seed,
    )


def who_said(text: str, speakers: Mapping[str, Speaker]) -> dict[str, float]:
    """rho_a(x) of a text, prompt included, for every speaker and `none`; they sum to 1."""
    said = {
        name: speaker.share * speaker.sentences().get(text, 0.0)
        for name, speaker in speakers.items()
    }
    total = sum(said.values())
    if total == 0:
        return {**said, NONE: 1.0}
    return {**{name: part / total for name, part in said.items()}, NONE: 0.0}


def responsibilities(
    prior: LanguageModel, truth: Enumeration, speakers: Mapping[str, Speaker]
) -> dict[str, Tensor]:
    """rho_a of every response, `[S, N]`, by agent."""
    texts = prior.decode(truth.support, truth.prompts)
    known = {text: who_said(text, speakers) for row in texts for text in row}
    names = [*speakers, NONE]
    return {
        name: torch.tensor(
            [[known[text][name] for text in row] for row in texts], dtype=torch.float64
        )
        for name in names
    }


def mixture(log_prob: Tensor, rho: Mapping[str, Tensor]) -> dict[str, float]:
    """sum_x q(x) rho_a(x): the weights of the agents in a law over the responses to one prompt, `[S, 1]`."""
    return {name: (log_prob.exp() * of_agent).sum().item() for name, of_agent in rho.items()}


def kl(weights: Mapping[str, float], others: Mapping[str, float]) -> float:
    """KL between two laws of agents, nats."""
    first, second = (
        torch.tensor(list(law.values()), dtype=torch.float64) for law in (weights, others)
    )
    return torch.special.xlogy(first, first / second).sum().item()


def spoken_by(name: str, prior: LanguageModel, beta: float) -> Reward:
    """That an agent spoke, as evidence: beta log rho_a(x), -inf for what that agent never says."""

    def log_rho(texts: Sequence[str]) -> list[float]:
        shares = torch.tensor(
            [who_said(text, SPEAKERS)[name] for text in texts], dtype=torch.float64
        )
        return (beta * shares.log()).tolist()

    return TextReward(log_rho, prior)


def log_z_of(
    name: str, prior: LanguageModel, prompts: Prompts, reward: Reward, beta: float
) -> Tensor:
    """log(pi_a Z_a) = log sum_x p0(x) rho_a(x) exp(r(x)/beta), nats: log Z with one more piece of evidence."""
    model = AlignmentModel(prior, {"reward": reward, "speaker": spoken_by(name, prior, beta)}, beta)
    return Enumeration(model, prompts).log_z


def without_not(texts: Sequence[str]) -> list[float]:
    """1 for a text that does not say "not", else 0."""
    return [float("not" not in text.split()) for text in texts]


def bayes_twice(
    prior: LanguageModel, prompts: Prompts, reward: Reward, beta: float
) -> tuple[str, float]:
    """Sentiment and then plain words, against both at once: a table, and how far any weight or probability is apart."""
    plain = TextReward(without_not, prior)
    both = Enumeration(AlignmentModel(prior, {"sentiment": reward, "plain": plain}, beta), prompts)
    rho = responsibilities(prior, both, SPEAKERS)
    pieces = {"sentiment": reward, "plain words": plain}
    log_likelihood = {
        name: Enumeration(AlignmentModel(prior, piece, beta), prompts).log_likelihood
        for name, piece in pieces.items()
    }
    once = mixture(both.log_posterior, rho)
    rows: dict[str, list[str]] = {}
    errors = []
    for order in (list(pieces), list(pieces)[::-1]):
        log_law, weights = both.log_prior, mixture(both.log_prior, rho)
        rows.setdefault("prior", [f"{weight:.4f}" for weight in weights.values()])
        for number, name in enumerate(order):
            weights = updated(weights, log_law, rho, log_likelihood[name])
            log_law = (log_law + log_likelihood[name]).log_softmax(0)
            label = f"then {name}" if number else name
            rows[label] = [f"{weight:.4f}" for weight in weights.values()]
        errors += [abs(weights[name] - once[name]) for name in once]
        errors.append((log_law.exp() - both.log_posterior.exp()).abs().max().item())
    rows["both at once"] = [f"{weight:.4f}" for weight in once.values()]
    return (
        f"Weights after one piece of evidence and after two, beta {beta:g}\n{text_table(list(once), rows)}",
        largest(errors),
    )


def updated(
    weights: Mapping[str, float], log_law: Tensor, rho: Mapping[str, Tensor], log_likelihood: Tensor
) -> dict[str, float]:
    """Bayes' rule for agents, w_a Z_a / sum_b w_b Z_b, with Z_a = E[exp(r/beta)] under law(x) rho_a(x) / w_a, what a says."""
    of_agent = {
        name: (log_law.exp() * rho[name] / weights[name] * log_likelihood.exp()).sum().item()
        for name in weights
    }
    total = sum(weights[name] * of_agent[name] for name in weights)
    return {name: weights[name] * of_agent[name] / total for name in weights}


def curve(
    prior: LanguageModel, prompts: Prompts, reward: Reward, beta: float
) -> dict[float, dict[str, float]]:
    """The weights in the posterior, exactly, by 1/beta from 0 to a little beyond that of `beta`."""
    truth = Enumeration(AlignmentModel(prior, reward, 1.0), prompts)
    rho = responsibilities(prior, truth, SPEAKERS)
    inverse = torch.linspace(0, 1.2 / beta, 60).tolist()
    return {
        at: mixture((truth.log_prior + at * truth.log_likelihood).log_softmax(0), rho)
        for at in inverse
    }


def agents_figure(
    exact: Mapping[float, Mapping[str, float]],
    found: Mapping[float, Mapping[str, tuple[float, float]]],
) -> Figure:
    """Each agent's weight in the posterior against 1/beta, and in the guides that SVI tuned.

    Args:
        exact: by 1/beta, and there by agent.
        found: by beta, and there by agent, means and standard errors.
    """
    figure, axes = figures.new_axes()
    names = list(next(iter(exact.values())))
    for name, color in zip(names, figures.palette(len(names)), strict=True):
        axes.plot(
            list(exact), [weights[name] for weights in exact.values()], color=color, label=name
        )
        means, errors = zip(*(weights[name] for weights in found.values()), strict=True)
        at = [1 / beta for beta in found]
        axes.errorbar(
            at, means, [2 * error for error in errors], color=color, fmt="o", markersize=4
        )
    axes.set(xlabel="1/beta, nats per unit of reward", ylabel="weight of the agent", ylim=(0, None))
    axes.set_title(
        "Evidence reweights agents: Bayes' rule (lines), guides by SVI (dots, ± 2 s.e.)",
        fontsize=10,
    )
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    run_script(main, Agents)
