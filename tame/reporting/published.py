"""The numbers printed in the T-TAME paper, to be read beside a comparison.

Source: Ntrougkas, Gkalelis and Mezaris, "T-TAME", IEEE Access 12 (2024), Tables II to V: 2,000 images of ImageNet's
validation set. They are another evaluation than ours, on other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from tame.explainers import EXPLAINERS
from tame.reporting.formats import markdown_rows

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
_TABLES = ["II", "III", "IV", "V"]  # the others are ablations
_MEASURES = [f"{metric}({keep}%)" for keep in (100, 50, 15) for metric in ("AD", "IC")] + ["MoRF", "LeRF", "FP"]


def published_table(backbone: str, methods: Sequence[str]) -> str | None:
    """Return the paper's numbers of these methods (ids) as Markdown; None if it has none of them.

    Example:
        >>> published_table("vgg16", ["rise"]).splitlines()[-1].split()[1:6:2]
        ['RISE', '8.74', '51.3']
    """
    if backbone not in _BACKBONES:
        return None
    import pandas as pd

    with (files("tame") / "assets" / "published" / "tables.csv").open(encoding="utf-8") as file:
        printed = pd.read_csv(file, dtype=str)
    chosen = printed[printed["table"].isin(_TABLES) & (printed["backbone"] == _BACKBONES[backbone])]
    cells = chosen.pivot_table(index="row", columns="measure", values="value", aggfunc="last")
    rows = {
        EXPLAINERS.get(method).title: _ROWS[method]
        for method in dict.fromkeys(methods)
        if _ROWS.get(method) in cells.index
    }
    if not rows:
        return None
    frame = cells.reindex(index=list(rows.values()), columns=_MEASURES).fillna("-")
    frame = frame.map(lambda cell: cell.removesuffix(".0")).rename(columns=lambda name: name.replace("(", " ("))
    frame.insert(0, "published", list(rows))
    return markdown_rows(frame)
