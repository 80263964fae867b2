"""The names that users import, and that importing them is fast."""

import subprocess
import sys

import pytest

import normpipe


def test_every_public_name_is_there_and_documented() -> None:
    assert dir(normpipe) == sorted(normpipe.__all__)
    for name in normpipe.__all__:
        found = getattr(normpipe, name)
        assert name == "__version__" or (found.__name__ == name and found.__doc__)


def test_only_public_names_are_given() -> None:
    with pytest.raises(AttributeError, match="module 'normpipe' has no attribute 'ShardFolder'"):
        _ = normpipe.ShardFolder
    namespace: dict[str, object] = {}
    exec("from normpipe import *", namespace)
    assert {*normpipe.__all__} <= namespace.keys()


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = """
import sys
import normpipe
assert normpipe.__version__
print(*sorted({"torch", "pyarrow", "numpy", "pydantic"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")
