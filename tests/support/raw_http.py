"""Requests as bytes, for clients that HTTP libraries would not let be."""

import socket
import time

PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"


def request(photo: bytes, *headers: bytes) -> bytes:
    """POST /predict/file with a photo, and more headers."""
    body = PART + photo + b"\r\n--x--\r\n"
    size = b"Content-Length: %d\r\n" % len(body)
    return b"POST /predict/file HTTP/1.1\r\nHost: x\r\n" + FORM + size + b"".join(headers) + b"\r\n" + body


def read(connection: socket.socket, seconds: float) -> bytes | None:
    """All that comes until the other side closes; None if it had not after `seconds`."""
    answer, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            data = connection.recv(65536)
        except TimeoutError:
            return None
        except ConnectionError:  # closed with something unread: no less an end
            return answer
        if not data:
            return answer
        answer += data
    return None
