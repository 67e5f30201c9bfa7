"""Where classifiers come from: torchvision, timm, packages, one's own code, spec files."""

from tame.backbones.load import BACKBONES, find_spec, load_backbone

__all__ = ["BACKBONES", "find_spec", "load_backbone"]
