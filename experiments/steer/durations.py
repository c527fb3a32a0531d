"""Durations on the command line: 90s, 5m, 1h."""

import math
import re

SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")


def seconds_of(duration: str) -> float:
    """Number of seconds of a duration.

    Raises:
        ValueError: if the text is not a positive number with the unit s, m or h.
    """
    match = _DURATION.fullmatch(duration)
    seconds = float(match[1]) * SECONDS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        expected = "expected a positive number of seconds, minutes or hours, as in 90s, 5m or 1h"
        raise ValueError(f"{duration!r} is no duration: {expected}")
    return seconds
