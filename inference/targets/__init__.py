"""Posteriors chosen by their properties: a KL budget or given moments."""
