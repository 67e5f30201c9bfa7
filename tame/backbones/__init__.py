"""Sources of classifiers: torchvision, timm, packages, your own code, spec files."""

from tame.backbones.load import BACKBONES, find_spec, is_code, load_backbone

__all__ = ["BACKBONES", "find_spec", "is_code", "load_backbone"]
