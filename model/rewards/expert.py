"""Another language model's opinion of the response: a product of experts (Hinton 2002).

r(x) = log p_e(x | prompt),    p*(x) = p0(x) p_e(x)^(1/beta) / Z
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.common.checks import instance
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts


class Expert:
    """The log-likelihood of a response under a second causal language model, nats, token for token.

    Evidence by itself. With a weight w in a `WeightedSum`, or at another beta, the posterior is p0(x) p_e(x)^(w/beta)/Z; a
    negative weight steers away from what the other model would say (an anti-expert, Liu et al. 2021, arXiv 2105.03023). For a
    model with other tokens there is `TextLikelihood`.

    Args:
        language_model: p_e, with the vocabulary, the end ids and the length of responses of the prior; its own device and type.
        prior: p0.

    Raises:
        TypeError: if one is no `LanguageModel`.
        ValueError: if the two do not speak of the same responses.
    """

    upper_bound = 0.0

    def __init__(self, language_model: LanguageModel, prior: LanguageModel) -> None:
        for name, value in {"language_model": language_model, "prior": prior}.items():
            instance(name, value, LanguageModel, why="`LanguageModel.from_pretrained` loads one")
        ours, theirs = prior.space, language_model.space
        same = {
            "max_new_tokens": (theirs.max_new_tokens, ours.max_new_tokens),
            "end_ids": (language_model.end_ids, prior.end_ids),
            "pad_id": (theirs.pad_id, ours.pad_id),
            "the size of the vocabulary": (theirs.vocab_size, ours.vocab_size),
            "the tokenizer's entries": (
                sorted(language_model.tokenizer.get_vocab().items()),
                sorted(prior.tokenizer.get_vocab().items()),
            ),
        }
        for name, (found, expected) in same.items():
            if found != expected:
                told = f": {found} where the prior has {expected}" if len(str(found)) < 80 else ""
                raise ValueError(
                    f"the expert differs from the prior in {name}{told}. An expert shares the prior's tokens; for a model that "
                    "does not, use `TextLikelihood`, which reads texts"
                )
        self.language_model = language_model

    @torch.no_grad()
    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """`[..., N]` for responses `[..., N, T]`, nats."""
        device = self.language_model.device
        return (
            self.language_model(prompts.to(device))
            .log_prob(response.to(device))
            .to(response.device)
        )
