import copy

import pytest
import torch

from tame.attention import TAME
from tame.attention.initialise import initialise_from_gradients
from tame.attention.shared import fold_shared_row, share_row

TARGETS = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def features():
    return torch.rand(4, 4, 8, 8), 10 * torch.rand(4, 6, 4, 4)


@pytest.fixture
def mechanism(features):
    made = TAME([4, 6], 5)
    initialise_from_gradients(made, torch.randn(5, 6), 1, features, TARGETS)
    return made


def step(mechanism, features):
    """Change the trainable parameters, so that the maps change."""
    parameters = [parameter for parameter in mechanism.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    mechanism(features, TARGETS.unsqueeze(1)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_maps_are_unchanged_at_the_start(mechanism, features):
    before = mechanism(features)
    share_row(mechanism, features)
    assert mechanism.shared_row is not None
    assert torch.equal(mechanism(features), before)


def test_one_row_is_trained(mechanism, features):
    before = {key: value.clone() for key, value in mechanism.state_dict().items()}
    share_row(mechanism, features)
    trained = {name: value for name, value in mechanism.named_parameters() if value.requires_grad}
    assert [value.numel() for value in trained.values()] == [10]
    step(mechanism, features)
    fold_shared_row(mechanism)
    after = mechanism.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == ["fuser.weight"]
    moved = after["fuser.weight"] - before["fuser.weight"]
    assert moved.abs().sum() > 0
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-6, rtol=0)  # the same for all classes


def test_folding_gives_an_ordinary_mechanism_of_the_same_maps(mechanism, features):
    keys = list(mechanism.state_dict())
    start = mechanism(features)
    share_row(mechanism, features)
    assert list(mechanism.state_dict()) != keys
    step(mechanism, features)
    shared = mechanism(features)
    assert not torch.allclose(shared, start)
    fold_shared_row(mechanism)
    assert mechanism.shared_row is None
    assert torch.equal(mechanism(features), shared)
    assert sorted(mechanism.state_dict()) == sorted(keys)
    assert all(parameter.requires_grad for parameter in mechanism.parameters())
    ordinary = TAME([4, 6], 5).eval()
    ordinary.load_state_dict(mechanism.state_dict())
    assert torch.equal(ordinary(features), shared)


def test_folding_a_copy_leaves_the_mechanism_as_it_is(mechanism, features):
    share_row(mechanism, features)
    step(mechanism, features)
    maps = mechanism(features)
    for _ in range(2):
        twin = copy.deepcopy(mechanism)
        fold_shared_row(twin)
        assert torch.equal(twin(features), maps)
        assert mechanism.shared_row is not None
        assert torch.equal(mechanism(features), maps)
    step(mechanism, features)
    assert not torch.equal(mechanism(features), maps)


def test_a_step_of_one_size_moves_the_maps_equally_whichever_branch_it_is_in(mechanism, features):
    share_row(mechanism, features)
    row = mechanism.shared_row.shared
    start, sizes = mechanism(features).detach(), []
    for channels in slice(4), slice(4, 10):
        with torch.no_grad():
            row.zero_()
            row[channels] = 1
        sizes.append((mechanism(features).detach() - start).square().mean().sqrt().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.5)  # the features differ ten times
