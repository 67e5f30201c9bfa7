"""Print the explanation masks of other methods beside those of T-TAME, as in the paper's comparisons.

    python pl_scripts/other_methods_print_mask.py IMAGES... [--method A,B,C] [--rise.masks N] [--out DIR]

The same as `tame explain` with several methods: a grid with a row per method and a column per image, or, with --top or
several --target, a grid per image with a column per class. The published 8000 masks of RISE take minutes per image on
a CPU; --rise.masks 500 is faster.
"""

import sys

from tame.cli.main import run_command

RECIPE = {
    "method": ["gradcam", "gradcam++", "scorecam", "ablationcam", "rise", "iia", "ttame"],
    "out": "explanations/other_methods",
}

if __name__ == "__main__":
    sys.exit(run_command("explain", sys.argv[1:], RECIPE))
