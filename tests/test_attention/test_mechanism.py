import copy

import pytest
import torch
from torch import nn

from literal import literal_class_maps
from tame.attention import ATTENTIONS, LCAM, LCAM_FORMS, TAME, build_attention
from tame.classifier import TokenLayout
from tame.utils.checks import InputError

VARIANTS = {
    "default": {},
    "first": {"output_size": "first"},
    "no-skip": {"skip": False},
    "no-norm": {"batch_norm": False},
    "no-skip-no-norm": {"skip": False, "batch_norm": False},
    "sigmoid": {"activation": "sigmoid"},
    "narrow": {"skip": False, "branch_channels": 3},
}
CHANNELS, CLASSES = (4, 6, 5), 7
ASKED = {
    "all": None,
    "shared": torch.tensor([5, 0, 5]),
    "per-image": torch.tensor([[1, 6], [6, 6]]),
    "one-per-image": torch.tensor([[3], [2]]),
}


def as_if_trained(mechanism):
    with torch.no_grad():
        for part in mechanism.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, mean=1)
                nn.init.normal_(part.bias)
                nn.init.normal_(part.running_mean)
                nn.init.uniform_(part.running_var, 0.3, 3)
    return mechanism


def features(grad=False):
    """Not square; the first one is not the largest."""
    sides = [(4, 5), (8, 10), (2, 3)]
    return [torch.randn(2, width, *side).requires_grad_(grad) for width, side in zip(CHANNELS, sides, strict=True)]


@pytest.fixture(params=VARIANTS)
def mechanism(request):
    return as_if_trained(TAME(CHANNELS, CLASSES, **VARIANTS[request.param]))


def asked_of(maps, classes):
    if classes is None:
        return maps
    if classes.ndim == 1:
        return maps[:, classes]
    return torch.stack([own[asked] for own, asked in zip(maps, classes, strict=True)])


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("training", [True, False])
def test_fast_form_and_its_gradients_equal_the_literal_one(mechanism, asked, training):
    inputs, twin_inputs = features(grad=True), []
    twin_inputs = [feature.detach().clone().requires_grad_() for feature in inputs]
    twin = copy.deepcopy(mechanism).train(training)
    mechanism.train(training)
    found = mechanism(inputs, ASKED[asked])
    expected = asked_of(literal_class_maps(twin, twin_inputs), ASKED[asked])
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    direction = torch.randn_like(expected)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    for (name, own), theirs in zip(mechanism.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, atol=2e-4, rtol=1e-4, msg=lambda text, name=name: name + text)
    for own, theirs in zip(inputs, twin_inputs, strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    for own, theirs in zip(mechanism.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(own, theirs)  # running statistics


def test_training_uses_and_moves_the_statistics_of_the_batch():
    mechanism = as_if_trained(TAME(CHANNELS, CLASSES))
    before = mechanism.bns[0].running_mean.clone()
    inputs = features()
    assert not torch.allclose(mechanism.train()(inputs), mechanism.eval()(inputs), atol=1e-2)
    assert not torch.equal(mechanism.bns[0].running_mean, before)
    before = mechanism.bns[0].running_mean.clone()
    mechanism(inputs)
    assert torch.equal(mechanism.bns[0].running_mean, before)


@pytest.mark.parametrize(
    ("output_size", "sides", "expected"),
    [
        ("largest", [7, 14], 14),
        ("largest", [14, 7], 14),
        ("largest", [64, 14], 64),
        ("first", [7, 14], 7),
        ("first", [64, 14], 56),
    ],
)
def test_size_of_the_maps(output_size, sides, expected):
    mechanism = TAME([2, 2], 3, output_size=output_size)
    assert mechanism([torch.rand(1, 2, side, side) for side in sides]).shape == (1, 3, expected, expected)


CHANGES = {
    "weight": lambda mechanism: mechanism.convs[1].weight.mul_(1.5),
    "bias": lambda mechanism: mechanism.convs[0].bias.add_(1),
    "norm": lambda mechanism: mechanism.bns[2].weight.add_(1),
    "fuser": lambda mechanism: mechanism.fuser.weight.neg_(),
    "replaced": lambda mechanism: setattr(mechanism.convs[0], "weight", nn.Parameter(torch.randn(4, 4, 1, 1))),
    "data": lambda mechanism: setattr(mechanism.convs[0].weight, "data", torch.randn(4, 4, 1, 1)),
    "load": lambda mechanism: mechanism.load_state_dict(as_if_trained(TAME(CHANNELS, CLASSES)).state_dict()),
    "assign": lambda mechanism: mechanism.load_state_dict(
        as_if_trained(TAME(CHANNELS, CLASSES)).state_dict(), assign=True
    ),
    "statistics": lambda mechanism: (mechanism.train()(features()), mechanism.eval()),
    "rounded": lambda mechanism: mechanism.to(torch.bfloat16).to(torch.float32),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_in_eval_mode(mode, change):
    mechanism = as_if_trained(TAME(CHANNELS, CLASSES)).eval()
    inputs = features()
    with mode():
        before = mechanism(inputs)
        assert torch.equal(mechanism(inputs), before)
    with torch.no_grad():
        CHANGES[change](mechanism)
    with mode():
        after = mechanism(inputs)
        torch.testing.assert_close(after, literal_class_maps(mechanism, inputs), atol=1e-5, rtol=1e-5)
    assert not torch.equal(before, after)


def test_another_dtype_is_noticed():
    mechanism = as_if_trained(TAME(CHANNELS, CLASSES)).eval()
    inputs = features()
    with torch.no_grad():
        single = mechanism(inputs)
        double = mechanism.to(torch.float64)([feature.double() for feature in inputs])
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=1e-5)


def test_eval_mode_folds_once_without_gradients(monkeypatch):
    mechanism = TAME(CHANNELS, CLASSES).eval()
    fold, folded = mechanism._fold_branch, []
    monkeypatch.setattr(mechanism, "_fold_branch", lambda index: folded.append(index) or fold(index))
    with torch.no_grad():
        for _ in range(3):
            mechanism(features())
    assert folded == [0, 1, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda mechanism: mechanism.convs[0].weight.data.mul_(2),  # leaves the version counter as it is
        lambda mechanism: mechanism.bns[1].running_mean.data.add_(1),
        lambda mechanism: setattr(mechanism.bns[2], "eps", 0.5),
    ],
    ids=["weight.data", "running_mean.data", "eps"],
)
def test_folded_branches_follow_every_change(change):
    mechanism, inputs = as_if_trained(TAME(CHANNELS, CLASSES)).eval(), features()
    with torch.no_grad():
        before = mechanism(inputs)
        change(mechanism)
        after = mechanism(inputs)
        torch.testing.assert_close(after, literal_class_maps(mechanism, inputs), atol=1e-5, rtol=1e-5)
    assert not torch.equal(before, after)


def test_gradients_flow_after_a_pass_without_them():
    mechanism = TAME(CHANNELS, CLASSES).eval()
    for mode in torch.no_grad, torch.inference_mode:
        with mode():
            mechanism(features())
    mechanism(features()).sum().backward()
    assert all(parameter.grad is not None for parameter in mechanism.parameters())


def test_a_mechanism_made_in_inference_mode_works():
    with torch.inference_mode():
        mechanism = as_if_trained(TAME(CHANNELS, CLASSES)).eval()
        inputs = features()
        first = mechanism(inputs)
        torch.testing.assert_close(first, literal_class_maps(mechanism, inputs), atol=1e-5, rtol=1e-5)
        mechanism.convs[0].weight.add_(1)
        assert not torch.equal(mechanism(inputs), first)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ([(2, 4, 4, 4)], r"expected feature maps of \(4, 6, 5\) channels, got \(4,\)"),
        ([(2, 4, 4, 4), (2, 5, 4, 4), (2, 6, 4, 4)], r"of \(4, 6, 5\) channels, got \(4, 5, 6\)"),
        ([], r"of \(4, 6, 5\) channels, got \(\)"),
    ],
)
def test_features_of_another_classifier_are_refused(got, message):
    with pytest.raises(InputError, match=message):
        TAME(CHANNELS, CLASSES)([torch.rand(shape) for shape in got])


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="expected branch_channels only without skip connections"):
        TAME(CHANNELS, CLASSES, branch_channels=3)


def test_smooth_maps_are_means_over_the_neighbours_there_are():
    smooth = TAME([4, 6], 5, smooth=3)
    plain = TAME([4, 6], 5)
    plain.load_state_dict(smooth.state_dict())
    features = torch.randn(2, 4, 6, 5), torch.randn(2, 6, 3, 2)
    for mode in True, False:
        maps, found = plain.train(mode)(features), smooth.train(mode)(features)
        for row in range(6):
            for column in range(5):
                window = maps[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                torch.testing.assert_close(found[:, :, row, column], window.mean((2, 3)), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="expected an odd window to smooth class maps with, got 2"):
        TAME([4], 5, smooth=2)


def test_lcam():
    mechanism = LCAM([6], 5)
    feature = torch.randn(2, 6, 3, 4)
    expected = mechanism.op(feature)
    torch.testing.assert_close(mechanism([feature]), expected)
    for name, classes in ("shared", torch.tensor([4, 1, 1])), ("per-image", torch.tensor([[0], [3]])):
        torch.testing.assert_close(mechanism([feature], classes), asked_of(expected, classes), msg=name)
    with pytest.raises(InputError, match="expected one feature layer for L-CAM, got 2"):
        LCAM([6, 6], 5)


def test_every_registered_mechanism_is_built_by_name():
    for name in ATTENTIONS:
        channels = [6] if name in LCAM_FORMS else [6, 4]
        mechanism = build_attention(name, channels, 5, "first")
        assert (mechanism.channels, mechanism.num_classes) == (tuple(channels), 5)
        maps = mechanism([torch.rand(2, width, 4, 4) for width in channels], torch.tensor([1, 2, 3]))
        assert maps.shape == (2, 3, 4, 4)
        assert mechanism.masks == ("features" if name.startswith("lcam-fm") else "image")
    assert build_attention("ttame", [3], 5, "first").output_size == "first"
    with pytest.raises(InputError, match=r"unknown attention mechanism 'ttam'.*ttame"):
        build_attention("ttam", [3], 5)


def reference_case(name, case):
    """Build our mechanism for a case of the authors' program, with its weights."""
    state, inputs = case["state_dict"], case["inputs"]
    if name.startswith("ViT"):
        layout = TokenLayout(prefix=1, grid=(14, 14), gate=name.endswith("TTAME"))
        inputs = [layout.to_map(tokens) for tokens in inputs]
        for own, theirs in zip(inputs, case["adapted_maps"], strict=True):
            torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)
        state = {key.removeprefix("1."): value for key, value in state.items()}
    channels, classes = [feature.shape[1] for feature in inputs], case["eval_c"].shape[1]
    options = {"output_size": "first"}
    if name.startswith("Noskipconnection"):
        options |= {"skip": False, "branch_channels": classes}
    if name.startswith("NoskipNobatchnorm"):
        options |= {"skip": False, "batch_norm": False}
    if name.startswith("Sigmoid"):
        options["activation"] = "sigmoid"
    mechanism = LCAM(channels, classes) if name.startswith("LCAM") else TAME(channels, classes, **options)
    mechanism.load_state_dict(state)
    return mechanism, inputs


@pytest.fixture(scope="module")
def reference(shared_dir):
    return torch.load(shared_dir / "reference" / "authors_program" / "attention_small.pt", weights_only=True)


REFERENCE_CASES = [
    "TAME",
    "TTAME",
    "TAME_first_map_64_capped_to_56",
    "TAME_first_map_smaller",
    "TAME_one_layer",
    "Noskipconnection_patched_to_10_classes",
    "NoskipNobatchnorm_patched_to_10_classes",
    "Sigmoidinfeaturebranch_patched_to_10_classes",
    "LCAM_10_classes",
    "ViT_adapter_TAME",
    "ViT_adapter_TTAME",
]


@pytest.mark.shared
def test_every_reference_case_is_tested(reference):
    assert sorted(reference) == sorted(REFERENCE_CASES)


@pytest.mark.parametrize("name", REFERENCE_CASES)
def test_maps_of_the_authors_program(reference, name):
    case = reference[name]
    mechanism, inputs = reference_case(name, case)
    mechanism.eval()
    maps = mechanism(inputs)
    torch.testing.assert_close(maps, case["eval_c"], atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.sigmoid(), case["eval_a"], atol=1e-5, rtol=0)
    if "num_parameters" in case:
        assert sum(parameter.numel() for parameter in mechanism.parameters()) == case["num_parameters"]


@pytest.mark.parametrize("name", [name for name in REFERENCE_CASES if not name.startswith("ViT")])
def test_training_step_of_the_authors_program(reference, name):
    case = reference[name]
    mechanism, inputs = reference_case(name, case)
    inputs[0].requires_grad_()
    maps = mechanism.train()(inputs)
    torch.testing.assert_close(maps, case["train_c"], atol=1e-5, rtol=0)
    masks = maps.sigmoid()
    torch.testing.assert_close(masks, case["train_a"], atol=1e-5, rtol=0)
    scalar = (masks.flatten() * torch.linspace(0, 1, masks.numel())).mean()
    torch.testing.assert_close(scalar, case["train_scalar"], atol=1e-5, rtol=0)
    scalar.backward()
    last = mechanism.op if name.startswith("LCAM") else mechanism.fuser
    torch.testing.assert_close(last.bias.grad, case["train_grad_fuser_or_op_bias"], atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(inputs[0].grad, case["train_grad_input0"], atol=1e-7, rtol=1e-3)
    after = mechanism.state_dict()
    assert set(case["state_dict_after_train_forward"]) == {key for key in after if "running" in key or "num_b" in key}
    for key, value in case["state_dict_after_train_forward"].items():
        torch.testing.assert_close(after[key], value, atol=1e-5, rtol=0)
