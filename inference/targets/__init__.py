"""Posteriors chosen by a property: a KL budget, given moments."""
