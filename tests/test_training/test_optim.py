import math

import pytest
import torch

from tame.attention import TAME
from tame.training.optim import build_optimizer, build_schedule, parameter_groups


@pytest.fixture
def mechanism():
    return TAME([8, 16], 10)


def names_of(mechanism, group):
    names = {id(parameter): name for name, parameter in mechanism.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


def test_biases_do_not_decay_and_all_other_parameters_do(mechanism):
    biases, others = parameter_groups(mechanism)
    assert (biases["weight_decay"], others["weight_decay"]) == (0, 5e-4)
    assert names_of(mechanism, biases) == [
        "convs.0.bias", "convs.1.bias", "bns.0.bias", "bns.1.bias", "fuser.bias",
    ]  # fmt: skip
    assert names_of(mechanism, others) == [
        "convs.0.weight", "convs.1.weight", "bns.0.weight", "bns.1.weight", "fuser.weight",
    ]  # fmt: skip


def test_frozen_parameters_are_left_out(mechanism):
    mechanism.requires_grad_(False)
    mechanism.fuser.requires_grad_(True)
    assert [names_of(mechanism, group) for group in parameter_groups(mechanism)] == [["fuser.bias"], ["fuser.weight"]]


def test_one_step_by_hand():
    """Nesterov's first step: lr * (g + momentum * g), with g = gradient + decay * weight."""
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(3.0)
    optimizer = build_optimizer(layer, lr=0.1, momentum=0.9, weight_decay=0.5)
    layer.weight.grad, layer.bias.grad = torch.tensor([[1.0]]), torch.tensor([1.0])
    optimizer.step()
    assert layer.weight.item() == pytest.approx(2 - 0.1 * 1.9 * (1 + 0.5 * 2))
    assert layer.bias.item() == pytest.approx(3 - 0.1 * 1.9 * 1)


def test_one_cycle_by_hand(mechanism):
    optimizer = build_optimizer(mechanism, lr=1e-3)
    schedule = build_schedule(optimizer, 1e-3, total_steps=20)
    seen = []
    for _ in range(20):
        seen.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step() if len(seen) < 20 else None
    assert all(first == second for first, second in seen)
    rates, momenta = zip(*(first for first, _ in seen), strict=True)
    assert rates[0] == pytest.approx(1e-3 / 25)
    assert rates[5] == pytest.approx(1e-3)  # 30 % of 20 steps, counted from 0
    assert rates[-1] == pytest.approx(1e-3 / 25 / 1e4)
    middle = 4e-5 + (1e-3 - 4e-5) * (1 - math.cos(math.pi * 2 / 5)) / 2
    assert rates[2] == pytest.approx(middle)
    assert (momenta[0], momenta[5], momenta[-1]) == (pytest.approx(0.95), pytest.approx(0.85), pytest.approx(0.95))


@pytest.fixture(scope="module")
def reference(shared_dir):
    return torch.load(shared_dir / "reference" / "authors_program" / "schedule.pt", weights_only=True)


def test_schedule_of_the_authors_program(reference, mechanism):
    case = reference["SGD_equal"]
    optimizer = build_optimizer(mechanism, case["max_lr"], momentum=case["set_momentum"])
    schedule = build_schedule(optimizer, case["max_lr"], case["total_steps"])
    groups = optimizer.param_groups
    assert [sorted(names_of(mechanism, group)) for group in groups] == [sorted(names) for names in case["param_groups"]]
    assert [group["weight_decay"] for group in groups] == case["weight_decay"]
    assert [group["nesterov"] for group in groups] == case["nesterov"]
    for step in range(len(case["lr"])):
        assert [group["lr"] for group in groups] == pytest.approx(case["lr"][step], rel=1e-12), step
        assert [group["momentum"] for group in groups] == pytest.approx(case["momentum_or_beta1"][step], rel=1e-12)
        optimizer.step()
        if step + 1 < len(case["lr"]):
            schedule.step()


def test_three_steps_of_the_authors_program(reference, mechanism):
    case = reference["SGD_three_steps"]
    mechanism.load_state_dict(case["before"])
    optimizer = build_optimizer(mechanism, 1e-3)
    schedule = build_schedule(optimizer, 1e-3, reference["SGD_equal"]["total_steps"])
    for step in case["steps"]:
        for name, parameter in mechanism.named_parameters():
            parameter.grad = step["grads"][name].clone()
        optimizer.step()
        schedule.step()
        for name, parameter in mechanism.named_parameters():
            torch.testing.assert_close(parameter.detach(), step["after"][name], atol=1e-7, rtol=0)
