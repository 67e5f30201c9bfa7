from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier, Preprocessing
from tame.classifier.gradients import as_map, class_gradients, graph_from
from tame.utils.checks import InputError
from toys import TOY_SPECS

Toy = Callable[..., FrozenClassifier]


def literal_rows(classifier: FrozenClassifier, images: Tensor) -> Tensor:
    """One backward pass per image and class from the last layer of a transformer, averaged by hand."""
    rows = torch.zeros(classifier.spec.num_classes, classifier.channels[-1])
    for image in images:
        for index in range(len(rows)):
            kept: list[Tensor] = []
            layer = classifier.module.get_submodule(classifier.layers[-1])
            handle = layer.register_forward_hook(lambda _module, _args, output, kept=kept: kept.append(output))
            logits = classifier.logits(image[None].clone().requires_grad_())
            handle.remove()
            (gradient,) = torch.autograd.grad(logits[0, index], kept[0])
            rows[index] += gradient[0, 1:].mean(0) / len(images)  # without the class token
    return rows


def test_before_an_average_and_a_linear_head_the_gradients_are_the_heads_weights(
    toy_classifier: Toy, toy_images: Tensor
) -> None:
    classifier = toy_classifier("cnn")
    gradients = class_gradients(classifier, [toy_images])
    assert gradients.branch == 2
    torch.testing.assert_close(gradients.rows, classifier.module.head.weight / 16)  # 4 x 4 positions share it


@pytest.mark.parametrize("chunk", [1, 2, 50])
def test_the_gradients_of_tokens_equal_one_pass_per_image_and_class(
    toy_classifier: Toy, toy_images: Tensor, chunk: int
) -> None:
    classifier = toy_classifier("vit")
    gradients = class_gradients(classifier, [toy_images], chunk)
    torch.testing.assert_close(gradients.rows, literal_rows(classifier, toy_images), atol=1e-6, rtol=1e-4)


def test_batches_of_any_size_give_the_same_average(toy_classifier: Toy, toy_images: Tensor) -> None:
    classifier = toy_classifier("vit")
    whole = class_gradients(classifier, [toy_images]).rows
    torch.testing.assert_close(class_gradients(classifier, toy_images.split([3, 1])).rows, whole)


def test_a_layer_whose_patches_no_longer_reach_the_logits_is_passed_over(
    toy_classifier: Toy, toy_images: Tensor
) -> None:
    classifier = toy_classifier("vit", layers="paper")  # after the last block only the class token counts
    assert class_gradients(classifier, [toy_images]).branch == 1


def test_without_a_layer_that_reaches_the_logits_the_message_asks_for_one(
    toy_classifier: Toy, toy_images: Tensor
) -> None:
    (*_, last) = TOY_SPECS["vit"].layers["paper"]
    with pytest.raises(InputError, match=f"none of the layers {last} reaches the logits of toy_vit: choose earlier"):
        class_gradients(toy_classifier("vit", layers=[last]), [toy_images])


def test_without_images_there_is_nothing_to_average(toy_classifier: Toy) -> None:
    with pytest.raises(InputError, match="expected at least one image to compute gradients on, got none"):
        class_gradients(toy_classifier(), [])


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_graph_starts_at_the_layer_in_every_grad_mode(
    toy_classifier: Toy, toy_images: Tensor, around: Callable[[], torch.autograd.grad_mode.no_grad]
) -> None:
    classifier = toy_classifier("cnn")
    with around():
        before = torch.is_grad_enabled()
        leaf, logits = graph_from(classifier, "stage1.1", toy_images.clone())  # an in-place activation follows
        assert torch.is_grad_enabled() is before
    assert leaf.is_leaf and leaf.requires_grad
    (gradient,) = torch.autograd.grad(logits.sum(), leaf)
    assert gradient.shape == leaf.shape and gradient.any()
    torch.testing.assert_close(logits.detach(), classifier.logits(toy_images))


@pytest.mark.parametrize("images", [torch.rand(1, 3, 32, 32), torch.rand(1, 4, 32, 32)])
def test_no_hook_stays_also_after_a_failing_pass(toy_classifier: Toy, images: Tensor) -> None:
    classifier = toy_classifier("cnn")
    try:
        graph_from(classifier, "stage2", images)
    except RuntimeError:
        assert images.shape[1] == 4
    assert not any(part._forward_hooks for part in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


class ChannelsLast(nn.Module):
    """A convolution whose output has its channels last, and a head on its average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 2, stride=2)
        self.norm = nn.LayerNorm(7)
        self.head = nn.Linear(7, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(inputs).permute(0, 2, 3, 1)).mean((1, 2)))


def test_the_gradients_of_a_layer_with_channels_last_are_the_heads_weights_too() -> None:
    spec = replace(TOY_SPECS["cnn"], preprocessing=Preprocessing((16, 24), (16, 24)))
    classifier = FrozenClassifier(spec, ChannelsLast(), ["norm"])
    images = torch.rand(3, 3, 16, 24)
    leaf, _ = graph_from(classifier, "norm", images)
    assert leaf.shape == (3, 8, 12, 7) and as_map(classifier, leaf).shape == (3, 7, 8, 12)
    gradients = class_gradients(classifier, [images])
    torch.testing.assert_close(gradients.rows, classifier.module.head.weight / 96)  # 8 x 12 positions share it
