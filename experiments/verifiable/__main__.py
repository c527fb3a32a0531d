"""Reinforcement learning from verifiable rewards as conditioning: rate of success and diversity.

Claim: the posterior given "correct" is the prior's own correct answers. The posterior of a reward
of 1 or 0 has the prior's log-odds of success shifted by exactly 1/beta, and the prior's ratios
within right and within wrong answers. For a guide q, KL(q || p*) is at least the KL of the rates of
success under q and p* (data processing); the excess is the diversity lost, 0 if q has the prior's
ratios within both. The KL penalty keeps the excess small, reward alone does not.
Source: Korbak, Perez and Buckley 2022, arXiv 2205.11275, sections 2 and 3; arXiv 2512.18730; the
filtered prior as the target, Kruszewski et al. 2025, arXiv 2512.05962; pass@k, Chen et al. 2021,
arXiv 2107.03374.
Printed: rate of success, KL(q || p*) and its two parts, nats, and pass@k of prior, guides and
posterior; exact in the enumerable world, from draws with standard errors in both worlds.

The questions are sums. In the enumerable world a small prior answers some of them, in several
ways, and all responses are listed. With --prior the questions are chats, or those of --dataset,
and LoRA trains the language model.

    python -m experiments.verifiable
    python -m experiments.verifiable --prior smollm2 --steps 12 --particles 8 --draws 64
    python -m experiments.verifiable --prior smollm2 --dataset questions.jsonl --column solution
"""

from dataclasses import dataclass
from typing import Annotated

from experiments.shared.argument_types import Count, Name, Positive, Seed, Used, count
from experiments.shared.claims import ClaimArguments, Finding, conclude
from experiments.shared.command_line import run_script
from experiments.shared.refusals import FAULTS, blamed
from experiments.shared.training import PENALISED, PURE, RL, build_guide, train
from experiments.verifiable import report
from experiments.verifiable.questions import answered, arithmetic, encoded, instruction, small_prior
from experiments.verifiable.success import Draws, draw, estimated, exact, has_both
from guides import Fixed, Guide
from inference import Enumeration, random_state
from model import Accuracy, AlignmentModel, LanguageModel, Prompts, TextReward, read_prompts
from model.prior.named_priors import load_prior

NAMED = Used(lambda args: args.prior is not None, "without --prior")
OWN = Used(lambda args: args.dataset is None, "with --dataset")


@dataclass(frozen=True)
class Verifiable(ClaimArguments):
    """Measure the rate of success and the diversity of guides for a reward of 1 or 0."""

    prior: Name | None = None
    """Language model: smollm2, a folder, or a name on the hub. Default: the small prior."""
    questions: Annotated[Count, OWN] = 4
    """Number of questions."""
    largest: Annotated[int, count(1, 1000), OWN] = 9
    """Largest answer of a question; at most 9 in the enumerable world."""
    dataset: Annotated[Name, NAMED] | None = None
    """Data set of questions with answers, as `--dataset` of steer."""
    prompt_column: Annotated[Name, Used(lambda args: args.dataset, "without --dataset")] = "prompt"
    """Column of the questions in `--dataset`."""
    column: Annotated[Name, Used(lambda args: args.dataset, "without --dataset")] = "answer"
    """Column of the answers in `--dataset`."""
    limit: Annotated[Count, Used(lambda args: args.dataset, "without --dataset")] | None = 8
    """Largest number of questions of `--dataset`, the first ones."""
    max_new_tokens: Annotated[int, count(1, 4096), NAMED] = 8
    """Largest number of tokens of a response."""
    beta: Positive = 0.3
    """Reward per nat."""
    steps: Count = 60
    """Number of SVI steps of each guide."""
    particles: Annotated[int, count(2)] = 32
    """Number of responses to each question in a step."""
    draws: Annotated[int, count(16)] = 1024
    """Number of draws of each distribution to each question, for the estimates."""
    k: Annotated[int, count(2)] = 8
    """Number of draws behind pass@k; at most --draws."""
    seed: Seed = 0
    """Random seed of questions, guides and draws."""


def main(args: Verifiable) -> list[Finding]:
    if args.k > args.draws:
        raise SystemExit(f"--k {args.k} exceeds --draws {args.draws}: draw more")
    prior, prompts = world(args)
    reward = TextReward(Accuracy(args.column), prior, upper_bound=1.0)
    model, ks = AlignmentModel(prior, reward, args.beta), (1, args.k)
    with blamed("--column"):
        prompts = answered(model, prompts)
    policies: dict[str, Guide] = {"prior": Fixed(prior)}
    with random_state.isolated(args.seed), random_state.measuring():
        draws = {"prior": draw(policies["prior"], model, prompts, args.draws)}
        num_mixed = checked_mixed(draws["prior"])
        guides = trained(args, model, prompts)
        policies |= guides
        draws |= {name: draw(guide, model, prompts, args.draws) for name, guide in guides.items()}
    estimates = {
        name: estimated(each, draws["prior"], args.beta, ks) for name, each in draws.items()
    }
    title = (
        f"{args.draws} draws of each distribution to {len(prompts)} questions; KLs over the "
        f"{num_mixed} that the prior answers right and wrong"
    )
    tables = [report.success_table(title, estimates)]
    findings = report.drawn_findings(estimates)
    if args.prior is None:
        truth = Enumeration(model, prompts)
        success = model.reward(prompts, truth.support)
        log_probs = {name: truth.log_guide(guide) for name, guide in policies.items()}
        log_probs["posterior"] = truth.log_posterior
        results = {name: exact(each, truth, success, ks) for name, each in log_probs.items()}
        numbers = {name: result for name, (result, _) in results.items()}
        errors = [error for _, error in results.values()]
        errors.append(report.filtered_error(model, prompts, truth, success))
        odds = report.odds_errors(truth, success, args.beta)
        tables.insert(0, report.success_table("Exact, over all responses", numbers))
        findings = report.exact_findings(numbers, estimates, errors, odds) + findings
    return conclude(__doc__, tables, findings)


def world(args: Verifiable) -> tuple[LanguageModel, Prompts]:
    """The language model, and the questions as prompts with answers."""
    if args.prior is None and args.largest > 9:
        raise SystemExit("--largest: the small prior has the numbers 0 to 9; name a --prior")
    questions = arithmetic(args.questions, args.largest, args.seed)
    if args.prior is None:
        prior = small_prior(questions)
        return prior, encoded(prior, questions)
    with blamed("--prior", FAULTS):
        prior = load_prior(args.prior, max_new_tokens=args.max_new_tokens)
    if args.dataset is None:
        return prior, encoded(prior, questions)
    with blamed("--dataset"):
        data = read_prompts(args.dataset, prompt_column=args.prompt_column, limit=args.limit)
        return prior, data.encode(prior, system=instruction(prior))


def checked_mixed(prior: Draws) -> int:
    """Number of questions that the prior answers right and wrong; exit if there are none."""
    num_mixed = int(has_both(prior.success).sum())
    if num_mixed == 0:
        num_draws, num_questions = prior.success.shape
        rights = int((prior.success.amin(0) == 1).sum())
        raise SystemExit(
            f"--prior: in {num_draws} draws to each of {num_questions} questions the prior answers "
            f"{rights} always right and {num_questions - rights} never, expected some question "
            "with both: the KLs have no estimate, and a guide has nothing to learn. Raise --draws "
            "or --max-new-tokens, or choose other questions or another prior"
        )
    return num_mixed


def trained(args: Verifiable, model: AlignmentModel, prompts: Prompts) -> dict[str, Guide]:
    """Guides by name of the objective: with the KL penalty, in the small world also without."""
    guides, is_small = {}, args.prior is None
    for name in (PENALISED, PURE) if is_small else (PENALISED,):
        with random_state.isolated(args.seed):
            kind = "fine-tuned" if is_small else "lora"
            guide = build_guide(kind, {}, model.prior, prompts)
        objective = RL[name](args.particles)
        guides[name] = train(guide, model, prompts, objective, args.steps, seed=args.seed)
    return guides


if __name__ == "__main__":
    run_script(main, Verifiable)
