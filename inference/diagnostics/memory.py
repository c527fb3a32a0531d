"""Peak of the resident memory of this process."""

import resource
import sys
from pathlib import Path


def forget_peak() -> None:
    """Forget the peak so far, such as the peak of loading, on systems that can."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def peak_memory() -> float:
    """Peak of the resident memory of this process, MB."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1000
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
