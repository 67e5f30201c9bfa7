"""Train T-TAME for ViT-B-16 as published (T-TAME, IEEE Access 2024, Tables II-IV; settings of the released program).

    python pl_scripts/vit_TAME.py --data IMAGENET --lists datalist [--epochs 8] [--lr 1e-3] [...]

Published with ImageNet's 1.28 million training images on one CUDA GPU, measured on 2,000 validation images:
AD/IC at 100, 50, 15 %: 8.19/38.35, 23.64/40.40, 72.89/9.40. Not repeated here: this project has trained it on
small data only. Every option of `tame train` works; without a CUDA device it runs on the CPU, with a log message.
"""

import sys

from runs import RUNS

from tame.cli.main import run_command

RECIPE = {
    "backbone": "vit_b_16",
    "weights": "imagenet1k_v1",
    "preset": "released",
    "epochs": 8,
    "batch_size": 32,
    "lr": 1e-3,
    "num_workers": 8,
    "out": RUNS["vit_b_16"],
}

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:], RECIPE))
