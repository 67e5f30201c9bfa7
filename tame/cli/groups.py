"""Where each option stands in the help of its command: groups and options, the most used first."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "Input": ("images", "runs", "file", "model", "kinds"),
    "Classifier": ("backbone", "weights", "layers", "num_classes", "class_names", "input_size", "mean", "std"),
    "Method": (
        "method",
        "methods",
        "checkpoint",
        "target",
        "top",
        "attention",
        "init",
        "init_images",
        "trainable",
        "maps",
        "reference",
        "preset",
    ),
    "Data": (
        "data",
        "lists",
        "list",
        "train_list",
        "val_list",
        "limit_images",
        "limit_val_images",
        "per_label",
        "max_bad_images",
        "only",
        "sample",
    ),
    "Metrics": ("metrics", "map_scaling", "masking", "steps"),
    "Optimisation": ("epochs", "batch_size", "lr", "min_lr", "max_lr", "loss", "clip"),
    "Output": ("out", "format", "curves", "report", "report_images", "all", "json", "logger", "resume"),
    "Hardware": ("device", "precision", "num_workers", "pass_rows", "devices", "num_nodes", "strategy"),
    "General": ("seed", "config", "print_config", "verbose", "quiet", "help"),
}
"""Groups in the order of the help, and the options of each."""

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("train", "masking"): "Optimisation",
    ("lr-find", "masking"): "Optimisation",
    ("lr-find", "steps"): "Optimisation",
    ("explain", "batch_size"): "Hardware",
    ("evaluate", "batch_size"): "Hardware",
    ("compare", "batch_size"): "Hardware",
}
"""Group of an option whose name means something else in this command."""

METHOD_ARGUMENTS = "Method arguments"
"""Group of the arguments of explanation methods, ``--rise.masks``: listed by method."""


def group_of(command: str, option: str) -> str:
    """Return the group of an option.

    Raises:
        KeyError: For an option in no group, or in several: every option has one.

    Example:
        >>> group_of("train", "batch_size"), group_of("explain", "batch_size")
        ('Optimisation', 'Hardware')
    """
    if (command, option) in EXCEPTIONS:
        return EXCEPTIONS[command, option]
    found = [group for group, options in GROUPS.items() if option in options]
    if len(found) != 1:
        raise KeyError(f"expected one group of the option {option!r} in {__name__}, got {found}")
    return found[0]


def place_of(command: str, option: str) -> tuple[int, int]:
    """Return where an option stands in the help: its group's place, and its own in the group."""
    group = group_of(command, option)
    options = GROUPS[group]
    return list(GROUPS).index(group), options.index(option) if option in options else len(options)
