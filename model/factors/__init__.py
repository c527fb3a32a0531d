"""Factors of the likelihood, in nats, one a file."""
