"""Names of array types, by what is in them; docstrings say the shapes, and ranges that matter."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Pictures, RGB where nothing else is said, (H, W, 3) or (N, H, W, 3); grey ones and masks, (H, W).
Pixels = NDArray[np.uint8]
#: Numbers of some floating precision, mostly float32.
Floats = NDArray[np.floating]
#: Numbers that must be float32: what networks and compiled loops take, what a face kit holds.
Float32s = NDArray[np.float32]
#: Points and boxes, (..., 2) or (..., 4), float64: x and y, in original coordinates.
Points = NDArray[np.float64]
#: A transform, (2, 3) float64, original coordinates → aligned ones.
Matrix = NDArray[np.float64]
#: Numbers of rows, or other places in an array.
Rows = NDArray[np.int64]
#: Places as a face kit holds them: corners of triangles, landmarks.
Int32s = NDArray[np.int32]
#: Which of something.
Mask = NDArray[np.bool_]
#: Names: people, emotions, sources.
Words = NDArray[np.str_]
#: Numbers of any dtype.
Numbers = NDArray[Any]
