"""Each name of an array type fits what libraries give where we use it."""

from typing import Any, get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from normpipe.manifests import arrays
from normpipe.manifests.arrays import (
    Float32s,
    Floats,
    Int32s,
    Mask,
    Matrix,
    Numbers,
    Pixels,
    Points,
    Rows,
    Words,
)

SCORES = np.array([0.25, 0.5])
CORNERS = np.array([[0, 0], [1, 0], [0, 1]], np.float32)


def fits(array: NDArray[Any], kind: Any) -> bool:
    """Say whether a type checker that saw the array's dtype would let it pass for a type."""
    (scalar,) = get_args(get_args(kind)[1])
    return scalar is Any or np.issubdtype(array.dtype, scalar)


@pytest.mark.parametrize(
    ("array", "kinds"),
    [
        (cv2.imdecode(cv2.imencode(".png", np.zeros((2, 2, 3)))[1], cv2.IMREAD_COLOR), {"Pixels"}),
        (cv2.getAffineTransform(CORNERS, CORNERS), {"Floats", "Matrix", "Points"}),
        (CORNERS.astype(np.float16), {"Floats"}),
        (CORNERS, {"Floats", "Float32s"}),
        (np.argsort(SCORES), {"Rows"}),
        (np.flatnonzero(SCORES), {"Rows"}),
        (np.array([0, 1], np.int32), {"Int32s"}),
        (SCORES > 0.3, {"Mask"}),
        (np.array(["anna", "bea"]), {"Words"}),
        (np.array([1j]), set[str]()),
    ],
)
def test_a_name_fits_what_it_is_for_and_nothing_else(array: Any, kinds: set[str]) -> None:
    named: dict[str, Any] = {
        "Pixels": Pixels, "Floats": Floats, "Float32s": Float32s, "Points": Points,
        "Matrix": Matrix, "Rows": Rows, "Int32s": Int32s, "Mask": Mask, "Words": Words,
    }  # fmt: skip
    assert {name for name, kind in named.items() if fits(array, kind)} == kinds
    assert fits(array, Numbers)
    # A name that is added has its line here, too.
    public = {name for name, kind in vars(arrays).items() if get_args(kind) and name != "NDArray"}
    assert public == {*named, "Numbers"}
