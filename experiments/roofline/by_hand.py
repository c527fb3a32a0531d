"""The phases of a step by this library, and the same work by hand: a decode and two scorings."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel

from experiments.shared.cost import Step
from guides import FineTuned, LoRA
from model import LanguageModel, Prompts


def phases(
    prior: LanguageModel, guide: LoRA | FineTuned, prompts: Prompts, num_responses: int
) -> dict[str, Step]:
    """This library's draw, score under the prior, score under the guide with gradient, by name."""

    def draw() -> Tensor:
        return guide.distribution(prompts).sample((num_responses,))

    response = draw()

    def score() -> None:
        with torch.no_grad():
            prior(prompts).log_prob(response)

    def gradient() -> None:
        guide.distribution(prompts).log_prob(response).sum().backward()
        guide.zero_grad()

    return {
        "draw from the guide": draw,
        "score under the prior": score,
        "score under the guide, gradient": gradient,
    }


class ByHand:
    """One decode to the last token, and two scorings of its responses, without a shared cache.

    `generate` runs the guide's network with a cache. The scorings read prompt and response in one.
    """

    def __init__(
        self, prior: LanguageModel, guide: FineTuned | LoRA, prompts: Prompts, num_responses: int
    ) -> None:
        self.num_tokens = prior.max_new_tokens
        self.ends = {"eos_token_id": list(prior.end_ids), "pad_token_id": prior.pad_id}
        self.prior, self.guide = prior.network, guide.language_model.network
        self.trained = list(guide.trained().values())
        self.ids = prompts.ids.repeat(num_responses, 1)
        self.mask = prompts.mask.long().repeat(num_responses, 1)
        self.response = self.generate()

    def parts(self) -> list[Step]:
        """A raw `generate`, a forward pass of the prior, forward and backward of the guide."""
        return [self.generate, self.score, self.score_and_go_back]

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
