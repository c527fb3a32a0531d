"""Optimizers of a fit."""
