"""The gradient step that the benchmark times: its arguments, network, prompt and reward."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.shared.argument_types import Count, Positive, Rate, Seed, Threads, count, multiple
from experiments.shared.command_line import Arguments
from model.prior.untrained import numbered_words

END_ID = 0


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
    prompt_tokens: Annotated[int, count(1, 10_000)] = 4
    """Number of tokens in the prompt."""
    vocabulary: Annotated[int, count(2, 100_000)] = 128
    """Number of words, including the end of a response."""
    layers: Annotated[int, count(1, 100)] = 2
    """Number of transformer blocks."""
    width: Annotated[int, count(16, 8192), multiple(16)] = 64
    """Width of the residual stream, a multiple of the 16 of a head."""
    beta: Positive = 0.1
    """Reward per nat."""
    learning_rate: Rate = 1e-5
    """Learning rate of Adam, so low that the job stays the same from step to step."""
    threads: Threads = 1
    """Number of CPU threads."""
    seed: Seed = 0
    """Random seed of the weights and of the samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt_tokens < self.vocabulary:
            raise SystemExit(
                f"--prompt-tokens is {self.prompt_tokens}, expected 1 to {self.vocabulary - 1} "
                f"with --vocabulary {self.vocabulary}, one for each word"
            )

    @property
    def prompt(self) -> str:
        """The prompt: w1 w2 ..."""
        return " ".join(f"w{i}" for i in range(1, self.prompt_tokens + 1))

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A new tokenizer."""
        return numbered_words(
            self.vocabulary, eos_token="<end>", pad_token="<end>", padding_side="left"
        )

    def network(self) -> GPT2LMHeadModel:
        """A new GPT-2 with the same random weights at every call.

        The logit of the end of a response is about -100, and the logit of any word about 0.
        """
        config = GPT2Config(
            vocab_size=self.vocabulary,
            n_positions=self.prompt_tokens + self.tokens,
            n_embd=self.width,
            n_layer=self.layers,
            n_head=self.width // 16,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=END_ID,
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.seed)
            network = GPT2LMHeadModel(config).eval()
            network.transformer.ln_f.bias[0] = 10.0
            network.transformer.wte.weight[END_ID, 0] = -10.0
        return network


def reward(response: Tensor) -> Tensor:
    """Share of even token ids, `[..., T]` -> `[...]`."""
    return (response % 2 == 0).float().mean(-1)
