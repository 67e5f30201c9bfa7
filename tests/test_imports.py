"""The architecture as tests: who imports whom, what is imported when, and what is never written."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tame

PACKAGE = Path(tame.__file__).parent

# The rooms, ground floor first: a file imports from its own room and from those above it in this list.
ROOMS = [
    "types",
    "utils",
    "presets",
    "functional",
    "classifier",
    "backbones",
    "attention",
    "checkpoints",
    "explainers",
    "perturbations",
    "metrics",
    "data",
    "visualize",
    "inference",
    "callbacks",
    "training",
    "evaluation",
    "reporting",
    "health",
    "catalogue",
    "cli",
    "__main__",
]
STRANGERS = {  # rooms that do not know these, although they stand higher
    "perturbations": {"explainers", "attention", "checkpoints"},
    "metrics": {"explainers", "attention", "checkpoints"},
    "explainers": {"lightning"},
    "training": {"inference"},
    "evaluation": {"inference", "training", "callbacks"},
}
LAZY = {"matplotlib", "pandas", "timm", "pytorch_grad_cam", "captum"}  # imported where they are used
ARCHITECTURES = {"vit", "deit", "swin", "vgg", "resnet", "efficientnet", "efficientnet_lite", "mobilenet", "densenet"}
LIGHTNING = (  # files that are about Lightning
    "callbacks/",
    "training/",
    "evaluation/processes.py",
    "data/datamodule.py",
)

Import = tuple[int, str]  # line, and dotted name: tame.attention.model.TAME, or lightning


def imports(tree: ast.AST, file: str) -> Iterator[Import]:
    """Yield every import below ``tree``, also inside functions; ``file`` is relative to the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = ["tame", *Path(file).parent.parts]
            start = ".".join(around[: len(around) - node.level + 1]) if node.level else ""
            home = ".".join(part for part in (start, node.module) if part)
            yield from ((node.lineno, f"{home}.{alias.name}") for alias in node.names)


def group(file: str) -> str:
    return Path(file).parts[0].removesuffix(".py")


def floor(name: str) -> int | None:
    return ROOMS.index(name) if name in ROOMS else None


def wrong_imports(source: str, file: str) -> list[str]:
    """Return what is wrong with the direction of the imports of ``file``."""
    own = group(file)
    mine = floor(own)
    if mine is None:
        return [f"tame/{file}: {own!r} is no room, add it to the rooms of {Path(__file__).name}"]
    problems = []
    for line, name in imports(ast.parse(source), file):
        root, _, rest = name.partition(".")
        other = rest.split(".")[0] if root == "tame" else root
        if root == "tame" and other == "__version__":
            continue
        wrong = other in STRANGERS.get(own, ())
        if root == "tame" and other != own:
            below = floor(other)
            if below is None:
                problems.append(f"tame/{file}:{line} imports {name}, which is in no room")
                continue
            wrong |= below > mine
        if wrong:
            problems.append(f"tame/{file}:{line}: {own} may not import {name}")
    return problems


def at_import_time(tree: ast.Module) -> ast.Module:
    """Return what runs when the module is imported: no function bodies, nothing for type checkers only."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None: ...  # noqa: N802 - ast's names
        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None: ...  # noqa: N802
        def visit_If(self, node: ast.If) -> ast.AST | None:  # noqa: N802
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return ast.fix_missing_locations(Strip().visit(tree))


def heavy_imports(source: str, file: str) -> list[str]:
    """Return the imports of ``file`` that make importing it slow."""
    forbidden = LAZY if file.startswith(LIGHTNING) else LAZY | {"lightning", "pytorch_lightning"}
    return [
        f"tame/{file}:{line}: import {name} where it is used, not at the top"
        for line, name in imports(at_import_time(ast.parse(source)), file)
        if name.split(".")[0] in forbidden
    ]


def forbidden_code(source: str, file: str) -> list[str]:
    """Return what is never written in this package."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Assert():
                problem = "assert: raise an error that says what was expected and what came"
            case ast.Call(func=ast.Name(id="print")) if not file.startswith("cli/"):
                problem = "print: the library logs, only the command line prints"
            case ast.Call(func=ast.Attribute(attr="cuda"), args=args) if "torch.cuda" not in ast.unparse(node.func):
                problem = f".cuda({', '.join(map(ast.unparse, args))}): use .to(device)"
            case ast.keyword(arg="weights_only", value=ast.Constant(value=False)):
                problem = "weights_only=False: a file could run code"
            case ast.Compare(left=ast.Constant(value=str() as text), ops=[ast.In() | ast.NotIn()]) if (
                text.strip("_-0123456789").lower() in ARCHITECTURES
            ):
                problem = f"{ast.unparse(node)}: a name decides nothing, the spec does"
            case ast.Constant(value=1000 | 224 as value) if type(value) is int and not file.startswith(
                ("backbones/", "classifier/probing/")
            ):
                problem = f"{value}: classes and sizes come from the spec"
            case _:
                continue
        problems.append(f"tame/{file}:{node.lineno}: {problem}")
    return problems


def files(*exempt: str) -> list[str]:
    found = (path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py")))
    return [file for file in found if file not in exempt]


def read(file: str) -> str:
    return (PACKAGE / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", files("__init__.py"))  # the package itself is a table of names
def test_imports_point_downwards(file: str) -> None:
    assert not wrong_imports(read(file), file)


@pytest.mark.parametrize("file", files())
def test_heavy_libraries_are_imported_where_they_are_used(file: str) -> None:
    assert not heavy_imports(read(file), file)


@pytest.mark.parametrize("file", files())
def test_nothing_forbidden_is_written(file: str) -> None:
    assert not forbidden_code(read(file), file)


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        (
            "utils/checks.py",
            "from tame.functional import masking",
            "tame/utils/checks.py:1: utils may not import tame.",
        ),
        ("backbones/spec.py", "from tame.metrics import ADIC", "backbones may not import tame.metrics.ADIC"),
        ("explainers/rise.py", "def f():\n    import tame.data", r"rise.py:2: explainers may not import tame.data"),
        ("explainers/rise.py", "from lightning import Trainer", "explainers may not import lightning.Trainer"),
        ("explainers/rise.py", "from tame import perturbations", "explainers may not import tame.perturbations"),
        ("explainers/lrp/rules.py", "from ...metrics import x", "explainers may not import tame.metrics.x"),
        ("evaluation/run.py", "from tame.inference import explain", "evaluation may not import tame.inference.explain"),
        ("helpers.py", "", "'helpers' is no room, add it to the rooms"),
        ("cli/main.py", "from tame.helpers import x", "imports tame.helpers.x, which is in no room"),
    ],
)
def test_a_wrong_import_is_found(file: str, source: str, message: str) -> None:
    (problem,) = wrong_imports(source, file)
    assert message in problem


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli/main.py", "from tame import __version__\nfrom tame.training.train import train"),
        ("attention/loss.py", "from tame.attention.model import Model\nfrom tame.functional.losses import area_paper"),
        ("explainers/lrp/rules.py", "from ..hooks import hooks\nfrom . import composites"),
        ("training/run.py", "import lightning\nfrom tame.data.datamodule import DataModule"),
    ],
)
def test_a_right_import_is_not(file: str, source: str) -> None:
    assert not wrong_imports(source, file) and not heavy_imports(source, file)


@pytest.mark.parametrize(
    ("file", "source", "found"),
    [
        ("visualize.py", "import matplotlib.pyplot as plt", True),
        ("visualize.py", "def f():\n    import matplotlib.pyplot as plt", False),
        ("visualize.py", "if TYPE_CHECKING:\n    from matplotlib.axes import Axes", False),
        ("visualize.py", "try:\n    import pandas\nexcept ImportError:\n    pass", True),
        ("checkpoints/native.py", "import lightning", True),
        ("callbacks/metrics.py", "from lightning import Callback", False),
        ("training/run.py", "import pandas", True),
    ],
)
def test_a_heavy_import_is_found_only_at_the_top(file: str, source: str, found: bool) -> None:
    assert bool(heavy_imports(source, file)) is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("assert x", True),
        ("print(x)", True),
        ("x.cuda()", True),
        ("torch.cuda.is_available()", False),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=True)", False),
        ("if 'vit' in spec.name: pass", True),
        ("x = 'vgg16' not in backbone", True),
        ("if 'bias' in name: pass", False),
        ("classes = 1000", True),
        ("seconds = 1000.0", False),
        ('"""At most 224 pixels."""', False),
    ],
)
def test_forbidden_code_is_found(source: str, found: bool) -> None:
    assert bool(forbidden_code(source, "model.py")) is found


def modules_after(code: str) -> set[str]:
    """Return the top-level names of ``sys.modules`` after ``code`` in a fresh process."""
    program = f"{code}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import tame; dir(tame)",
        "import tame.cli.main, tame.presets, tame.utils.registry, tame.utils.checks, tame.types",
    ],
)
def test_importing_the_package_is_free(code: str) -> None:
    heavy = {"torch", "torchvision", "lightning", "torchmetrics", "numpy", *LAZY}
    assert not modules_after(code) & heavy


def test_importing_the_backbones_loads_no_plots_tables_or_trainers() -> None:
    loaded = modules_after("import tame.backbones")
    assert "torch" in loaded
    assert not loaded & {"lightning", "torchmetrics", *LAZY}


@pytest.mark.parametrize("name", tame.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(tame, name) is not None
    assert name in dir(tame)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tame' has no attribute 'explian'"):
        _ = tame.explian
