"""World small enough for an objective on every pair of draws: two words, two tokens, 7 responses.

Prior and guide are tables of next-token logits: one row for the first token and one row for each
word before. The guide's family contains the posterior. A guide can be made to draw given responses,
and means over draws are finite sums.
"""

import itertools
import math

import pyro
import torch
from torch import Tensor, nn

from guides import Guide
from inference import Enumeration
from inference.programs import parameter_scope
from model import Decoder, Prompts, ResponseDistribution, ResponseSpace
from model.likelihood import check_values

BETA = 0.5
SPACE = ResponseSpace(max_new_tokens=2, vocab_size=3, end_ids=torch.tensor([0]), pad_id=0)
ONE = Prompts.from_ids([[1]], ["one"])
TWO = Prompts.from_ids([[1], [2]], ["one", "two"])


class Row:
    """State: the prompt of each sequence, and the last token as a hidden layer, one-hot."""

    def __init__(self, prompt: Tensor, last: Tensor) -> None:
        self.prompt, self.last = prompt, last
        self.hidden = nn.functional.one_hot(last, 3).double()

    def select(self, rows: Tensor) -> "Row":
        return Row(self.prompt[rows], self.last[rows])


class Table(Guide, Decoder):
    """q(x | prompt) = softmax(first[prompt])[x_1] softmax(then[prompt, x_1])[x_2].

    The twist is log q - log p0 of the prior `Table(0)`.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        self.then = nn.Parameter(torch.randn(3, 3, 3, generator=generator, dtype=torch.float64))

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return ResponseDistribution(self, prompts, SPACE)

    def start(self, prompts: Prompts) -> tuple[Tensor, Row]:
        last = prompts.ids[:, -1]
        return self.first[last], Row(last, last[:, None])

    def extend(self, state: Row, ids: Tensor) -> tuple[Tensor, Row]:
        return self.then[state.prompt[:, None], ids], Row(state.prompt, ids)

    def log_twist(self, prompts: Prompts, response: Tensor) -> Tensor:
        logits = (
            self.distribution(prompts)
            .next_token_logits(response)
            .gather(-1, response[..., None])
            .squeeze(-1)
        )
        prior = Table(0).distribution(prompts).log_prob_per_token(response).detach()
        return (logits - prior).masked_fill(~SPACE.is_token(response), 0.0)


def reward(prompts: Prompts, response: Tensor) -> Tensor:
    """Different for each response and each prompt."""
    scale = prompts.ids[:, -1].double()
    return (
        scale * (response.double() @ torch.tensor([0.7, -0.4], dtype=torch.float64)) - 0.1 * scale
    )


class Target:
    """The model: a table as prior, and a reward."""

    def __init__(self, reward=reward, seed: int = 0) -> None:
        self.prior = Table(seed).requires_grad_(False)
        self.reward = reward

    def __call__(self, prompts: Prompts) -> Tensor:
        with pyro.plate("prompts", len(prompts), dim=-1):
            response = pyro.sample("response", self.prior.distribution(prompts))
            pyro.factor(
                "reward",
                check_values("'reward'", self.reward(prompts, response), response.shape[:-1])
                / BETA,
            )
        return response


class Drawn(nn.Module):
    """A guide made to draw given responses `[K, N, T]`."""

    def __init__(self, guide: Guide, response: Tensor) -> None:
        super().__init__()
        self.guide, self.response = guide, response

    def forward(self, prompts: Prompts) -> Tensor:
        pyro.module("guide", self.guide)
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample(
                "response", _Drawn.of(self.guide.distribution(prompts), self.response)
            )


class _Drawn(ResponseDistribution):
    @classmethod
    def of(cls, distribution, response):
        new = cls.__new__(cls)
        new.__dict__.update(distribution.__dict__)
        new.drawn = response
        return new

    def expand(self, batch_shape, _instance=None):
        return _Drawn.of(super().expand(batch_shape), self.drawn)

    def sample(self, sample_shape=()):
        return self.drawn

    def sample_and_log_prob(self, sample_shape=()):
        return self.drawn, self.log_prob(self.drawn).detach().double()


def gradient(objective, model, guide, prompts, response) -> tuple[float, Tensor]:
    """The loss on given draws, and its gradient in one row."""
    guide.zero_grad()
    program = Drawn(guide, response)
    with parameter_scope(program):
        program(prompts)  # brings the parameters into the store, as the first step of a fit does
        loss = objective.loss_and_grads(model, program, prompts)
    parameters = [parameter for parameter in guide.parameters() if parameter.requires_grad]
    none = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return loss, torch.cat([grad.flatten() for grad in none])


def all_gradients(make, model, guide, prompts, num_particles: int, proposal=None):
    """Probability and gradient of each draw of `num_particles` responses to one prompt.

    The draws are from the guide or a proposal.
    """
    truth = Enumeration(model, prompts)
    prob = truth.log_guide(guide if proposal is None else proposal).exp()[:, 0]
    probs, gradients = [], []
    for drawn in itertools.combinations_with_replacement(range(len(prob)), num_particles):
        counts = torch.tensor(drawn).bincount()
        ways = math.factorial(num_particles) / math.prod(
            math.factorial(count) for count in counts.tolist()
        )
        probs.append(ways * prob[list(drawn)].prod())
        gradients.append(gradient(make(), model, guide, prompts, truth.support[list(drawn)])[1])
    return torch.stack(probs), torch.stack(gradients)


def mean_gradient(*args, **options) -> Tensor:
    """E[gradient] over all draws: a finite sum."""
    prob, gradients = all_gradients(*args, **options)
    return prob @ gradients


def gradient_variance(*args, **options) -> float:
    """E ||gradient - E[gradient]||^2 over all draws."""
    prob, gradients = all_gradients(*args, **options)
    return (prob @ (gradients - prob @ gradients).square().sum(1)).item()


def autograd(value: Tensor, guide: Guide) -> Tensor:
    """The gradient of an enumerated quantity, in one row."""
    parameters = [parameter for parameter in guide.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(parameters, gradients, strict=True)
        ]
    )


def posterior_guide(model: Target, prompts: Prompts) -> Table:
    """The guide that is the posterior exactly."""
    truth, guide = Enumeration(model, prompts), Table(9)
    with torch.no_grad():
        for n, last in enumerate(prompts.ids[:, -1].tolist()):
            prob = truth.log_posterior[:, n].exp()
            first = torch.stack([prob[truth.support[:, n, 0] == word].sum() for word in range(3)])
            guide.first[last] = first.log()
            for word in (1, 2):
                starts = truth.support[:, n, 0] == word
                order = truth.support[starts, n, 1]
                guide.then[last, word, order] = prob[starts].log()
    return guide
