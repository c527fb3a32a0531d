"""World of three tokens a response for the samplers: token-wise rewards and exact tables.

Prior and guide are tables of the enumerated network, and thousands of runs are cheap. Repeated
prompts are repeated runs: N = 2 R prompts are R independent runs for each of two prompts.
"""

import math

import pyro
import torch

from inference import Enumeration
from model import AlignmentModel, Decoder, ResponseDistribution, TokenReward
from tests.inference.conftest import moved_guide

# by word
VALUES = torch.tensor([0.3, -0.5, 0.8, -1.0, 0.1, 1.2, -0.7, 1.0, -1.5, 0.6], dtype=torch.float64)
NUM_WORDS = len(VALUES)


def graded(response, is_token):
    """A value for each word, and a penalty for the same word twice at the start."""
    repeated = (response[..., 0] == response[..., 1]) & is_token[..., 1]
    return 1.5 * (VALUES.to(response.device)[response] * is_token).sum(-1) - 2.0 * repeated


def hard(response, is_token):
    """Constraint: the response says good (7) or dull (9). A prefix without is impossible so far."""
    return graded(response, is_token).where(((response == 7) | (response == 9)).any(-1), -torch.inf)


class World:
    """The exact posterior, and programs that are cheap to run many times.

    Attributes:
        network_model, network_guide: language models, the guide neither prior nor posterior.
        truth: by enumeration, for the two prompts.
        model, guide: the same distributions, from tables.
        posterior: the posterior itself, as a guide.
    """

    def __init__(self, prior, prompts, function=graded):
        self.prompts, self.space = prompts, prior.space
        self.reward = TokenReward(function, prior)
        self.network_model = AlignmentModel(prior, self.reward, beta=1.0)
        self.network_guide = moved_guide(prior, 0.01)
        self.truth = Enumeration(self.network_model, prompts)
        self.log_prior = self._tables(self.truth.log_prior)
        self.log_joint = self._tables(self.truth.log_joint)
        self.guide = self.program(self._tables(self.truth.log_guide(self.network_guide)))
        self.posterior = self.program(self.log_joint)
        self.model = self.program(self.log_prior, self.reward)

    def program(self, log_tables, reward=None):
        def program(prompts):
            with pyro.plate("prompts", len(prompts), dim=-1):
                response = pyro.sample(
                    "response", ResponseDistribution(TableDecoder(log_tables), prompts, self.space)
                )
                if reward is not None:
                    pyro.factor("reward", reward(prompts, response))

        return program

    def repeated(self, runs):
        return self.prompts[[0, 1] * runs]

    def optimal_twist(self, prompts, response, t):
        """log E_p0[exp(r/beta) | x_<=t]."""
        which, code = torch.arange(len(prompts)) % 2, code_of(response[..., :t])
        return self.log_joint[t][which, code] - self.log_prior[t][which, code]

    def z_ratio(self, posterior):
        """Z_hat / Z, `[R, 2]`."""
        return (posterior.log_z.view(-1, 2) - self.truth.log_z).exp()

    def mass(self, posterior):
        """Z_hat times the weighted means of two functions, `[R, 2, 2]`: unbiased estimates."""
        means = torch.stack([posterior.mean(f) for f in _functions(posterior.response)], -1)
        return (posterior.log_z[:, None].exp() * means).view(-1, 2, 2)

    def exact_mass(self):
        return torch.stack(
            [(self.truth.log_joint.exp() * f).sum(0) for f in _functions(self.truth.support)], -1
        )

    def exact_samples(self, num_samples):
        """From the posterior, `[num_samples, 2, T]`."""
        picked = torch.multinomial(
            self.truth.log_posterior.exp().T, num_samples, replacement=True
        ).T
        return self.truth.support.gather(0, picked[..., None].expand(-1, -1, 3))

    def _tables(self, log_mass):
        """Log sums over responses with the same t first tokens, `[2, NUM_WORDS^t]`, t = 0 to 3."""
        codes = [code_of(self.truth.support[..., :t]).T for t in range(4)]
        zeros = (torch.zeros(2, NUM_WORDS**t, dtype=torch.float64) for t in range(4))
        return [
            zero.scatter_add(1, code, log_mass.exp().T).log()
            for zero, code in zip(zeros, codes, strict=True)
        ]


def assert_unbiased(values, expected, power=0.04):
    """Check that the mean of independent `values` `[R, ...]` is `expected`, with enough runs."""
    standard_error = values.std(0) / len(values) ** 0.5
    assert (standard_error < power * abs(expected)).all(), f"no power: {standard_error / expected}"
    off = (values.mean(0) - expected) / standard_error
    assert (off.abs() < 5).all(), f"off by {off} standard errors"


def assert_falls(before, after, factor):
    """Check that the mean of squared errors `[R, ...]` of independent runs falls by `factor`.

    At most five standard errors of the logarithm of the fall may be missing, fewer than the fall.
    """
    fall = (before.mean(0) / after.mean(0)).log()
    error = torch.hypot(
        *(squares.std(0) / squares.mean(0) / len(squares) ** 0.5 for squares in (before, after))
    )
    assert (5 * error < math.log(factor)).all(), f"no power: {error}"
    assert (fall > math.log(factor) - 5 * error).all(), (
        f"falls by {fall.exp()}, of which the logarithm is off by {error}"
    )


def code_of(prefix):
    """Number of each sequence of tokens, `[..., t]` -> `[...]`."""
    code = torch.zeros(prefix.shape[:-1], dtype=torch.long)
    for t in range(prefix.shape[-1]):
        code = code * NUM_WORDS + prefix[..., t]
    return code


class TableState:
    def __init__(self, which, code, num_read):
        self.which, self.code, self.num_read = which, code, num_read

    def select(self, rows):
        return TableState(self.which[rows], self.code[rows], self.num_read)


class TableDecoder(Decoder):
    """p(x_t | x_<t) from tables of log p(x_<=t) up to a constant, for two alternating prompts."""

    def __init__(self, log_tables):
        super().__init__()
        self.log_tables = log_tables

    def start(self, prompts):
        which = torch.arange(len(prompts)) % 2
        state = TableState(which, torch.zeros_like(which), 0)
        return self._logits(state), state

    def extend(self, state, ids):
        logits = []
        for column in ids.T:
            state = TableState(state.which, state.code * NUM_WORDS + column, state.num_read + 1)
            logits.append(self._logits(state))
        return torch.stack(logits, 1), state

    def _logits(self, state):
        next_code = state.code[:, None] * NUM_WORDS + torch.arange(NUM_WORDS)
        return self.log_tables[state.num_read + 1][state.which[:, None], next_code]


def _functions(response):
    """Two indicators: the third token is `good` or the end; the first is `not` or `film`."""
    return torch.isin(response[..., 2], torch.tensor([7, 0])).double(), torch.isin(
        response[..., 0], torch.tensor([5, 2])
    ).double()


def may_stand(response):
    """No word 8, and after an odd word no other odd word."""
    odd = response % 2 == 1
    return ~(response == 8).any(-1) & ~(odd[..., 1:] & odd[..., :-1]).any(-1)
