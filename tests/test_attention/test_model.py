import pytest
import torch
import torch.nn.functional as F

from tame.attention import LCAM, TAME
from tame.attention.model import ExplainedClassifier, own_and_random
from tame.functional.losses import area_paper
from tame.functional.masking import soft_keep_top, soft_rank
from tame.utils.checks import InputError


@pytest.fixture(params=["cnn", "vit"])
def model(request, toy_classifier):
    classifier = toy_classifier(request.param)
    return ExplainedClassifier(classifier, TAME(classifier.channels, 5))


@pytest.fixture
def cnn(toy_classifier):
    classifier = toy_classifier("cnn")
    return ExplainedClassifier(classifier, TAME(classifier.channels, 5))


def test_maps_are_rows_of_the_maps_of_all_classes(model, toy_images):
    model.eval()
    targets = torch.tensor([4, 0, 2, 0])
    maps = model.maps(toy_images, targets)
    assert maps.shape[0] == 4
    every = model.attention(model.classifier(toy_images).features)
    for index, target in enumerate(targets):
        torch.testing.assert_close(maps[index], every[index, target], atol=1e-5, rtol=0)


def literal_masked_logits(classifier, images, masks, masking):
    """CNNs: mask, then normalise; transformers: normalise, then mask."""
    big = F.interpolate(masks.unsqueeze(1), size=images.shape[2:], mode="bilinear", align_corners=False)
    mean, std = (
        torch.tensor(getattr(classifier.spec.preprocessing, name)).view(1, 3, 1, 1) for name in ("mean", "std")
    )
    inputs = (big * images - mean) / std if masking == "cnn" else big * ((images - mean) / std)
    return classifier.module(inputs)


@pytest.mark.parametrize("masking", [None, "cnn", "vit"])
def test_training_pass_with_the_classes_of_the_batch(model, toy_images, masking):
    model.eval()
    result = model.training_pass(toy_images, "batch", masking)
    logits, features = model.classifier(toy_images)
    assert torch.equal(result.targets, logits.argmax(1))
    every = model.attention(features).sigmoid()
    torch.testing.assert_close(result.maps, every[:, result.targets], atol=1e-5, rtol=0)
    own = torch.stack([every[index, target] for index, target in enumerate(result.targets)])
    expected = literal_masked_logits(model.classifier, toy_images, own, masking or model.classifier.spec.masking)
    torch.testing.assert_close(result.masked_logits, expected, atol=1e-4, rtol=1e-4)


def test_training_pass_with_random_classes(model, toy_images):
    model.eval()
    result = model.training_pass(toy_images, "random", generator=torch.Generator().manual_seed(3))
    logits, features = model.classifier(toy_images)
    classes = own_and_random(logits.argmax(1), 5, torch.Generator().manual_seed(3))
    every = model.attention(features).sigmoid()
    for index in range(4):
        torch.testing.assert_close(result.maps[index], every[index, classes[index]], atol=1e-5, rtol=0)
    own = torch.stack([every[index, target] for index, target in enumerate(result.targets)])
    expected = literal_masked_logits(model.classifier, toy_images, own, model.classifier.spec.masking)
    torch.testing.assert_close(result.masked_logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["batch", "random"])
@pytest.mark.parametrize("build", [TAME, LCAM])
def test_half_precision_reaches_no_infinite_gradient_of_the_area(toy_classifier, toy_images, kind, build):
    """In float16 the sigmoid of -20 is 0, where the gradient of the paper's area is infinite."""
    classifier = toy_classifier()
    classifier = classifier.with_layers(classifier.layers[:1])
    attention = build(classifier.channels, 5)
    model = ExplainedClassifier(classifier, attention)
    with torch.no_grad():
        attention.fuser.bias.fill_(-20)
    with torch.autocast("cpu", torch.float16):
        result = model.training_pass(toy_images, kind)
    assert result.maps.dtype == torch.float32 and result.maps.min() > 0
    area_paper(result.maps).backward()
    gradients = [parameter.grad for parameter in attention.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_ranked_pass(model, toy_images):
    model.eval()
    keep = torch.tensor([0.1, 0.5, 0.9, 1.0])
    result = model.ranked_pass(toy_images, keep)
    masks = soft_keep_top(soft_rank(model.maps(toy_images, result.targets)), keep)
    torch.testing.assert_close(result.maps, masks.unsqueeze(1))
    assert torch.equal(result.targets, model.classifier(toy_images).logits.argmax(1))
    expected = literal_masked_logits(model.classifier, toy_images, masks, model.classifier.spec.masking)
    torch.testing.assert_close(result.masked_logits, expected, atol=1e-4, rtol=1e-4)
    shares = (masks > 0.5 * masks.amax((1, 2), keepdim=True)).float().mean((1, 2))
    assert shares[0] < shares[3]


def test_ranked_pass_does_not_see_the_scale_of_the_maps(cnn, toy_images):
    cnn.eval()
    keep = torch.full((4,), 0.5)
    before = cnn.ranked_pass(toy_images, keep).maps
    with torch.no_grad():
        cnn.attention.fuser.weight.mul_(3)
        cnn.attention.fuser.bias.add_(5)
    torch.testing.assert_close(cnn.ranked_pass(toy_images, keep).maps, before, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["batch", "random", "ranked"])
def test_gradient_reaches_the_attention_only(model, toy_images, kind):
    model.train()
    before = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    if kind == "ranked":
        result = model.ranked_pass(toy_images, torch.full((4,), 0.5))
    else:
        result = model.training_pass(toy_images, kind)
    result.masked_logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.attention.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["fuser.weight"].abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.classifier.parameters())
    for name, value in model.classifier.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_own_and_random_classes():
    targets = torch.tensor([3, 0, 3, 6])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([own_and_random(targets, 7, generator) for _ in range(200)])
    assert draws.shape == (200, 4, 4)
    assert torch.equal(draws[:, :, 0], targets.expand(200, 4))
    assert all(len(set(row)) == 4 for draw in draws.tolist() for row in draw)  # without replacement
    others = draws[:, 0, 1:].flatten().bincount(minlength=7)
    assert others[3] == 0
    assert (others[[0, 1, 2, 4, 5, 6]] > 60).all()  # 100 each on average
    assert not torch.equal(draws[:, 0, 1:], draws[:, 2, 1:])  # each image has its own


def test_random_classes_by_generator():
    targets = torch.tensor([1, 2])
    first, second = (own_and_random(targets, 50, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert torch.equal(first, own_and_random(targets, 50, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("batch", "classes", "expected"), [(4, 2, 2), (1, 5, 1), (5, 5, 5)])
def test_there_are_never_more_classes_than_the_classifier_has(batch, classes, expected):
    found = own_and_random(torch.zeros(batch, dtype=torch.int64), classes)
    assert found.shape == (batch, expected)
    assert all(sorted(set(row)) == sorted(row) for row in found.tolist())


def test_fewer_classes_than_images(toy_classifier):
    classifier = toy_classifier("cnn")
    model = ExplainedClassifier(classifier, TAME(classifier.channels, 5))
    assert model.training_pass(torch.rand(7, 3, 32, 32), "random").maps.shape == (7, 5, 16, 16)
    assert model.training_pass(torch.rand(7, 3, 32, 32), "batch").maps.shape == (7, 7, 16, 16)


def test_a_mechanism_of_another_classifier_is_refused(toy_classifier):
    classifier = toy_classifier("cnn", layers=["stage2", "stage3"])
    message = (
        r"expected an attention mechanism for features of \(12, 16\) channels \(stage2, stage3\), got one for \(8, 16\)"
    )
    with pytest.raises(InputError, match=message):
        ExplainedClassifier(classifier, TAME((8, 16), 5))
    with pytest.raises(InputError, match="for the 5 classes of toy_cnn, got one for 10"):
        ExplainedClassifier(classifier, TAME((12, 16), 10))
    with pytest.raises(InputError, match=r"got one for \(16,\)"):
        ExplainedClassifier(classifier, LCAM([16], 5))


@pytest.mark.parametrize(("kind", "layer"), [("cnn", "stage2"), ("vit", "encoder.layers.encoder_layer_2.ln_1")])
def test_a_mask_of_features_replaces_the_output_of_their_layer(toy_classifier, toy_images, kind, layer):
    classifier = toy_classifier(kind, layers=[layer])
    model = ExplainedClassifier(classifier, LCAM(classifier.channels, 5, masks="features"))
    result = model.training_pass(toy_images)
    (feature,) = classifier(toy_images).features
    own = torch.stack([model.attention.op(feature)[i, target] for i, target in enumerate(result.targets)]).sigmoid()
    assert own.std() > 0.01

    def masked(_module, _args, output):
        if output.ndim == 4:
            return output * own.unsqueeze(1)
        tokens = output.clone()
        tokens[:, 1:] *= own.flatten(1).unsqueeze(2)  # the class token is not changed
        return tokens

    handle = classifier.module.get_submodule(layer).register_forward_hook(masked)
    expected = classifier.logits(toy_images)
    handle.remove()
    torch.testing.assert_close(result.masked_logits, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, classifier.logits(toy_images), atol=1e-3)
    ranked = model.ranked_pass(toy_images, torch.full((4,), 0.5))
    torch.testing.assert_close(ranked.masked_logits, model.masked_logits(toy_images, ranked.maps[:, 0]))


def test_the_gradient_of_a_mask_of_features_reaches_the_attention_only(toy_classifier, toy_images):
    classifier = toy_classifier(layers=["stage2"])
    model = ExplainedClassifier(classifier, LCAM(classifier.channels, 5, masks="features"))
    model.training_pass(toy_images).masked_logits.square().sum().backward()
    assert model.attention.op.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in classifier.parameters())
