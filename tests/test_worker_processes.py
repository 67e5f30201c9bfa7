"""Worker processes end with their parent, and scripts without a `__main__` guard work where they are spawned."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tame
from tame.data import Crop, ImageEntry, ImageListDataset
from tame.data.datamodule import image_loader
from tame.utils.processes import end_with_parent

PACKAGE = Path(tame.__file__).parent
FILES = sorted(file for file in PACKAGE.rglob("*.py") if "cli" not in file.relative_to(PACKAGE).parts)


def defaults(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the name and default of every parameter, and of every field of a class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value
        if not isinstance(node, ast.FunctionDef):
            continue
        positional = [*node.args.posonlyargs, *node.args.args]
        pairs = zip(reversed(positional), reversed(node.args.defaults), strict=False)
        for argument, default in (*pairs, *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)):
            if default:
                yield argument.arg, default


def workers(tree: ast.AST) -> list[str]:
    """Return the defaults that start worker processes, or may."""
    return [
        f"{name} = {ast.unparse(value)}"
        for name, value in defaults(tree)
        if "workers" in name and ast.unparse(value) != "0"
    ]


def test_the_test_finds_defaults() -> None:
    source = "def f(a, num_workers=2, *, workers=N): ...\nclass A:\n    num_workers: int = 1"
    assert sorted(workers(ast.parse(source))) == ["num_workers = 1", "num_workers = 2", "workers = N"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_default_starts_worker_processes(file: Path) -> None:
    assert not workers(ast.parse(file.read_text(encoding="utf-8")))


def test_the_workers_of_every_loader_end_with_their_parent() -> None:
    calls = [
        (file.name, node)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Loader")
    ]
    assert {name for name, _ in calls} >= {"datamodule.py", "run.py", "image_files.py"}
    for name, call in calls:
        given = [ast.unparse(keyword) for keyword in call.keywords]
        assert any(text.startswith(("worker_init_fn=end_with_parent", "**_worker_options(")) for text in given), name
    dataset = ImageListDataset([ImageEntry(Path("a.png"), None)], Crop(8, 8))
    assert image_loader(dataset, 1, 2).worker_init_fn is end_with_parent


SCRIPT = """
import multiprocessing
multiprocessing.set_start_method("spawn")
import tame
print("started")
tame.explain_files([PHOTO], backbone=tame.load_classifier("resnet18", weights="random", device="cpu"),
                   method="centre", out=OUT, progress=False)
"""


def test_a_script_without_a_guard_where_processes_are_spawned(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(photo)
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.replace("PHOTO", repr(str(photo))).replace("OUT", repr(str(tmp_path / "out"))), encoding="utf-8"
    )
    paths = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("started") == 1
    assert list((tmp_path / "out").rglob("*.png"))
