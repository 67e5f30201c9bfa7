"""Print the explanation masks of one's own images, as in the paper's figures.

    python pl_scripts/TAME_print_mask.py IMAGES... [--checkpoint RUN] [--target CLASS | --top K] [--out DIR]

The same as `tame explain`, with the three best classes side by side by default.
"""

import sys

from tame.cli.main import run_command

RECIPE = {"top": 3, "out": "explanations/print_mask"}

if __name__ == "__main__":
    sys.exit(run_command("explain", sys.argv[1:], RECIPE))
