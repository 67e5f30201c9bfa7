"""From a signature and a docstring to options, and from a command line to arguments."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest

from tame.cli.groups import EXCEPTIONS, GROUPS
from tame.cli.parsing import build_parser
from tame.cli.signatures import first_sentence, options_of
from tame.cli.values import Listed, written
from tame.utils.checks import InputError
from toy_command import TOY, Network, load, read, work


@pytest.fixture(autouse=True)
def _groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the toy command its groups: most of its options are those of real ones."""
    monkeypatch.setitem(EXCEPTIONS, ("toy", "masking"), "Metrics")


def help_text() -> str:
    return " ".join(build_parser(TOY, "toy").format_help().split())


# --- options


def test_a_function_becomes_options_with_the_types_texts_and_defaults_of_its_signature():
    options = {option.name: option for option in options_of(load)}
    assert list(options) == ["backbone", "layers", "mean", "input_size", "seed"]
    assert (options["backbone"].kind, options["backbone"].default) == (str, "lite")
    assert options["layers"].kind == Listed(str, alone=True)
    assert options["mean"].help == "Mean per channel; default: of the backbone."
    assert options["seed"].help == "Seed of random weights."


def test_a_parameter_of_several_functions_is_one_option_of_the_first():
    (seed,) = [option for option in TOY.options() if option.name == "seed"]
    assert seed.help == "Seed of everything."
    values = read("--seed", "3")
    assert values.of(load)["seed"] == values.of(work)["seed"] == 3
    assert values.of(work, load) == values.of(work) | values.of(load)


def test_what_no_command_line_can_write_is_a_mistake_of_the_program():
    def build(network: Network, function: Callable[[int], int] | None = None) -> None: ...

    with pytest.raises(TypeError, match="build: no command line can write network: .*Network"):
        options_of(build)
    assert options_of(build, without=("network", "function")) == []


def test_annotations_that_only_type_checkers_see_do_not_matter_elsewhere():
    def function(count: "int | None" = None) -> "NotImported": ...  # noqa: F821

    (option,) = options_of(function)
    assert option.kind == int | None


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int | None, int | None),
        (str | Path, str),
        (str | Path | Network, str),
        (Network | None, None),
        (Mapping[str, int], None),
        (Sequence[Path] | Path | None, Listed(str, alone=True)),
        (Sequence[str | int], Listed(str)),
        (Sequence[Literal["a", "b"]], Listed(Literal["a", "b"])),
        (list[float], Listed(float)),
        (Callable[[int], int] | float, float),
    ],
)
def test_types_as_a_command_line_writes_them(hint, expected):
    assert written(hint) == expected


def test_first_sentence():
    assert first_sentence(load) == "Load a network."
    assert first_sentence(work).startswith("Work on 10 % of the images")


# --- values


def test_defaults():
    values = read()
    assert values.of(load) == {"backbone": "lite", "layers": None, "mean": None, "input_size": None, "seed": 0}
    assert values.of(work) == {
        "images": [],
        "arguments": None,
        "target": [],
        "metrics": ["ad-ic", "road"],
        "map_scaling": ["minmax"],
        "epochs": None,
        "lr": None,
        "resume": True,
        "all": False,
        "device": "auto",
        "masking": None,
        "num_workers": 2,  # the command line's own
        "seed": 0,
        "out": None,
        "progress": True,
    }
    work(**values.of(work))


@pytest.mark.parametrize(
    ("line", "option", "value"),
    [
        (["--metrics", "road, insertion"], "metrics", ["road", "insertion"]),
        (["--metrics=road"], "metrics", ["road"]),
        (["--mean", "0.5,.25,1e-3"], "mean", [0.5, 0.25, 0.001]),
        (["--layers", "paper"], "layers", "paper"),
        (["--layers", "stage1,stage2"], "layers", ["stage1", "stage2"]),
        (["--input-size", "48x64"], "input_size", "48x64"),
        (["--input_size", "48,64"], "input_size", [48, 64]),
        (["--map-scaling", "rank,minmax"], "map_scaling", ["rank", "minmax"]),
        (["--epochs", "0"], "epochs", 0),
        (["--epochs", "null"], "epochs", None),
        (["--lr", "1e-3"], "lr", 0.001),
        (["--resume", "false"], "resume", False),
        (["--resume=true"], "resume", True),
        (["--all"], "all", True),
        (["--masking", "vit"], "masking", "vit"),
        (["--out", "1e3"], "out", "1e3"),
        (["--out", "{a: b}"], "out", "{a: b}"),
        (["--target", "tabby, tabby cat", "--target", "281"], "target", ["tabby, tabby cat", "281"]),
        (["a.jpg", "b c.jpg"], "images", ["a.jpg", "b c.jpg"]),
        (["--all", "a.jpg"], "images", ["a.jpg"]),
        (["--num-workers", "0"], "num_workers", 0),
        (["--num_workers=1"], "num_workers", 1),
    ],
)
def test_values(line, option, value):
    found = read(*line)[option]
    assert found == value and type(found) is type(value)


def test_a_file_name_with_a_comma_is_one_value(tmp_path):
    Path("a,b.txt").write_text("")
    assert read("--layers", "a,b.txt")["layers"] == "a,b.txt"


def test_arguments_of_methods():
    values = read("--rise.masks", "500", "--gradcam++.layer", "layer3", "--integrated-gradients.batch-size=4")
    expected = {"rise": {"masks": 500}, "gradcam++": {"layer": "layer3"}, "integrated_gradients": {"batch_size": 4}}
    assert values.of(work)["arguments"] == values.methods == expected
    assert "arguments" not in values.of(load)


def test_quiet_hides_progress_bars():
    assert read("-q").of(work)["progress"] is False
    assert read("--verbose").verbose


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--epoch", "3"], "unknown option --epoch; did you mean --epochs?"),
        (["--epochs", "3.5"], "expected --epochs as a whole number, got '3.5'"),
        (["--mean", "red"], "expected --mean of numbers between commas, got 'red'"),
        (["--metrics", " , "], "expected --metrics of names between commas, got ' , '"),
        (["--map-scaling", "max,rank"], "expected --map-scaling of minmax, rank, separated by commas, got 'max,rank'"),
        (["--masking", "cmn"], "expected --masking backbone or cnn or vit, got 'cmn'"),
        (["--device", "null"], "expected --device auto or cpu, got 'None'"),
        (["--all=yes"], "--all takes no value, got 'yes'"),
        (
            ["a.jpg", "--all", "b.jpg"],
            "unexpected argument 'b.jpg': name all IMAGES together, before or after the options",
        ),
        (["--rise.masks", "many"], "expected --rise.masks as a whole number, got 'many'"),
        (["--rise.draw", "f"], "unknown option --rise.draw"),
        (["--nothing.like.it", "3"], "unknown option --nothing.like.it"),
        (["--config"], "expected a file after --config"),
    ],
)
def test_what_is_not_taken(line, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read(*line)
    assert "\n" not in str(error.value)


# --- help


def test_help_shows_each_option_once_in_its_group_with_its_default():
    text = help_text()
    assert "usage: tame toy [IMAGES ...] [OPTIONS] Work on 10 % of the images; then stop." in text
    assert "--target TARGET Classes; can be repeated. (default: the best)" in text
    assert "--metrics A,B Metrics. (default: ad-ic, road)" in text
    assert "--num-workers N Processes. (default: 2)" in text and "--num_workers" not in text
    assert "Passes over 10 % of the images. (default: the preset's; tame: 2, paper: 8, released: 8)" in text
    assert "Learning rate. (default: the preset's; tame: 0.005 (tokens: 0.05), paper: 0.001, released: 0.001)" in text
    assert "Masking. (default: the preset's; tame: the backbone's, paper: the backbone's, released: cnn)" in text
    assert "Layers. (default: the preset's; tame: proposed, paper: paper, released: released)" in text
    assert "--resume {true,false} Go on. (default: true)" in text
    assert "--all Show everything. -" in text.replace("Hardware:", "-")
    assert "--out OUT Folder. A default is not mentioned. " in text
    assert text.endswith("examples: tame toy a.jpg")
    assert not re.search(r"null|None|SUPPRESS|progress|arguments ", text)
    groups = [group for group in GROUPS if f" {group}: " in f" {text}"]
    assert groups == ["Input", "Classifier", "Method", "Metrics", "Optimisation", "Output", "Hardware", "General"]


def test_help_lists_arguments_of_methods_by_method():
    text = help_text()
    assert "Method arguments: --METHOD.ARGUMENT VALUE, such as --rise.masks 500; see `tame list methods`." in text
    assert re.search(r"rise: masks=8000, batch_size, seed=0, \w+=confidence", text)
    assert text.count("--rise.masks") == 1


def test_the_parser_is_one_of_argparse():
    assert isinstance(build_parser(TOY, "toy"), argparse.ArgumentParser)  # what completion and documentation tools read
