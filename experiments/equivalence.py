"""KL-regularised RL is variational inference: the identity, checked three ways.

Claim (Korbak, Perez and Buckley 2022, section 3), for p*(x) = p0(x) exp(r(x)/beta) / Z and any q:

    ELBO = E_q[log p0 + r/beta - log q] = log Z - KL(q || p*) = (E_q[r] - beta KL(q || p0)) / beta

(a) The three sides, each summed over every response in float64, agree to 1e-10.
(b) The gradient that Pyro's `Trace_ELBO` computes is that of REINFORCE on the reward with a KL penalty, on the same samples,
    to 1e-6 relative. REINFORCE is written out below in torch alone.
(c) Its mean over all responses is the exact gradient of the ELBO.

Printed: a table of what was compared and how far it is apart. What becomes of RL without the penalty is for
`experiments.collapse` to show.

    python -m experiments.equivalence
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from transformers import PreTrainedModel

from experiments.shared.arguments import Arguments, Positive, Seed, Threads, count
from experiments.shared.command_line import run_script
from experiments.shared.priors import load_prior, set_threads
from experiments.shared.rewards import REWARDS
from experiments.shared.worlds import moved_guide
from guides import FineTuned
from inference import Enumeration, log_guide_at, random_state
from inference.programs import parameter_scope
from model import AlignmentModel, LanguageModel, Prompts, grammar_prior


@dataclass(frozen=True)
class Equivalence(Arguments):
    """Check that KL-regularised RL is ELBO maximisation, exactly."""

    beta: Positive = 0.3
    """Reward per nat."""
    samples: Annotated[int, count(1, 10_000)] = 16
    """Responses for (b)."""
    seed: Seed = 0
    """Of the samples, and of the noise that moves the guides away from the prior."""
    threads: Threads | None = None
    """CPU threads; default torch's choice."""


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    claim: str
    world: str
    error: float
    tolerance: float

    @property
    def held(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "holds" if self.held else "FAILS"
        return f"{self.claim:<58} {self.world:<14} {self.error:9.1e}  <= {self.tolerance:.0e}  {verdict}"


def main(args: Equivalence) -> list[Check]:
    set_threads(args.threads)
    checks = check_all(args)
    print("\n".join(map(str, checks)))
    return checks


def check_all(args: Equivalence) -> list[Check]:
    """(a), (b) and (c), on the grammar and on film reviews."""
    worlds = {
        "grammar": (grammar_prior(max_new_tokens=3), ("the film was", "the plot was")),
        "film reviews": (
            embedded_prior(max_new_tokens=1),
            ("The film was", "I thought the acting was"),
        ),
    }
    checks = []
    with random_state.isolated(args.seed):
        for world, (prior, prompts) in worlds.items():
            checks += check_identity(world, prior, prior.encode(prompts), args.beta)
        checks.append(check_reinforce("grammar", *worlds["grammar"], args))
        checks.append(
            check_reinforce(
                "film reviews", embedded_prior(max_new_tokens=16), worlds["film reviews"][1], args
            )
        )
        checks.append(check_expectation("grammar", grammar_prior(max_new_tokens=2), args.beta))
    return checks


def embedded_prior(max_new_tokens: int) -> LanguageModel:
    """The embedded prior in float64. With one new token its 3,072 responses can be listed."""
    return load_prior(
        "film-reviews",
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        dtype="float64",
        device="cpu",
    )


def check_identity(world: str, prior: LanguageModel, prompts: Prompts, beta: float) -> list[Check]:
    """(a) The three sides of the identity, for a guide that is neither prior nor posterior."""
    model, guide = AlignmentModel(prior, REWARDS["vader"](prior), beta), moved_guide(prior)
    truth = Enumeration(model, prompts)
    elbo = truth.elbo(guide)
    inference = truth.log_z - truth.kl_guide_posterior(guide)
    rl = (beta * truth.expected_log_likelihood(guide) - beta * truth.kl_guide_prior(guide)) / beta
    return [
        Check(
            "(a) ELBO = log Z - KL(q || p*)", world, (elbo - inference).abs().max().item(), 1e-10
        ),
        Check(
            "(a) ELBO = (E_q[r] - beta KL(q || p0)) / beta",
            world,
            (elbo - rl).abs().max().item(),
            1e-10,
        ),
    ]


def check_reinforce(
    world: str, prior: LanguageModel, texts: tuple[str, ...], args: Equivalence
) -> Check:
    """(b) Trace_ELBO through Pyro against REINFORCE in torch, on the same samples."""
    prompts, guide = prior.encode(texts), moved_guide(prior)
    reward = REWARDS["vader"](prior)
    pyro_gradient, response = elbo_gradient(
        AlignmentModel(prior, reward, args.beta), guide, prompts, args.samples
    )

    network, reference = guide.language_model.network, prior.network
    rewards = reward(prompts, response)
    network.zero_grad()
    for n in range(len(prompts)):
        prompt = prompts.ids[n][prompts.mask[n]]
        for k in range(args.samples):
            tokens = response[k, n][prior.space.is_token(response)[k, n]]
            reinforce_with_kl_penalty(network, reference, prompt, tokens, rewards[k, n], args.beta)
    by_hand = [gradient / args.samples for gradient in gradients(network)]
    return Check(
        "(b) gradient of Trace_ELBO = REINFORCE with a KL penalty",
        world,
        relative_error(pyro_gradient, by_hand),
        1e-6,
    )


def reinforce_with_kl_penalty(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompt: Tensor,
    response: Tensor,
    reward: Tensor,
    beta: float,
) -> None:
    """Add to the policy's `.grad` the gradient of -(1/beta) E[R], R = r - beta (log pi - log pi_ref), from one response.

    This is RL as a textbook has it, with no inference in it: nothing of Pyro, nothing of this project.
    """
    sequence = torch.cat([prompt, response])[None]

    def log_likelihood(network: nn.Module) -> Tensor:
        log_prob = network(sequence).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return log_prob.gather(1, response[:, None]).sum()

    log_pi = log_likelihood(policy)
    with torch.no_grad():
        penalised = reward - beta * (log_pi - log_likelihood(reference))
    (-(penalised / beta) * log_pi).backward()


def elbo_gradient(
    model: AlignmentModel,
    guide: FineTuned,
    prompts: Prompts,
    num_particles: int,
    draw: Tensor | None = None,
) -> tuple[list[Tensor], Tensor]:
    """The gradient of -ELBO that Pyro's `Trace_ELBO` computes, and the responses that it drew, or was made to draw."""
    objective = Trace_ELBO(
        num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1
    )
    guide.zero_grad()
    with parameter_scope(guide), _RecordDraw() as record:
        objective.loss_and_grads(
            model, guide if draw is None else poutine.replay(guide, trace=_trace_of(draw)), prompts
        )
    return gradients(guide), record.response


class _RecordDraw(Messenger):
    """Keeps what was last drawn at the site `response`."""

    response: Tensor

    def _pyro_post_sample(self, msg: dict) -> None:
        if msg["name"] == "response":
            self.response = msg["value"]


def _trace_of(response: Tensor) -> poutine.Trace:
    trace = poutine.Trace()
    trace.add_node(
        "response", name="response", type="sample", value=response, is_observed=False, infer={}
    )
    return trace


def gradients(module: nn.Module) -> list[Tensor]:
    """A copy of the gradients of all its parameters."""
    return [
        parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None
    ]


def check_expectation(world: str, prior: LanguageModel, beta: float) -> Check:
    """(c) The estimator's mean over every response, weighted by q, against the gradient of the enumerated ELBO by autograd."""
    prompts, guide = prior.encode(["the film was"]), moved_guide(prior)
    model = AlignmentModel(prior, REWARDS["vader"](prior), beta)
    truth = Enumeration(model, prompts)
    prob = truth.log_guide(guide).exp()[:, 0]
    means = [torch.zeros_like(parameter) for parameter in guide.parameters()]
    for weight, response in zip(prob, truth.support, strict=True):
        gradient, _ = elbo_gradient(model, guide, prompts, num_particles=1, draw=response)
        for mean, part in zip(means, gradient, strict=True):
            mean += weight * part
    guide.zero_grad()
    log_guide = log_guide_at(guide, prompts, truth.support)
    (log_guide.exp() * (log_guide - truth.log_joint)).sum().backward()
    error = relative_error(means, gradients(guide))
    return Check("(c) mean of that gradient = exact gradient of -ELBO", world, error, 1e-10)


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Norm of the difference over norm of the expected, all parameters together."""
    difference = get_total_norm([a - b for a, b in zip(found, expected, strict=True)])
    return (difference / get_total_norm(expected)).item()


if __name__ == "__main__":
    run_script(main, Equivalence)
