"""Pairs of responses with outcomes: preferences as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from inference.direct_preferences.judgements import Judgements, encode
from model import LanguageModel
from model.common.checks import instance
from model.preferences import FIRST, TIE, Preference, PreferenceError, encode_prompts
from model.preferences.data import names


@dataclass(frozen=True, eq=False)
class ResponsePairs(Judgements):
    """C comparisons of two responses to a prompt; see `Judgements`.

    pairs = ResponsePairs.of(read_preferences("preferences.jsonl"), prior)
    minibatch = pairs[[0, 1, 2]]
    """

    num_responses: ClassVar[int] = 2

    @classmethod
    def of(cls, preferences: Sequence[Preference], language_model: LanguageModel) -> Self:
        """Encode preferences, the chosen response first; see `Judgements.of`."""
        for preference in instance("preferences", preferences, Sequence):  # type: ignore[type-abstract]
            instance("a preference", preference, Preference, why="`read_preferences` makes them")
        if not preferences:
            raise PreferenceError("there are no preferences, expected at least one")
        prompts = encode_prompts(preferences, language_model)
        sides = [[each.chosen for each in preferences], [each.rejected for each in preferences]]
        response = encode(prompts, sides, language_model, names(preferences))
        outcome = torch.tensor([TIE if each.tie else FIRST for each in preferences])
        return cls(prompts, response, outcome.to(prompts.ids.device))
