"""Pure tensor functions: no state, no network."""
