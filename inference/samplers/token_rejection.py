"""Rejection of single tokens: adaptive weighted rejection sampling, for sequential Monte Carlo.

    y_1, y_2, ... ~ q(. | x_<t) without replacement;   x_t = y_i, the first that is allowed
    W   = mean of D_{i+1}, ..., D_{i+k}
    D_j = sum_{l<j} q(y_l) 1[y_l allowed] + 1[y_j allowed] (1 - sum_{l<j} q(y_l))

Lipkin et al. 2025, arXiv 2504.05410. With k = 1, W is the recursive estimator of the authors' code.
D_j is the estimator of Des Raj (1956) for a = q(allowed): its mean is a given y_1 to y_i, hence
given x_t. So the weights are, in the mean, those of masking, which tests all V tokens.

With at most M tests, W = 1 - sum_{l<M} q(y_l) if y_M is the first that is allowed, and 0 if none
is: the mean of W f(x_t) remains. With M = 1, W is 1 or 0, sequential Monte Carlo with a twist.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from inference.samplers.particles import Particles, Stream
from model import Prompts
from model.common.checks import function, instance, whole_number

Allowed = Callable[[Prompts, Tensor, int], Tensor]
"""A function allowed(prompts, response, t) -> True where the first t tokens may stand, `[1, M]`.

For M prompts and responses `[1, M, T]`, with t from 1 to T and the padding id after the first t
tokens. A response that ended with token t is whole. False for a prefix rules out all responses that
begin with the prefix."""


class TokenRejection:
    """A hard constraint on prefixes, from whose allowed tokens sequential Monte Carlo draws.

        rejection = TokenRejection(lambda prompts, response, t: (response != 3).all(-1))
        posterior = sequential_monte_carlo(model, prompts, rejection=rejection)

    Args:
        allowed: See `Allowed`.
        extra_tests: k, number of tokens that are tested after the first that is allowed. More
            tests make W less noisy; W nears that of masking.
        max_tests: M, largest number of tokens that are tested for one place of a response.
    """

    def __init__(self, allowed: Allowed, *, extra_tests: int = 4, max_tests: int = 64) -> None:
        why = "prompts, responses and t, an `Allowed`"
        self.allowed: Allowed = function("allowed", allowed, takes=3, why=why)
        self.extra_tests = whole_number("extra_tests", extra_tests)
        self.max_tests = whole_number("max_tests", max_tests)

    def draw(self, particles: Particles, proposal: Stream, prompts: Prompts, t: int) -> Tensor:
        """Draw token t of unfinished responses, `[K, N]`, from the allowed tokens of a proposal.

        The weights are multiplied by W, 0 where no token passed and 1 for a response that ended
        before; the tests are counted.
        """
        rest, is_idle = proposal.copy(), particles.ended | particles.log_weight.isneginf()
        token, is_found, is_done = torch.zeros_like(particles.root), is_idle, is_idle
        known = total = torch.zeros_like(particles.log_weight)  # mass of the allowed; sum of D
        extra = torch.zeros_like(token)
        for number in range(1, self.max_tests + 1):
            candidate, is_due = rest.sample(), ~is_done
            log_q = proposal.log_prob(candidate)
            left = (log_q - rest.log_prob(candidate)).exp()  # mass that was not drawn before
            passes = self._test(particles, candidate, is_due, prompts, t)
            particles.num_tests = particles.num_tests + is_due.sum(0)
            is_extra, is_first = is_due & is_found, passes & ~is_found
            total = total + is_extra * (known + passes * left)
            extra, known = extra + is_extra, known + passes * log_q.exp()
            token, is_found = torch.where(is_first, candidate, token), is_found | is_first
            if number == self.max_tests:
                total, extra = torch.where(is_first, left, total), extra + is_first
            is_done = is_done | (extra == self.extra_tests)
            is_known = rest.remove(candidate, ~is_done)  # D is a from here on
            total = total + is_known * known * (self.extra_tests - extra)
            extra, is_done = extra.masked_fill(is_known, self.extra_tests), is_done | is_known
            if bool(is_done.all()):
                break
        log_weight = (total / extra.clamp(min=1)).log()
        particles.weigh(log_weight.masked_fill(particles.ended, 0.0))
        return token

    def _test(
        self, particles: Particles, token: Tensor, is_due: Tensor, prompts: Prompts, t: int
    ) -> Tensor:
        """True where a token after the first t - 1 is tested and allowed, `[K, N]`."""
        particle, prompt = is_due.nonzero(as_tuple=True)
        passes, rows = torch.zeros_like(is_due), prompt.tolist()
        if not rows:
            return passes
        response = particles.response[particle, prompt]
        response[:, t - 1] = token[particle, prompt]
        passes[particle, prompt] = may_stand(self.allowed, prompts[rows], response, t)
        return passes


def may_stand(allowed: Allowed, prompts: Prompts, response: Tensor, t: int) -> Tensor:
    """True where the first t tokens of responses `[M, T]`, one to each of M prompts, may stand."""
    answer = allowed(prompts, response[None], t)
    instance("what allowed returned", answer, Tensor)
    if answer.dtype != torch.bool or tuple(answer.shape) != (1, len(response)):
        raise ValueError(
            f"allowed returned shape {tuple(answer.shape)} of {answer.dtype}, expected "
            f"(1, {len(response)}) of torch.bool: True where the first {t} tokens may stand"
        )
    return answer[0]
