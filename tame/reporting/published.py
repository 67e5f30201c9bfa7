"""The numbers that the paper prints, beside which a comparison can be read.

Source: Ntrougkas, Gkalelis and Mezaris, "T-TAME", IEEE Access 12 (2024), Tables II to V: 2,000 images of ImageNet's
validation set. Figures only; they are another evaluation than ours, on other images.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files

_BACKBONES = {"vgg16": "VGG-16", "resnet50": "ResNet-50", "vit_b_16": "ViT-B-16"}
_ROWS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "scorecam": "Score-CAM",
    "ablationcam": "Ablation-CAM",
    "rise": "RISE",
    "iia_released": "IIA",
    "transformer_lrp": "Transformer LRP",
    "lcam_img": "L-CAM-Img",
    "ttame": "T-TAME",
}
_TABLES = ("II", "III", "IV", "V")  # the others are ablations


def published_table(backbone: str, methods: Sequence[str]) -> str:
    """Return the paper's numbers of ``methods`` as Markdown; empty for a backbone that it does not treat.

    Example:
        >>> print(published_table("vgg16", ["rise"]).splitlines()[-1])
        | rise | 8.74 | 51.3 | 42.42 | 17.55 | 78.7 | 4.45 | 22.78 | 76.08 | 4000 |
    """
    if backbone not in _BACKBONES:
        return ""
    text = (files("tame") / "assets" / "published" / "tables.csv").read_text(encoding="utf-8")
    cells = {
        (line["row"], line["measure"]): line["value"]
        for line in csv.DictReader(text.splitlines())
        if line["table"] in _TABLES and line["backbone"] == _BACKBONES[backbone]
    }
    measures = [f"{metric}({keep}%)" for keep in (100, 50, 15) for metric in ("AD", "IC")] + ["MoRF", "LeRF", "FP"]
    rows = [
        [method, *(cells.get((_ROWS[method], measure), "-").removesuffix(".0") for measure in measures)]
        for method in methods
        if method in _ROWS and any(row == _ROWS[method] for row, _ in cells)
    ]
    head = ["published", *(measure.replace("(", " (") for measure in measures)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
