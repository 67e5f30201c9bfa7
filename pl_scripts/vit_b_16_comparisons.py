"""Compare explanation methods on ViT-B-16 as published (T-TAME, IEEE Access 2024, Tables III and V).

    python pl_scripts/vit_b_16_comparisons.py --data IMAGENET --lists datalist [--rise.masks 500] [...]

All methods explain the same classifier object. The paper's numbers are printed below ours; they are of 2,000 other
images of ImageNet's validation set. T-TAME comes from the checkpoint that the training recipe leaves; give
`--methods` to compare fewer. Not repeated here in full: this project has run it on small data only. Every option of
`tame compare` works; finished runs are skipped.
"""

import sys

from runs import RUNS

from tame.cli.main import run_command

RECIPE = {
    "backbone": "vit_b_16",
    "weights": "imagenet1k_v1",
    "preset": "released",
    "metrics": ["ad-ic", "road"],
    "methods": [
        "gradcam",
        "gradcam++",
        "scorecam",
        "ablationcam",
        "rise",
        "transformer_lrp",
        "iia_released",
        f"ttame@{RUNS['vit_b_16']}",
    ],
    "rise": {"masks": 8000},
    "num_workers": 8,
    "out": "comparisons/vit_b_16",
}

if __name__ == "__main__":
    sys.exit(run_command("compare", sys.argv[1:], RECIPE))
