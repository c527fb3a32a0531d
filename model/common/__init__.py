"""Helpers without a theory: argument checks, files, digests, texts, threads."""
