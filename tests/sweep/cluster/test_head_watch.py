"""A port that is knocked at: while somebody answers, when it is refused or silent, and when the sweep ends first."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from sweep.cluster.head_watch import HeadWatch


def listener(place: tuple[str, int] = ("127.0.0.1", 0), *, answers: bytes | None = b"x") -> socket.socket:
    """A server that answers whoever connects: with bytes, by closing (b""), or not at all (None), as one that hangs."""
    server = socket.create_server(place, backlog=64)

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                with server.accept()[0] as connection:
                    connection.sendall(answers or b"")

    if answers is not None:
        threading.Thread(target=answer, daemon=True).start()
    return server


def close(server: socket.socket) -> None:
    """Close it for good: a thread that waits in accept would hold it open."""
    server.shutdown(socket.SHUT_RDWR)
    server.close()


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
        close(server)
        assert heard.wait(30)
        assert time.monotonic() - gone > 0.3
        time.sleep(0.1)
    assert told == ["Connection refused"]


def test_a_sweep_that_ends_first_hears_nothing() -> None:
    server, told = listener(), []
    with HeadWatch(address_of(server), told.append, every_s=0.02, refused_s=0.5):
        close(server)
    time.sleep(0.7)
    assert told == []


def test_a_head_that_comes_back_in_time_is_not_lost() -> None:
    server, told = listener(), []
    place = server.getsockname()
    with HeadWatch(address_of(server), told.append, every_s=0.02, refused_s=20.0):
        close(server)
        time.sleep(0.2)
        again = listener(place)
        time.sleep(0.2)
    close(again)
    assert told == []


def test_a_head_that_takes_connections_and_says_nothing_is_lost_too() -> None:
    server, told, heard = listener(answers=None), [], threading.Event()

    def lost(reason: str) -> None:
        told.append(reason)
        heard.set()

    began = time.monotonic()
    with HeadWatch(address_of(server), lost, every_s=0.02, silent_s=0.4):
        assert heard.wait(30)
    assert time.monotonic() - began > 0.4
    assert told == ["timed out"]
    close(server)


def test_one_that_only_hangs_up_is_there() -> None:
    """As a gRPC that wants TLS does with our greeting."""
    server, told = listener(answers=b""), []
    with HeadWatch(address_of(server), told.append, every_s=0.02, silent_s=0.3, refused_s=0.3):
        time.sleep(0.8)
    assert told == []
    close(server)
