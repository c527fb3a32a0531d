"""Measures of a guide or a sampler."""
