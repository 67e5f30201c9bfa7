"""Where the training recipes leave their runs, and the comparisons find them."""

RUNS = {
    "vgg16": "runs/vgg16_TAME",
    "resnet50": "runs/resnet50_TAME",
    "vit_b_16": "runs/vit_b_16_TAME",
}
