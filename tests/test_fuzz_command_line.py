"""Random command lines and configuration files: what is taken has its value, all else is one line and exit status 2."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

import tame.cli.main
from fuzzing import tries
from tame.cli.commands import COMMANDS, load_command
from tame.cli.method_arguments import method_options

NAMES = sorted(COMMANDS)
OPTIONS = {name: {each.name: each.kind for each in load_command(name).options()} for name in NAMES}
METHODS = [each.name for each in method_options()]
ABOUT = ["config", "print_config", "verbose", "quiet"]
OTHERS = ["epocs", "rise", "rise.mask", "", "a b", "--", "help", "out.x", "\u202e", "método"]

NUMBERS = st.integers(-3, 40) | st.integers() | st.sampled_from([2**31, 2**63, 2**64, 10**30, -(10**20)])
FLOATS = st.floats() | st.sampled_from([0.0, -1.0, 1e-3, 1e308, 5e-324])
WORDS = [
    "auto",
    "cpu",
    "cuda",
    "true",
    "null",
    "~",
    "a,b",
    ",",
    "1,2",
    "[1]",
    "{a: 1}",
    "224",
    "64x96",
    "1e400",
    "0x10",
]
WORDS += [".nan", "paper", "nowhere", "/", "..", "x" * 5000, "9" * 5000, "!!python/name:os.system", "@", "a:b", "-1"]
WORDS += ["--epochs", "a\n.jpg"]
TEXTS = st.text(max_size=8) | st.sampled_from(WORDS)


EARLIER = " was written by an earlier version: what is empty, 0 or -1 there is read as unset.\n"


def said(*line, monkeypatch):
    """Run a command that does nothing; return the exit status, its values, and what is said."""
    values = {}
    command = replace(load_command(line[0]), run=lambda parsed: values.update(parsed.values) or 0)
    monkeypatch.setattr(tame.cli.main, "load_command", lambda _: command)
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = tame.cli.main.main(list(line))
    text = errors.getvalue()
    text.encode()
    text = text.removeprefix(text.partition(EARLIER)[0] + EARLIER) if EARLIER in text else text
    if status == 0:
        assert text == ""
    else:
        assert status in (1, 2) and text.startswith(f"tame {line[0]}: ")
        assert len(text.splitlines()) == 1 and text[:-1].isprintable()
        assert output.getvalue() == ""
    return status, values


@pytest.fixture(autouse=True)
def _working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@st.composite
def lines(draw):
    name = draw(st.sampled_from(NAMES))
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        option = draw(st.sampled_from([*OPTIONS[name], *METHODS, *ABOUT, *OTHERS]))
        written = draw(st.sampled_from([f"--{option}", f"--{option.replace('_', '-')}", option]))
        value = str(draw(NUMBERS | FLOATS | TEXTS))
        parts += draw(st.sampled_from([[written, value], [f"{written}={value}"], [written], [value]]))
    return [name, *(part for part in parts if part not in ("-h", "--help"))]


@tries(120)
@given(lines())
def test_any_command_line_is_taken_or_refused_in_one_line(monkeypatch, line):
    status, values = said(*line, monkeypatch=monkeypatch)
    if status == 0 and values:
        assert values.keys() == OPTIONS[line[0]].keys()


@tries(80)
@given(st.sampled_from(NAMES), st.data())
def test_a_number_that_is_taken_is_the_one_that_was_written(monkeypatch, name, data):
    numbers = sorted(each for each, kind in OPTIONS[name].items() if kind in (int, int | None))
    if not numbers:
        return
    option, value = data.draw(st.sampled_from(numbers)), data.draw(NUMBERS)
    written = f"--{option.replace('_', '-')}={value}"
    status, values = said(name, written, monkeypatch=monkeypatch)
    assert (status == 0 and values[option] == value) or (status == 2 and not values)


PLAIN = st.none() | st.booleans() | NUMBERS | FLOATS | TEXTS
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=5
)


@st.composite
def configs(draw):
    name = draw(st.sampled_from(NAMES))
    keys = st.sampled_from([*OPTIONS[name], *METHODS, "rise", *ABOUT, *OTHERS])
    content = draw(st.dictionaries(keys | TEXTS, NESTED, max_size=4))
    return name, content


@tries(120)
@given(configs(), st.booleans())
def test_any_configuration_file_of_values_is_taken_or_refused(monkeypatch, config, as_json):
    name, content = config
    file = "config.json" if as_json else "config.yaml"
    text = json.dumps(content) if as_json else yaml.safe_dump(content, allow_unicode=True)
    Path(file).write_text(text, encoding="utf-8", errors="replace")
    status, values = said(name, "--config", file, monkeypatch=monkeypatch)
    if status == 0 and "" not in content.values():  # those are of an earlier version
        for key in content.keys() & values.keys():
            if OPTIONS[name][key] in (int, int | None, str, str | None) and content[key] is not None:
                assert values[key] == content[key] or str(content[key]) == values[key]


YAML = st.text("ab: -[]{}&*!|>'\"#%@`,?\n\t01.e~<=\\\u0007\u2028\ud7ff", max_size=30)
TAGS = st.sampled_from(["!!python/object/apply:os.system [ls]", "!!python/name:os.sep", "!!set {a}", "!!binary eA==",
                        "!!timestamp 2020-01-01", "!x 1", "&a [*a]", "&a {b: *a}", "<<: {a: 1}", "2020-01-01", "1_000",
                        "0o17", "1:30:00", "=", "!!float nan", "!!int 'x'", "!!omap [a: 1]"])  # fmt: skip


@tries(120)
@given(YAML.map(str.encode) | st.builds("epochs: {}".format, TAGS).map(str.encode) | st.binary(max_size=40),
       st.sampled_from(["yaml", "json", "txt"]))  # fmt: skip
def test_any_configuration_file_of_bytes_is_taken_or_refused(monkeypatch, content, suffix):
    Path(file := f"config.{suffix}").write_bytes(content)
    said("train", "--config", file, monkeypatch=monkeypatch)
