"""The recipes of the published experiments."""

import importlib.util
import inspect
import sys
from pathlib import Path

import pytest

from tame.cli.main import load_command, run_command
from tame.explainers import EXPLAINERS, MethodName
from tame.presets import PRESETS

FOLDER = Path(__file__).resolve().parent.parent / "pl_scripts"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "runs")
COMMAND = {"TAME": "train", "print_mask": "explain", "comparisons": "compare"}
BACKBONE = {"vgg16": "vgg16", "resnet50": "resnet50", "vit": "vit_b_16", "vit_b_16": "vit_b_16"}
MASKS = {"vgg16": 4000, "resnet50": 8000, "vit_b_16": 8000}


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch):
    """Put their folder first on the path, as Python does for a script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    sys.modules.pop("runs", None)


def load(path):
    module_spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def recipe_of(stem):
    return load(next(path for path in SCRIPTS if path.stem == stem)).RECIPE


def command_of(path):
    return next(name for ending, name in COMMAND.items() if path.stem.endswith(ending))


def arguments_of(stem, *line, monkeypatch):
    """Return what a recipe's command would do."""
    seen = []
    path = next(path for path in SCRIPTS if path.stem == stem)
    command = load_command(command_of(path))
    stand_in = type(command)(lambda found: seen.append(found) or 0, *list(vars(command).values())[1:])
    monkeypatch.setattr("tame.cli.main.load_command", lambda _: stand_in)
    assert run_command(command_of(path), line, load(path).RECIPE) == 0
    return seen[0]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_recipe_parses_the_options_of_its_command(path, capsys):
    recipe, name = load(path).RECIPE, command_of(path)
    assert f'run_command("{name}", sys.argv[1:], RECIPE)' in path.read_text()
    with pytest.raises(SystemExit) as error:
        run_command(name, ["--help"], recipe)
    assert error.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert f"default: {recipe['out']}" in words
    assert "Traceback" not in words


@pytest.mark.parametrize(
    ("script", "backbone"),
    [("vgg16_TAME", "vgg16"), ("resnet50_TAME", "resnet50"), ("vit_TAME", "vit_b_16")],
)
def test_recipes_carry_the_published_settings(script, backbone, monkeypatch):
    from tame.training.train import train

    recipe = arguments_of(script, monkeypatch=monkeypatch)
    assert (recipe["backbone"], recipe["weights"], recipe["preset"]) == (backbone, "imagenet1k_v1", "released")
    assert (recipe["epochs"], recipe["batch_size"], recipe["lr"]) == (8, 32, 1e-3)
    assert recipe["clip"] is None  # the published runs clip nothing
    own = recipe.of(train)
    unset = ("attention", "init", "trainable", "loss", "masking")
    assert all(own[name] is None for name in unset) and recipe["layers"] is None  # the preset's
    preset = PRESETS.get("released")
    assert (preset.init, preset.trainable, preset.loss) == ("random", "all", "released")
    assert preset.token_attention == "ttame"  # and of feature maps always


def test_masks_are_printed_of_the_three_best_classes():
    assert recipe_of("TAME_print_mask")["top"] == 3


def test_masks_of_other_methods_are_printed_beside_t_tames(monkeypatch):
    recipe = arguments_of("other_methods_print_mask", monkeypatch=monkeypatch)
    methods = ["gradcam", "gradcam++", "scorecam", "ablationcam", "rise", "iia", "ttame"]
    assert recipe["method"] == methods
    assert recipe["top"] == 1
    assert set(methods) <= set(EXPLAINERS)


def test_the_command_line_overrides_a_recipe(monkeypatch):
    recipe = arguments_of("vgg16_TAME", "--epochs", "1", "--lr=0.5", monkeypatch=monkeypatch)
    assert (recipe["epochs"], recipe["lr"], recipe["backbone"], recipe["batch_size"]) == (1, 0.5, "vgg16", 32)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_recipe_says_how_it_is_run(path):
    assert f"python pl_scripts/{path.name} " in load(path).__doc__


@pytest.mark.parametrize("backbone", MASKS)
def test_comparisons_measure_the_published_methods(backbone, monkeypatch):
    recipe = arguments_of(f"{backbone}_comparisons", monkeypatch=monkeypatch)
    assert (recipe["backbone"], recipe["preset"], recipe["metrics"]) == (backbone, "released", ["ad-ic", "road"])
    assert recipe.methods == {"rise": {"masks": MASKS[backbone]}}
    assert "masks" in inspect.signature(EXPLAINERS.get("rise").build).parameters
    names = [MethodName.of(method).name for method in recipe["methods"]]
    assert all(name in EXPLAINERS for name in names)
    assert {"gradcam", "gradcam++", "scorecam", "ablationcam", "rise", "iia_released", "ttame"} <= set(names)


def test_a_comparison_of_fewer_methods_leaves_out_the_arguments_of_the_others(monkeypatch):
    fewer = arguments_of("vgg16_comparisons", "--methods", "gradcam,centre", monkeypatch=monkeypatch)
    assert (fewer["methods"], fewer.methods) == (["gradcam", "centre"], {})
    asked = arguments_of("vgg16_comparisons", "--methods", "gradcam", "--rise.masks", "5", monkeypatch=monkeypatch)
    assert asked.methods == {"rise": {"masks": 5}}  # said on the command line: that it is not used is refused


@pytest.mark.parametrize("script", [path.stem for path in SCRIPTS if path.stem.endswith("_TAME")])
def test_each_comparison_finds_what_its_training_recipe_leaves(script):
    recipe = recipe_of(script)
    (learned,) = [
        MethodName.of(method)
        for method in recipe_of(f"{recipe['backbone']}_comparisons")["methods"]
        if MethodName.of(method).learned
    ]
    assert (learned.name, learned.checkpoint) == ("ttame", recipe["out"])
