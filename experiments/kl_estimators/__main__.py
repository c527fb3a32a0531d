"""The KL that each popular implementation of the KL penalty optimises.

k1, k2 and k3 (Schulman 2020) estimate KL(q || p0) from samples. An implementation puts one of them
into the reward, or differentiates it as a loss, token by token or for the whole response.

Claim: only k1 in the reward with returns-to-go, and k2 of the whole response as a loss, have the
gradient of KL(q || p0). k3 as a loss, as in GRPO, has the gradient of the forward KL, position by
position; k3 times a differentiable ratio, and k3+, have the one of KL(q || p0) by position. k1 as a
loss has no gradient. k3 upside down has half the gradient of chi2(q || p0). With draws of an older
guide, the ratio of the response restores the gradient of a whole response, and the ratio of the
prefix the one of tokens; the ratio of the token, as trainers use it, restores neither.
Source: derived and measured here; GRPO: Shao et al. 2024, arXiv 2402.03300; the differentiable
ratio: DeepSeek-V3.2, arXiv 2512.02556.
Printed: relative distance of each implementation's mean gradient from the gradients of five
objectives, and the mean value over KL(q || p0). Every mean is a sum over all responses of the
enumerable world.

    python -m experiments.kl_estimators
"""

from dataclasses import dataclass
from typing import Annotated

from experiments.kl_estimators.gradients import Gradients, Rows
from experiments.shared.argument_types import Seed, count, number
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.tables import pair_table
from guides import FineTuned
from inference import random_state
from inference.diagnostics.gradients import moved_guide
from model import LanguageModel, grammar_prior
from model.prior.grammar import PROMPTS


@dataclass(frozen=True)
class KLEstimators(Arguments):
    """Enumerate the mean gradient of every way to penalise the KL."""

    max_new_tokens: Annotated[int, count(1, 5, "all 9^T responses are listed")] = 3
    """Largest number of tokens in a response, T. With 3 tokens, a prompt has 820 responses."""
    distance: Annotated[
        float, number(above=0, at_most=10, why="the weights would be nothing but noise")
    ] = 0.05
    """Standard deviation of the noise that moves a guide's weights away from the prior's."""
    seed: Seed = 0
    """Random seed of the noise of the guide. The older guide has the next seed."""


def main(args: KLEstimators) -> tuple[Rows, Rows]:
    """Print the relative distances on-policy and off-policy, and return them by row and column.

    The column `size` is the norm of the mean gradient.
    """
    prior = grammar_prior(args.max_new_tokens)
    prompts = prior.encode(PROMPTS)
    gradients = Gradients(prior(prompts), moved(prior, args.distance, args.seed), prompts)
    rows = gradients.on_policy()
    older = gradients.off_policy(moved(prior, args.distance, args.seed + 1), prompts)
    print_table("Draws of the guide: relative distance of the mean gradient from that of", rows)
    print()
    print_table("Draws of an older guide", older)
    return rows, older


def moved(prior: LanguageModel, distance: float, seed: int) -> FineTuned:
    """A guide away from the prior."""
    with random_state.isolated(seed):
        return moved_guide(prior, distance)


def print_table(title: str, rows: Rows) -> None:
    """Print distances, and values of the KL as a ratio."""
    table = {
        name: [(column, _number(column, value)) for column, value in row.items()]
        for name, row in rows.items()
    }
    print(pair_table(title, table))


def _number(column: str, value: float) -> str:
    return f"{value:.3f}" if column == "value" else f"{value:.1e}"


if __name__ == "__main__":
    run_script(main, KLEstimators)
