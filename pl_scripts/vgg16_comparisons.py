"""Compare explanation methods on VGG-16 as published (T-TAME, IEEE Access 2024, Tables II and IV).

    python pl_scripts/vgg16_comparisons.py --data IMAGENET --lists datalist [--rise.masks 500] [...]

All methods explain the same classifier object. The paper's numbers are printed below ours; they are of 2,000 other
images of ImageNet's validation set. T-TAME comes from the checkpoint that the training recipe leaves; give
`--methods` to compare fewer. Not repeated here in full: this project has run it on small data only. Every option of
`tame compare` works; finished runs are skipped.
"""

import sys

from runs import RUNS

from tame.cli.main import run_command

RECIPE = {
    "backbone": "vgg16",
    "weights": "imagenet1k_v1",
    "preset": "released",
    "metrics": ["ad-ic", "road"],
    "methods": [
        "gradcam",
        "gradcam++",
        "scorecam",
        "ablationcam",
        "rise",
        "iia_released",
        f"ttame@{RUNS['vgg16']}",
    ],
    "rise": {"masks": 4000},
    "num_workers": 8,
    "out": "comparisons/vgg16",
}

if __name__ == "__main__":
    sys.exit(run_command("compare", sys.argv[1:], RECIPE))
