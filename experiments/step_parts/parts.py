"""A step of SVI, and its parts, written by hand with torch and transformers; the time of both."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel

from guides import Guide
from inference import LeaveOneOut_ELBO, response_distribution
from inference.diagnostics.timing import Seconds, Step, SVIStep, take_turns
from model import AlignmentModel, LanguageModel, Prompts, ResponseDistribution
from model.registry import REWARDS

PARTS = ("raw generate", "prior, forward", "guide, forward and backward")
SUM, STEP = "sum", "SVI.step"


class Parts:
    """One decode, and two scorings of its responses, for a guide that is a Hugging Face network."""

    def __init__(
        self, prior: LanguageModel, guide: Guide, prompts: Prompts, num_particles: int
    ) -> None:
        self.num_tokens = prior.max_new_tokens
        self.ends = {"eos_token_id": list(prior.end_ids), "pad_token_id": prior.pad_id}
        self.prior, self.guide = prior.network, network_of(guide, prompts)
        self.trained = list(guide.trained().values())
        self.ids = prompts.ids.repeat(num_particles, 1)
        self.mask = prompts.mask.long().repeat(num_particles, 1)
        self.response = self.generate()

    def generate(self) -> Tensor:
        """Responses `[B, T]`, none with an end before T."""
        lengths = {"min_new_tokens": self.num_tokens, "max_new_tokens": self.num_tokens}
        draw = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        inputs = {"input_ids": self.ids, "attention_mask": self.mask}
        with contiguous_states(self.guide):
            ids = self.guide.generate(**inputs, **draw, **lengths, **self.ends)
        return ids[:, self.ids.shape[1] :]

    def log_prob(self, network: PreTrainedModel) -> Tensor:
        """log p(response), nats, `[B]`."""
        mask = pad(self.mask, (0, self.num_tokens - 1), value=1)
        inputs = {"input_ids": torch.cat([self.ids, self.response[:, :-1]], 1)}
        inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        with contiguous_states(network):
            out = network(**inputs, use_cache=False, logits_to_keep=self.num_tokens)
        logits = out.logits.float()
        nats = cross_entropy(logits.flatten(0, 1), self.response.flatten(), reduction="none")
        return -nats.view(self.response.shape).sum(1)

    @torch.no_grad()
    def score(self) -> None:
        """Score under the prior."""
        self.log_prob(self.prior)

    def score_and_go_back(self) -> None:
        """Score under the guide, and compute the gradient."""
        self.log_prob(self.guide).mean().backward()
        for parameter in self.trained:
            parameter.grad = None


@contextmanager
def contiguous_states(network: PreTrainedModel) -> Iterator[None]:
    """Hand the output layer contiguous states.

    States are strided if only the last are kept. torch then copies the frozen weights of the whole
    layer once for each sequence, at many times the time and memory of the pass.
    """
    layer = network.get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def network_of(guide: Guide, prompts: Prompts) -> PreTrainedModel:
    """The Hugging Face network of a guide; exit if the guide is anything else."""
    distribution = response_distribution(guide, prompts)
    decoder = distribution.decoder if isinstance(distribution, ResponseDistribution) else None
    if not isinstance(decoder, LanguageModel):
        raise SystemExit(
            f"--guide: {type(guide).__name__} is not a Hugging Face network alone, as `generate` "
            "needs"
        )
    return decoder.network


def new_step(
    prior: LanguageModel, guide: Guide, prompts: Prompts, beta: float, num_particles: int
) -> tuple[SVIStep, list[int]]:
    """A step of SVI, and the list of the longest response of each step, in tokens."""
    lengths: list[int] = []

    def watched(prompts: Prompts) -> Tensor:
        response = guide(prompts)
        lengths.append(int(prior.space.is_token(response).sum(-1).max()))
        return response

    model = AlignmentModel(prior, REWARDS["vader"](prior), beta)
    objective = LeaveOneOut_ELBO(num_particles=num_particles)
    return SVIStep(model, watched, objective, prompts), lengths


def time_parts(
    step: SVIStep, lengths: list[int], parts: Parts, warm_up: int, rounds: int
) -> tuple[dict[str, list[Seconds]], float]:
    """Time the step and its parts. Returns also the median length of the step's responses."""
    works: tuple[Step, ...] = (parts.generate, parts.score, parts.score_and_go_back, step)
    turns = dict(zip((*PARTS, STEP), works, strict=True))
    take_turns(turns, warm_up)
    lengths.clear()
    return with_sum(take_turns(turns, rounds)), statistics.median(lengths)


def with_sum(times: dict[str, list[Seconds]]) -> dict[str, list[Seconds]]:
    """Add the sum of the parts in each round, before the step."""
    parts = {name: times[name] for name in PARTS}
    rounds = zip(*parts.values(), strict=True)
    total = [(sum(cpu), sum(wall)) for cpu, wall in (zip(*one, strict=True) for one in rounds)]
    return parts | {SUM: total, STEP: times[STEP]}
