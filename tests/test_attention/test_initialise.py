import pytest
import torch

from tame.attention import LCAM, TAME
from tame.attention.initialise import initialise_from_gradients
from tame.utils.checks import InputError

CHANNELS, CLASSES = (4, 6), 5


@pytest.fixture
def features():
    """Half of the values negative; the second branch is half as large."""
    return torch.randn(8, 4, 8, 8), torch.randn(8, 6, 4, 4)


@pytest.fixture
def rows():
    return torch.randn(CLASSES, 6)


TARGETS = torch.tensor([0, 3, 1, 1, 4, 2, 0, 3])


def initialised(features, rows, branch=1, **options):
    mechanism = TAME(CHANNELS, CLASSES)
    initialise_from_gradients(mechanism, rows, branch, features, TARGETS, **options)
    return mechanism


@pytest.mark.parametrize("spread", [1.0, 0.25])
def test_maps_of_the_targets_have_the_asked_spread(features, rows, spread):
    mechanism = initialised(features, rows, spread=spread)
    maps = mechanism(features, TARGETS.unsqueeze(1))
    torch.testing.assert_close(maps.std((2, 3)).mean(), torch.tensor(spread), atol=1e-5, rtol=0)


def test_every_class_has_maps_that_average_zero(features, rows):
    maps = initialised(features, rows)(features)  # (B, K, h, w)
    assert maps.std() > 0.1
    torch.testing.assert_close(maps.mean((0, 2, 3)), torch.zeros(CLASSES), atol=1e-5, rtol=0)


def test_maps_are_grad_cam_of_a_linear_head(features):
    """Logits that are linear in the pooled features have these weights as gradients, whatever the image."""
    head = torch.nn.Linear(6, CLASSES)
    leaf = features[1].clone().requires_grad_()
    rows = []
    for scores in head(leaf.mean((2, 3))).sum(0):
        (gradient,) = torch.autograd.grad(scores, leaf, retain_graph=True)
        rows.append(gradient.mean((0, 2, 3)))
    found = initialised(features, torch.stack(rows))(features).flatten(2)  # (B, K, hw)

    centred = head.weight.detach() - head.weight.detach().mean(0)
    cams = torch.stack([torch.einsum("kc,chw->khw", centred, feature) for feature in features[1]])
    cams = torch.nn.functional.interpolate(cams, size=(8, 8), mode="bilinear", align_corners=False)
    cams = cams - cams.mean((0, 2, 3), keepdim=True)
    spread = torch.stack([cams[image, target].std() for image, target in enumerate(TARGETS)]).mean()
    torch.testing.assert_close(found, (cams / spread).flatten(2), atol=1e-4, rtol=1e-4)


def test_lcam_starts_as_grad_cam_before_its_rectifier(features, rows):
    mechanism = LCAM([6], CLASSES)
    initialise_from_gradients(mechanism, rows, 0, features[1:], TARGETS)
    cams = torch.einsum("kc,bchw->bkhw", rows - rows.mean(0), features[1])
    cams = cams - cams.mean((0, 2, 3), keepdim=True)
    spread = torch.stack([cams[image, target].std() for image, target in enumerate(TARGETS)]).mean()
    torch.testing.assert_close(mechanism(features[1:]), cams / spread, atol=1e-4, rtol=1e-4)
    with pytest.raises(
        InputError, match=r"maps made of the classifier's gradients are constant; choose .* \(init\) random"
    ):
        initialise_from_gradients(mechanism, torch.ones_like(rows), 0, features[1:], TARGETS)


def test_the_other_branch_has_no_effect_at_first_and_can_learn(features, rows):
    mechanism = initialised(features, rows)
    other = (torch.randn_like(features[0]), features[1])
    assert torch.equal(mechanism(other), mechanism(features))
    mechanism(features).square().sum().backward()
    assert mechanism.fuser.weight.grad[:, :4].abs().sum() > 0


@pytest.mark.parametrize("lowest", [-3.0, 0.0], ids=["of either sign", "rectified already"])
def test_residual_branches_start_as_the_features(features, rows, lowest):
    features = tuple(feature.clamp(min=lowest) for feature in features)
    mechanism = initialised(features, rows)
    for training in True, False:
        for branch, feature in zip(mechanism.train(training).branches(features), features, strict=True):
            lift = 1.25 * (-feature.amin((0, 2, 3), keepdim=True)).clamp(min=0)
            torch.testing.assert_close(branch, feature + lift, atol=1e-5, rtol=0)
            assert lift.any() == (lowest < 0)


def test_batch_norm_starts_with_the_statistics_of_the_features(features, rows):
    mechanism = initialised(features, rows)
    for conv, norm, feature in zip(mechanism.convs, mechanism.bns, features, strict=True):
        out = conv(feature)
        torch.testing.assert_close(norm.running_mean, out.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, out.var((0, 2, 3)))


def test_what_cannot_start_from_the_classifier_is_refused(features, rows):
    for options in {"skip": False}, {"batch_norm": False}:
        with pytest.raises(InputError, match=r"needs skip connections and batch norm; choose .* \(init\) random"):
            initialise_from_gradients(TAME(CHANNELS, CLASSES, **options), rows, 1, features, TARGETS)
    with pytest.raises(InputError, match=r"expected rows of shape \(5, 4\), got \(5, 6\)"):
        initialised(features, rows, branch=0)
    for nothing in torch.zeros_like(rows), torch.ones_like(rows):  # no difference between classes
        with pytest.raises(
            InputError, match=r"maps made of the classifier's gradients are constant; choose .* \(init\) random"
        ):
            initialised(features, nothing)
