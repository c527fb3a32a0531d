"""Posteriors chosen by their properties: a KL budget, given moments, best-of-n."""
