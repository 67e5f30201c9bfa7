"""The command line `tame`."""
