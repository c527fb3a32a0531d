"""Adaptive rejection under a hard constraint: its trie against all responses, and its yield."""

import math

import torch
from torch import Tensor

from experiments.identities.findings import agrees, exact
from experiments.identities.world import World
from experiments.shared.claims import Finding, within
from inference import Enumeration, Estimate, random_state
from inference.samplers.adaptive_rejection import Search, Trie, adaptive_rejection_sampling
from model import AlignmentModel, Prompts, grammar_prior

CHUNKS, CHUNK = 4, 4
"""Number of updates of the trie, and of draws before each."""
DRAWS, RUNS = 256, 32
"""Number of draws of a run on the grammar, and of runs."""


def allowed(_: Prompts, response: Tensor, t: int) -> Tensor:
    """No word 3, and no word 2 after a word 1."""
    follows = (response[..., 1:] == 2) & (response[..., :-1] == 1)
    return (response[..., :t] != 3).all(-1) & ~follows.any(-1)


def cars(world: World) -> list[Finding]:
    """Draws of p0 less what earlier draws have ruled out (CARS, arXiv 2510.01902).

    The probability of each response is computed token by token, with the trie, after each update.
    """
    prior, support = world.model.prior, world.truth.support
    is_allowed = allowed(world.prompts, support, support.shape[-1])[:, 0]
    z = world.log_prior[is_allowed].exp().sum().item()
    errors, left = [], []
    for every_token in (True, False):
        trie, num_tests = Trie(), torch.zeros(1, dtype=torch.long)
        search = Search(allowed, world.prompts, [trie], num_tests, every_token, prior.space)
        with random_state.isolated(0):
            for _ in range(CHUNKS):
                search.draw(prior(world.prompts), CHUNK)
                log_ratio = (_log_draw(world, trie) - world.log_prior)[is_allowed]
                errors.append((log_ratio + trie.log_left).expm1())
                left.append(math.exp(trie.log_left))
    rising = [left[:CHUNKS], left[CHUNKS:]]
    mass = (
        f"mass left after the last of {CHUNKS} updates, all next tokens or the drawn one "
        f"tested (allowed: {z:.3g})"
    )
    change = "largest change of the mass left from one update to the next"
    return [
        exact("probability of a draw over p0, times the mass that is left, less 1", *errors),
        within(mass, *(part[-1] for part in rising), above=z, below=1.0),
        within(change, *(torch.tensor(part).diff().max().item() for part in rising), below=1e-12),
        *_on_the_grammar(),
    ]


def _log_draw(world: World, trie: Trie) -> Tensor:
    """log of the probability that a draw is each response, `[S]`, nats."""
    response = world.truth.support[:, 0]
    log_prob = world.model.prior(world.prompts).next_token_logits(world.truth.support)[:, 0]
    log_prob = log_prob.double().log_softmax(-1).detach()
    is_token = world.model.prior.space.is_token(response)
    total = torch.zeros_like(world.log_prior)
    for row, tokens in enumerate(response.tolist()):
        for t in range(int(is_token[row].sum())):
            left = log_prob[row, t].clone()
            trie.restrict(tuple(tokens[:t]), left)
            total[row] += left.log_softmax(-1)[tokens[t]]
    return total


def _on_the_grammar() -> list[Finding]:
    """Share of draws that are accepted, and the estimate of Z, on the network of the grammar."""
    prior = grammar_prior(max_new_tokens=3).double()
    prompts = prior.encode(["the film was"])
    model = AlignmentModel(prior, {}, 1.0)
    truth = Enumeration(model, prompts)
    favourites = truth.support[truth.log_prior[:, 0].argmax(), 0, :2]

    def no_favourite(_: Prompts, response: Tensor, t: int) -> Tensor:
        """Neither of the first two words of the likeliest response."""
        return ~torch.isin(response[..., :t], favourites).any(-1)

    is_allowed = no_favourite(prompts, truth.support, 3)[:, 0]
    z = truth.log_prior[is_allowed, 0].exp().sum().item()
    with random_state.isolated(0):
        posterior = adaptive_rejection_sampling(
            model, prompts[[0] * RUNS], no_favourite, num_samples=DRAWS
        )
    subject = f"grammar, {RUNS} runs of {DRAWS} draws"
    assert posterior.log_z is not None
    accepted = f"{subject}, share accepted (by rejection: {z:.3g})"
    return [
        agrees(f"{subject}, estimate of Z", Estimate.of_mean(posterior.log_z.exp()[:, None]), z),
        within(accepted, posterior.diagnostics["acceptance"].mean(), above=2 * z),
    ]
