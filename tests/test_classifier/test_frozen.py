from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tame.classifier import FrozenClassifier, TokenLayout
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN

Toy = Callable[..., FrozenClassifier]
BOTH = pytest.mark.parametrize("kind", ["cnn", "vit"])


def literal_normalise(images: Tensor) -> Tensor:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    return torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)


@BOTH
def test_logits_are_those_of_the_module_on_images_normalised_once(
    toy_classifier: Toy, toy_images: Tensor, kind: str
) -> None:
    classifier = toy_classifier(kind)
    expected = classifier.module(literal_normalise(toy_images))
    torch.testing.assert_close(classifier(toy_images).logits, expected)
    torch.testing.assert_close(classifier.logits(toy_images), expected)


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [("cnn", [(4, 8, 16, 16), (4, 12, 8, 8), (4, 16, 4, 4)]), ("vit", [(4, 16, 4, 4)] * 3)],
)
def test_features_are_maps_in_the_order_of_the_layers(
    toy_classifier: Toy, toy_images: Tensor, kind: str, shapes: list[tuple[int, ...]]
) -> None:
    classifier = toy_classifier(kind)
    features = classifier(toy_images).features
    assert [tuple(feature.shape) for feature in features] == shapes
    assert classifier.channels == tuple(shape[1] for shape in shapes)


def test_token_features_are_the_patches_of_the_module_output(toy_classifier: Toy, toy_images: Tensor) -> None:
    classifier = toy_classifier("vit", layers=["encoder.layers.encoder_layer_1.ln_1"])
    tokens: list[Tensor] = []
    norm = classifier.module.get_submodule(classifier.layers[0])
    norm.register_forward_hook(lambda _module, _args, output: tokens.append(output))
    classifier.logits(toy_images)
    (feature,) = classifier(toy_images).features
    torch.testing.assert_close(feature[:, :, 2, 1], tokens[0][:, 1 + 2 * 4 + 1])


def test_train_changes_no_mode_also_from_outside(toy_classifier: Toy) -> None:
    classifier = toy_classifier()
    assert classifier.train() is classifier
    nn.ModuleDict({"classifier": classifier, "head": nn.Linear(1, 1)}).train()
    assert not any(part.training for part in classifier.modules())


def test_batch_norm_statistics_and_dropout_do_not_move_in_training(toy_classifier: Toy, toy_images: Tensor) -> None:
    classifier = toy_classifier()
    before = copy.deepcopy(classifier.state_dict())
    parent = nn.Sequential(classifier).train()
    first, second = parent(toy_images).logits, parent(toy_images).logits
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    for name, value in classifier.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


def test_a_module_given_in_training_mode_is_frozen() -> None:
    module = ToyCNN().train()
    classifier = FrozenClassifier(TOY_SPECS["cnn"], module, ["stage3"])
    assert not module.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert int(module.stage1[1].num_batches_tracked) == 0  # not even the check of the features changed it


@pytest.mark.parametrize("masking", ["cnn", "vit"])
@BOTH
def test_masked_logits_equal_the_literal_masking(
    toy_classifier: Toy, toy_images: Tensor, kind: str, masking: str
) -> None:
    classifier = toy_classifier(kind)
    maps = torch.rand(4, 8, 8)
    masks = F.interpolate(maps[:, None], size=(32, 32), mode="bilinear", align_corners=False)
    masked = literal_normalise(masks * toy_images) if masking == "cnn" else masks * literal_normalise(toy_images)
    torch.testing.assert_close(
        classifier.masked_logits(toy_images, maps, masking), classifier.module(masked), atol=1e-5, rtol=1e-5
    )


@BOTH
def test_the_backbones_own_masking_is_the_default(toy_classifier: Toy, toy_images: Tensor, kind: str) -> None:
    classifier, maps = toy_classifier(kind), torch.rand(4, 32, 32)
    own, other = (classifier.masked_logits(toy_images, maps, name) for name in (kind, {"cnn": "vit"}.get(kind, "cnn")))
    torch.testing.assert_close(classifier.masked_logits(toy_images, maps), own)
    assert not torch.allclose(own, other, atol=1e-3)


@BOTH
def test_the_gradient_reaches_the_maps_only(toy_classifier: Toy, toy_images: Tensor, kind: str) -> None:
    classifier = toy_classifier(kind)
    assert not classifier(toy_images).logits.requires_grad
    maps = torch.rand(4, 8, 8, requires_grad=True)
    classifier.masked_logits(toy_images, maps)[:, 0].sum().backward()
    assert maps.grad is not None and bool(maps.grad.abs().sum((1, 2)).gt(0).all())
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_the_hash_names_the_weights(toy_classifier: Toy) -> None:
    one, same, other = toy_classifier(), toy_classifier(), toy_classifier(seed=1)
    assert len(one.weights_hash) == 64
    assert one.weights_hash == same.weights_hash == one.with_layers(["stage2"]).weights_hash
    assert one.weights_hash != other.weights_hash


@pytest.mark.parametrize("name", ["head.bias", "stage2.1.running_var"])
def test_the_hash_changes_with_a_single_value(toy_classifier: Toy, name: str) -> None:
    changed = ToyCNN()
    changed.load_state_dict(toy_classifier().module.state_dict())
    changed.state_dict()[name][-1] += 1e-6
    assert FrozenClassifier(TOY_SPECS["cnn"], changed, ["stage1"]).weights_hash != toy_classifier().weights_hash


def test_other_layers_share_the_parameters(toy_classifier: Toy, toy_images: Tensor) -> None:
    classifier = toy_classifier()
    other = classifier.with_layers(["stage1", "stage3"])
    assert other.module is classifier.module
    assert (other.layers, other.channels, other.weights) == (("stage1", "stage3"), (8, 16), "random")
    features = classifier(toy_images).features
    for got, expected in zip(other(toy_images).features, (features[0], features[2]), strict=True):
        torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_an_alias_stands_for_its_layer(toy_classifier: Toy) -> None:
    block = "encoder.layers.encoder_layer_2"
    assert toy_classifier("vit", layers=[f"{block}.ln"]).layers == (f"{block}.ln_1",)


@BOTH
def test_everything_moves_together(toy_classifier: Toy, toy_images: Tensor, kind: str) -> None:
    classifier = toy_classifier(kind)
    expected = classifier(toy_images)
    moved = classifier.to(torch.float64)(toy_images.double())
    for got, want in zip((moved.logits, *moved.features), (expected.logits, *expected.features), strict=True):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, want.double(), atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@BOTH
def test_everything_moves_to_the_gpu(toy_classifier: Toy, toy_images: Tensor, kind: str) -> None:
    classifier = toy_classifier(kind).to("cuda")
    outputs = classifier.with_layers(classifier.layers[1:])(toy_images.cuda())
    assert {value.device.type for value in (outputs.logits, *outputs.features)} == {"cuda"}


def pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))  # noqa: S301 - just written


@BOTH
@pytest.mark.parametrize("clone", [copy.deepcopy, pickled])
def test_copies_work_and_share_nothing(toy_images: Tensor, kind: str, clone: Callable[[nn.Module], nn.Module]) -> None:
    spec = TOY_SPECS[kind]
    classifier = FrozenClassifier(spec, spec.build(), spec.layers["proposed"])
    copied = clone(classifier)
    expected = classifier(toy_images)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(toy_images).logits, expected.logits, atol=0, rtol=0)


def test_no_layers_are_refused() -> None:
    with pytest.raises(InputError, match="expected at least one layer of toy_cnn"):
        FrozenClassifier(TOY_SPECS["cnn"], ToyCNN(), [])


def test_a_layer_without_a_map_is_refused() -> None:
    with pytest.raises(InputError, match=r"layer 'head' returns \(1, 5\): expected a feature map \(B, C, h, w\)"):
        FrozenClassifier(TOY_SPECS["cnn"], ToyCNN(), ["head"])


class Block(nn.Module):
    """Its last operation is not its output, so that the last node of its graph is another value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.conv(inputs)
        torch.relu(outputs)
        return outputs


def test_a_feature_that_differs_from_the_output_of_its_module_is_read_with_hooks(
    toy_images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    module = nn.Sequential(Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with caplog.at_level("INFO", logger="tame"):
        classifier = FrozenClassifier(TOY_SPECS["cnn"], module, ["0"])
    (feature,) = classifier(toy_images).features
    torch.testing.assert_close(feature, module[0](classifier.normalise(toy_images)))
    assert feature.min() < 0  # not the ReLU's output
    assert "the traced graph of toy_cnn differs from the network; its layers are read with" in caplog.text


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.conv(inputs) + torch.rand_like(inputs)[:, :1]).mean((2, 3))


def test_a_network_that_is_random_also_in_eval_mode_is_refused() -> None:
    with pytest.raises(InputError, match="the logits of toy_cnn differ between two passes over the same image"):
        FrozenClassifier(TOY_SPECS["cnn"], Noisy(), ["conv"])


def test_a_layer_that_gives_a_tuple_is_refused(toy_classifier: Toy) -> None:
    with pytest.raises(InputError, match="self_attention' returns a tuple: expected one tensor"):
        toy_classifier("vit", layers=["encoder.layers.encoder_layer_1.self_attention"])


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 1)
        self.norm = nn.LayerNorm(7)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(self.conv(inputs).permute(0, 2, 3, 1)).mean((1, 2))[:, :5]


def test_a_layer_with_channels_last_gives_a_map_with_channels_first(toy_images: Tensor) -> None:
    classifier = FrozenClassifier(TOY_SPECS["cnn"], ChannelsLast(), ["norm"])
    assert classifier.channels == (7,)
    (feature,) = classifier(toy_images).features
    expected = classifier.module.norm(classifier.module.conv(classifier.normalise(toy_images)).permute(0, 2, 3, 1))
    torch.testing.assert_close(feature, expected.permute(0, 3, 1, 2))


class Windows(nn.Module):
    """Four windows of 16 x 16, stacked on the batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.parts = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.conv(inputs)
        parts = features.unflatten(3, (2, 16)).unflatten(2, (2, 16)).permute(0, 2, 4, 3, 5, 1).flatten(0, 2)
        return features.mean((2, 3)) + self.parts(parts).mean()


def test_a_layer_that_works_on_windows_of_the_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"layer 'parts' returns \(4, 16, 16, 5\) for one image: expected one map"):
        FrozenClassifier(TOY_SPECS["cnn"], Windows(), ["parts"])


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected logits of shape \(B, 5\) from toy_cnn, got \(2, 6\)"):
        FrozenClassifier(TOY_SPECS["cnn"], ToyCNN(classes=6), ["stage1"])


def test_another_token_grid_is_refused() -> None:
    spec = replace(TOY_SPECS["vit"], tokens=TokenLayout(prefix=0, grid=(4, 4)))
    with pytest.raises(InputError, match=r"expected tokens of shape \(B, 0 \+ 4 \* 4, D\), got \(1, 17, 16\)"):
        FrozenClassifier(spec, spec.build(), spec.layers["paper"])
