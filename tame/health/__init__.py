"""What is wrong with a machine, with images and lists, or with the folder of a run, and what to do about it."""
