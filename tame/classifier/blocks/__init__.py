"""Blocks of vision transformers, described once per family and read by LRP, IIA and attention flow."""
