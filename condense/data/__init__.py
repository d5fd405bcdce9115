"""Source data sets: names, images, labels, normalisation.

``open_data(name)`` gives a :class:`Data`: the spec, and two splits of memory-mapped uint8 images with their labels.

>>> open_data("fashion-mini").spec.classes[:2]
('T-shirt/top', 'Trouser')
"""

from condense.data.opening import DATASETS, DatasetEntry, mirrors, open_data
from condense.data.spec import Data, DatasetSpec, Split
from condense.data.split import holdout

__all__ = ["DATASETS", "Data", "DatasetEntry", "DatasetSpec", "Split", "holdout", "mirrors", "open_data"]
