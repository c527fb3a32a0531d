"""Likelihood of a known answer after the response: the response is a latent rationale.

    log f(z) = log p(y | prompt, z)
    p*(z) = p0(z | prompt) p(y | prompt, z)/Z,   Z = p(y | prompt)

z is the response, y a text from a column of the prompts. The posterior is over what leads from the
prompt to y: a chain of thought that makes the right answer likely (Phan et al. 2023, arXiv
2312.02179), or the middle of a story whose end is known (Hu et al. 2023, arXiv 2310.04363). The
ELBO is a bound on log p(y | prompt) (LaTRO: Chen et al. 2024, arXiv 2411.04282).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from model.common.checks import instance
from model.likelihood import LikelihoodError, check_answers, for_each_prompt
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.prior.response_distribution import ResponseDistribution
from model.prior.tokenization import continuation_ids


class AnswerLikelihood:
    """log p(y | prompt, z, before) under a causal language model, the prior or another.

        prompts = prior.encode(["2 + 2 = 1 +"], columns={"answer": ["4"]})
        factor = AnswerLikelihood(prior, before=" So it is")
        model = AlignmentModel(prior, {}, beta=1.0, factors={"answer": factor})

    Token for token: the tokens of the response without its end id, of `before`, of y, the last two
    tokenized each by itself. The end of y is not scored; a full stop in `answer` makes "4" another
    answer than "42". The factor does not apply to a prompt whose column is None.

    Args:
        language_model: p, with the prior's tokens, at its own temperature.
        column: name of the column with the answers, texts or numbers.
        before: text between response and answer, which is given and not scored.
        answer: y as a text, with `{}` for the value of the column. A tokenizer that writes spaces
            in front of words wants one here.

    Raises:
        ValueError: if `answer` has no `{}`; in a call, if prompt, response and answer are longer
            than the network's context.
        LikelihoodError: in a call, if prompts lack the column, or an answer is no text or number.
    """

    unit: ClassVar = "nat"
    upper_bound = 0.0

    def __init__(
        self,
        language_model: LanguageModel,
        column: str = "answer",
        *,
        before: str = "",
        answer: str = " {}",
    ) -> None:
        why = "`LanguageModel.from_pretrained` loads one"
        self.language_model = instance("language_model", language_model, LanguageModel, why=why)
        self.column = instance("column", column, str)
        self.before = instance("before", before, str)
        if "{}" not in instance("answer", answer, str):
            raise ValueError(f"answer is {answer!r}, expected a text with {{}} for the column")
        self.answer = answer
        self._before = continuation_ids(self.language_model.tokenizer, before)

    def check_columns(self, prompts: Prompts) -> None:
        """Refuse prompts without answers that are texts, numbers or None: a `LikelihoodError`."""
        self._column_of(prompts)

    def applies(self, prompts: Prompts) -> Tensor:
        """True for the prompts with an answer, `[N]`."""
        known = [value is not None for value in self._column_of(prompts)]
        return torch.tensor(known, device=prompts.ids.device)

    @torch.no_grad()
    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """log f of responses `[..., N, T]`, `[..., N]`, nats, float64; NaN without an answer."""
        response = for_each_prompt(prompts, response)
        log_value = response.new_full(response.shape[:-1], torch.nan, dtype=torch.float64)
        where = self.applies(prompts).nonzero()[:, 0].tolist()
        if where and log_value.numel():
            log_value[..., where] = self._score(prompts[where], response[..., where, :])
        return log_value

    def _score(self, prompts: Prompts, response: Tensor) -> Tensor:
        """log p(y | prompt, z) of responses to prompts with answers, `[..., N]`."""
        model, size = self.language_model, len(prompts)
        flat = response.reshape(-1, response.shape[-1])  # [B, T]
        is_word = model.space.is_word(flat).cpu()
        heads = prompts.rows()
        rows = [
            [*heads[b % size], *row[mask].tolist(), *self._before]
            for b, (row, mask) in enumerate(zip(flat.cpu(), is_word, strict=True))
        ]
        answer, length = self._answers(prompts)
        self._check_room(max(map(len, rows)) + answer.shape[1])
        texts = [""] * len(rows)
        given = Prompts.from_ids(rows, texts, model.device, vocabulary=prompts.vocabulary)
        space = replace(model.space, max_new_tokens=answer.shape[1])
        distribution = ResponseDistribution(model, given, space, temperature=model.temperature)
        times = len(flat) // size
        per_token = distribution.log_prob_per_token(answer.repeat(times, 1))
        is_scored = torch.arange(answer.shape[1]) < length.repeat(times)[:, None]  # [B, L]
        total = per_token.double().where(is_scored.to(per_token.device), 0.0).sum(-1)
        return total.view(response.shape[:-1]).to(response.device)

    def _answers(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """y of N prompts as responses, with an end behind a shorter one, `[N, L]`; lengths."""
        space = self.language_model.space
        end_ids = space.end_ids.tolist()
        rows = []
        for value in self._column_of(prompts):
            text = self.answer.replace("{}", str(value))
            row = continuation_ids(self.language_model.tokenizer, text)
            if not row or any(token in end_ids for token in row[:-1]):
                fault = "has an end id before its end" if row else "has no token to score"
                raise LikelihoodError(f"the answer {text!r} {fault}")
            rows.append(row)
        lengths = torch.tensor([len(row) for row in rows])
        return replace(space, max_new_tokens=int(lengths.max())).of_rows(rows), lengths

    def _column_of(self, prompts: Prompts) -> Sequence[object]:
        """The answers of N prompts."""
        if self.column not in prompts.columns:
            names = sorted(prompts.columns) or "none"
            raise LikelihoodError(
                f"the factor needs the column {self.column!r}, and the prompts have {names}: pass "
                "`columns` to `encode`, or another `column`"
            )
        values = prompts.columns[self.column]
        check_answers(self.column, values)
        return values

    def _check_room(self, num_tokens: int) -> None:
        context = self.language_model.context
        if context is not None and num_tokens > context:
            raise ValueError(
                f"prompt, response and answer have {num_tokens} tokens, over the network's context "
                f"of {context}: shorten one of the three"
            )
