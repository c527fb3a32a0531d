"""Bits per character on held-out reviews, and samples."""

import math
from collections.abc import Sequence

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.pretrain.corpus import Review, to_stream

OPENINGS = ("The film was", "I thought this movie", "The acting is", "If you like")


@torch.no_grad()
def bits_per_character(
    model: GPT2LMHeadModel, reviews: Sequence[Review], tokenizer: PreTrainedTokenizerFast
) -> float:
    """Bits that the model spends on reviews for each character, spaces included.

    The cost of sentence ends counts. Every token is predicted once, in a window that begins with
    the end of a sentence, as in training.
    """
    stream = to_stream(reviews, tokenizer)
    width, nats = model.config.n_positions, 0.0
    offsets = torch.arange(width + 1)
    for chunk in torch.tensor(cut_at_sentences(stream.tolist(), width)).split(64):
        start, stop = chunk[:, :1], chunk[:, 1:]
        ids = stream[(start + offsets).clamp(max=len(stream) - 1)]
        targets = ids[:, 1:].masked_fill(offsets[1:] > stop - start, -100)
        logits = model(ids[:, :-1]).logits.flatten(0, 1)
        nats += torch.nn.functional.cross_entropy(
            logits, targets.flatten(), ignore_index=-100, reduction="sum"
        ).item()
    num_characters = sum(len(" ".join(review)) + 1 for review in reviews)
    return nats / math.log(2) / num_characters


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
    samples = {}
    for opening in OPENINGS:
        ids = torch.tensor([tokenizer(opening)["input_ids"]] * num_samples)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=True,
            top_k=0,
            pad_token_id=tokenizer.eos_token_id,
        )
        samples[opening] = tokenizer.batch_decode(out, skip_special_tokens=True)
    return samples
