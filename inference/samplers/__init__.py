"""Samplers: algorithms that return a `Posterior`, one a file."""
