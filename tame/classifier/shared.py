"""Copies of networks that share their tensors: using the copy leaves the user's network untouched."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from tame.classifier.locks import network_lock
from tame.utils.checks import InputError

logger = logging.getLogger("tame")


def sharing_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a network in eval mode whose tensors share the memory of the network's and need no gradient.

    Training steps on the network are therefore seen by the copy; replaced layers and moves to another device are not.
    Modes, hooks and gradients are the copy's own. Forward hooks are copied, since they may compute a part of the output
    (weight norm, pruning); backward hooks are not.

    Raises:
        InputError: For a network that cannot be copied, or whose parameters have no shape yet.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> copied = sharing_copy(net)
        >>> copied.training, copied.weight.requires_grad, copied.weight.data_ptr() == net.weight.data_ptr()
        (False, False, True)
        >>> net.training, net.weight.requires_grad
        (True, True)
    """
    kind = type(module).__name__
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a network, an nn.Module, got {kind}")
    for name, tensor in _tensors(module):
        if is_lazy(tensor):
            raise InputError(f"expected a network that has seen an image, got {kind} with {name} of unknown shape")
    with network_lock(module), torch.inference_mode(False), torch.no_grad(), _Aliases():
        try:
            return _copied(module, {})
        except Exception as first:  # any object in a network may refuse to be copied, with any error
            memo, names = _kept(module)
            try:
                copied = _copied(module, memo)
            except Exception as error:
                raise InputError(
                    f"expected a network that copy.deepcopy can copy, got {kind}: {error}; FrozenClassifier(spec, "
                    "network, layers) freezes a network in place"
                ) from error
            reason = " ".join(str(first).split())
    logger.warning("%s of %s cannot be copied and is shared with the classifier: %s", ", ".join(names), kind, reason)
    return copied


@contextmanager
def own_buffers(copied: nn.Module) -> Iterator[None]:
    """Run forward passes of a sharing copy, within the block, on buffers of its own: the network's are not written to.

    Afterwards it shares the network's buffers again, except those that the passes changed. Few networks change buffers
    in eval mode, such as a counter of passes; a log message names the buffers.
    """
    buffers = {name: (value, value.data) for name, value in copied.named_buffers()}
    with torch.inference_mode(False), torch.no_grad():
        for value, shared in buffers.values():
            value.data = shared.clone()
    before = {name: _version(value) for name, (value, _) in buffers.items()}
    try:
        yield
    finally:
        changed = [name for name, (value, _) in buffers.items() if _version(value) != before[name]]
        for name in buffers.keys() - set(changed):
            buffers[name][0].data = buffers[name][1]
        if changed:
            logger.warning(
                "%s changes %s in eval mode: the classifier has its own copy of these buffers, and training does not "
                "update it",
                type(copied).__name__,
                ", ".join(changed),
            )


def shares_tensors(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have parameters or buffers in the same memory."""
    first, second = ({value.data_ptr() for _, value in _tensors(each)} - {0} for each in (one, other))
    return bool(first & second)


class _Aliases(TorchFunctionMode):
    """Lets `copy.deepcopy` share the memory of tensors, also of those that are part of a graph and cannot be copied."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Return an alias instead of a copy; run every other function."""
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach())


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a network; ``memo`` holds replacements in the copy, see `copy.deepcopy`."""
    memo |= {id(each): each.data for each in module.buffers()}  # not `detach`, which counts their changes together
    memo |= {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in module.parameters()}
    for part in module.modules():
        memo |= {id(each): OrderedDict() for each in (part._backward_hooks, part._backward_pre_hooks)}
    copied = copy.deepcopy(module, memo)
    for original in memo[id(memo)]:  # what was copied, also networks and parameters in lists, which have no name
        found = memo.get(id(original))
        if isinstance(found, nn.Parameter):
            found.data = original.data
        if isinstance(found, nn.Module):
            freeze(found)
    for (_, original), (_, own) in zip(_tensors(module), _tensors(copied), strict=True):
        if own.data_ptr() != original.data_ptr():  # TorchScript copies its tensors itself
            own.data = original.data
    return freeze(copied)


def freeze(module: nn.Module) -> nn.Module:
    """Set a network to eval mode, with parameters that require no gradient, in place; return it."""
    for each in module.parameters():  # TorchScript has no requires_grad_ of a whole module
        each.requires_grad_(False)
    return module.eval()


def _kept(module: nn.Module) -> tuple[dict[int, Any], list[str]]:
    """Find attributes that cannot be copied; return them as a memo, and their names."""
    memo, names = {}, []
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value, {id(each): each for each in chain(module.modules(), module.parameters())})
            except Exception:
                # hooks and other containers are the copy's own, what is in them is not
                memo[id(value)] = copy.copy(value) if isinstance(value, dict | list) else value
                names.append(f"{path}.{name}".lstrip("."))
    return memo, names
