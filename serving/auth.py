"""Tokens: API_TOKEN for photos, STATUS_TOKEN for what the service says of itself."""

from __future__ import annotations

import hmac

from flask import Flask, request

from serving.errors import Kind, Problem

STATUS_PATHS = ("/metrics", "/model", "/docs", "/openapi.json")


def require(token: str | None, *schemes: str) -> None:
    """Let only those pass who send the token, where there is one. Raises Problem.

    `schemes`: `Bearer`, and `Basic` for browsers, which then ask for a password: any name will do, with the token.
    """
    if token is not None and not _sends(token, schemes):
        hint = " or ".join(f"`Authorization: {scheme} ...`" for scheme in schemes)
        raise Problem(Kind.UNAUTHORIZED, f"send {hint} with the token", {"WWW-Authenticate": ", ".join(schemes)})


def guard_status(app: Flask, token: str | None) -> None:
    """Ask for the token on STATUS_PATHS."""

    def guard() -> None:
        if f"/{request.path.split('/')[1]}" in STATUS_PATHS:
            require(token, "Bearer", "Basic")

    app.before_request(guard)


def _sends(token: str, schemes: tuple[str, ...]) -> bool:
    """Whether the request carries the token, compared in a time that does not tell how much of it was right."""
    offered = request.authorization
    if offered is None or offered.type.title() not in schemes:
        return False
    given = offered.password if offered.type == "basic" else offered.token
    return given is not None and hmac.compare_digest(given.encode(), token.encode())
