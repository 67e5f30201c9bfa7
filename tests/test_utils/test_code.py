"""An edited function has another hash, whatever was edited; the same one in another process has the same."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tame.utils.code import code_hash

BASE = """
import numpy, torch
SIZE = 3
TABLE = {"a": [1, 2]}
def helper(x):
    return x * SIZE
class Scale:
    factor = 2
    def __init__(self, by): self.by = by
    def __call__(self, images, targets): return images * self.by * self.factor
def explain(images, targets, power=1):
    def inner(x): return helper(x) if "a" in {"a", "b", "c"} else TABLE
    return inner(images) ** power + 0.5
def made(weight):
    return lambda images, targets: images * weight
found = FOUND
"""


def code_of(found, *changes):
    text = BASE.replace("FOUND", found)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    module = {"__name__": "own"}
    exec(compile(text, "own.py", "exec"), module)  # noqa: S102 # the text above
    return code_hash(module["found"])


@pytest.mark.parametrize(
    ("found", "change"),
    [
        ("explain", ("+ 0.5", "+ 0.25")),
        ("explain", ("power=1", "power=2")),
        ("explain", ("return x * SIZE", "return x + SIZE")),  # in a function that it calls
        ("explain", ("SIZE = 3", "SIZE = 4")),
        ("explain", ("[1, 2]", "[1, 3]")),
        ("Scale(2)", ("Scale(2)", "Scale(3)")),
        ("Scale(2)", ("factor = 2", "factor = 3")),
        ("Scale(2)", ("return images * self.by", "return images + self.by")),
        ("Scale(2).__call__", ("Scale(2)", "Scale(3)")),
        ("made(1)", ("made(1)", "made(2)")),
        ("made(torch.ones(2))", ("torch.ones(2)", "torch.zeros(2)")),
        ("made(torch.nn.ReLU())", ("torch.nn.ReLU()", "torch.nn.GELU()")),
    ],
)
def test_an_edit_changes_the_hash(found, change):
    assert code_of(found, change) != code_of(found)


def test_comments_and_lines_do_not_matter():
    assert code_of("explain", ("SIZE = 3", "# more\n\nSIZE = 3  # three")) == code_of("explain")
    assert code_of("explain", ("factor = 2", "factor = 9")) == code_of("explain")  # not used


def test_values_count():
    def explain(images, targets, weight):
        return images * weight

    weights = [1, 2, True, None, "1", torch.ones(2), torch.ones(3), torch.ones(2).bfloat16(), np.ones(2), np.zeros(2)]
    weights += [(1, 2), (2, 1), {"a": 1}, {"a": 2}, torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)]
    hashes = [code_hash(functools.partial(explain, weight=weight)) for weight in weights]
    assert len(set(hashes)) == len(weights)
    assert hashes == [code_hash(functools.partial(explain, weight=weight)) for weight in weights]


def test_recursion_ends():
    def explain(images, targets):
        return explain(images, targets)

    assert code_hash(explain) == code_hash(explain)
    assert code_hash(torch.sum) == code_hash(torch.sum) != code_hash(torch.mul)


def test_the_same_in_another_process():
    """Sets of strings are ordered by a seed that differs between processes."""
    program = f"from tame.utils.code import code_hash\n{BASE.replace('FOUND', 'explain')}\nprint(code_hash(explain))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in "12"
    }  # fmt: skip
    assert len(hashes) == 1
