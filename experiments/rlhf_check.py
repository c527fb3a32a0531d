"""What the arguments of `experiments.rlhf` have to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.arguments import check_numbers, option
from guides import GUIDES
from inference.reward_posterior import REWARD_INFERENCE
from model.preferences import AGGREGATIONS, HEADS

if TYPE_CHECKING:
    from experiments.rlhf import RLHF

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "head": HEADS,
    "inference": REWARD_INFERENCE,
    "aggregation": AGGREGATIONS,
    "guide": GUIDES,
}
"""Arguments that are names."""
AT_LEAST = {
    "components": 1,
    "reward_samples": 1,
    "max_new_tokens": 1,
    "seeds": 1,
    "draws": 2,
    "betas": 2,
    "simulations": 0,
    "max_prompts": 1,
    "steps": 1,
    "particles": 2,
    "samples": 2,
    "threads": 1,
}
"""The least that an argument can be; None, where it can be that, stands for a choice of ours."""
POSITIVE = ("prior_scale", "beta", "temperature", "tie_strength", "learning_rate")
"""Arguments that are above 0 and finite, or None."""


def check(args: RLHF) -> None:
    """What could only fail after a while is refused at once."""
    check_numbers(args, positive=POSITIVE, at_least=AT_LEAST)
    counts = args.num_preferences
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise SystemExit(f"--num-preferences is {' '.join(map(str, counts)) or 'empty'}, expected different numbers from 1 up")
    if not 0 <= args.seed < 2**31:
        raise SystemExit(f"--seed is {args.seed}, expected from 0 to less than 2^31")
    if not 0 <= args.flip < 0.5:
        raise SystemExit(f"--flip is {args.flip}, expected from 0 to less than 1/2, where labels would say nothing")
    if not 0 < args.held_out < 1:
        raise SystemExit(f"--held-out is {args.held_out}, expected a share between 0 and 1")
    if not math.isfinite(args.gold_scale) or args.gold_scale == 0:
        raise SystemExit(f"--gold-scale is {args.gold_scale}, expected a number other than 0, which prefers nothing")
    if not 1 <= args.min_effective < args.draws:
        raise SystemExit(
            f"--min-effective is {args.min_effective:g}, expected at least 1 and less than --draws, {args.draws}: once "
            "weighted, they are worth fewer"
        )
    if args.preferences is not None and not args.preferences.is_file():
        raise SystemExit(f"--preferences: {args.preferences}: No such file")
    if args.tie_strength is not None and args.preferences is None:
        raise SystemExit("--tie-strength is for --preferences: among simulated ones there are no ties")
    for name, registry in REGISTRIES.items():
        if getattr(args, name) not in registry:
            raise SystemExit(f"{option(name)} is {getattr(args, name)!r}, expected one of: {', '.join(registry)}")
    if not GUIDES[args.guide].trains:
        raise SystemExit(f"--guide {args.guide} has nothing to train")
    if args.out.exists() and not args.out.is_dir():
        raise SystemExit(f"--out {args.out} is a file, expected a folder")
