"""Rewards, one kind a file: callables of prompts and responses, or functions of texts."""
