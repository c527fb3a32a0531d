"""Stochastic variational inference: the fit, its optimizer and its checkpoints."""
