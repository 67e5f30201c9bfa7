"""Versions, devices, memory and free space of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement

from tame.health.findings import Finding
from tame.utils.versions import VERSION

_PACKAGE = "t-tame"
_SAFE = ("pillow>=10.3",)  # earlier ones have known holes in the decoders of images
_LITTLE_SPACE, _LITTLE_SHARED = 2.0, 1.0  # GB


def check_versions() -> Iterator[Finding]:
    """Compare the installed packages with what this package requires."""
    yield Finding("versions", "tame", "ok", f"{VERSION}, Python {platform.python_version()}, {platform.platform()}")
    try:
        required = requires(_PACKAGE) or []
    except PackageNotFoundError:
        required = []
        yield Finding(
            "versions", _PACKAGE, "note", "it is imported from a folder, not installed", f"pip install {_PACKAGE}"
        )
    good = []
    for text in (*required, *_SAFE):
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            good.append(f"{requirement.name} {found}")
            continue
        got = "it is not installed" if found is None else f"expected {requirement.specifier}, got {found}"
        advice = f"pip install '{requirement.name}{requirement.specifier}'"
        yield Finding("versions", requirement.name, "problem", got, advice)
    yield Finding("versions", "packages as required", "ok", ", ".join(dict.fromkeys(good)))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_devices() -> Iterator[Finding]:
    """Say what can be computed on."""
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    yield Finding("devices", "CPU", "ok", f"{cores} cores, {threads} threads of torch, {_memory():.1f} GB of memory")
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield Finding("devices", f"cuda:{index}", "ok", f"{found.name}, {found.total_memory / 1e9:.1f} GB of memory")
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "ok", "available")
    if not torch.cuda.is_available() and torch.version.cuda and shutil.which("nvidia-smi"):
        yield Finding(
            "devices",
            "cuda",
            "problem",
            f"torch was built for CUDA {torch.version.cuda} and sees no device, although a driver is installed",
            "compare with nvidia-smi: the driver may be older than torch needs, or CUDA_VISIBLE_DEVICES hides it",
        )
    shared = Path("/dev/shm")
    if shared.is_dir() and (space := shutil.disk_usage(shared).total / 1e9) < _LITTLE_SHARED:
        yield Finding(
            "devices",
            str(shared),
            "note",
            f"{space:.2f} GB of memory that processes share",
            "worker processes may fail: --num-workers 0, or a container with --shm-size 2g",
        )


def check_disk(out: Path) -> Iterator[Finding]:
    """Say how much space is left where results, temporary files and downloaded weights are written.

    Args:
        out: Folder that results are written to; it need not exist.
    """
    folders = {"results": out, "temporary files": Path(tempfile.gettempdir()), "weights": Path(torch.hub.get_dir())}
    for what, folder in folders.items():
        nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
        space = shutil.disk_usage(nearest).free / 1e9
        about = f"{folder} ({what})"
        if not os.access(nearest, os.W_OK | os.X_OK):
            yield Finding("disk", about, "problem", f"{nearest} cannot be written to", "choose another folder")
        elif space < _LITTLE_SPACE:
            yield Finding(
                "disk", about, "problem", f"only {space:.2f} GB are free", "make space, or choose another disk"
            )
        else:
            yield Finding("disk", about, "ok", f"{space:.1f} GB are free")


def _memory() -> float:
    """Return the memory of this machine in GB, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, OSError, ValueError):
        return 0.0
