"""Hugging Face networks: loading, adapters, checks, and batches of texts."""
