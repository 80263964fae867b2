"""The decoder process, with files in it that make it hang, die, lie and reach out."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "stages/faces"))
import decoder

_plain = decoder.decode_file
_ANSWERS = {
    b"LIE size": b'{"width": 40000, "height": 40000, "kind": "rgb"}\n',
    b"LIE negative": b'{"width": -5, "height": -5, "kind": "rgb"}\n',
    b"LIE kind": b'{"width": 4, "height": 4, "kind": "O"}\n',
    b"LIE reason": b'{"reason": "no_face"}\n',
    b"LIE json": b"pixels\n",
    b"LIE list": b"[]\n",
    b"LIE flood": b"x" * 100_000,
}


def decode_file(data: bytes, limits: decoder.Limits) -> decoder.Decoded:
    if data == b"HANG":
        while True:
            time.sleep(1)
    if data == b"DIE":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"LEAVE":
        os._exit(0)
    if data.startswith(b"ONCE "):
        marker = Path(data[5:].decode())
        if marker.exists():
            marker.rmdir()  # it may open nothing, but a folder can go
            os._exit(9)
        raise decoder.Undecodable("truncated", "the second time")
    if data == b"EAT":
        bytearray(2**31)
    if data == b"OPEN":
        decoder._raise_own(_error(lambda: open(__file__)))  # noqa: SIM115, PTH123
    if data == b"SOCKET":
        decoder._raise_own(_error(socket.socket))
    if data in _ANSWERS:
        os.write(1, _ANSWERS[data])
        time.sleep(1)
    return _plain(data, limits)


def _error(call: object) -> OSError:
    try:
        call()  # type: ignore[operator]
    except OSError as error:
        return error
    raise decoder.Undecodable("unreadable", "it could be opened")


decoder.decode_file = decode_file
decoder.main(sys.argv[1:])
