"""General utilities: checks, registry, files, devices, memory, imports, seeds, versions."""
