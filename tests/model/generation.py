"""Draws of `generate` of a network of `transformers`, against the distribution of a model."""

from typing import Any

import torch
from torch.testing import assert_close

from model import LanguageModel


def assert_generates(network: Any, model: LanguageModel, **settings: Any) -> None:
    """Assert that `network.generate`, with these settings, draws from the model's distribution."""
    prompts = model.encode(["a b c a"])
    torch.manual_seed(0)
    output = network.generate(
        input_ids=prompts.ids.expand(32, -1),
        attention_mask=torch.ones(32, prompts.ids.shape[1], dtype=torch.long),
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )
    per_token = network.compute_transition_scores(
        output.sequences, output.scores, normalize_logits=True
    )
    response = output.sequences[:, prompts.ids.shape[1] :, None].mT  # [32, 1, T]
    assert response.shape[-1] == model.max_new_tokens
    is_token = model.space.is_token(response)[:, 0]
    expected = model(prompts).log_prob(response)[:, 0].float()
    assert_close(per_token.masked_fill(~is_token, 0.0).sum(1), expected, rtol=0, atol=1e-4)
    assert len(response.unique(dim=0)) > 1
