# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from an autopilot: UDP, TCP or a serial port, by one small interface; no MAVLink in here.

A link is opened where it is used, on one thread. What breaks it is an OSError; the caller closes it and opens a new
one. Everything that is not such a fault, as a datagram to a port without a listener yet, is no error.
"""

import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import Any, Protocol

from geoloc_models.errors import GeolocError

Address = tuple[str, int] | None
"""Where a datagram came from; None on links that have one other end."""

CONNECT_S = 2.0
WRITE_S = 0.5
_LARGEST = 65535
_NOBODY_THERE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
_FORMS = "give udpin:HOST:PORT, udpout:HOST:PORT, tcp:HOST:PORT or serial:DEVICE:BAUD"


class Link(Protocol):
    """One open connection; `fileno` is readable when `receive` has something."""

    def fileno(self) -> int: ...

    def receive(self) -> list[tuple[bytes, Address]]:
        """All that has come; OSError if the link is broken."""

    def send(self, data: bytes, address: Address) -> None:
        """Send to the other end, or to `address` where there may be several; OSError if the link is broken."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """A parsed connection URL. kind: udpin, udpout, tcp or serial; number: port or baud rate."""

    kind: str
    place: str  # host or device
    number: int

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """From text such as udpin:0.0.0.0:14540 or serial:/dev/ttyACM0:921600; GeolocError for any other."""
        kind, _, rest = url.partition(":")
        place, _, number = rest.rpartition(":")
        if kind not in ("udpin", "udpout", "tcp", "serial") or not place or not number.isdigit():
            raise GeolocError(f"connection '{url}' is not understood; {_FORMS}")
        largest = 4_000_000 if kind == "serial" else 65535
        if not 1 <= int(number) <= largest:
            what = "baud rate" if kind == "serial" else "port"
            raise GeolocError(f"connection '{url}': the {what} must be within 1 to {largest}; {_FORMS}")
        return cls(kind, place, int(number))

    @property
    def keeps_alive(self) -> bool:
        """Whether silence may mean a dead connection, so that a new one could help."""
        return self.kind in ("tcp", "serial")

    def open(self) -> Link:
        """A new link; OSError where that does not work now, GeolocError where it never will."""
        if self.kind == "serial":
            return _SerialLink(self.place, self.number)
        if self.kind == "tcp":
            return _TcpLink(self.place, self.number)
        return _UdpLink(self.place, self.number, listens=self.kind == "udpin")


class _UdpLink:
    """Datagrams: either listening and answering any sender, or sending to one address."""

    def __init__(self, host: str, port: int, listens: bool) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._remote = None if listens else address
        try:
            if listens:
                self._socket.bind(address)
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[tuple[bytes, Address]]:
        found: list[tuple[bytes, Address]] = []
        while True:
            try:
                data, address = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno not in _NOBODY_THERE:
                    raise
                return found
            found.append((data, address))

    def send(self, data: bytes, address: Address) -> None:
        target = self._remote or address
        if target is None:
            return
        try:
            self._socket.sendto(data, target)
        except BlockingIOError:
            return  # a full buffer loses datagrams as the way does
        except OSError as error:
            if error.errno not in _NOBODY_THERE:
                raise

    def close(self) -> None:
        self._socket.close()


class _TcpLink:
    """A stream to a server, such as ArduPilot's simulator or mavlink-router."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(WRITE_S)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[tuple[bytes, Address]]:
        try:
            data = self._socket.recv(_LARGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the other side closed the connection")
        return [(data, None)]

    def send(self, data: bytes, address: Address) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


class _SerialLink:
    """A serial port or USB's."""

    def __init__(self, device: str, baud: int) -> None:
        try:
            import serial
        except ImportError:
            raise GeolocError(
                f"serial:{device} needs the package pyserial, which is not here; install it with `pip install pyserial`"
            ) from None
        self._port: Any = serial.Serial(device, baud, timeout=0, write_timeout=WRITE_S)

    def fileno(self) -> int:
        return int(self._port.fileno())

    def receive(self) -> list[tuple[bytes, Address]]:
        data = self._port.read(_LARGEST)
        return [(data, None)] if data else []

    def send(self, data: bytes, address: Address) -> None:
        self._port.write(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._port.close()
