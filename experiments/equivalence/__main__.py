"""KL-regularised RL is variational inference: the identity, checked in four ways.

Claim: KL-regularised RL is ELBO maximisation. For p*(x) = p0(x) exp(r(x)/beta) / Z and any q,

    ELBO = E_q[log p0 + r/beta - log q] = log Z - KL(q || p*) = (E_q[r] - beta KL(q || p0)) / beta

Source: Korbak, Perez and Buckley 2022, arXiv 2205.11275, section 3.
Printed: the error of each check.

(a) The three sides, each a sum over all responses in float64, are equal.
(b) The gradient of Pyro's `Trace_ELBO` equals REINFORCE on the reward with a KL penalty, on the
    same responses. `gradient.reinforce_with_kl_penalty` is REINFORCE in torch alone.
(c) The mean of this gradient over all responses is the exact gradient of the ELBO.
(d) The gradient that TRL's `RLOOTrainer` computes in a step of its own equals the gradient of
    `LeaveOneOut_ELBO` on the same responses and weights, in float32. Needs the extra `bench`. The
    prompts have the same number of tokens: TRL 1.16 scores padded prompts without their positions,
    and a network with absolute positions, such as GPT-2, has other log-probabilities there.

    python -m experiments.equivalence
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

from experiments.equivalence.gradient import expectation_error, reinforce_error
from experiments.equivalence.trl_gradient import trl_error
from experiments.shared.argument_types import Positive, Seed, count
from experiments.shared.claims import ClaimArguments, Finding, conclude
from experiments.shared.command_line import run_script
from experiments.shared.gradients import moved_guide
from inference import Enumeration, random_state
from inference.estimate import expectation
from model import AlignmentModel, LanguageModel, TextReward, grammar_prior, vader_sentiment
from model.prior.named_priors import load_prior

TOLERANCE = {"a": 1e-10, "b": 1e-6, "c": 1e-10, "d": 1e-5}
"""Largest error of each check: nats for (a), relative to the norm of the gradient for others."""
NO_TRL = "(d) was left out, as TRL is not installed: pip install 'elbo-rl[bench]'"


@dataclass(frozen=True)
class Equivalence(ClaimArguments):
    """Check that KL-regularised RL is ELBO maximisation, exactly."""

    beta: Positive = 0.3
    """Reward per nat."""
    samples: Annotated[int, count(1, 10_000)] = 16
    """Number of responses to each prompt in (b), and in (d), where at least two are drawn."""
    seed: Seed = 0
    """Random seed of the responses, and of the noise on the guides' weights."""


def main(args: Equivalence) -> list[Finding]:
    findings = []

    def add(check: str, equation: str, world: str, error: float) -> None:
        limit = TOLERANCE[check]
        statement = f"({check}) {equation}, {world}: error {error:.1e} (at most {limit:.0e})"
        findings.append(Finding(statement, error <= limit))

    texts = {"grammar": ("the film was", "the plot was")}
    texts["film reviews"] = ("The film was", "I thought the acting was")
    short = {"grammar": grammar_prior(max_new_tokens=3), "film reviews": film_reviews(1)}
    long = {"grammar": short["grammar"], "film reviews": film_reviews(16)}
    with random_state.isolated(args.seed):
        for world, prior in short.items():
            to_inference, to_rl = identity_errors(sentiment(prior, args.beta), texts[world])
            add("a", "ELBO = log Z - KL(q || p*)", world, to_inference)
            add("a", "ELBO = (E_q[r] - beta KL(q || p0)) / beta", world, to_rl)
        for world, prior in long.items():
            model = sentiment(prior, args.beta)
            error = reinforce_error(model, prior.encode(texts[world]), args.samples)
            add("b", "gradient of Trace_ELBO = REINFORCE with a KL penalty", world, error)
        model = sentiment(grammar_prior(max_new_tokens=2), args.beta)
        error = expectation_error(model, model.prior.encode(["the film was"]))
        add("c", "mean of this gradient = exact gradient of -ELBO", "grammar", error)
        if has_trl := find_spec("trl") is not None:
            prior = load_prior("film-reviews", max_new_tokens=16)
            model = sentiment(prior, args.beta)
            prompts = prior.encode(["The film was", "The plot was"])
            error = trl_error(model, prompts, max(2, args.samples))
            add("d", "gradient of TRL's RLOO = gradient of leave-one-out", "film reviews", error)
    title = f"beta {args.beta:g}, {args.samples} responses to each prompt in (b), (d)"
    return conclude(__doc__, [title, *([] if has_trl else [NO_TRL])], findings)


def film_reviews(max_new_tokens: int) -> LanguageModel:
    """The embedded prior in float64. With one new token, all 3,072 responses can be listed."""
    return load_prior("film-reviews", max_new_tokens=max_new_tokens, dtype="float64")


def sentiment(prior: LanguageModel, beta: float) -> AlignmentModel:
    """The posterior of a prior under the reward VADER sentiment."""
    return AlignmentModel(prior, TextReward(vader_sentiment, prior), beta)


def identity_errors(model: AlignmentModel, texts: Sequence[str]) -> tuple[float, float]:
    """Distances of the ELBO from the other two sides, for a guide away from prior and posterior."""
    prompts, guide = model.prior.encode(texts), moved_guide(model.prior)
    truth = Enumeration(model, prompts)
    elbo = truth.elbo(guide)
    inference = truth.log_z - truth.kl_guide_posterior(guide)
    prob, reward = truth.log_guide(guide).exp(), model.reward(prompts, truth.support)
    rl = (expectation(prob, reward) - model.beta * truth.kl_guide_prior(guide)) / model.beta
    return (elbo - inference).abs().max().item(), (elbo - rl).abs().max().item()


if __name__ == "__main__":
    run_script(main, Equivalence)
