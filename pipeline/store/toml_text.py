"""Settings as TOML with their descriptions; reading it gives exactly the same settings."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Half of a UTF-16 pair: how Python represents a byte of a file name that is not UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")


def table_lines(
    name: str, model: type[BaseModel], values: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the lines of a table, each setting below its description.

    With ``values`` (ready for JSON), write those; without, write every default as a comment.
    """
    lines = ["", f"[{key_text(name)}]"]
    for key, info in model.model_fields.items():
        if values is not None and key not in values:
            continue
        if info.description:
            lines.append(f"# {' '.join(info.description.split())}")
        if values is None:
            default = info.get_default(call_default_factory=True)  # type: ignore[call-arg]
            lines.append(f"# {key_text(key)} = {_stated(default)}")
        else:
            lines.append(f"{key_text(key)} = {_stated(values[key])}")
    return lines


def _stated(value: Any) -> str:
    return '""  # unset' if value is None else value_text(value)


def key_text(key: str) -> str:
    """Return a key as TOML, in quotes if it needs them."""
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def value_text(value: Any) -> str:
    """Return a value as TOML, on one line; None is ``""``, because TOML has no null."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key_text(k)} = {value_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str | PurePath):
        return _string(str(value))
    raise TypeError(f"{type(value).__name__} has no form in TOML")


def readable(text: str) -> str:
    """Return a text that is valid UTF-8: other bytes of a file name are percent-encoded."""
    return _SURROGATE.sub(_percent, text)


def _percent(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"%{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else "\ufffd"


def _string(text: str) -> str:
    # JSON's escapes are TOML's, which wants one more control character escaped.
    return json.dumps(readable(text), ensure_ascii=False).replace("\x7f", "\\u007f")
