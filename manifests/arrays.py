"""Names of array types, by content; docstrings of functions state shapes, and ranges if needed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Images, RGB unless stated otherwise, (H, W, 3) or (N, H, W, 3); grey images and masks, (H, W).
Pixels = NDArray[np.uint8]
#: Numbers of any floating precision, mostly float32.
Floats = NDArray[np.floating]
#: Numbers that must be float32: for networks, compiled loops and face kits.
Float32s = NDArray[np.float32]
#: Points and boxes, (..., 2) or (..., 4), float64: x and y, in original coordinates.
Points = NDArray[np.float64]
#: A transform, (2, 3) float64, original coordinates → aligned ones.
Matrix = NDArray[np.float64]
#: Indices of rows, or other positions in an array.
Rows = NDArray[np.int64]
#: Indices as face kits store them: triangles' corners, landmarks; places of rows in shards.
Int32s = NDArray[np.int32]
#: A selection.
Mask = NDArray[np.bool_]
#: Names: people, emotions, sources.
Words = NDArray[np.str_]
#: Numbers of any dtype.
Numbers = NDArray[Any]
