import time

import pytest
import torch
from torch import nn

from tame.inference.kept import LastBuilt, fingerprint


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))


def test_only_the_last_value_is_kept():
    last, built = LastBuilt(), []

    def build(value):
        return lambda: built.append(value) or [value]

    one = last.get(["a", 1], build("one"))
    assert last.get(["a", 1], build("again")) is one
    assert last.get(["a", 2], build("two")) == ["two"]
    assert last.get(["a", 1], build("three")) == ["three"]
    assert built == ["one", "two", "three"]


def test_nothing_is_kept_of_a_build_that_failed():
    last = LastBuilt()
    last.get(["a"], lambda: 1)
    with pytest.raises(ZeroDivisionError):
        last.get(["b"], lambda: 1 / 0)
    assert last.get(["a"], lambda: 2) == 2


def test_changes_made_while_building_are_those_of_the_build():
    last, module = LastBuilt(), network()
    value = last.get([module], lambda: module.eval().requires_grad_(False))
    assert last.get([module], lambda: None) is value


def test_ids_of_sources_are_not_used_again():
    """Two objects that live one after the other may have one id; the first one is therefore kept alive."""
    last = LastBuilt()
    values = [last.get([object()], object) for _ in range(20)]
    assert len(set(map(id, values))) == 20


CHANGES = {
    "step": lambda module: torch.optim.SGD(module.parameters(), 0.1).step(),
    "layer": lambda module: module.__setitem__(0, nn.Conv2d(3, 4, 3)),
    "new layer": lambda module: module.append(nn.ReLU()),
    "mode": lambda module: module.eval(),
    "frozen": lambda module: module.requires_grad_(False),
    "type": lambda module: module.half(),
    "statistics": lambda module: module(torch.rand(2, 3, 8, 8)),
    "setting": lambda module: setattr(module[2], "p", 0.1),
    "weight": lambda module: setattr(module[0], "weight", nn.Parameter(torch.rand(4, 3, 3, 3))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_a_network_are_noticed(change):
    module = network()
    module(torch.rand(2, 3, 8, 8)).sum().backward()
    before = fingerprint(module)
    assert fingerprint(module) == before
    CHANGES[change](module)
    assert fingerprint(module) != before


def test_a_pass_in_eval_mode_changes_nothing():
    module = network().eval()
    before = fingerprint(module)
    module(torch.rand(2, 3, 8, 8))
    assert fingerprint(module) == before
    assert fingerprint(network().eval()) != before


def test_inference_tensors():
    with torch.inference_mode():
        tensor = torch.rand(3)
    assert fingerprint(tensor) == fingerprint(tensor)


def test_changes_of_files_are_noticed(tmp_path):
    folder = tmp_path / "run"
    (empty := tmp_path / "empty").mkdir()
    assert fingerprint(folder) == fingerprint(folder)
    assert fingerprint(folder) != fingerprint(empty)
    missing = fingerprint(folder)
    folder.mkdir()
    (folder / "weights").write_text("one")
    first = fingerprint(folder), fingerprint(folder / "weights")
    assert missing not in first
    time.sleep(0.01)
    (folder / "weights").write_text("two")
    second = fingerprint(folder), fingerprint(folder / "weights")
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, 2), (1, True), (1, 1.0), ("1", 1), (None, 0), ([1, 2], [2, 1]), ([1], [1, None]), ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}), (len, max), ([[1], [2]], [[1], [3]]),
    ],
)  # fmt: skip
def test_plain_values_are_compared_by_value(one, two):
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint([one, {"x": two}]) == fingerprint([one, {"x": two}])
