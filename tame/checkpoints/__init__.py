"""Trained attention mechanisms on disk: this project's own files, and those of the authors' programs."""
