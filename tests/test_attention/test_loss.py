import math

import pytest
import torch
import torch.nn.functional as F

from tame.attention.loss import AttentionLoss
from tame.attention.model import TrainingPass
from tame.functional import losses


def training_pass():
    return TrainingPass(torch.tensor([1, 0, 3]), torch.rand(3, 3, 5, 5), torch.randn(3, 5))


@pytest.mark.parametrize("form", ["paper", "released"])
def test_named_terms_carry_the_published_weights(form):
    result = training_pass()
    area, variation = getattr(losses, f"area_{form}"), getattr(losses, f"variation_{form}")
    terms = AttentionLoss(form)(result)
    assert list(terms) == ["cross_entropy", "area", "variation", "total"]
    torch.testing.assert_close(terms["cross_entropy"], 1.5 * F.cross_entropy(result.masked_logits, result.targets))
    torch.testing.assert_close(terms["area"], 2 * area(result.maps))
    torch.testing.assert_close(terms["variation"], 0.01 * variation(result.maps))
    torch.testing.assert_close(terms["total"], terms["cross_entropy"] + terms["area"] + terms["variation"])


def test_the_forms_differ():
    result = training_pass()
    paper, released = AttentionLoss("paper")(result), AttentionLoss("released")(result)
    assert paper["area"] < released["area"]
    assert paper["variation"] < released["variation"] / 10


def test_ranked_form_is_cross_entropy_alone():
    result = training_pass()
    terms = AttentionLoss("ranked")(result)
    assert list(terms) == ["cross_entropy", "total"]
    torch.testing.assert_close(terms["total"], 1.5 * F.cross_entropy(result.masked_logits, result.targets))


def test_under_sigmoid_the_cross_entropy_is_minus_the_logarithm_of_the_targets_sigmoid():
    result = training_pass()
    picked = [row[target] for row, target in zip(result.masked_logits.tolist(), result.targets.tolist(), strict=True)]
    expected = sum(-math.log(1 / (1 + math.exp(-logit))) for logit in picked) / len(picked)
    terms = AttentionLoss("ranked", score="sigmoid")(result)
    assert terms["cross_entropy"].item() == pytest.approx(1.5 * expected, rel=1e-5)
    assert terms["cross_entropy"].item() != pytest.approx(AttentionLoss("ranked")(result)["cross_entropy"].item())


def test_under_sigmoid_a_certain_mistake_still_has_a_gradient():
    logits = torch.tensor([[-200.0, 3.0]], requires_grad=True)
    loss = AttentionLoss("ranked", score="sigmoid")(TrainingPass(torch.tensor([0]), torch.ones(1, 1, 2, 2), logits))
    loss["total"].backward()
    assert loss["total"].item() == 300 and logits.grad.tolist() == [[-1.5, 0.0]]


def test_weights_are_options():
    result = training_pass()
    terms = AttentionLoss("paper", cross_entropy=0, area=0, variation=1)(result)
    torch.testing.assert_close(terms["total"], losses.variation_paper(result.maps))


@pytest.fixture(scope="module")
def reference(shared_dir):
    return torch.load(shared_dir / "reference" / "authors_program" / "loss_classic.pt", weights_only=True)


def test_weights_of_the_authors_program(reference):
    coefficients = reference["coefficients"]
    weights = AttentionLoss("released").weights
    assert weights == {
        "cross_entropy": coefficients["ce"],
        "area": coefficients["area"],
        "variation": coefficients["variation"],
    }


# "three_d" is left out: its masks (B, B, D, h, w) are volumes, which this project does not explain
CASES = [index for index in range(15) if index != 14]


@pytest.mark.parametrize("index", CASES)
def test_losses_of_the_authors_program(reference, index):
    case = reference["cases"][index]
    assert case["masks"].ndim == 4
    maps, logits = case["masks"].clone().requires_grad_(), case["logits"].clone().requires_grad_()
    terms = AttentionLoss("released")(TrainingPass(case["labels"], maps, logits))
    for own, theirs in ("cross_entropy", "ce"), ("area", "area"), ("variation", "variation"), ("total", "total"):
        torch.testing.assert_close(terms[own], case[theirs], atol=1e-5, rtol=1e-6, msg=lambda text, own=own: own + text)
    terms["total"].backward()
    torch.testing.assert_close(maps.grad, case["grad_masks"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.grad, case["grad_logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.shared
def test_only_volumes_are_left_out(reference):
    assert [case["name"] for case in reference["cases"] if case["masks"].ndim != 4] == ["three_d"]
    assert len(reference["cases"]) == len(CASES) + 1
