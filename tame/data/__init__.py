"""Image lists, image files, crops, datasets, and a Lightning data module.

`ImageListDataModule` is in `tame.data.datamodule`, so that reading an image does not import Lightning.
"""

from tame.data.dataset import Batch, ImageListDataset, Sample
from tame.data.folders import ImageFolders, own_outputs, resolve_folders, resolve_list, walk_images
from tame.data.images import array_to_photo, channels_to_photo, check_file, check_no_address, load_image, to_photo
from tame.data.lists import (
    ImageEntry,
    draw,
    draw_per_label,
    list_hash,
    read_list,
    split_validation,
    write_list,
)
from tame.data.transforms import Crop, CropKind, crop_box, to_tensor

__all__ = [
    "Batch",
    "Crop",
    "CropKind",
    "ImageEntry",
    "ImageFolders",
    "ImageListDataset",
    "Sample",
    "array_to_photo",
    "channels_to_photo",
    "check_file",
    "check_no_address",
    "crop_box",
    "draw",
    "draw_per_label",
    "list_hash",
    "load_image",
    "own_outputs",
    "read_list",
    "resolve_folders",
    "resolve_list",
    "split_validation",
    "to_photo",
    "to_tensor",
    "walk_images",
    "write_list",
]
