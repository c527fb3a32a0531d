"""The set of responses: every row of T token ids that a language model can give.

A response is its tokens up to and including the first end id, then padding; or T tokens with no end id among them, a
truncated response. Where a response ends is told by position, so that the padding id may be an end id or a word.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.prior.prompts import Prompts

MAX_ENUMERABLE = 1_000_000


class NotEnumerableError(ValueError):
    """The set of responses is too large to enumerate."""


class OtherLanguageModelError(ValueError):
    """An object made for one language model meets another: its prompts, responses, rewards or guides."""


@dataclass(frozen=True, eq=False)
class ResponseSpace:
    """What responses look like.

    Attributes:
        max_new_tokens: T, positions of a response.
        vocab_size: V, number of token ids.
        end_ids: `[E]`, ids that end a response.
        pad_id: fills the positions after the end.
        vocabulary: digest of the vocabulary that the ids are of; None if that is not known.
    """

    max_new_tokens: int
    vocab_size: int
    end_ids: Tensor
    pad_id: int
    vocabulary: str | None = None

    def is_token(self, response: Tensor) -> Tensor:
        """True at the tokens of a response, its end id included; False after it. `[..., T]`."""
        ends = torch.isin(response, self.end_ids).int()
        return (ends.cumsum(-1) - ends) == 0

    def contains(self, response: Tensor) -> Tensor:
        """Whether all that follows the end is padding. `[..., T]` -> `[...]`."""
        return ((response == self.pad_id) | self.is_token(response)).all(-1)

    def difference(self, other: ResponseSpace) -> str | None:
        """The first difference between the responses of two models, in words; None if there is none."""
        for name in ("max_new_tokens", "vocab_size", "pad_id"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)} and {getattr(other, name)}"
        ends = [sorted(space.end_ids.tolist()) for space in (self, other)]
        if ends[0] != ends[1]:
            return f"end_ids {ends[0]} and {ends[1]}"
        return "tokenizers of other entries" if _differ(self.vocabulary, other.vocabulary) else None

    def check(self, prompts: Prompts, response: Tensor | None = None) -> None:
        """Refuse prompts, and responses to them, that are another language model's.

        Raises:
            OtherLanguageModelError: if the prompts are of another vocabulary, or the responses of another length.
        """
        if _differ(self.vocabulary, prompts.vocabulary):
            raise OtherLanguageModelError(
                f"the prompts, of which the first is {prompts.texts[0][:40]!r}, were encoded by the tokenizer of another "
                "language model: encode them with that of this one"
            )
        if response is not None and response.shape[-1] != self.max_new_tokens:
            raise OtherLanguageModelError(
                f"the responses have {response.shape[-1]} positions where those of the language model have "
                f"{self.max_new_tokens}: they are of another language model, or of another max_new_tokens"
            )

    @property
    def num_responses(self) -> int:
        """How many responses there are: E (V - E)^t that end after t tokens, and (V - E)^T truncated ones."""
        ends, words = len(self.end_ids), self.vocab_size - len(self.end_ids)
        return words**self.max_new_tokens + ends * sum(words**t for t in range(self.max_new_tokens))

    def check_enumerable(self) -> None:
        """Raise a `NotEnumerableError` if there are more than a million responses."""
        if self.num_responses > MAX_ENUMERABLE:
            raise NotEnumerableError(
                f"{self.vocab_size} token ids and {self.max_new_tokens} positions make {self.num_responses:.3g} responses, "
                f"too many to enumerate (at most {MAX_ENUMERABLE:,}). Use a smaller vocabulary or max_new_tokens, "
                "or the estimates of `inference.diagnostics`."
            )

    def enumerate(self) -> Tensor:
        """Every response once, `[S, T]`.

        Raises:
            NotEnumerableError: if there are more than a million.
        """
        self.check_enumerable()
        ids = torch.arange(self.vocab_size, device=self.end_ids.device)[:, None]
        alive, finished = ids.new_zeros(1, 0), []
        for t in range(self.max_new_tokens):
            extended = torch.cat(
                [alive.repeat_interleave(len(ids), 0), ids.repeat(len(alive), 1)], 1
            )
            ended = torch.isin(extended[:, -1], self.end_ids)
            finished.append(
                torch.nn.functional.pad(
                    extended[ended], (0, self.max_new_tokens - t - 1), value=self.pad_id
                )
            )
            alive = extended[~ended]
        return torch.cat([*finished, alive])


def _differ(vocabulary: str | None, other: str | None) -> bool:
    return vocabulary is not None and other is not None and vocabulary != other
