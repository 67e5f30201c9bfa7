"""From whatever a module returns to logits (B, K)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError
from tame.utils.imports import import_function

Output: TypeAlias = Callable[[Any], Tensor]
"""From what a module returns to its logits."""

PROBES = 2
"""Random images that a module is run on, once, to see what it returns."""


@dataclass(frozen=True)
class Part:
    """One part of what a module returns: an attribute or a mapping's key by name, or a place of a sequence.

    Example:
        >>> Part("logits")({"loss": None, "logits": torch.zeros(2, 5)}).shape
        torch.Size([2, 5])
    """

    name: str | int

    def __call__(self, value: Any) -> Tensor:
        """Return the part."""
        try:
            if isinstance(self.name, int) or isinstance(value, Mapping):
                part: Tensor = value[self.name]
            else:
                part = getattr(value, self.name)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise InputError(f"expected an output with the part {self.name!r}, got {_told(value)}") from error
        return part


def resolve_output(text: str) -> Output | None:
    """Return the function from what a module returns to its logits.

    Args:
        text: Empty: found out by `with_output`; a number: that place of a tuple; a name: that attribute or key;
            ``package.module:function``: that function, also from the working folder.

    Raises:
        InputError: For a function that cannot be imported.

    Example:
        >>> resolve_output("0"), resolve_output("scores"), resolve_output("")
        (Part(name=0), Part(name='scores'), None)
    """
    if ":" not in text:
        return Part(int(text) if text.isdecimal() else text) if text else None
    found = import_function(text, "function of the output")
    if not callable(found):
        raise InputError(f"expected a function of the output at {text!r}, got a {type(found).__name__}")
    function: Output = found
    return function


class WithOutput(nn.Module):
    """A module that returns logits: the same layers, parameters and buffers under the same names.

    Args:
        module: The module; it is no part of this one, its content is.
        steps: What is done to what it returns, one after the other.
    """

    _module: nn.Module
    _steps: tuple[Output, ...]

    def __init__(self, module: nn.Module, steps: Sequence[Output]) -> None:
        super().__init__()
        self.__dict__ |= {  # past the registration of submodules, which would give every layer another name
            "_module": module,
            "_steps": tuple(steps),
            "training": module.training,
            **{each: vars(module)[each] for each in ("_modules", "_parameters", "_buffers")},
            "_non_persistent_buffers_set": module._non_persistent_buffers_set,
        }

    def train(self, mode: bool = True) -> Self:
        """Change the module's own mode too."""
        self._module.train(mode)
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        value: Any = self._module.forward(images)
        for step in self._steps:
            value = step(value)
        return value


def as_column(logits: Tensor) -> Tensor:
    """Return the logits of one class, (B,) or (B, 1), as (B, 1)."""
    return logits.reshape(-1, 1)


def as_pair(logit: Tensor) -> Tensor:
    """Return one logit z per image, (B,) or (B, 1), as those of two classes: (B, 2).

    ``(-z/2, z/2)``, whose softmax is (1 - sigmoid(z), sigmoid(z)): (negative, positive).

    Example:
        >>> as_pair(torch.tensor([3.0])).softmax(1)[:, 1] == torch.tensor([3.0]).sigmoid()
        tensor([True])
    """
    half = logit.reshape(-1, 1) / 2
    return torch.cat((-half, half), 1)


def read_logits(
    module: nn.Module, shape: tuple[int, int, int], output: Output | None = None, name: str = ""
) -> tuple[Tensor, Output | None]:
    """Run a module on random images and find its logits.

    What it returns is taken as it is if it is a tensor; else its attribute or key ``logits`` is taken, as in Hugging
    Face's outputs. A tuple is not guessed at.

    Args:
        module: In eval mode.
        shape: (C, H, W) of its input.
        output: Where the logits are; None: to be found out.
        name: What the classifier is called.

    Returns:
        A tensor, the logits of `PROBES` images in any shape; and where they are, None for the module's own result.

    Raises:
        InputError: If the module refuses its input, or no logits are found.
    """
    images = torch.randn((PROBES, *shape), generator=torch.Generator().manual_seed(0))  # as if normalised
    images = images.to(next(module.parameters(), images))  # its device and type
    kind, told = type(module).__name__, f", as {name} says" if name else ""
    try:
        with torch.no_grad():
            value = module(images)
    except Exception as error:  # a network can refuse an input in any way
        raise InputError(
            f"expected a network that takes images of shape {(PROBES, *shape)}{told}, got {kind}: {error}; "
            "see --input-size, --mean and --std (one value per channel)"
        ) from error
    if output is None and not isinstance(value, Tensor):
        found = value.get("logits") if isinstance(value, Mapping) else getattr(value, "logits", None)
        if not isinstance(found, Tensor):
            raise InputError(
                f"expected a tensor of logits from {kind}, got {_told(value)}; say where the logits are with output=, "
                'a name, a position such as "0", or package.module:function'
            )
        output = Part("logits")
    logits = output(value) if output else value
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        what = f"a tensor of type {logits.dtype}" if isinstance(logits, Tensor) else _told(logits)
        raise InputError(f"expected logits, a tensor of floats, by output= of {kind}, got {what}")
    return logits, output


def with_output(spec: BackboneSpec, module: nn.Module) -> nn.Module:
    """Return the module as one that returns logits (B, K): itself where it does already, see `read_logits`.

    One logit per image becomes a column for one class, and for two classes what `as_pair` makes of it.

    Args:
        spec: Says the shape of the input, the number of classes, and where the logits are if that is not plain.
        module: In eval mode; run once on random images.

    Raises:
        InputError: If the module refuses its input, or its logits have another shape.
    """
    given = None if isinstance(module, WithOutput) else spec.output
    logits, output = read_logits(module, spec.preprocessing.shape, given, spec.name)
    steps, count = [output] if output else [], spec.num_classes
    if logits.shape == (PROBES, count):
        return WithOutput(module, steps) if steps else module
    if logits.shape in ((PROBES,), (PROBES, 1)) and count == 1:
        return WithOutput(module, [*steps, as_column])
    if logits.shape in ((PROBES,), (PROBES, 1)) and count == 2 and spec.score == "softmax":
        return WithOutput(module, [*steps, as_pair])
    raise InputError(
        f"expected logits of shape (B, {count}) from {spec.name}, got {tuple(logits.shape)} for {PROBES} images: give "
        "the number of its classes (--num-classes, class names), or where its logits are (output=)"
    )


def _told(value: Any) -> str:
    """Say what a value is made of."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {kind} of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, tuple | list):
        shapes = (str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__ for each in value)
        return f"a {kind} of {', '.join(shapes) or 'nothing'}"
    names = ", ".join(name for name in getattr(value, "__dict__", ()) if not name.startswith("_"))
    return f"a {kind} with {names}" if names else f"a {kind}"
