"""Hugging Face networks: loading, adapters, checks, and reading texts."""
