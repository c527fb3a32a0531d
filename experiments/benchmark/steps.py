"""The same gradient step twice: as a Pyro program, and with torch and transformers alone."""

import torch
from pyro.infer import SVI
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from experiments.benchmark.job import END_ID, Benchmark, reward
from guides import FineTuned
from inference import FusedOptimizer, LeaveOneOut_ELBO
from model import AlignmentModel, LanguageModel, TokenReward


class Ours:
    """The step of this project: model, guide, objective, optimiser."""

    def __init__(self, args: Benchmark) -> None:
        prior = LanguageModel(args.network(), args.tokenizer(), max_new_tokens=args.tokens)
        token_reward = TokenReward(lambda response, _: reward(response), prior)
        model = AlignmentModel(prior, token_reward, beta=args.beta)
        self.guide = FineTuned(prior)
        optimizer = FusedOptimizer(torch.optim.Adam, {"lr": args.learning_rate}, clip_norm=1.0)
        self.svi = SVI(model, self.guide, optimizer, LeaveOneOut_ELBO(num_particles=args.sequences))
        self.prompts = prior.encode([args.prompt])

    def __call__(self) -> float:
        return self.svi.step(self.prompts)


class ByHand:
    """The same step with torch and transformers alone."""

    def __init__(self, args: Benchmark) -> None:
        self.args = args
        self.guide, self.prior = args.network(), args.network().requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.guide.parameters(), lr=args.learning_rate, fused=True
        )
        ids = args.tokenizer()(args.prompt, return_tensors="pt")["input_ids"]
        self.prompt = ids.expand(args.sequences, -1)

    def __call__(self) -> float:
        """Take one step. Returns the estimate of -ELBO, nats."""
        response = self.sample()
        log_guide = self.log_prob(self.guide, response)
        with torch.no_grad():
            log_likelihood = reward(response).double() / self.args.beta
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
