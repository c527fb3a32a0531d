"""Pairs of responses with outcomes: preferences as token ids, which a guide can score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model import LanguageModel, Prompts
from model.common.checks import instance
from model.common.texts import quoted
from model.preferences import FIRST, TIE, Preference, PreferenceError
from model.preferences.comparisons import check_outcome


@dataclass(frozen=True, eq=False)
class ResponsePairs:
    """C comparisons of two responses to a prompt, C at least 1.

        pairs = ResponsePairs.of(read_preferences("preferences.jsonl"), prior)
        minibatch = pairs[[0, 1, 2]]

    Attributes:
        prompts: C prompts.
        response: `[2, C, T]`, token ids of the first and of the second response.
        outcome: `[C]`, `FIRST`, `SECOND` or `TIE`.
        weight: `[C]`, number of times that each comparison counts; None for once.
        log_prior: `[2, C]`, log p0 of the responses, nats, once `scored`; else None.
    """

    prompts: Prompts
    response: Tensor
    outcome: Tensor
    weight: Tensor | None = None
    log_prior: Tensor | None = None

    def __post_init__(self) -> None:
        shape, count = tuple(instance("response", self.response, Tensor).shape), len(self.prompts)
        if len(shape) != 3 or shape[:2] != (2, count):
            raise ValueError(f"response has shape {shape}, expected (2, {count}, T)")
        check_outcome(self.outcome, count)
        if self.weight is not None and self.weight.shape != (count,):
            raise ValueError(f"weight has shape {tuple(self.weight.shape)}, expected ({count},)")

    @classmethod
    def of(cls, preferences: Sequence[Preference], language_model: LanguageModel) -> Self:
        """Encode preferences, the chosen response first.

        Raises:
            PreferenceError: with the number of the preference, if a response does not fit into
                `max_new_tokens`, or is not the text of its own token ids.
        """
        for preference in instance("preferences", preferences, Sequence):  # type: ignore[type-abstract]
            instance("a preference", preference, Preference, why="`read_preferences` makes them")
        if not preferences:
            raise PreferenceError("there are no preferences, expected at least one")
        prompts = language_model.encode([each.chat or each.prompt for each in preferences])
        sides = [
            _encoded([getattr(each, name) for each in preferences], language_model)
            for name in ("chosen", "rejected")
        ]
        response = torch.stack(sides).to(prompts.ids.device)
        texts = language_model.decode(response, prompts)
        for number, preference in enumerate(preferences):
            for side, own_response in enumerate((preference.chosen, preference.rejected)):
                own = prompts.texts[number] + own_response
                if texts[side][number] != own:
                    raise PreferenceError(
                        f"preference {number}: the token ids of the response stand for "
                        f"{quoted(texts[side][number])}, expected {quoted(own)}. Does the response "
                        "begin in the middle of a word, without its leading space?"
                    )
        outcome = torch.tensor([TIE if each.tie else FIRST for each in preferences])
        return cls(prompts, response, outcome.to(prompts.ids.device))

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: Sequence[int]) -> Self:
        """The comparisons at `rows`."""
        index = torch.tensor(list(rows), device=self.outcome.device)
        weight = None if self.weight is None else self.weight[index]
        log_prior = None if self.log_prior is None else self.log_prior[:, index]
        return replace(
            self,
            prompts=self.prompts[rows],
            response=self.response[:, index],
            outcome=self.outcome[index],
            weight=weight,
            log_prior=log_prior,
        )

    @torch.no_grad()
    def scored(self, prior: LanguageModel) -> Self:
        """The same pairs with log p0 of the responses, so that no step reads the prior again."""
        return replace(self, log_prior=prior(self.prompts).log_prob(self.response).double())


def _encoded(texts: Sequence[str], language_model: LanguageModel) -> Tensor:
    """Token ids of M responses with their end, `[M, T]`."""
    space, limit = language_model.space, language_model.max_new_tokens
    rows = language_model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    response = torch.full((len(rows), limit), space.pad_id)
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        if len(row) > limit:
            raise PreferenceError(
                f"preference {number}: the response {quoted(text)} has {len(row)} tokens, more "
                f"than max_new_tokens={limit}: make the language model with more, or leave it out"
            )
        whole = [*row, int(space.end_ids[0])][:limit]
        response[number, : len(whole)] = torch.tensor(whole)
    return response
