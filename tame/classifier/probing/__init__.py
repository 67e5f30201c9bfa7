"""Infer the layers, tokens and feature layers of a network from one recorded forward pass."""
