"""Heat maps over images, grids of pictures, ROAD curves and learning-rate curves."""

from tame.visualize.curves import PANELS, RoadCurves, road_curves
from tame.visualize.learning_rate import learning_rate_curve
from tame.visualize.pictures import Box, figure, grid, overlay, pixel_box
from tame.visualize.training import training_curves

__all__ = [
    "PANELS",
    "Box",
    "RoadCurves",
    "figure",
    "grid",
    "learning_rate_curve",
    "overlay",
    "pixel_box",
    "road_curves",
    "training_curves",
]
