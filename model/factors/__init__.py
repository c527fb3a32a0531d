"""Factors of the likelihood: log f(x) in nats, which beta does not divide. One kind a file."""
