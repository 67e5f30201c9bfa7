"""Every command: its options have texts, groups and defaults, and its examples can be parsed."""

import re
import shlex

import pytest

from tame.cli.command import DEFAULTS
from tame.cli.commands import COMMANDS, load_command
from tame.cli.groups import EXCEPTIONS, GROUPS, METHOD_ARGUMENTS, group_of
from tame.cli.help import PRESET_FIELDS, described
from tame.cli.method_arguments import method_options
from tame.cli.parsing import build_parser, parse
from tame.cli.signatures import options_of, takes
from tame.explainers import EXPLAINERS
from tame.presets import PRESETS


@pytest.fixture(params=COMMANDS)
def name(request):
    return request.param


def test_every_option_is_in_one_group(name):
    parser = build_parser(load_command(name), name)
    shown = {
        action.dest: group.title for group in parser._action_groups for action in group._group_actions if action.dest
    }
    assert set(parser.options) | {"help", "config", "print_config", "verbose", "quiet"} == set(shown)
    for option, title in shown.items():
        if "." in option:
            assert title == METHOD_ARGUMENTS
        else:
            assert [group for group in GROUPS if option in GROUPS[group]] == [title] or EXCEPTIONS[
                name, option
            ] == title
            assert group_of(name, option) == title


def test_no_group_names_an_option_that_is_gone():
    known = {option.name for name in COMMANDS for option in load_command(name).options()}
    general = {"help", "config", "print_config", "verbose", "quiet"}
    assert {option for options in GROUPS.values() for option in options} == known | general
    commands = {(name, option.name) for name in COMMANDS for option in load_command(name).options()}
    assert set(EXCEPTIONS) <= commands


def test_every_option_has_a_text_in_the_docstring_of_its_function(name):
    assert [option.name for option in load_command(name).options() if not option.help] == []


def test_functions_of_a_command_agree_on_the_options_that_they_share(name):
    command = load_command(name)
    seen = {}
    for part in command.parts:
        for option in part.options(command.repeatable):
            first = seen.setdefault(option.name, option)
            assert option.default == first.default or option.name == "num_workers", (name, option.name)


def test_only_the_number_of_workers_differs_from_the_library(name):
    command = load_command(name)
    own = {
        option.name: option.default for part in command.parts for option in reversed(part.options(command.repeatable))
    }
    differing = {option.name for option in command.options() if option.default != own[option.name]}
    assert differing <= set(DEFAULTS) == {"num_workers"}


def test_the_default_of_a_preset_is_shown_in_numbers(name):
    for option in load_command(name).options():
        text = described(option.name, option.help, option.default)
        if re.search(r"default: the preset's\.?$", option.help):
            assert option.name in PRESET_FIELDS
            assert (
                f"tame: {'' if option.name == 'masking' else getattr(PRESETS.get('tame'), PRESET_FIELDS[option.name])}"
                in text
            )
        assert not re.search(r"null|None|\bunset\b", text)


def test_the_preset_fields_exist_and_are_used():
    options = {option.name for name in COMMANDS for option in load_command(name).options()}
    assert set(PRESET_FIELDS) <= options
    assert all(hasattr(PRESETS.get("tame"), field) for field in PRESET_FIELDS.values())


def test_examples_can_be_parsed(name):
    command = load_command(name)
    assert command.examples
    for example in command.examples:
        words = shlex.split(example)
        assert words[:2] == ["tame", name]
        line = [word for word in words[2:] if not word.endswith("config.json") and word != "--config"]
        assert parse(command, name, line, {}) is not None


def test_the_arguments_of_a_function_are_ready_to_call_it(name):
    command = load_command(name)
    parsed = parse(command, name, [], {})
    for part in command.parts:
        found = parsed.of(part.function)
        assert all(takes(part.function, argument) for argument in found)


def test_learning_rates_are_tested_with_the_options_that_matter_only():
    train = {option.name for option in load_command("train").options()}
    lr_find = {option.name for option in load_command("lr-find").options()}
    unused = {"lr", "epochs", "logger", "resume", "devices", "num_nodes", "strategy", "limit_val_images"}
    assert train - lr_find == unused
    assert lr_find - train == {"min_lr", "max_lr", "steps"}


def test_methods_are_given_all_arguments_that_can_be_written():
    options = {option.name for option in method_options()}
    assert {"rise.masks", "rise.seed", "gradcam.layer", "gradcam++.layer", "iia.steps", "iia.layer"} <= options
    assert not {option for option in options if option.endswith(".checkpoint")}  # it is --checkpoint
    for option in options:
        method, _, argument = option.partition(".")
        assert argument in EXPLAINERS.get(method).arguments
    for name in ("explain", "evaluate", "compare"):
        assert load_command(name).takes_method_arguments
    assert not load_command("train").takes_method_arguments


def test_the_options_of_the_classifier_are_the_same_everywhere():
    from tame.checkpoints.classifier import load_classifier

    names = {option.name for option in options_of(load_classifier)}
    for name in ("explain", "evaluate", "compare"):
        assert names <= {option.name for option in load_command(name).options()}
    for name in ("train", "lr-find"):  # their classifier is not loaded for a checkpoint
        assert names - {option.name for option in load_command(name).options()} == {"checkpoint"}
