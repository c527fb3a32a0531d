"""Adaptive rejection: exact draws under a hard constraint; no broken prefix is drawn again.

    x_i ~ p0 outside B_i, accepted if allowed;   B_{i+1} is B_i and what x_i showed to be broken
    Z   = p0(allowed) = E[(1 - p0(B_i)) 1[accepted]] <= 1 - p0(B_i)

Parys et al. 2025, arXiv 2510.01902 (CARS). An accepted draw is a draw of p0 given allowed, whatever
B_i, a set of responses that are not allowed. A trie of prefixes holds the share of each prefix that
is ruled out. The next token is drawn in proportion to p0 times the share that is left.
"""

from collections.abc import Sequence
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

ALL = 1 - 1e-9
"""Ruled-out share of a prefix above which the whole prefix counts as ruled out, for rounding."""
Tokens = tuple[int, ...]


@dataclass
class Prefix:
    """A prefix that was drawn.

    Attributes:
        share: ruled-out share of the mass of the prefix.
        shares: ruled-out shares of next tokens, by token.
        forbidden: `[V]`, True at next tokens that were tested and may not stand; None before.
    """

    share: float = 0.0
    shares: dict[int, float] = field(default_factory=dict)
    forbidden: Tensor | None = None


class Trie:
    """Responses to one prompt that are ruled out, by their prefixes."""

    def __init__(self) -> None:
        self.prefixes: dict[Tokens, Prefix] = {(): Prefix()}

    @property
    def left(self) -> float:
        """p0 of the responses that are not ruled out, an upper bound of Z."""
        share = self.prefixes[()].share
        return 0.0 if share > ALL else 1 - share

    def rule_out(self, tokens: Tokens, prob: Sequence[float], share: float = 1.0) -> None:
        """Set the ruled-out share of a prefix, whose tokens have the probabilities `prob`."""
        for t in reversed(range(len(tokens))):
            prefix = self.prefixes.setdefault(tokens[:t], Prefix())
            prefix.share += prob[t] * (share - prefix.shares.get(tokens[t], 0.0))
            prefix.shares[tokens[t]] = share
            share = 1.0 if prefix.share > ALL else prefix.share

    def forbid(
        self, tokens: Tokens, prob: Sequence[float], next_prob: Tensor, forbidden: Tensor
    ) -> None:
        """Rule out next tokens `[V]` of a prefix before any other that begins with the prefix."""
        prefix = self.prefixes.setdefault(tokens, Prefix())
        prefix.forbidden, prefix.share = forbidden, next_prob[forbidden].sum().item()
        self.rule_out(tokens, prob, 1.0 if prefix.share > ALL else prefix.share)

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
        for token, share in prefix.shares.items():
            log_prob[token] += torch.tensor(1 - share, dtype=torch.float64).log().to(log_prob)


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
        rewards, and -inf for others, which end behind the first token that may not stand.
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
            log_left = torch.tensor([trie.left for trie in tries], dtype=torch.float64).log()
            if bool((empty := log_left.isneginf()).any()):
                text = prompts.texts[int(empty.int().argmax())]
                raise NoSupportError(
                    f"all responses to {text!r} are ruled out: no response may stand, loosen "
                    "`allowed`"
                )
            response, is_allowed = search.draw(prior, min(chunk, num_samples - start))
            log_likelihood = log_likelihood_at(model, prompts, response).double()
            log_weight = log_likelihood.masked_fill(~is_allowed, -torch.inf)
            parts.append((response, log_weight, log_weight + log_left.to(log_weight), is_allowed))
    response, log_weight, log_terms, is_allowed = map(torch.cat, zip(*parts, strict=True))
    check_support(log_weight, prompts.texts)
    diagnostics = {
        "acceptance": is_allowed.double().mean(0),
        "num_tests": num_tests.to(response.device),
        "bound": response.new_tensor([trie.left for trie in tries], dtype=torch.float64),
    }
    return Posterior(response, log_weight, log_mean(log_terms), diagnostics)


@dataclass(frozen=True)
class Search:
    """Draws outside the tries of N prompts, which the draws then extend.

    Attributes:
        allowed, prompts, every_token: See `adaptive_rejection_sampling`.
        tries: one of each prompt.
        num_tests: `[N]`, number of tests so far.
        space: set of responses.
    """

    allowed: Allowed
    prompts: Prompts
    tries: Sequence[Trie]
    num_tests: Tensor
    every_token: bool
    space: ResponseSpace

    def draw(self, prior: ResponseDistribution, num: int) -> tuple[Tensor, Tensor]:
        """Draw K responses to each prompt, `[K, N, T]`, and tell which are allowed, `[K, N]`."""
        particles, stream = Particles.unwritten(prior, num), Stream(prior, num)
        is_allowed = ~particles.ended
        probs: dict[tuple[int, int], list[float]] = {}  # of the tokens of each draw
        broken: list[tuple[int, Tokens, list[float]]] = []
        new: dict[tuple[int, Tokens], tuple[list[float], Tensor]] = {}
        for t in range(1, prior.event_shape[0] + 1):
            log_prob = (stream.logits.double() / prior.temperature).log_softmax(-1)
            log_prob = log_prob.unflatten(0, (num, -1))  # [K, N, V]
            left, drawn = log_prob.clone(), particles.response[..., : t - 1].tolist()
            active = [(k, n) for k, n in (~particles.ended).nonzero().tolist()]
            for k, n in active:
                tokens, prob = tuple(drawn[k][n]), probs.setdefault((k, n), [])
                self.tries[n].restrict(tokens, left[k, n])
                if self.every_token and not self.tries[n].is_tested(tokens):
                    new.setdefault((n, tokens), (list(prob), log_prob[k, n].exp()))
            token = sample_token(left.flatten(0, 1), 1.0).view(num, -1)
            particles.response[..., t - 1] = token.masked_fill(particles.ended, self.space.pad_id)
            for (k, n), stands in zip(active, self._stand(particles, active, t), strict=True):
                probs[k, n].append(log_prob[k, n, token[k, n]].exp().item())
                if not stands:
                    broken.append((n, (*drawn[k][n], int(token[k, n])), probs[k, n]))
                    is_allowed[k, n] = False
            particles.ended = particles.ended | self.space.is_end(token) | ~is_allowed
            if t == prior.event_shape[0] or bool(particles.ended.all()):
                break
            stream.extend(particles.response[..., t - 1], None)
        for (n, tokens), (prob, next_prob) in new.items():  # the shortest prefix first
            self.tries[n].forbid(tokens, prob, next_prob, self._forbidden(n, tokens))
        for n, tokens, prob in broken:
            if not self.tries[n].is_tested(tokens[:-1]):
                self.tries[n].rule_out(tokens, prob)
        nothing = torch.full_like(particles.response[0, 0], self.space.pad_id)
        nothing[0] = self.space.end_ids[0]
        return torch.where(is_allowed[..., None], particles.response, nothing), is_allowed

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
