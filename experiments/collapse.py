"""Reward alone collapses a language model to a point; with the KL penalty it becomes the posterior.

Question: is the collapse of RL a failure of optimisation, or what was asked for?
Claim (Korbak, Perez and Buckley 2022, sections 2 and 3): it is what was asked for. max E_q[r] is reached by a point mass,
however good the reward and the gradient are; max E_q[r] - beta KL(q || p0) by p*(x) = p0(x) exp(r(x)/beta) / Z alone. If r is
binary, p* has the log-odds of success shifted by exactly 1/beta, and p*(x)/p*(y) = p0(x)/p0(y) within successes and within
failures: the evidence says nothing else, and the posterior changes nothing else.

Both are shown where every response is listed, by the exact gradient, which leaves nothing to exploration or noise, and by
leave-one-out. Pure RL by the exact gradient is ascent on sum_x q(x) r(x); sampled, it is `RewardOnly`, the leave-one-out
gradient with log p0 - log q left out of it: `AlignmentModel` refuses a beta of 0, and in `RewardOnly` it only scales.

On the embedded prior the same two are seen on the way, not at their end: the reward is all but flat where every word is
praise, so that reward alone first gives up the language, then most of its words, and only far beyond these steps the order of
the rest.

Printed: reward, entropy, distinct-2 and KLs before and after, as means and standard errors over seeds where responses were
drawn (over parts of the draws on the embedded prior, which is tuned once); the same for a binary reward. Written: the entropy
on the way.

    python -m experiments.collapse
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pyro.infer import ELBO
from torch import Tensor

from experiments.shared import figures
from experiments.shared.argument_types import (
    Count,
    Out,
    Positive,
    Rate,
    Seeds,
    Threads,
    count,
    used,
)
from experiments.shared.claims import Finding, finished, largest, report, smallest
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.run_folder import RunFolder, new_folder
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.training import RewardOnly, early_stops, train
from experiments.shared.workers import set_threads
from guides import FineTuned
from inference import Enumeration, LeaveOneOut_ELBO, entropy, joint_at, log_guide_at, random_state
from inference.diagnostics.diagnose import distinct_n
from inference.estimate import expectation
from inference.svi.step import Metrics
from model import AlignmentModel, LanguageModel, Pattern, Prompts, TextReward, grammar_prior
from model.prior.named_priors import load_prior
from model.registry import REWARDS

CLAIM = (
    "reward alone collapses q to a point, also by the exact gradient, and with the KL penalty q becomes the posterior, where "
    "responses are listed; on text, in the steps there is time for, reward alone leaves the language and its variety of words"
)
SOURCE = "Korbak, Perez and Buckley 2022, arXiv 2205.11275, sections 2 and 3"
PURE, PENALISED = "reward alone", "with the KL penalty"
OBJECTIVES: dict[str, Callable[[int], ELBO]] = {PURE: RewardOnly, PENALISED: LeaveOneOut_ELBO}
COLLAPSED = {"entropy": 0.2, "distinct_2": 0.5}
"""Shares of the prior's: after a collapse less is left. Of distinct-2 there is no less than one response's among all draws."""
AT_POSTERIOR = 0.1
"""Of the prior's KL to the posterior: a guide that has less of it left is there."""
FROZEN = 0.05
"""Nats between q and p0 within the classes: with less, the ratios there are as they were."""
EXACT = 1e-10
RATE = 3e-3
"""Of Adam on the grammar."""

Measured = Mapping[str, float]


@dataclass(frozen=True)
class Collapse(Arguments):
    """See reward alone collapse, and the posterior not."""

    beta: Positive = 0.3
    """Reward per nat, on the grammar; that of the embedded prior is a third of it."""
    steps: Count = 100
    """Of gradient ascent on the grammar."""
    particles: Annotated[int, count(4)] = 64
    """Responses a step where they are drawn, on the grammar; half as many on the embedded prior."""
    seeds: Seeds = 3
    """Sampled runs on the grammar."""
    text_steps: Annotated[int, count(0)] = 40
    """Steps on the embedded prior; 0 leaves it out."""
    text_rate: Annotated[Rate, used(lambda args: args.text_steps, "with --text-steps 0")] = 1e-4
    """Learning rate there."""
    draws: Annotated[int, count(8)] = 256
    """Responses behind all that is estimated on the embedded prior, in four parts; distinct-2 is that of a part."""
    threads: Threads | None = 1
    """CPU threads; None for torch's choice. More help small networks little, and do harm where cores are shared."""
    out: Out = Path("runs")
    """The run folder is made in here."""


class Ascent(NamedTuple):
    """Where a guide on the grammar ended, and its entropy on the way, nats, by step."""

    log_guide: Tensor
    entropy: Mapping[int, float]


def main(args: Collapse) -> list[Finding]:
    set_threads(args.threads)
    with new_folder(args, "collapse") as folder:
        prior = grammar_prior(max_new_tokens=3)
        with early_stops() as stops:
            parts = [
                of_sentiment(prior, args, folder),
                of_binary(prior, args),
                *([of_text(args)] if args.text_steps else []),
            ]
        findings = [*(finding for _, found in parts for finding in found), *finished(stops)]
        print(report(CLAIM, SOURCE, [table for table, _ in parts], findings))
        print(f"Figures: {folder.path}")
        return findings


def of_sentiment(
    prior: LanguageModel, args: Collapse, folder: RunFolder
) -> tuple[str, list[Finding]]:
    """The reward is sentiment: by the exact gradient and by a sampled one, with and without the penalty."""
    model = AlignmentModel(prior, REWARDS["vader"](prior), args.beta)
    truth = Enumeration(model, prior.encode(["the film was"]))
    ways = run_collapse(model, truth, args)
    rows, means = {}, {}
    laws = {
        "prior": [truth.log_prior],
        **{name: [run.log_guide for run in runs] for name, runs in ways.items()},
    }
    for name, log_probs in {**laws, "posterior": [truth.log_posterior]}.items():
        measured = [measure(prior, truth, log_prob, args) for log_prob in log_probs]
        means[name] = {column: mean_and_error(measured, column)[0] for column in COLUMNS.values()}
        modes = dict.fromkeys(mode(prior, truth, log_prob) for log_prob in log_probs)
        cells = [cell(*mean_and_error(measured, column)) for column in COLUMNS.values()]
        rows[name] = [*cells, "; ".join(modes)]
    levels = {"prior": means["prior"]["entropy"], "posterior": means["posterior"]["entropy"]}
    figure = figures.collapse_figure(
        {name: [run.entropy for run in runs] for name, runs in ways.items()}, levels
    )
    figures.save(figure, folder.path / "collapse.svg")
    title = f"Sentiment on the grammar, beta {args.beta:g}, {args.steps} steps; sampled, {args.seeds} seeds"
    table = f"{title}\n{text_table([*COLUMNS, 'most probable'], rows)}"
    return table, [
        *collapse_findings(means, "on the grammar", tuple(COLLAPSED)),
        *posterior_findings(means),
    ]


COLUMNS = {
    "E[r]": "reward",
    "entropy": "entropy",
    "distinct-2": "distinct_2",
    "KL(q||p0)": "kl_guide_prior",
    "KL(q||p*)": "kl_guide_posterior",
}


def run_collapse(
    model: AlignmentModel, truth: Enumeration, args: Collapse
) -> dict[str, list[Ascent]]:
    """The same guide on E_q[r] alone and on the ELBO: once by the exact gradient, and by leave-one-out with every seed."""
    ways = {}
    for name in OBJECTIVES:
        ways[f"{name}, exact gradient"] = [
            ascend(model.prior, truth, args.steps, penalised=name == PENALISED)
        ]
        ways[f"{name}, sampled"] = [
            sampled(model, truth, name, seed, args) for seed in range(args.seeds)
        ]
    return ways


def ascend(prior: LanguageModel, truth: Enumeration, steps: int, *, penalised: bool) -> Ascent:
    """Gradient ascent on sum_x q(x) r(x)/beta, or on the ELBO, which is that and the KL penalty; nothing is drawn."""
    guide, nats = FineTuned(prior), {}
    optimiser = torch.optim.Adam(guide.parameters(), lr=RATE)
    for step in range(steps):
        log_guide = log_guide_at(guide, truth.prompts, truth.support)
        nats[step] = entropy(log_guide.detach()).item()
        value = truth.log_joint - log_guide if penalised else truth.log_likelihood
        optimiser.zero_grad()
        (-(log_guide.exp() * value).sum()).backward()
        optimiser.step()
    log_guide = truth.log_guide(guide)
    return Ascent(log_guide, {**nats, steps: entropy(log_guide).item()})


def sampled(
    model: AlignmentModel, truth: Enumeration, name: str, seed: int, args: Collapse
) -> Ascent:
    """The same by SVI, from a few responses a step."""
    nats = {0: entropy(truth.log_prior).item()}

    def look(guide: FineTuned, metrics: Metrics) -> None:
        step = int(metrics["step"])
        if step % max(1, args.steps // 20) == 0 or step == args.steps:
            nats[step] = entropy(truth.log_guide(guide)).item()

    objective = OBJECTIVES[name](args.particles)
    guide = train(
        FineTuned(model.prior),
        model,
        truth.prompts,
        objective,
        args.steps,
        learning_rate=RATE,
        seed=seed,
        on_step=look,
    )
    return Ascent(truth.log_guide(guide), nats)


def measure(prior: LanguageModel, truth: Enumeration, log_prob: Tensor, args: Collapse) -> Measured:
    """What can be said of a law over all responses to one prompt, `[S, 1]`."""
    prob = log_prob.exp()
    with random_state.isolated(0):
        drawn = truth.support[
            torch.multinomial(prob[:, 0], args.draws // 4, replacement=True)
        ]  # [M, 1, T]
    return {
        "reward": args.beta * _mean(prob, truth.log_likelihood),
        "entropy": entropy(log_prob).item(),
        "distinct_2": distinct_n(drawn, prior.space.is_token(drawn), 2),
        "kl_guide_prior": _mean(prob, log_prob - truth.log_prior),
        "kl_guide_posterior": _mean(prob, log_prob - truth.log_posterior),
    }


def _mean(prob: Tensor, values: Tensor) -> float:
    return expectation(prob, values).sum().item()


def mode(prior: LanguageModel, truth: Enumeration, log_prob: Tensor) -> str:
    best = int(log_prob.argmax())
    return f"{prior.decode(truth.support[best])[0]} ({log_prob.max().exp().item():.0%})"


def collapse_findings(
    means: Mapping[str, Measured], where: str, keys: Sequence[str]
) -> list[Finding]:
    """That reward alone has little left of what the prior has of `keys`, and the guide with the penalty has not."""
    findings = []
    for way in (PURE, PENALISED):
        for key in keys:
            left = [
                run[key] / means["prior"][key]
                for name, run in means.items()
                if name.startswith(way)
            ]
            shares = " and ".join(f"{share:.0%}" for share in left)
            if way == PURE:
                held, limit = largest(left) < COLLAPSED[key], f"under {COLLAPSED[key]:.0%}"
            else:
                held, limit = smallest(left) > COLLAPSED[key], f"over {COLLAPSED[key]:.0%}"
            findings.append(
                Finding(
                    f"{way} {where} leaves {shares} of the prior's {key.replace('_', '-')} ({limit})",
                    held,
                )
            )
    return findings


def posterior_findings(means: Mapping[str, Measured]) -> list[Finding]:
    """That the penalised guide is at the posterior, and reward alone further from it than the prior was."""
    start, findings = means["prior"]["kl_guide_posterior"], []
    for way in (PURE, PENALISED):
        left = [
            run["kl_guide_posterior"] / start for name, run in means.items() if name.startswith(way)
        ]
        shares = " and ".join(f"{share:.2g}" for share in left)
        held, limit = (
            (smallest(left) > 1, "over 1")
            if way == PURE
            else (largest(left) < AT_POSTERIOR, f"under {AT_POSTERIOR:g}")
        )
        findings.append(
            Finding(f"{way} leaves {shares} times the prior's KL to the posterior ({limit})", held)
        )
    return findings


def of_binary(prior: LanguageModel, args: Collapse) -> tuple[str, list[Finding]]:
    """The reward is 1 where a response has the word "not": the odds between the two classes, and the laws within them."""
    model = AlignmentModel(prior, TextReward(Pattern.of_words("not"), prior), args.beta)
    truth = Enumeration(model, prior.encode(["the film was"]))
    success = truth.log_likelihood[:, 0] > 0
    laws = {
        "prior": [truth.log_prior],
        f"{PURE}, exact gradient": [ascend(prior, truth, args.steps, penalised=False).log_guide],
        f"{PENALISED}, exact gradient": [
            ascend(prior, truth, args.steps, penalised=True).log_guide
        ],
        f"{PENALISED}, sampled": [
            sampled(model, truth, PENALISED, seed, args).log_guide for seed in range(args.seeds)
        ],
        "posterior": [truth.log_posterior],
    }
    columns = {
        "P(success)": "success",
        "log-odds shift": "shift",
        "KL in successes": "kl_success",
        "KL in failures": "kl_failure",
    }
    measured = {
        name: [classes(log_prob, truth.log_prior, success) for log_prob in runs]
        for name, runs in laws.items()
    }
    rows = {
        name: [cell(*mean_and_error(runs, key)) for key in columns.values()]
        for name, runs in measured.items()
    }
    title = f'Reward 1 for "not" on the grammar, 1/beta = {1 / args.beta:.4g}; the KLs are those of q(x | class) from p0(x | class)'
    return f"{title}\n{text_table(list(columns), rows)}", binary_findings(measured, 1 / args.beta)


def binary_findings(measured: Mapping[str, Sequence[Measured]], wanted: float) -> list[Finding]:
    """That the posterior's odds are shifted by exactly `wanted` and nothing else, the tuned guides' nearly so."""
    posterior = measured["posterior"][0]
    error = largest([abs(posterior["shift"] - wanted), posterior["moved"]])
    findings = [
        Finding(
            f"binary reward shifts the posterior's log-odds by 1/beta and no ratio within, to {error:.0e}",
            error < EXACT,
        )
    ]
    for name, runs in measured.items():
        within = sum(
            run["success"] * run["kl_success"] + (1 - run["success"]) * run["kl_failure"]
            for run in runs
        ) / len(runs)
        (shift, error), said = (
            mean_and_error(runs, "shift"),
            f"moves q by {within:.2g} nats within classes",
        )
        if name.startswith(PENALISED):
            allowed = max(0.1, 3 * error if math.isfinite(error) else 0.0)
            held = abs(shift - wanted) <= allowed and within < FROZEN
            limits = f"to {allowed:.2g} of {wanted:.4g}; under {FROZEN:g}"
            findings.append(
                Finding(f"{name} shifts them by {cell(shift, error)} and {said} ({limits})", held)
            )
        if name.startswith(PURE):
            findings.append(Finding(f"{name} {said} (over {FROZEN:g})", within > FROZEN))
    return findings


def classes(log_prob: Tensor, log_prior: Tensor, success: Tensor) -> Measured:
    """The odds of success, and how the laws within successes and within failures differ from the prior's.

    Args:
        log_prob: `[S, 1]`, log q.
        log_prior: `[S, 1]`, log p0.
        success: `[S]`, which responses are successes.
    """
    log_prob, log_prior = log_prob[:, 0], log_prior[:, 0]

    def log_odds(values: Tensor) -> float:
        return (values[success].logsumexp(0) - values[~success].logsumexp(0)).item()

    found = {
        "success": log_prob[success].exp().sum().item(),
        "shift": log_odds(log_prob) - log_odds(log_prior),
        "moved": 0.0,
    }
    for name, members in {"kl_success": success, "kl_failure": ~success}.items():
        within = log_prob[members].log_softmax(0)
        found[name] = _mean(within.exp(), within - log_prior[members].log_softmax(0))
        moved = log_prob[members] - log_prior[members]
        found["moved"] = largest([found["moved"], (moved.max() - moved.min()).item()])
    return found


def of_text(args: Collapse) -> tuple[str, list[Finding]]:
    """The embedded prior, one run with and one without the penalty: at most 12 tokens at temperature 0.7, sentiment."""
    prior = load_prior(
        "film-reviews", max_new_tokens=12, temperature=0.7, dtype="float32", device="cpu"
    )
    model, prompts = (
        AlignmentModel(prior, REWARDS["vader"](prior), args.beta / 3),
        prior.encode(["The film was"]),
    )
    guides = {"prior": FineTuned(prior)}
    for name, make in OBJECTIVES.items():
        guides[name] = train(
            FineTuned(model.prior),
            model,
            prompts,
            make(args.particles // 2),
            args.text_steps,
            learning_rate=args.text_rate,
        )
    columns = {title: key for title, key in COLUMNS.items() if key != "kl_guide_posterior"}
    rows, means = {}, {}
    for name, guide in guides.items():
        parts = measure_text(model, guide, prompts, args.draws)
        means[name] = {key: mean_and_error(parts, key)[0] for key in columns.values()}
        rows[name] = [cell(*mean_and_error(parts, key)) for key in columns.values()]
    title = f"Sentiment on the embedded prior, beta {model.beta:g}, {args.text_steps} steps"
    return f"{title}\n{text_table(list(columns), rows)}", [
        *collapse_findings(
            means, "on text", ["distinct_2"]
        ),  # entropy is in the table: it has not fallen yet
        text_finding(means),
    ]


def text_finding(means: Mapping[str, Measured]) -> Finding:
    """That reward alone has left the language where the penalised guide is still near the prior."""
    pure, penalised = means[PURE]["kl_guide_prior"], means[PENALISED]["kl_guide_prior"]
    said = f"{PURE} is {pure:.3g} nats from the prior, the penalised guide {penalised:.2g} (a tenth at most)"
    return Finding(said, penalised < 0.1 * pure)


def measure_text(
    model: AlignmentModel, guide: FineTuned, prompts: Prompts, num_draws: int
) -> list[Measured]:
    """The same from responses of a guide to one prompt, once for each of four parts of them."""
    parts: list[Measured] = []
    with random_state.isolated(0), torch.no_grad():
        for _ in range(4):
            distribution = guide.distribution(prompts)
            response = distribution.sample((num_draws // 4,))
            log_guide, joint = (
                distribution.log_prob(response).double(),
                joint_at(model, prompts, response),
            )
            means = {
                "reward": model.beta * joint.log_likelihood,
                "entropy": -log_guide,
                "kl_guide_prior": log_guide - joint.log_prior,
            }
            is_token = model.prior.space.is_token(response)
            distinct = distinct_n(response, is_token, 2)
            parts.append(
                {name: values.mean().item() for name, values in means.items()}
                | {"distinct_2": distinct}
            )
    return parts


if __name__ == "__main__":
    run_script(main, Collapse)
