"""Objectives for `pyro.infer.SVI`, one a file."""
