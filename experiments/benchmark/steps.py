"""The gradient step that the benchmark times: as a Pyro program, and with torch alone."""

from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pyro.infer import SVI
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.shared.argument_types import Count, Seed, Threads, count
from experiments.shared.command_line import Arguments
from guides import FineTuned, Guide
from inference import FusedOptimizer, LeaveOneOut_ELBO
from model import AlignmentModel, LanguageModel, TokenReward
from model.prior.grammar import DROPOUT, numbered_words

END_ID = 0
WORDS, LAYERS, WIDTH, PROMPT = 128, 2, 64, "w1 w2 w3 w4"
"""Size of the vocabulary, with the end of a response; transformer blocks; residual stream."""
BETA, RATE = 0.1, 1e-5
"""Reward per nat; Adam's rate, so low that the job stays the same from step to step."""


@dataclass(frozen=True)
class Benchmark(Arguments):
    """Time a gradient step: the Pyro program, a loop by hand, TRL."""

    rounds: Count = 200
    """Number of timed steps of each implementation."""
    warm_up: Annotated[int, count(0)] = 20
    """Number of steps of each implementation before the timed steps."""
    sequences: Annotated[int, count(2, 10_000, "the baseline of one is the mean of the others")] = (
        64
    )
    """Number of responses for each step."""
    tokens: Annotated[int, count(1, 10_000)] = 16
    """Number of tokens in a response."""
    start_ups: Annotated[int, count(0)] = 5
    """Number of timed starts of Python processes; 0 for none."""
    smollm2: tuple[Count, ...] = ()
    """Numbers of tokens of a response for which a step with SmolLM2-135M is measured too, after
    `make smollm2`."""
    smollm2_rounds: Count = 3
    """Number of timed steps of each implementation with SmolLM2-135M."""
    threads: Threads = 1
    """Number of CPU threads."""
    seed: Seed = 0
    """Random seed of the weights and of the samples."""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A new tokenizer."""
        special = {"eos_token": "<end>", "pad_token": "<end>"}
        return numbered_words(WORDS, **special, padding_side="left")

    def network(self) -> GPT2LMHeadModel:
        """A new GPT-2 with the same random weights at every call.

        The logit of the end of a response is about -100, and the logit of any word about 0.
        """
        sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": WIDTH // 16}
        sizes |= {"vocab_size": WORDS, "n_positions": len(PROMPT.split()) + self.tokens}
        config = GPT2Config(**sizes, **DROPOUT, bos_token_id=None, eos_token_id=END_ID)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.seed)
            network = GPT2LMHeadModel(config).eval()
            network.transformer.ln_f.bias[0] = 10.0
            network.transformer.wte.weight[END_ID, 0] = -10.0
        return network


def reward(response: Tensor) -> Tensor:
    """Share of even token ids, `[..., T]` -> `[...]`."""
    return (response % 2 == 0).float().mean(-1)


class Ours:
    """The step of this project: model, guide, objective, optimiser."""

    def __init__(self, prior: LanguageModel, guide: Guide, prompt: str, args: Benchmark) -> None:
        token_reward = TokenReward(lambda response, _: reward(response), prior)
        model = AlignmentModel(prior, token_reward, beta=BETA)
        optimizer = FusedOptimizer(torch.optim.Adam, {"lr": RATE}, clip_norm=1.0)
        self.svi = SVI(model, guide, optimizer, LeaveOneOut_ELBO(num_particles=args.sequences))
        self.guide, self.prompts = guide, prior.encode([prompt])

    @classmethod
    def of(cls, args: Benchmark) -> Self:
        """The step on the random network of the benchmark, with all weights free."""
        prior = LanguageModel(args.network(), args.tokenizer(), max_new_tokens=args.tokens)
        return cls(prior, FineTuned(prior), PROMPT, args)

    def __call__(self) -> float:
        return self.svi.step(self.prompts)


class ByHand:
    """The same step with torch and transformers alone."""

    def __init__(self, args: Benchmark) -> None:
        self.args = args
        self.guide, self.prior = args.network(), args.network().requires_grad_(False)
        weights = self.guide.parameters()
        self.optimizer = torch.optim.Adam(weights, lr=RATE, fused=True)
        ids = args.tokenizer()(PROMPT, return_tensors="pt")["input_ids"]
        self.prompt = ids.expand(args.sequences, -1)

    def __call__(self) -> float:
        """Take one step. Returns the estimate of -ELBO, nats."""
        response = self.sample()
        log_guide = self.log_prob(self.guide, response)
        with torch.no_grad():
            log_likelihood = reward(response).double() / BETA
            log_weight = self.log_prob(self.prior, response) + log_likelihood - log_guide
            others = (log_weight.sum() - log_weight) / (len(log_weight) - 1)
        loss = -((log_weight - others) * log_guide).mean()
        loss.backward()
        self.update()
        return -log_weight.mean().item()

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Responses of the guide, `[K, T]`, by a decode with a cache."""
        num_sequences = self.args.sequences
        tokens: list[Tensor] = []
        ended = torch.zeros(num_sequences, dtype=torch.bool)
        # one reading of the prompt for all responses
        out = self.guide(self.prompt[:1], use_cache=True, logits_to_keep=1)
        logits, cache = out.logits.expand(num_sequences, -1, -1), out.past_key_values
        cache.batch_repeat_interleave(num_sequences)
        while True:
            token = torch.multinomial(logits[:, -1].softmax(-1), 1).squeeze(1)
            token = token.masked_fill(ended, END_ID)
            tokens.append(token)
            ended |= token == END_ID
            if len(tokens) == self.args.tokens or ended.all():
                break
            logits = self.guide(token[:, None], past_key_values=cache, use_cache=True).logits
        return torch.stack(tokens, 1)

    def log_prob(self, network: GPT2LMHeadModel, response: Tensor) -> Tensor:
        """log p(response), `[K, T]` -> `[K]`, nats, in one parallel pass."""
        ids = torch.cat([self.prompt, response[:, :-1]], 1)
        logits = network(ids, use_cache=False, logits_to_keep=response.shape[1]).logits
        nats = cross_entropy(logits.flatten(0, 1), response.flatten(), reduction="none")
        ends = (response == END_ID).int()
        return -nats.view(response.shape).masked_fill(ends.cumsum(1) > ends, 0.0).sum(1)

    def update(self) -> None:
        """Clip the gradient, and take a step of Adam."""
        torch.nn.utils.clip_grad_norm_(self.guide.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
