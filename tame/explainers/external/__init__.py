"""Methods of external libraries, run on our classifiers: ``grad-cam:NAME`` and ``captum:NAME``."""
