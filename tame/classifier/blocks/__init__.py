"""Transformer blocks, described once per family: LRP, IIA and attention flow read them here."""
