"""Requests as bytes, for requests that no client library would send."""

from __future__ import annotations

import socket
import time

from support.serving import Served


def exchange(served: Served, data: bytes, then: float = 0.0) -> bytes:
    """Send bytes, and read until the server closes the connection or has answered."""
    host, port = served.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        time.sleep(then)
        while chunk := connection.recv(65536):
            received += chunk
            if b"\r\n\r\n" in received and b"connection: close" not in received.lower():
                break
    return received


def post(path: str, body: bytes, *headers: str, host: str = "127.0.0.1") -> bytes:
    """A POST request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *headers]
    if not any("content-length" in h.lower() or "chunked" in h.lower() for h in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
