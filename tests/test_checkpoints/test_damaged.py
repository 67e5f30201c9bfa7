"""Checkpoints and weights that are damaged, or were never meant for this: one line that names the file."""

import json
import re

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones.load import load_weights
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import load_attention, read_metadata, save_attention
from tame.utils.checks import InputError

DETAILS = {"attention": "ttame", "output_size": "first"}


@pytest.fixture
def saved(toy_classifier, tmp_path):
    classifier = toy_classifier()
    mechanism = build_attention("ttame", classifier.channels, 5, "first")
    return save_attention(tmp_path / "run", ExplainedClassifier(classifier, mechanism), DETAILS)


def rewrite(folder, text=None, tensors=None, **changes):
    """Write the checkpoint again with other metadata, or other tensors; None removes a value."""
    file = folder / "attention.safetensors"
    metadata = {key: value for key, value in (read_metadata(folder) | changes).items() if value is not None}
    content = load(file.read_bytes()) | (tensors or {})
    save_file(content, file, metadata={"tame": json.dumps(metadata) if text is None else text})


DAMAGED = {
    "no JSON": ({"text": "{"}, "are damaged, and cannot be read as JSON: Expecting property name"),
    "empty": ({"text": ""}, "are damaged, and cannot be read as JSON: Expecting value"),
    "nested": ({"text": "[" * 100_000}, "are damaged, and cannot be read as JSON: maximum recursion"),
    "digits": (
        {"text": '{"format": ' + "1" * 5000 + "}"},
        "are damaged, and cannot be read as JSON: Exceeds the limit",
    ),
    "list": ({"text": "[1, 2]"}, "are damaged: expected values by name, got [1, 2]"),
    "text": ({"text": '"' + "x" * 5000 + '"'}, "are damaged: expected values by name, got 'xxx"),
    "nothing": ({"text": "{}"}, "expected a checkpoint of format 1, got None in "),
    "format": ({"format": ["x" * 5000]}, "expected a checkpoint of format 1, got ['xxx"),
    "no attention": ({"attention": None}, "are damaged: expected attention as text, got nothing"),
    "attention": ({"attention": "ttmae"}, "is of the attention mechanism 'ttmae', which this version does not know"),
    "no backbone": ({"backbone": None}, "are damaged: expected backbone as text, got nothing"),
    "backbone": ({"backbone": ["toy_cnn"]}, "are damaged: expected backbone as text, got ['toy_cnn']"),
    "no layers": ({"layers": None}, "are damaged: expected layers as a list, got nothing"),
    "layers": ({"layers": "stage1"}, "are damaged: expected layers as a list, got 'stage1'"),
    "layer": ({"layers": ["stage1", 2, {}]}, "are damaged: expected layers as names, got other values"),
    "no size": ({"output_size": None}, "are damaged: expected output_size as text, got nothing"),
    "size": ({"output_size": "frist"}, "are damaged: expected output_size largest or first, got 'frist'"),
    "classes": ({"num_classes": "5"}, "are damaged: expected num_classes as a whole number, got '5'"),
    "hash": ({"weights_sha256": 7}, "are damaged: expected weights_sha256 as text, got 7"),
    "gate": ({"gate": "no"}, "are damaged: expected gate as true or false, got 'no'"),
    "source": ({"source": "x"}, "are damaged: expected source as values by name, got 'x'"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_metadata(saved, toy_classifier, case):
    changes, message = DAMAGED[case]
    rewrite(saved, **changes)
    for read in (read_metadata, lambda folder: load_attention(folder, toy_classifier())):
        with pytest.raises(InputError, match=re.escape(message)) as error:
            read(saved)
        assert "attention.safetensors" in str(error.value)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


def damaged(values, number):
    values = values.clone()
    values.view(-1)[-1] = number
    return values


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_an_attention_mechanism_of_nan_is_refused(saved, toy_classifier, number):
    bias = load_file(saved / "attention.safetensors")["fuser.bias"]
    rewrite(saved, tensors={"fuser.bias": damaged(bias, number)})
    with pytest.raises(
        InputError, match=r"expected finite numbers in the weights of the attention mechanism in .*run,"
    ) as error:
        load_attention(saved, toy_classifier())
    assert "in 1 of " in str(error.value) and "such as fuser.bias:" in str(error.value)


def test_an_attention_mechanism_of_whole_numbers_is_refused(saved, toy_classifier):
    bias = load_file(saved / "attention.safetensors")["fuser.bias"]
    rewrite(saved, tensors={"fuser.bias": bias.long()})
    with pytest.raises(InputError, match=r"do not match TAME: fuser.bias is of torch.int64, expected torch.float32"):
        load_attention(saved, toy_classifier())


@pytest.fixture
def weights(toy_backbone):
    return load_classifier(toy_backbone, device="cpu").module.state_dict()


def test_weights_of_a_classifier_with_nan_are_refused(weights, toy_backbone, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(weights | {"head.bias": damaged(weights["head.bias"], torch.nan)}, file)
    with pytest.raises(
        InputError, match=r"weights\.pth, got NaN or infinite ones in 1 of 23 tensors, such as head.bias"
    ):
        load_classifier(toy_backbone, weights=file, device="cpu")


def test_numbers_that_are_too_large_for_the_network_are_refused(weights, toy_backbone, tmp_path):
    torch.save(weights | {"head.bias": torch.full((5,), 1e300, dtype=torch.float64)}, file := tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"got NaN or infinite ones in 1 of 23 tensors, such as head.bias"):
        load_classifier(toy_backbone, weights=file, device="cpu")


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (torch.Tensor.long, "head.bias is of torch.int64, expected torch.float32"),
        (lambda values: values.to(torch.complex64), "head.bias is of torch.complex64, expected torch.float32"),
        (torch.Tensor.to_sparse, "head.bias is no plain tensor"),
        (lambda values: torch.quantize_per_tensor(values, 0.1, 0, torch.qint8), "head.bias is of torch.qint8"),
        (lambda values: values.to("meta"), "head.bias is no plain tensor"),
    ],
)
def test_tensors_of_another_kind_are_refused(toy_classifier, weights, convert, message):
    with pytest.raises(InputError, match=f"the weights mine do not match ToyCNN: {message}"):
        load_weights(toy_classifier().module, weights | {"head.bias": convert(weights["head.bias"])}, "mine")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_loaded(toy_classifier, weights, dtype):
    module = toy_classifier(seed=1).module
    load_weights(
        module, {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}, "mine"
    )
    torch.testing.assert_close(module.head.weight, weights["head.weight"].to(dtype).float(), rtol=0, atol=0)


def test_masks_of_the_network_may_be_infinite(toy_classifier):
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))
            self.register_buffer("mask", torch.tensor([0, -torch.inf]))

    state = Masked().state_dict() | {"weight": torch.ones(2)}
    load_weights(network := Masked(), state, "mine")
    assert network.weight.tolist() == [1, 1]
    with pytest.raises(InputError, match="in 1 of 2 tensors, such as weight"):
        load_weights(Masked(), state | {"weight": torch.full((2,), torch.nan)}, "mine")
