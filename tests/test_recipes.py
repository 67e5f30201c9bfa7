"""The recipes of the published experiments."""

import importlib.util
import sys
from pathlib import Path

import pytest
from tame.training.setup import with_attention

from tame.backbones import BACKBONES
from tame.cli.main import run_command
from tame.explainers import EXPLAINERS
from tame.options import CompareOptions, ExplainOptions, TrainOptions
from tame.presets import PRESETS

SCRIPTS = sorted((Path(__file__).resolve().parent.parent / "pl_scripts").glob("*.py"))


def load(path):
    module_spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_recipe_parses_the_options_of_its_command(path, capsys):
    recipe = load(path).RECIPE
    name = {TrainOptions: "train", ExplainOptions: "explain", CompareOptions: "compare"}[type(recipe)]
    with pytest.raises(SystemExit) as error:
        run_command(name, ["--help"], recipe)
    assert error.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert f"default: {recipe.out}" in words
    assert "Traceback" not in words


@pytest.mark.parametrize(
    ("script", "backbone"),
    [("vgg16_TAME", "vgg16"), ("resnet50_TAME", "resnet50"), ("vit_TAME", "vit_b_16")],
)
def test_recipes_carry_the_published_settings(script, backbone):
    recipe = load(next(path for path in SCRIPTS if path.stem == script)).RECIPE
    assert (recipe.backbone, recipe.weights, recipe.preset) == (backbone, "imagenet1k_v1", "released")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (8, 32, 1e-3)
    assert recipe.clip == 0  # the published runs clip nothing
    assert with_attention(recipe, BACKBONES.get(backbone)).attention == "ttame"
    assert not any((recipe.layers, recipe.init, recipe.trainable, recipe.loss, recipe.masking))  # the preset's
    preset = PRESETS.get("released")
    assert (preset.init, preset.trainable, preset.loss) == ("random", "all", "released")


def test_masks_are_printed_of_the_three_best_classes():
    recipe = load(next(path for path in SCRIPTS if path.stem == "TAME_print_mask")).RECIPE
    assert isinstance(recipe, ExplainOptions)
    assert recipe.top == 3


def test_masks_of_other_methods_are_printed_beside_t_tames():
    recipe = load(next(path for path in SCRIPTS if path.stem == "other_methods_print_mask")).RECIPE
    assert recipe.methods() == ("gradcam", "gradcam++", "scorecam", "ablationcam", "rise", "iia", "ttame")
    assert recipe.top == 1
    assert set(recipe.methods()) <= set(EXPLAINERS)


def test_the_command_line_overrides_a_recipe(monkeypatch):
    seen = []
    recipe = load(next(path for path in SCRIPTS if path.stem == "vgg16_TAME")).RECIPE
    train = sys.modules["tame.cli.main"].COMMANDS["train"]
    monkeypatch.setitem(
        sys.modules["tame.cli.main"].COMMANDS,
        "train",
        type(train)(train.help, train.options, lambda o: seen.append(o) or 0),
    )
    assert run_command("train", ["--epochs", "1", "--lr=0.5"], recipe) == 0
    assert (seen[0].epochs, seen[0].lr, seen[0].backbone, seen[0].batch_size) == (1, 0.5, "vgg16", 32)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_recipe_says_how_it_is_run(path):
    assert f"python pl_scripts/{path.name} " in load(path).__doc__


@pytest.mark.parametrize(
    ("script", "backbone", "rise_masks"),
    [
        ("vgg16_comparisons", "vgg16", 4000),
        ("resnet50_comparisons", "resnet50", 8000),
        ("vit_b_16_comparisons", "vit_b_16", 8000),
    ],
)
def test_comparisons_measure_the_published_methods(script, backbone, rise_masks):
    recipe = load(next(path for path in SCRIPTS if path.stem == script)).RECIPE
    assert isinstance(recipe, CompareOptions)
    assert (recipe.backbone, recipe.preset, recipe.metrics) == (backbone, "released", "ad-ic,road")
    assert recipe.rise_masks == rise_masks
    names = [method.partition("@")[0] for method in recipe.methods.split(",")]
    assert all(name in EXPLAINERS for name in names)
    assert {"gradcam", "gradcam++", "scorecam", "ablationcam", "rise", "iia_released", "ttame"} <= set(names)
