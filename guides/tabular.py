"""Tabular: q(x) = prod_t softmax(table[x_<t])[x_t], a free categorical law for every prefix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from guides.from_scratch import FromScratch, like
from guides.prompt_index import PromptIndex
from model import LanguageModel, Prompts
from model.prior.logits import scaled


class Node(NamedTuple):
    """The prompt of each of B sequences and its place in the tree of prefixes, `[B]` each."""

    prompt: Tensor
    node: Tensor

    def select(self, rows: Tensor) -> Node:
        return Node(self.prompt[rows], self.node[rows])


class Tabular(FromScratch):
    """Any law over the responses of an enumerable world, the posterior among them; the prior's own at the start.

    The prefixes are a tree: with W words that do not end a response, the children of node i are W i + 1, ..., W i + W.

    Args:
        prior: the law to start from.
        prompts: all that the guide will be asked about.

    Raises:
        NotEnumerableError: if there are more than a million responses.
    """

    word: Tensor

    def __init__(self, prior: LanguageModel, prompts: Prompts) -> None:
        super().__init__(prior)
        self.space.check_enumerable()
        self.index = PromptIndex(prompts)
        self.space.check(prompts)
        ids = torch.arange(self.vocab_size, device=prior.device)
        is_word = ~torch.isin(ids, self.end_ids)
        self.num_words = int(is_word.sum())
        self.register_buffer(
            "word", is_word.cumsum(0) - 1, persistent=False
        )  # [V], words numbered; ends are never looked up
        self.table = nn.Parameter(
            self._of_prior(prior, prompts, ids[is_word]).to(like(prior))
        )  # [prompts, prefixes, V]

    @torch.no_grad()
    def _of_prior(self, prior: LanguageModel, prompts: Prompts, words: Tensor) -> Tensor:
        """The prior's logits after every prefix, in the order of the tree, `[prompts, prefixes, V]`."""
        numbers = self.index(prompts).tolist()
        first = prompts[[numbers.index(number) for number in range(len(self.index))]]
        logits, state = prior.start(first)
        levels = [logits[:, None]]
        prefixes = words.new_zeros(1, 0)
        for _ in range(self.max_new_tokens - 1):
            prefixes = torch.cat(
                [prefixes.repeat_interleave(len(words), 0), words.repeat(len(prefixes))[:, None]], 1
            )
            rows = torch.arange(len(first), device=words.device).repeat_interleave(len(prefixes))
            logits, _ = prior.extend(state.select(rows), prefixes.repeat(len(first), 1))
            levels.append(logits[:, -1].view(len(first), len(prefixes), -1))
        return scaled(torch.cat(levels, 1), prior.temperature)

    def start(self, prompts: Prompts) -> tuple[Tensor, Node]:
        prompt = self.index(prompts)
        return self.table[prompt, 0], Node(prompt, torch.zeros_like(prompt))

    def extend(self, state: Node, ids: Tensor) -> tuple[Tensor, Node]:
        nodes = [state.node]
        for token in ids.unbind(1):
            child = nodes[-1] * self.num_words + self.word[token] + 1
            nodes.append(
                child.clamp(max=self.table.shape[1] - 1)
            )  # what follows an end has no place in the tree
        return self.table[state.prompt[:, None], torch.stack(nodes[1:], 1)], Node(
            state.prompt, nodes[-1]
        )
