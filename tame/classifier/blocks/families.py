"""The blocks of torchvision's and timm's vision transformers: everything specific to one of them is in this file."""

from __future__ import annotations

import copy
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tame.classifier import FrozenClassifier, TokenLayout
from tame.classifier.blocks.transformer import Block, Transformer, exact_graph
from tame.classifier.outputs import WithOutput
from tame.utils.checks import InputError


def open_transformer(classifier: FrozenClassifier) -> Transformer:
    """Return the operations of a vision transformer with a class token, torchvision's or timm's.

    The classifier does not change; its parameters are shared, those in half or double precision copied in float32.
    Queries, keys and values of torchvision's fused attention are computed from its ``in_proj`` parameters.

    Raises:
        InputError: For another network, one without a class token, or one whose logits differ when its operations are
            run one by one.
    """
    module, name = classifier.module, classifier.spec.name
    if isinstance(module, WithOutput) and module.only_casts:
        module = copy.deepcopy(module.network).float()  # relevances divide by small numbers
    timm = sys.modules.get("timm.models.vision_transformer")  # imported if the classifier is timm's
    if isinstance(module, VisionTransformer):
        transformer = _from_torchvision(module, name)
    elif timm is not None and isinstance(module, timm.VisionTransformer):
        transformer = _from_timm(module, name, timm)
    else:
        raise _refused(f"{type(module).__name__} ({name})")
    _check_same_answer(classifier, module, transformer)
    return transformer


def class_token_grid(classifier: FrozenClassifier) -> TokenLayout:
    """Return the classifier's token layout.

    Raises:
        InputError: If it has no tokens, or no class token before the patches.
    """
    layout = classifier.spec.tokens
    if layout is None or not layout.prefix:
        what = "no token layout" if layout is None else "a token layout without a prefix token"
        raise _refused(f"{type(classifier.module).__name__} ({classifier.spec.name}) with {what}")
    return layout


def _refused(what: str) -> InputError:
    return InputError(
        "expected a transformer whose class token is classified, torchvision's or timm's VisionTransformer, "
        f"to read its attention, got {what}"
    )


def _from_torchvision(module: VisionTransformer, name: str) -> Transformer:
    if not (len(module.heads) == 1 and isinstance(module.heads[0], nn.Linear)):
        raise _refused(f"{name} with a head of {len(module.heads)} layers")

    def embed(inputs: Tensor) -> Tensor:
        patches = module._process_input(inputs)
        tokens = torch.cat([module.class_token.expand(len(inputs), -1, -1), patches], 1)
        return tokens + module.encoder.pos_embedding

    blocks = [
        Block(
            norm1=_layer_norm(block.ln_1, name),
            qkv_weight=block.self_attention.in_proj_weight,
            qkv_bias=block.self_attention.in_proj_bias,
            heads=block.self_attention.num_heads,
            out=block.self_attention.out_proj,
            norm2=_layer_norm(block.ln_2, name),
            fc1=block.mlp[0],
            activation=block.mlp[1],
            fc2=block.mlp[3],
        )
        for block in module.encoder.layers
    ]
    return Transformer(embed, tuple(blocks), _layer_norm(module.encoder.ln, name), module.heads[0])


def _from_timm(module: Any, name: str, timm: ModuleType) -> Transformer:
    if module.global_pool != "token" or not isinstance(module.fc_norm, nn.Identity):
        raise _refused(f"{name} with pooling {module.global_pool!r} before the head")

    def embed(inputs: Tensor) -> Tensor:
        return module.norm_pre(module._pos_embed(module.patch_embed(inputs)))

    blocks = []
    for block in module.blocks:
        for part, kind in ((block, timm.Block), (block.attn, timm.Attention), (block.mlp, timm.Mlp)):
            if not isinstance(part, kind):
                raise _refused(f"{name} with blocks of {type(part).__name__}")
        attention = block.attn
        extras = [block.ls1, block.ls2, attention.q_norm, attention.k_norm]
        extras += [getattr(part, extra, None) for part in (attention, block.mlp) for extra in ("norm", "gate")]  # newer
        for extra in extras:
            if extra is not None and not isinstance(extra, nn.Identity):
                raise _refused(f"{name} with {type(extra).__name__} in its blocks")
        blocks.append(
            Block(
                norm1=_layer_norm(block.norm1, name),
                qkv_weight=attention.qkv.weight,
                qkv_bias=attention.qkv.bias,
                heads=attention.num_heads,
                out=attention.proj,
                norm2=_layer_norm(block.norm2, name),
                fc1=block.mlp.fc1,
                activation=block.mlp.act,
                fc2=block.mlp.fc2,
            )
        )
    return Transformer(embed, tuple(blocks), _layer_norm(module.norm, name), module.head)


def _layer_norm(norm: nn.Module, name: str) -> nn.LayerNorm:
    if not isinstance(norm, nn.LayerNorm):
        raise _refused(f"{name} with {type(norm).__name__} in the place of a LayerNorm")
    return norm


def _check_same_answer(classifier: FrozenClassifier, module: nn.Module, transformer: Transformer) -> None:
    """Check on a random image that the operations give the classifier's own logits."""
    shape = (1, *classifier.spec.preprocessing.shape)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(classifier.mean)
    with exact_graph(images.device), torch.no_grad():
        expected = module(classifier.normalise(images))
        seen = transformer.run(transformer.embed(classifier.normalise(images)))
    layout = class_token_grid(classifier)
    tokens = layout.prefix + layout.grid[0] * layout.grid[1]
    if seen.tokens.shape[1] != tokens:
        raise InputError(f"expected {tokens} tokens in {classifier.spec.name}, got {seen.tokens.shape[1]}")
    error = float((seen.logits - expected).abs().max())
    if not error <= 1e-3 * max(1.0, float(expected.abs().max())):
        raise _refused(f"{classifier.spec.name}, whose logits differ by {error:.3g} when its operations are run")
