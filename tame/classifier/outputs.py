"""Find the logits (B, K) in the return value of a network: a tensor, a tuple, a mapping or an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from tame.classifier.probabilities import check_probabilities, log_probabilities, log_probability_pair
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError
from tame.utils.imports import import_function

Output: TypeAlias = Callable[[Any], Tensor]
"""Function from a network's return value to its logits."""

PROBES = 2
"""Number of random images on which a network is run once to inspect its return value."""


@dataclass(frozen=True)
class Part:
    """One part of a network's return value: an attribute or key by name, or an element of a sequence by index.

    Args:
        name: Name of the attribute or key, or index of the element.

    Example:
        >>> Part("logits")({"loss": None, "logits": torch.zeros(2, 5)}).shape
        torch.Size([2, 5])
    """

    name: str | int

    def __call__(self, value: Any) -> Tensor:
        """Return this part of ``value``.

        Raises:
            InputError: If ``value`` has no such part.
        """
        try:
            if isinstance(self.name, int) or isinstance(value, Mapping):
                part: Tensor = value[self.name]
            else:
                part = getattr(value, self.name)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise InputError(
                f"expected a network output with the part {self.name!r}, got {_describe_value(value)}"
            ) from error
        return part


def resolve_output(text: str) -> Output | None:
    """Return a function from a network's return value to its logits.

    Args:
        text: Index of a tuple's element ("0"), name of an attribute or key ("scores"), or
            ``package.module:function`` of your own code; empty: None is returned, and `with_output` infers it.

    Raises:
        InputError: For a function that cannot be imported.

    Example:
        >>> resolve_output("0"), resolve_output("scores"), resolve_output("")
        (Part(name=0), Part(name='scores'), None)
    """
    if ":" not in text:
        return Part(int(text) if text.isdecimal() else text) if text else None
    found = import_function(text, "output function")
    if not callable(found):
        raise InputError(f"expected an output function at {text!r}, got a {type(found).__name__}")
    function: Output = found
    return function


class WithOutput(nn.Module):
    """Wraps a network so that it returns logits; layers, parameters and buffers keep their names.

    Args:
        module: The network. Its submodules, parameters and buffers become those of the wrapper.
        steps: Functions applied to its return value, in order.
        dtype: Type to which images are cast, the logits then are float32; default: neither is cast.
    """

    _module: nn.Module
    _steps: tuple[Output, ...]
    _dtype: torch.dtype | None

    def __init__(self, module: nn.Module, steps: Sequence[Output], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.__dict__ |= {  # bypasses the registration of submodules, which would prefix every layer's name
            "_module": module,
            "_steps": tuple(steps),
            "_dtype": dtype,
            "training": module.training,
            **{each: vars(module)[each] for each in ("_modules", "_parameters", "_buffers")},
            "_non_persistent_buffers_set": module._non_persistent_buffers_set,
        }

    @property
    def network(self) -> nn.Module:
        """The wrapped network."""
        return self._module

    @property
    def only_casts(self) -> bool:
        """Whether nothing but types distinguishes it from the network."""
        return self.casts and not self._steps

    @property
    def casts(self) -> bool:
        """Whether images are cast to the network's type, and its logits to float32."""
        return self._dtype is not None

    @property
    def log_probabilities(self) -> bool:
        """Whether probabilities are converted to their logarithms."""
        return not {log_probabilities, log_probability_pair}.isdisjoint(self._steps)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the wrapped network too."""
        self._module.train(mode)
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        value: Any = self._module.forward(images if self._dtype is None else images.to(self._dtype))
        for step in self._steps:
            value = step(value)
        return value if self._dtype is None else value.float()


def as_column(logits: Tensor) -> Tensor:
    """Reshape the logits of a single class, (B,) or (B, 1), to (B, 1)."""
    return logits.reshape(-1, 1)


def as_pair(logit: Tensor) -> Tensor:
    """Convert one logit z per image, (B,) or (B, 1), to the logits of two classes (negative, positive), (B, 2).

    ``(-z/2, z/2)``, whose softmax is (1 - sigmoid(z), sigmoid(z)).

    Example:
        >>> as_pair(torch.tensor([3.0])).softmax(1)[:, 1] == torch.tensor([3.0]).sigmoid()
        tensor([True])
    """
    half = logit.reshape(-1, 1) / 2
    return torch.cat((-half, half), 1)


def read_logits(
    module: nn.Module, shape: tuple[int, int, int], output: Output | None = None, name: str = ""
) -> tuple[Tensor, Output | None]:
    """Run a network on random images and find the logits in its return value.

    A tensor is taken as the logits. Of other values the attribute or key ``logits`` is taken, as in Hugging Face's
    outputs. Nothing is inferred from tuples: say which element with ``output``.

    Args:
        module: The network, in eval mode.
        shape: (C, H, W) of its input.
        output: Function from the return value to the logits; default: inferred.
        name: Name of the classifier, for error messages.

    Returns:
        The logits of `PROBES` images, a tensor of any shape, and the function that finds them (None if the network
        returns them itself).

    Raises:
        InputError: If the network rejects its input, no logits are found, or all of them are NaN; for a segmentation or
            detection network, which is wrapped as a classifier by ``output``, a function to one logit per class.

    Example:
        A segmentation network, (B, K, H, W), as a classifier by the mean logit of each class in the left half:

        >>> network = nn.Conv2d(3, 4, 1)
        >>> read_logits(network, (3, 8, 8))
        Traceback (most recent call last):
        tame.utils.checks.InputError: Conv2d is no classifier: it segments ...
        >>> logits, _ = read_logits(network, (3, 8, 8), lambda maps: maps[..., :4].mean((2, 3)))
        >>> logits.shape
        torch.Size([2, 4])
    """
    images = torch.randn((PROBES, *shape), generator=torch.Generator().manual_seed(0))  # as if normalised
    images = images.to(next(module.parameters(), images).device, float_type(module))
    kind, source = type(module).__name__, f" (the input of {name})" if name else ""
    try:
        with torch.no_grad():
            value = module(images)
    except Exception as error:  # a network may reject an input with any error
        raise InputError(
            f"expected a network that takes images of shape {(PROBES, *shape)}{source}, got {kind}: {error}; "
            "check the input size, mean and std (one value per channel)"
        ) from error
    if output is None and (task := _dense_task(value)):
        raise InputError(
            f"{kind} is no classifier: it {task}; wrap it as one with output, a function from its return value to "
            "logits (B, K), such as the mean logit of each class or region (see tame.classifier.outputs.read_logits)"
        )
    if output is None and not isinstance(value, Tensor):
        found = value.get("logits") if isinstance(value, Mapping) else getattr(value, "logits", None)
        if not isinstance(found, Tensor):
            raise InputError(
                f"expected a tensor of logits from {kind}, got {_describe_value(value)}; say where the logits are with "
                'output: a name, an index such as "0", or package.module:function'
            )
        output = Part("logits")
    logits = output(value) if output else value
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        what = f"a tensor of type {logits.dtype}" if isinstance(logits, Tensor) else _describe_value(logits)
        raise InputError(f"expected logits, a tensor of floats, as the output of {kind}, got {what}")
    if bool(logits.isnan().all()):
        weights = [key for key, each in module.state_dict().items() if isinstance(each, Tensor) and not _finite(each)]
        cause = (
            f"its weight {weights[0]} is not finite" if weights else "its weights are finite, its operations are not"
        )
        raise InputError(f"expected finite logits from {name or kind}, got NaN for random images: {cause}")
    return logits, output


def _finite(values: Tensor) -> bool:
    return not values.is_floating_point() or bool(values.isfinite().all())


def _dense_task(value: Any) -> str:
    """Return what a segmentation or detection network does, by its return value; empty for other networks."""
    parts = value[0] if isinstance(value, list) and value else value
    named = parts if isinstance(parts, Mapping) else getattr(parts, "__dict__", {})
    if boxes := next((key for key in ("boxes", "pred_boxes") if isinstance(named.get(key), Tensor)), ""):
        return f"detects objects ({_describe_value(value)}, with {boxes})"
    maps = value if isinstance(value, Tensor) else next((named[key] for key in ("out", "logits") if key in named), None)
    if isinstance(maps, Tensor) and maps.ndim == 4 and maps.shape[2:].numel() > 1:
        return f"segments images ({tuple(maps.shape)} for {PROBES} images)"
    return ""


def with_output(spec: BackboneSpec, module: nn.Module) -> nn.Module:
    """Return a network that returns logits (B, K): the module itself if it does, otherwise a wrapper around it.

    The logits are found by `read_logits`. One logit per image becomes (B, 1) for one class, and (B, 2) for two classes,
    see `as_pair`. Probabilities (score ``probability``) become their logarithms, one p those of (1 - p, p). Networks in
    half or double precision get images of their type, and their logits become float32.

    Args:
        spec: Specification of the classifier: input shape, number of classes, output function.
        module: The network, in eval mode; it is run once on random images.

    Raises:
        InputError: If the network rejects its input, or its logits have another shape.
    """
    function = None if isinstance(module, WithOutput) else spec.output
    logits, output = read_logits(module, spec.preprocessing.shape, function, spec.name)
    steps, count = [output] if output else [], spec.num_classes
    single = logits.shape in ((PROBES,), (PROBES, 1))
    probable = spec.score == "probability" and not (isinstance(module, WithOutput) and module.log_probabilities)
    if probable:
        check_probabilities(logits, spec.name)
    if logits.shape == (PROBES, count):
        steps += [log_probabilities] if probable else []
    elif single and count == 1:
        steps += [as_column, *([log_probabilities] if probable else [])]
    elif single and count == 2 and spec.score != "sigmoid":
        steps += [log_probability_pair if probable else as_pair]
    else:
        raise InputError(
            f"expected logits of shape (B, {count}) from {spec.name}, got {tuple(logits.shape)} for {PROBES} images: "
            "check the number of classes or class names, and where its logits are (output)"
        )
    dtype = None if isinstance(module, WithOutput) else float_type(module)
    dtype = None if dtype == torch.float32 else dtype
    return WithOutput(module, steps, dtype) if steps or dtype else module


def float_type(module: nn.Module) -> torch.dtype:
    """Return the floating point type of a network's parameters, that of its inputs; float32 if it has none.

    Example:
        >>> float_type(nn.Linear(2, 2).half()), float_type(nn.ReLU())
        (torch.float16, torch.float32)
    """
    return next((each.dtype for each in module.parameters() if each.is_floating_point()), torch.float32)


def _describe_value(value: Any) -> str:
    """Return the type of a value and its shapes, keys or attributes, for error messages."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {kind} of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, tuple | list):
        shapes = (str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__ for each in value)
        return f"a {kind} of {', '.join(shapes) or 'nothing'}"
    names = ", ".join(name for name in getattr(value, "__dict__", ()) if not name.startswith("_"))
    return f"a {kind} with {names}" if names else f"a {kind}"
