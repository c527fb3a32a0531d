"""Layers of networks of `transformers`, replaced or wrapped: faster, or with less memory."""
