"""A port that is knocked at: while somebody listens, when it is refused, and when the sweep ends first."""

from __future__ import annotations

import socket
import threading
import time

from sweep.cluster.head_watch import HeadWatch


def listener() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    server.listen(64)
    return server


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_goes_is_told_once_and_after_patience() -> None:
    server, told, heard = listener(), [], threading.Event()

    def lost(reason: str) -> None:
        told.append(reason)
        heard.set()

    with HeadWatch(address_of(server), lost, every_s=0.02, refused_s=0.4) as _:
        assert not heard.wait(1.0), "while it listens nothing is told, however long that is"
        gone = time.monotonic()
        server.close()
        assert heard.wait(30)
        assert time.monotonic() - gone > 0.3
        time.sleep(0.1)
    assert told == ["Connection refused"]


def test_a_sweep_that_ends_first_hears_nothing() -> None:
    server, told = listener(), []
    with HeadWatch(address_of(server), told.append, every_s=0.02, refused_s=0.5):
        server.close()
    time.sleep(0.7)
    assert told == []


def test_a_head_that_comes_back_in_time_is_not_lost() -> None:
    server, told = listener(), []
    place = server.getsockname()
    with HeadWatch(address_of(server), told.append, every_s=0.02, refused_s=20.0):
        server.close()
        time.sleep(0.2)
        with socket.create_server(place):
            time.sleep(0.2)
    assert told == []
