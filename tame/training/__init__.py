"""Training of attention mechanisms with Lightning."""
