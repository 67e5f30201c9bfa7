"""The command line as a user meets it first: help, names, versions, exit statuses."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tame import __version__
from tame.cli.commands import ALIASES, COMMANDS, load_command
from tame.cli.main import run_command
from tame.cli.signatures import first_sentence

REPOSITORY = Path(__file__).resolve().parents[2]
INSPECT = {
    "nothing": ([], "tame inspect: expected MODEL, for example: tame inspect resnet50"),
    "two": (["resnet18", "vgg11"], "tame inspect: unexpected argument 'vgg11': expected one MODEL"),
    "unknown": (["resnet19"], "'resnet19'"),
    "size": (
        ["resnet18", "--input-size", "big"],
        "expected input_size in pixels, one number or HEIGHTxWIDTH, got 'big'",
    ),
}


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=120
    )


def test_overview_in_a_fresh_process_loads_nothing_heavy():
    code = (
        "import sys; from tame.cli.main import main; main(['--help']); main(['--version']); main(['explian']); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    )
    heavy = (
        "torch",
        "torchvision",
        "lightning",
        "torchmetrics",
        "numpy",
        "pandas",
        "matplotlib",
        "timm",
        "jsonargparse",
    )
    done = python("-c", code, *heavy)
    assert done.stdout.endswith(f"tame {__version__}\n\n"), done.stdout + done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_overview(tame, arguments):
    status, output, _ = tame(*arguments)
    assert status == 0
    assert output.startswith("usage: tame COMMAND [OPTIONS]")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_what_the_function_of_a_command_says(name):
    _, help_line = COMMANDS[name]
    assert help_line == first_sentence(load_command(name).parts[0].function)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_explains_its_options(tame, name):
    status, output, _ = tame(name, "--help")
    assert status == 0
    assert output.startswith(f"usage: tame {name} ")
    expected = {
        "explain": ["--target", "--top", "--checkpoint", "images", "Classes to explain", "can be repeated"],
        "train": ["--data", "--epochs", "--attention", "Passes over the training images", "default: tame"],
        "evaluate": ["--map-scaling", "--method", "Scalings of the maps", "--only", "--maps", "in place of a method"],
        "table": ["--reference", "runs", "paired bootstrap"],
        "inspect": ["model", "--all", "--input-size", "need no download", "(default: random)"],
        "list": ["kinds", "backbones, methods"],
    }.get(name, ["--config"])
    words = " ".join(output.split())
    assert [text for text in expected if text not in words] == []
    assert "null" not in words and "None" not in words and "==SUPPRESS==" not in words


@pytest.mark.parametrize("name", ALIASES)
def test_an_earlier_name_of_a_command_still_works(tame, name):
    assert (
        tame(name, "--help")[1].replace(f"tame {name} ", f"tame {ALIASES[name]} ") == tame(ALIASES[name], "--help")[1]
    )
    status, _, errors = tame(name)
    assert (status, errors.startswith(f"tame {name}: expected FILE")) == (2, True)


def test_version(tame):
    assert tame("--version")[:2] == (0, f"tame {__version__}\n")


def test_the_package_runs_as_a_module():
    done = python("-m", "tame", "--version")
    assert (done.returncode, done.stdout) == (0, f"tame {__version__}\n")
    done = python("-m", "tame", "explian")
    assert (done.returncode, done.stdout) == (2, "")


def test_an_unknown_command(tame):
    status, _, errors = tame("explian")
    assert status == 2
    assert errors.startswith("tame: unknown command 'explian'; expected one of explain, train, ")


def test_an_interrupted_command(tame, monkeypatch):
    command = load_command("list")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tame.cli.main.load_command", lambda _: type(command)(interrupt, command.parts, ()))
    assert tame("list")[::2] == (130, "tame list: interrupted\n")


@pytest.mark.parametrize(
    ("option", "level"), [([], logging.INFO), (["-v"], logging.DEBUG), (["--quiet"], logging.WARNING)]
)
def test_how_much_is_logged(option, level, monkeypatch):
    seen = []
    command = load_command("list")
    monkeypatch.setattr(
        "tame.cli.main.load_command",
        lambda _: type(command)(
            lambda _: seen.append(logging.getLogger("tame").getEffectiveLevel()) or 0, command.parts, ()
        ),
    )
    assert run_command("list", option) == 0
    assert seen == [level]


def test_inspect_shows_layers_and_a_line_to_paste(tame, toy_backbone):
    status, output, _ = tame("inspect", toy_backbone)
    assert status == 0
    assert output.startswith("toy_cnn: 5 classes, input 3 x 32 x 32, ")
    assert output.endswith("\n--layers stage1,stage2,stage3\n")
    assert "stage1.0" not in output and "stage1.0" in tame("inspect", toy_backbone, "--all")[1]
    assert "stage1.0" in tame("inspect", "--all", toy_backbone)[1]
    assert "input 3 x 48 x 64, " in tame("inspect", "--input-size", "48x64", toy_backbone)[1]


@pytest.mark.parametrize("case", INSPECT)
def test_inspect_of_nothing_known(tame, case):
    arguments, message = INSPECT[case]
    status, output, errors = tame("inspect", *arguments)
    assert (status, output) == (2, "") and message in errors and len(errors.splitlines()) == 1


def test_list(tame):
    status, output, _ = tame("list")
    assert status == 0
    lines = dict(line.split(": ") for line in output.strip().splitlines())
    assert {"resnet50", "vgg16", "vit_b_16", "efficientnet_lite0"} <= set(lines["backbones"].split(", "))
    assert lines["presets"] == "tame, paper, released"
    assert {"ttame", "gradcam"} <= set(lines["methods"].split(", "))
    assert lines["metrics"] == "ad-ic, road, insertion, deletion"
    assert {"ttame", "lcam-img"} <= set(lines["attention"].split(", "))


def test_list_prints_a_table_of_each_kind(tame):
    status, output, _ = tame("list", "methods")
    assert status == 0
    heading, _, *rows = output.splitlines()
    assert heading.split() == ["name", "title", "summary", "cost", "arguments", "paper"]
    (rise,) = [row for row in rows if row.startswith("rise ")]
    assert "RISE" in rise and "masks=8000" in rise and "Petsiuk et al., BMVC 2018" in rise
    presets, attention = tame("list", "presets", "attention")[1].split("\n\n")
    values = {line.split()[0]: line.split()[1:] for line in presets.splitlines()}
    assert (values["preset"], values["epochs"], values["batch_size"]) == (
        ["tame", "paper", "released"],
        ["2", "8", "8"],
        ["16", "32", "32"],
    )
    assert "lcam-fm-a" in attention


def test_list_takes_a_pattern_and_gives_json(tame):
    status, output, _ = tame("list", "backbones", "vgg1[13]", "--json")
    assert status == 0
    assert [row["name"] for row in json.loads(output)][:2] == ["vgg11", "vgg13"]
    content = json.loads(tame("list", "presets", "metrics", "--json")[1])
    assert list(content) == ["presets", "metrics"] and content["presets"][0]["epochs"] == 2
    assert tame("list", "methods", "x*")[::2][0] == 0
    status, _, errors = tame("list", "methods", "zz*")
    assert (status, errors) == (2, "tame list: expected a pattern of methods, got 'zz*', which fits none\n")
    status, _, errors = tame("list", "metric")
    assert (status, errors) == (
        2,
        "tame list: cannot list 'metric'; expected backbones, methods, metrics, presets, attention\n",
    )


def test_list_fits_a_terminal(tame, monkeypatch):
    monkeypatch.setattr("tame.cli.list._terminal_columns", lambda: 100)
    output = tame("list", "attention")[1]
    assert max(map(len, output.splitlines())) <= 100
