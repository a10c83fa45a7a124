"""Expected costs of torchvision's compiled operators."""

from tests.estimators.costs.cost_rows.build import i, rows

# 4 boxes: 3 for each area, 4 * log2(4) to sort, 6 pairs of 12 operations and a division.
rows(
    "torchvision.nms torchvision.qnms",
    {"dets": (4, 4), "scores": (4,)},
    [i(4)],
    {"iou_threshold": 0.5},
    family="pooling",
    vector=12 + 8 + 72,
    special=6,
    space={"m": 4, "n": 4},
)
# 3 boxes of 2 x 2 bins in 5 channels, 2 x 2 samples a bin: 60 results of 4 samples of 8; 48 points of 12. The map is read whole:
# 60 * 4 * 4 pixels are more than its 640.
BOXES = {"pooled_height": 2, "pooled_width": 2, "sampling_ratio": 2}
rows(
    "torchvision.roi_align torchvision.qroi_align",
    {"input": (2, 5, 8, 8), "rois": (3, 5)},
    [(3, 5, 2, 2)],
    BOXES,
    family="gather",
    vector=60 * 4 * 8 + 48 * 12,
    special=60,
    space={"m": 60, "n": 16, "window": 4},
)
# One bin of a channel of its own: 2 results of 1 sample read 2 * 4 of the 128 pixels.
rows(
    "torchvision.ps_roi_align",
    {"input": (1, 2, 8, 8), "rois": (1, 5)},
    [(1, 2, 1, 1), i(1, 2, 1, 1)],
    {"pooled_height": 1, "pooled_width": 1, "sampling_ratio": 1},
    family="gather",
    vector=2 * 8 + 12,
    special=2,
    space={"m": 2, "n": 4, "window": 1},
    reads={"input": 2 * 4 * 4},
)
# Adaptive: a box over all of an 8 x 8 map has 4 x 4 pixels, so as many samples, in each of 2 x 2 bins.
rows(
    "torchvision.roi_align",
    {"input": (1, 1, 8, 8), "rois": (1, 5)},
    [(1, 1, 2, 2)],
    {"pooled_height": 2, "pooled_width": 2, "sampling_ratio": -1},
    family="gather",
    vector=4 * 16 * 8 + 64 * 12,
    special=4,
    space={"m": 4, "n": 64, "window": 16},
)
rows(
    "torchvision.roi_pool torchvision.ps_roi_pool",
    {"input": (1, 3, 8, 8), "rois": (2, 5)},
    [(2, 3, 2, 2), i(2, 3, 2, 2)],
    {"pooled_height": 2, "pooled_width": 2},
    family="pooling",
    vector=24 * 16,
    space={"m": 24, "n": 16, "window": 16},
)
# 2 groups of 3 filters over 2 channels and 3 x 3 taps, at 4 x 4 points of one image: 16 * 4 * 9 values interpolated and masked.
rows(
    "torchvision.deform_conv2d",
    {"input": (1, 4, 6, 6), "weight": (6, 2, 3, 3), "offset": (1, 18, 4, 4), "mask": (1, 9, 4, 4), "bias": (6,)},
    [(1, 6, 4, 4)],
    {"groups": 2, "use_mask": True},
    family="conv",
    matrix=2 * 2 * 16 * 3 * 18,
    vector=16 * 4 * 9 * 8 + 96,
    space={"batch": 2, "m": 16, "n": 3, "k": 18, "window": 9},
)
