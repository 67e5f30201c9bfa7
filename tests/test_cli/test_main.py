"""The command line as a user meets it first: help, names, versions, exit statuses."""

import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tame import __version__
from tame.cli.commands import ALIASES, COMMANDS, load_command
from tame.cli.main import _outcome, main, run_command
from tame.cli.signatures import first_sentence
from tame.utils.checks import InputError
from tame.utils.signals import Terminated

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


@pytest.fixture
def run_raising(tame, monkeypatch):
    """Run `tame evaluate` as a command that ends in an error; return the exit status and what it says."""

    def run(error, name="evaluate"):
        def fail(_):
            raise error

        command = replace(load_command(name), run=fail)
        monkeypatch.setattr("tame.cli.main.load_command", lambda _: command)
        return tame(name)[::2]

    return run


KEPT = "what is finished is kept, and the same command resumes"


def test_an_interrupted_command(run_raising):
    assert run_raising(KeyboardInterrupt(), "list") == (130, "tame list: interrupted\n")
    assert run_raising(KeyboardInterrupt("stopped after 3 steps"), "list") == (
        130,
        "tame list: stopped after 3 steps\n",
    )
    assert run_raising(Terminated("1 step is saved; run it again")) == (
        143,
        "tame evaluate: 1 step is saved; run it again\n",
    )
    assert run_raising(Terminated()) == (143, f"tame evaluate: terminated; {KEPT}\n")
    assert run_raising(KeyboardInterrupt()) == (130, f"tame evaluate: interrupted; {KEPT}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["tame.cli.main.load_command", "tame.cli.parsing.parse"])
def test_a_command_that_is_interrupted_before_it_runs(tame, monkeypatch, number, place):
    def interrupted(*_):
        os.kill(os.getpid(), number)
        time.sleep(1)

    monkeypatch.setattr(place, interrupted)
    status, output, errors = tame("list")
    ends = {signal.SIGINT: (130, "tame list: interrupted\n"), signal.SIGTERM: (143, "tame list: terminated\n")}
    assert ((status, errors), output) == (ends[number], "")


def test_what_was_printed_stands_before_the_error(monkeypatch):
    """Both go to one terminal or file."""
    both = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(both))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(both, write_through=True))

    def fail():
        sys.stdout.write("the end of a progress bar\n")
        raise InputError("no")

    assert _outcome("tame list", fail) == 2
    assert both.getvalue() == b"the end of a progress bar\ntame list: no\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "run/rows.csv"), "run/rows.csv: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", Path("a\nb\x1b")), r"a\nb\x1b: Permission denied"),
        (OSError("cannot write a.png:\n  broken"), "cannot write a.png:\\n  broken"),
        (OSError(), "OSError"),
        (MemoryError(), "not enough memory (); try a smaller batch size or input size"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "not enough memory (CUDA out of memory. Tried); try a"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory ([enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory",
        ),
    ],
)
def test_what_the_system_refuses_is_said_in_one_line(run_raising, error, message):
    status, errors = run_raising(error)
    assert status == 1
    assert errors.startswith(f"tame evaluate: {message}") and errors.endswith(f"; {KEPT}\n")
    assert len(errors.splitlines()) == 1


def test_an_error_of_this_program_is_not_hidden(run_raising):
    with pytest.raises(RuntimeError, match="a mistake"):
        run_raising(RuntimeError("a mistake"))


def test_messages_are_one_line_without_commands_for_the_terminal(run_raising):
    status, errors = run_raising(InputError("cannot read a\x1b[31m\u202e.jpg:\n\tno image"))
    assert (status, errors) == (2, "tame evaluate: cannot read a\\x1b[31m\\u202e.jpg:\\n\\tno image\n")


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("--help | true", 141, ""),
        ("--help > /dev/full", 1, "tame: No space left on device\n"),
        ("--version >&-", 0, ""),
    ],
)
def test_output_that_nobody_reads_or_that_has_no_space(line, status, message):
    shell = ["bash", "-c", f"set -o pipefail; {sys.executable} -m tame {line}"]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (status, message)


def test_names_that_the_terminal_cannot_show(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr("tame.cli.main.VERSION", "\u732b")
    assert main(["--version"]) == 0
    output.flush()
    assert output.buffer.getvalue() == b"tame \\u732b\n"


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
