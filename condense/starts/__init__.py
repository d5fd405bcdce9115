"""What images are before anything is optimised: noise, real images, or collages of real patches chosen by teachers."""

from condense.starts.base import PatchConfig, StartJob, TileConfig, check_patches, factor_of
from condense.starts.collages import critical_images, easy_images
from condense.starts.table import STARTS, Start, begin, check_start
from condense.starts.whole import median_images, real_images

__all__ = [
    "STARTS",
    "PatchConfig",
    "Start",
    "StartJob",
    "TileConfig",
    "begin",
    "check_patches",
    "check_start",
    "critical_images",
    "easy_images",
    "factor_of",
    "median_images",
    "real_images",
]
