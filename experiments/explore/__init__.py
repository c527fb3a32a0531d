"""Pages that run in a browser: the posterior and its inference on a world of short reviews."""
