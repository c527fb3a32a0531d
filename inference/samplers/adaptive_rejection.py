"""Adaptive rejection: exact draws under a hard constraint; no broken prefix is drawn again.

    x_i ~ p0 outside B_i, accepted if allowed;   B_{i+1} is B_i and what x_i showed to be broken
    Z   = p0(allowed) = E[(1 - p0(B_i)) 1[accepted]] <= 1 - p0(B_i)

Parys et al. 2025, arXiv 2510.01902 (CARS). An accepted draw is a draw of p0 given allowed, whatever
B_i, a set of responses that are not allowed. A trie of prefixes holds the share of each prefix that
is ruled out. The next token is drawn in proportion to p0 times the share that is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.programs import Program, autoregressive, log_likelihood_at, response_distribution
from inference.response_site import SameResponses
from inference.samplers.particles import Particles, Stream
from inference.samplers.posterior import NoSupportError, Posterior, check_support
from inference.samplers.token_rejection import Allowed, may_stand
from model import Prompts, ResponseDistribution
from model.common.checks import boolean, function, whole_number
from model.prior.logits import sample_token
from model.prior.response_space import ResponseSpace

Tokens = tuple[int, ...]


@dataclass
class Prefix:
    """A prefix that was drawn, with logs of masses, nats.

    Attributes:
        log_rest: log p0 of the next tokens that were not drawn and may stand.
        log_prob: log p0 of the next tokens that were drawn, by token.
        log_share: log of the share of these tokens that is not ruled out, by token.
        forbidden: `[V]`, True at next tokens that were tested and may not stand; None before.
    """

    log_rest: float = 0.0
    log_prob: dict[int, float] = field(default_factory=dict)
    log_share: dict[int, float] = field(default_factory=dict)
    forbidden: Tensor | None = None

    @property
    def log_left(self) -> float:
        """log of the share that is not ruled out, -inf only if nothing is left."""
        drawn = [log_prob + self.log_share[token] for token, log_prob in self.log_prob.items()]
        return torch.tensor([self.log_rest, *drawn], dtype=torch.float64).logsumexp(0).item()


class Trie:
    """Responses to one prompt that are ruled out, by their prefixes.

    The share of a prefix that is left is a sum over the tokens that are left. One less the share
    that is ruled out would be 0 by rounding where little is left.
    """

    def __init__(self) -> None:
        self.prefixes: dict[Tokens, Prefix] = {(): Prefix()}

    @property
    def log_left(self) -> float:
        """log p0 of the responses that are not ruled out, an upper bound of log Z, nats."""
        return self.prefixes[()].log_left

    def visit(
        self,
        tokens: Tokens,
        log_prob: Tensor,
        stands: Mapping[int, bool],
        forbidden: Tensor | None = None,
    ) -> None:
        """Record a prefix that was drawn.

        Args:
            tokens: The prefix.
            log_prob: log p0 of the next tokens, `[V]`.
            stands: Next tokens that were drawn, with True for a token that may stand.
            forbidden: True for the next tokens that may not stand, `[V]`, if all were tested.
        """
        prefix = self.prefixes.setdefault(tokens, Prefix())
        if forbidden is not None:
            prefix.forbidden = forbidden
        for token, may in stands.items():
            prefix.log_share[token] = prefix.log_share.get(token, 0.0) if may else -torch.inf
        drawn = torch.tensor(list(prefix.log_share), device=log_prob.device)
        prefix.log_prob = dict(zip(prefix.log_share, log_prob[drawn].tolist(), strict=True))
        rest = log_prob.index_fill(0, drawn, -torch.inf)
        if prefix.forbidden is not None:
            rest[prefix.forbidden] = -torch.inf
        prefix.log_rest = rest.logsumexp(0).item()

    def update(self, tokens: Tokens) -> None:
        """Tell the prefix before the last token how much is left; longer prefixes go first."""
        if tokens:
            before = self.prefixes[tokens[:-1]]
            before.log_share[tokens[-1]] = self.prefixes[tokens].log_left

    def is_tested(self, tokens: Tokens) -> bool:
        """True if the next tokens of a prefix were tested."""
        prefix = self.prefixes.get(tokens)
        return prefix is not None and prefix.forbidden is not None

    def restrict(self, tokens: Tokens, log_prob: Tensor) -> None:
        """Add the log of the share that is left to log p0 of the next tokens, `[V]`, in place."""
        if (prefix := self.prefixes.get(tokens)) is None:
            return
        if prefix.forbidden is not None:
            log_prob[prefix.forbidden] = -torch.inf
        for token, log_share in prefix.log_share.items():
            log_prob[token] += log_share


@torch.no_grad()
def adaptive_rejection_sampling(
    model: Program,
    prompts: Prompts,
    allowed: Allowed,
    *,
    num_samples: int = 256,
    chunk: int = 16,
    every_token: bool = True,
) -> Posterior:
    """Draw from the prior, less what earlier draws have ruled out, and accept what is allowed.

    Args:
        model: Pyro program with a `ResponseDistribution` at the site `response`. Its likelihood
            weighs the accepted draws.
        prompts: N prompts, each with a trie of its own.
        allowed: Hard constraint on prefixes, which becomes part of the posterior, see `Allowed`.
        num_samples: M, number of draws for each prompt, accepted or not.
        chunk: Number of draws between two updates of the tries. They are decoded together.
        every_token: True to test all V next tokens of a prefix that is drawn for the first time,
            and rule out those that may not stand. False to test the drawn token alone.

    Returns:
        All draws. `log_weight` is the log likelihood of accepted draws, 0 for a model without
        rewards, and -inf for others, in whose place is a response that ends at once.
        exp(log_z) is unbiased for Z. Diagnostics: `acceptance`; `num_tests`; `bound`, p0 of the
        responses that are not ruled out, above p0(allowed).

    Raises:
        NoSupportError: If all responses to a prompt are ruled out, or no draw was accepted.
    """
    function("allowed", allowed, takes=3, why="prompts, responses and t, an `Allowed`")
    num_samples, chunk = whole_number("num_samples", num_samples), whole_number("chunk", chunk)
    tries, parts = [Trie() for _ in prompts.texts], []
    num_tests = torch.zeros(len(tries), dtype=torch.long)
    every_token = boolean("every_token", every_token)
    with SameResponses():
        prior = autoregressive(response_distribution(model, prompts, role="model"))
        search = Search(allowed, prompts, tries, num_tests, every_token, prior.space)
        for start in range(0, num_samples, chunk):
            log_left = [trie.log_left for trie in tries]
            if -torch.inf in log_left:
                text = prompts.texts[log_left.index(-torch.inf)]
                raise NoSupportError(
                    f"all responses to {text!r} are ruled out: no response may stand, loosen "
                    "`allowed`"
                )
            num = min(chunk, num_samples - start)
            response, is_allowed, log_ratio = search.draw(prior, num)
            log_likelihood = log_likelihood_at(model, prompts, response).double()
            log_weight = log_likelihood.masked_fill(~is_allowed, -torch.inf)
            parts.append((response, log_weight, log_weight + log_ratio, is_allowed))
    response, log_weight, log_terms, is_allowed = map(torch.cat, zip(*parts, strict=True))
    check_support(log_weight, prompts.texts)
    log_left = [trie.log_left for trie in tries]
    diagnostics = {
        "acceptance": is_allowed.double().mean(0),
        "num_tests": num_tests.to(response.device),
        "bound": response.new_tensor(log_left, dtype=torch.float64).exp(),
    }
    return Posterior(response, log_weight, log_mean(log_terms), diagnostics)


@dataclass(frozen=True)
class Search:
    """Draws outside the tries of N prompts, which the draws then extend, with counts of tests."""

    allowed: Allowed
    prompts: Prompts
    tries: Sequence[Trie]
    num_tests: Tensor
    every_token: bool
    space: ResponseSpace

    def draw(self, prior: ResponseDistribution, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw K responses to each prompt outside the tries, and rule out what they show.

        Returns:
            Responses `[K, N, T]`; True where they are allowed, `[K, N]`; and log p0 less the log
            density of the draw up to the last token drawn, `[K, N]`, nats, float64. This is the log
            of the mass that is left, up to the rounding by which two passes of a network differ.
        """
        particles, stream = Particles(prior, num), Stream(prior, num)
        is_allowed = ~particles.ended
        log_ratio = torch.zeros_like(is_allowed, dtype=torch.float64)
        visited: list[tuple[int, Tokens]] = []  # the shortest prefix first
        for t in range(1, prior.event_shape[0] + 1):
            log_prob = (stream.logits.double() / prior.temperature).log_softmax(-1)
            log_prob = log_prob.unflatten(0, (num, -1))  # [K, N, V]
            left, drawn = log_prob.clone(), particles.response[..., : t - 1].tolist()
            active = [(k, n) for k, n in (~particles.ended).nonzero().tolist()]
            for k, n in active:
                self.tries[n].restrict(tuple(drawn[k][n]), left[k, n])
            token = sample_token(left.flatten(0, 1), 1.0).view(num, -1)
            own = [part.gather(-1, token[..., None])[..., 0] for part in (log_prob, left)]
            # behind an end nothing is ruled out, and the ratio is 1
            log_ratio = log_ratio + own[0] - own[1] + left.logsumexp(-1)
            particles.write(token, t)
            stand = self._stand(particles, active, t)
            for (k, n), may in zip(active, stand, strict=True):
                is_allowed[k, n] = may
            visited += self._visit(particles.response[..., :t].tolist(), active, stand, log_prob)
            particles.ended = particles.ended | ~is_allowed
            if t == prior.event_shape[0] or bool(particles.ended.all()):
                break
            stream.extend(particles.response[..., t - 1], None)
        for n, tokens in reversed(visited):
            self.tries[n].update(tokens)
        nothing = self.space.of_rows([[]])
        response = torch.where(is_allowed[..., None], particles.response, nothing)
        return response, is_allowed, log_ratio

    def _visit(
        self, drawn: list, active: list[tuple[int, int]], stand: list[bool], log_prob: Tensor
    ) -> list[tuple[int, Tokens]]:
        """Record the prefixes before the last tokens drawn, and return them, each with its prompt.

        Tokens drawn are `[K, N, t]`, and log p0 of those that could be last `[K, N, V]`.
        """
        stands: dict[tuple[int, Tokens], dict[int, bool]] = {}
        rows = {}
        for (k, n), may in zip(active, stand, strict=True):
            *before, last = drawn[k][n]
            place = n, tuple(before)
            stands.setdefault(place, {})[last] = may
            rows[place] = log_prob[k, n]
        for (n, tokens), row in rows.items():
            is_new = self.every_token and not self.tries[n].is_tested(tokens)
            forbidden = self._forbidden(n, tokens) if is_new else None
            self.tries[n].visit(tokens, row, stands[n, tokens], forbidden)
        return [*rows]

    def _stand(self, particles: Particles, active: list[tuple[int, int]], t: int) -> list[bool]:
        """True for the responses of which the first t tokens may stand."""
        particle, prompt = (list(part) for part in zip(*active, strict=True))
        self.num_tests.add_(torch.bincount(torch.tensor(prompt), minlength=len(self.tries)))
        response = particles.response[particle, prompt]
        return may_stand(self.allowed, self.prompts[prompt], response, t).tolist()

    def _forbidden(self, n: int, tokens: Tokens) -> Tensor:
        """True at the next tokens of a prefix that may not stand, `[V]`."""
        device = self.prompts.ids.device
        vocab_size, t = self.space.vocab_size, len(tokens) + 1
        response = torch.full(
            (vocab_size, self.space.max_new_tokens), self.space.pad_id, device=device
        )
        response[:, : t - 1] = torch.tensor(tokens, device=device)
        response[:, t - 1] = torch.arange(vocab_size, device=device)
        self.num_tests[n] += vocab_size
        return ~may_stand(self.allowed, self.prompts[[n] * vocab_size], response, t)
