"""Train T-TAME for VGG-16 as published (T-TAME, IEEE Access 2024, Tables II-IV; settings of the released program).

    python pl_scripts/vgg16_TAME.py --data IMAGENET --lists datalist [--epochs 8] [--lr 1e-3] [...]

Published with ImageNet's 1.28 million training images on one CUDA GPU, measured on 2,000 validation images:
AD/IC at 100, 50, 15 %: 9.33/50.00, 36.50/22.45, 73.29/5.60. Not repeated here: this project has trained it on
small data only. Every option of `tame train` works; without a CUDA device it runs on the CPU, with a log message.
"""

import sys

from runs import RUNS

from tame.cli.main import run_command

RECIPE = {
    "backbone": "vgg16",
    "weights": "imagenet1k_v1",
    "preset": "released",
    "epochs": 8,
    "batch_size": 32,
    "lr": 1e-3,
    "num_workers": 8,
    "out": RUNS["vgg16"],
}

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:], RECIPE))
