"""Engines: other programs that draw the responses of a step, such as a server (vLLM, SGLang).

    x ~ a, the engine;   weights q(x) / a(x) correct the difference between engine and guide

An engine is fast and rounds otherwise than the guide, or has the guide's weights of some steps ago.
An objective that takes several steps on a batch has the weights: the engine is the distribution
that drew the batch. `Proximal_ELBO(clip=None, epochs=1)` has the mean gradient of the ELBO for any
engine that can draw every response.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from inference.response_site import ResponseSiteError, check_value
from model import LanguageModel, Prompts, ResponseDistribution, ResponseSpace
from model.common.checks import as_given, instance


class EngineDraws(NamedTuple):
    """Responses of an engine, and the log-probabilities with which it drew their tokens.

    Attributes:
        response: `[K, N, T]`, token ids.
        log_prob: `[K, N, T]`, nats, of the distribution of the draws: after temperature, top-k and
            top-p, the end id included, 0 at padding.
    """

    response: Tensor
    log_prob: Tensor

    @classmethod
    def of_lists(
        cls,
        space: ResponseSpace,
        ids: Sequence[Sequence[Sequence[int]]],
        log_probs: Sequence[Sequence[Sequence[float]]],
    ) -> Self:
        """Draws from the lists of a server, K for each of N prompts, each as long as its response.

        A response that ended has its end id, as the server drew it.
        """
        shape = (len(ids[0]), len(ids), space.max_new_tokens)
        device = space.end_ids.device
        response = torch.full(shape, space.pad_id, device=device)
        log_prob = torch.zeros(shape, dtype=torch.float64, device=device)
        for n, (rows, values) in enumerate(zip(ids, log_probs, strict=True)):
            for k, (row, value) in enumerate(zip(rows, values, strict=True)):
                response[k, n, : len(row)] = torch.tensor(row, dtype=torch.long, device=device)
                numbers = torch.tensor(value, dtype=torch.float64, device=device)
                log_prob[k, n, : len(row)] = numbers
        return cls(response, log_prob)


Engine = Callable[[Prompts, int], EngineDraws]
"""A function of N prompts and K that draws K responses to each prompt.

    def engine(prompts, num_samples):
        options = SamplingParams(n=num_samples, max_tokens=16, logprobs=0)
        texts = [TokensPrompt(prompt_token_ids=row) for row in prompts.rows()]
        drawn = [output.outputs for output in vllm.generate(texts, options)]
        ids = [[list(each.token_ids) for each in row] for row in drawn]
        log_probs = [[logs_of(each) for each in row] for row in drawn]  # of the sampled tokens
        return EngineDraws.of_lists(prior.space, ids, log_probs)

    fit(model, guide, prompts, num_steps=100, objective=Proximal_ELBO(epochs=1, engine=engine))

vLLM returns log-probabilities before the temperature by default; `logprobs_mode` is to be
`processed_logprobs`. Whoever gives the engine the guide's new weights decides how far it lags.
"""


def checked_draws(
    draws: Any, distribution: ResponseDistribution, prompts: Prompts, num_samples: int
) -> EngineDraws:
    """Draws of an engine, refused by name if they are no responses of the guide, or have no number.

    Raises:
        ResponseSiteError: if ids or shapes are other than the guide's, or an id follows an end.
        ValueError: if a log-probability is above 0, NaN or infinite, or the shape is another.
    """
    response, log_prob = instance("what the engine returned", draws, tuple)
    check_value("the response of the engine", distribution, response)
    expected = (num_samples, len(prompts), distribution.space.max_new_tokens)
    if response.shape != expected:
        got = f"shape {tuple(response.shape)}, expected {expected}"
        raise ResponseSiteError(f"the engine returned responses of {got}")
    log_prob = as_given("the log-probability of the engine", log_prob, response)
    if not bool(distribution.space.contains(response).all()):
        raise ResponseSiteError(
            "the engine returned a response with a token other than padding after its end: cut the "
            "response at the first end id, and pad it"
        )
    is_token = distribution.space.is_token(response)
    numbers = log_prob.double().masked_fill(~is_token, 0.0)
    if not bool((numbers.isfinite() & (numbers <= 0)).all()):
        raise ValueError(
            "the engine returned a log-probability that is NaN, infinite or above 0, expected that "
            "of each token in the distribution of the draws, nats"
        )
    return EngineDraws(response, numbers)


class TransformersEngine:
    """`generate` of `transformers` as an engine: another network, process or code than the guide.

        engine = TransformersEngine(network, prior)
        engine(prompts, 8).response  # [8, N, T]

    Args:
        network: a causal network with the vocabulary of the language model.
        language_model: the response space: end ids, padding and length.
        temperature: divides the logits.
    """

    def __init__(
        self, network: Any, language_model: LanguageModel, *, temperature: float = 1.0
    ) -> None:
        self.network, self.space = network.eval(), language_model.space
        self.temperature = temperature

    @torch.no_grad()
    def __call__(self, prompts: Prompts, num_samples: int) -> EngineDraws:
        ids = prompts.ids.masked_fill(~prompts.mask, self.space.pad_id)
        output = self.network.generate(
            input_ids=ids,
            attention_mask=prompts.mask.long(),
            do_sample=True,
            temperature=self.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=num_samples,
            max_new_tokens=self.space.max_new_tokens,
            eos_token_id=self.space.end_ids.tolist(),
            pad_token_id=self.space.pad_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        response = output.sequences[:, ids.shape[1] :]  # [N K, at most T]
        scores = torch.stack(output.scores, 1).double()  # after the temperature
        log_prob = scores.log_softmax(-1).gather(-1, response[..., None]).squeeze(-1)
        lengths = self.space.is_token(response).sum(-1).tolist()

        def lists(rows: Tensor) -> list[list[list[Any]]]:
            cut = [row[:length] for row, length in zip(rows.tolist(), lengths, strict=True)]
            return [cut[n : n + num_samples] for n in range(0, len(cut), num_samples)]

        return EngineDraws.of_lists(self.space, lists(response), lists(log_prob))
