"""Questions, one script each."""

import signal
import sys

# `python -m experiments.NAME` is looking for the script: Ctrl-C has nothing to save yet
if sys.argv[0] == "-m":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
