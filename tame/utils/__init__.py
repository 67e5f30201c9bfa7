"""Checks, registry, files, devices, memory, imports, versions: nothing that belongs to the field."""
