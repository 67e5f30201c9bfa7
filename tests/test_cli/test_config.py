"""Options from configuration files and recipes."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tame.cli.groups import EXCEPTIONS
from tame.utils.checks import InputError
from toy_command import read


@pytest.fixture(autouse=True)
def _groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the toy command its groups: most of its options are those of real ones."""
    monkeypatch.setitem(EXCEPTIONS, ("toy", "masking"), "Metrics")


# --- configuration files


def config(content, name="options.yaml"):
    Path(name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return "--config", name


def test_a_configuration_file_is_weaker_than_the_command_line_wherever_it_stands():
    file = config({"epochs": 3, "lr": 0.5, "metrics": ["road"], "target": ["dog", 3], "images": ["a.jpg"], "all": True})
    values = read("--epochs", "4", *file)
    assert (values["epochs"], values["lr"], values["metrics"], values["all"]) == (4, 0.5, ["road"], True)
    assert (values["target"], values["images"]) == (["dog", "3"], ["a.jpg"])
    values = read("b.jpg", *file, "--target", "cat")
    assert (values["target"], values["images"]) == (["cat"], ["b.jpg"])


def test_later_configuration_files_are_stronger():
    first, second = config({"epochs": 3, "lr": 0.5}), config({"epochs": 5}, "second.yaml")
    values = read(*first, *second)
    assert (values["epochs"], values["lr"]) == (5, 0.5)


def test_lists_and_arguments_of_methods_in_a_configuration_file():
    file = config(
        "metrics: ad-ic,road\nmean: [0.5, 1e-3]\nlayers: [a, b]\ninput-size: [48, 64]\nimages: a.jpg\n"
        "lr: 1e-3\nrise:\n  masks: 500\ngradcam++: {layer: x}\nepochs: null\n"
    )
    values = read(*file)
    assert (values["metrics"], values["mean"], values["layers"]) == (["ad-ic", "road"], [0.5, 0.001], ["a", "b"])
    assert (values["input_size"], values["images"], values["lr"], values["epochs"]) == (
        [48, 64],
        ["a.jpg"],
        0.001,
        None,
    )
    parts = read(*file, "--metrics", "road").methods
    assert parts == {}  # no method of these is asked for; see the recipes


def test_json():
    file = config(json.dumps({"epochs": 3, "rise.masks": 4}), "run.json")
    assert read(*file)["epochs"] == 3


BOMB = "\n".join(
    ["a: &a [x]", *(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True))]
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epocs": 3}, "options.yaml: unknown option 'epocs'; did you mean epochs?"),
        ({"rise": {"mask": 3}}, "options.yaml: unknown option 'rise.mask'; did you mean rise.masks?"),
        ({"epochs": "many"}, "options.yaml: expected --epochs as a whole number, got 'many'"),
        ({"mean": [0.5, "x"]}, "options.yaml: expected --mean of numbers between commas, got [0.5, 'x']"),
        (
            {"map_scaling": "max"},
            "options.yaml: expected --map-scaling of minmax, rank, separated by commas, got 'max'",
        ),
        ({"device": "gpu"}, "options.yaml: expected --device auto or cpu, got 'gpu'"),
        ({"all": "yes please"}, "options.yaml: expected --all true or false, got 'yes please'"),
        ({"num_workers": None}, "options.yaml: expected --num-workers as a whole number, got nothing"),
        ({"config": "more.yaml"}, "options.yaml: unknown option 'config'"),
        ({"out": {"a": 1}}, "options.yaml: expected --out as text, got \"{'a': 1}\""),
        ({"epochs": {}}, "options.yaml: expected --epochs as a whole number, got '{}'"),
        ({"epochs": True}, "options.yaml: expected --epochs as a whole number, got 'True'"),
        ("epochs: 1e400", "options.yaml: expected --epochs as a whole number, got '1e400'"),
        ("epochs: " + "9" * 5000, "configuration file options.yaml: Exceeds the limit (4300 digits)"),
        ({"rsie": {}}, "options.yaml: unknown option 'rsie'"),
        ({"input_size": 2.5}, "options.yaml: expected --input-size of whole numbers between commas, got 2.5"),
        ({"input_size": [48.5, 64]}, "options.yaml: expected --input-size of whole numbers between commas, got [48.5,"),
        ("mean: &a [*a]", "expected at most 100000 values in options.yaml, got more (aliases of aliases?)"),
        (BOMB, "expected at most 100000 values in options.yaml, got more (aliases of aliases?)"),
        ("[" * 5000, "in the configuration file options.yaml: maximum recursion depth exceeded"),
        ("epochs: !!python/object/apply:os.system [ls]", "options.yaml: could not determine a constructor for the tag"),
        ("epochs: !mine 3", "options.yaml: could not determine a constructor for the tag '!mine' in line 1"),
        ("a: \0", "options.yaml: unacceptable character #x0000: special characters are not allowed"),
        ({3: 4}, "expected options and their values in the configuration file options.yaml, got {3: 4}"),
        (["epochs"], "expected options and their values in the configuration file options.yaml, got ['epochs']"),
        (
            "a: b: c",
            "expected YAML or JSON in the configuration file options.yaml: mapping values are not allowed here",
        ),
    ],
)
def test_a_configuration_file_that_is_not_taken(content, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read(*config(content))
    assert "\n" not in str(error.value)


def test_a_configuration_file_of_bytes(tmp_path):
    Path("options.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(
        InputError, match="expected YAML or JSON in the configuration file options.yaml: 'utf-8'"
    ) as error:
        read("--config", "options.yaml")
    assert "\n" not in str(error.value)


def test_a_method_without_arguments_of_its_own_in_a_configuration_file():
    assert read(*config({"rise": {}, "epochs": 3}))["epochs"] == 3


def test_a_missing_configuration_file():
    with pytest.raises(InputError, match="expected a configuration file, got nowhere.yaml: No such file or directory"):
        read("--config=nowhere.yaml")


def test_unset_values_of_earlier_versions_are_left_out():
    old = {"out": "", "lr": 0.0, "epochs": -1, "num_workers": 0, "layers": "a,b", "metrics": "road"}
    values = read(*config(json.dumps(old), "config.json"), defaults={"epochs": 7})
    assert (values["out"], values["lr"], values["epochs"], values["num_workers"]) == (None, None, 7, 0)
    assert values["layers"] == ["a", "b"]
    assert read(*config({"epochs": 0}))["epochs"] == 0  # of this version
    with pytest.raises(InputError, match="expected --lr above 0, got 0"):
        read(*config({"lr": 0}))


def test_print_config_prints_what_a_configuration_file_takes(capsys):
    assert read("--epochs", "3", "--target", "a, b", "--rise.masks", "5", "c.jpg", "--print_config") is None
    printed = capsys.readouterr().out
    content = yaml.safe_load(printed)
    assert content["epochs"] == 3 and content["target"] == ["a, b"] and content["rise"] == {"masks": 5}
    assert content["lr"] is None and content["num_workers"] == 2 and content["images"] == ["c.jpg"]
    assert not {"config", "print_config", "verbose", "quiet", "help"} & set(content)
    again = read(*config(printed), "--print-config")
    assert again is None and yaml.safe_load(capsys.readouterr().out) == content


# --- recipes


def test_a_recipe_replaces_defaults():
    recipe = {"epochs": 8, "metrics": ["road"], "lr": 1e-3, "out": "runs/x"}
    values = read("--lr", "0.5", *config({"out": "runs/y"}), defaults=recipe)
    assert (values["epochs"], values["metrics"], values["lr"], values["out"]) == (8, ["road"], 0.5, "runs/y")


def test_a_mistake_in_a_recipe_is_named():
    with pytest.raises(InputError, match="unknown option 'epocs'; did you mean epochs?"):
        read(defaults={"epocs": 8})


def test_help_shows_the_defaults_of_a_recipe_and_of_a_configuration_file(capsys):
    with pytest.raises(SystemExit):
        read("--help", *config({"lr": 0.25}), defaults={"epochs": 8})
    text = " ".join(capsys.readouterr().out.split())
    assert "Passes over 10 % of the images. (default: 8)" in text and "Learning rate. (default: 0.25)" in text
