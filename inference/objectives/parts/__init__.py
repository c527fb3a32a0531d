"""Parts that objectives share: the base class, draws, buffers and averages."""
