"""The names that users import, and that importing them is fast."""

import subprocess
import sys

import pytest

import normpipe
from normpipe.pipeline import api


def test_the_public_names_are_those_of_the_api() -> None:
    assert {*normpipe.__all__} == {*api.__all__, "__version__"}
    for name in api.__all__:
        assert getattr(normpipe, name) is getattr(api, name)


def test_only_public_names_are_given() -> None:
    with pytest.raises(AttributeError, match="module 'normpipe' has no attribute 'ShardFolder'"):
        _ = normpipe.ShardFolder
    namespace: dict[str, object] = {}
    exec("from normpipe import *", namespace)
    assert {*api.__all__} <= namespace.keys()


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = """
import sys
import normpipe
assert normpipe.__version__
print(*sorted({"torch", "pyarrow", "numpy", "pydantic"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")
