"""Processes of tests, forked from one process that has imported the library and done no more.

A process that starts on its own imports for 5 CPU seconds. A fork of the process of pytest would
break torch, which has run a backward pass there, on a machine with a GPU.
"""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["inference", "peft", "transformers.models.gpt2", "transformers.models.llama", "pytest"]
)
