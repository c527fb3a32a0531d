"""What the arguments of `experiments.rlhf` have to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guides import GUIDES

if TYPE_CHECKING:
    from experiments.rlhf.__main__ import RLHF


def check(args: RLHF) -> None:
    """What could only fail after a while is refused at once."""
    if args.gold_scale == 0:
        raise SystemExit("--gold-scale is 0, expected a number other than 0, which prefers nothing")
    if not args.min_effective < args.draws:
        raise SystemExit(
            f"--min-effective is {args.min_effective:g}, expected less than --draws, {args.draws}: once "
            "weighted, they are worth fewer"
        )
    if args.tie_strength is not None and args.preferences is None:
        raise SystemExit(
            "--tie-strength is for --preferences: among simulated ones there are no ties"
        )
    if not GUIDES[args.guide].trains:
        raise SystemExit(f"--guide {args.guide} has nothing to train")
