"""Questions, one script each."""

import signal
import sys

if (
    sys.argv[0] == "-m"
):  # `python -m experiments.NAME` looks for its script: until that is there, Ctrl-C has nothing to save
    signal.signal(signal.SIGINT, signal.SIG_DFL)
