"""Tabular: q(x) = prod_t softmax(table[x_<t])[x_t], a free distribution for every prefix."""

import torch
from torch import Tensor, nn

from guides.from_scratch import FromScratch, PromptIndex, Rows, like
from model import LanguageModel, Prompts
from model.prior.logits import scaled


class Tabular(FromScratch):
    """Any distribution over an enumerable response space, such as the posterior; q = p0 at first.

    The prefixes form a tree. With W words (tokens that do not end a response), the children of node
    i are W i + 1, ..., W i + W.

    Args:
        prior: Distribution to start from.
        prompts: All prompts that the guide will be called with.

    Raises:
        NotEnumerableError: If there are more than a million responses.
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
        # [V], words numbered from 0; ends are never looked up
        self.register_buffer("word", is_word.cumsum(0) - 1, persistent=False)
        self.table = nn.Parameter(self._prior_logits(prior, prompts, ids[is_word]).to(like(prior)))

    @torch.no_grad()
    def _prior_logits(self, prior: LanguageModel, prompts: Prompts, words: Tensor) -> Tensor:
        """Prior logits after every prefix, in the order of the tree: `[prompts, prefixes, V]`."""
        numbers = self.index(prompts).tolist()
        distinct = prompts[[numbers.index(number) for number in range(len(self.index))]]
        num_prompts = len(distinct)
        logits, state = prior.start(distinct)
        levels = [logits[:, None]]
        prefixes = words.new_zeros(1, 0)
        for _ in range(self.max_new_tokens - 1):
            last = words.repeat(len(prefixes))[:, None]
            prefixes = torch.cat([prefixes.repeat_interleave(len(words), 0), last], 1)
            rows = torch.arange(num_prompts, device=words.device).repeat_interleave(len(prefixes))
            logits, _ = prior.extend(state.select(rows), prefixes.repeat(num_prompts, 1))
            levels.append(logits[:, -1].view(num_prompts, len(prefixes), -1))
        return scaled(torch.cat(levels, 1), prior.temperature)

    def start(self, prompts: Prompts) -> tuple[Tensor, Rows]:
        prompt = self.index(prompts)
        return self.table[prompt, 0], Rows((prompt, torch.zeros_like(prompt)))

    def extend(self, state: Rows, ids: Tensor) -> tuple[Tensor, Rows]:
        prompt, node = state
        nodes = [node]
        for token in ids.unbind(1):
            child = nodes[-1] * self.num_words + self.word[token] + 1
            # tokens after the end have no place in the tree
            nodes.append(child.clamp(max=self.table.shape[1] - 1))
        logits = self.table[prompt[:, None], torch.stack(nodes[1:], 1)]
        return logits, Rows((prompt, nodes[-1]))
