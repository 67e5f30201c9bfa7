"""Initialise an attention mechanism from the classifier itself, beyond the paper.

Placeholder docstring, rewritten when the experiments are done.
"""
