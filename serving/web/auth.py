"""Tokens: API_TOKEN for photos, STATUS_TOKEN for what the service says of itself."""

from __future__ import annotations

import hmac

from flask import request

from serving.web.problems import Kind, Problem
from serving.web.state import current

TOKEN_PATHS = ("/metrics", "/model", "/card", "/docs", "/openapi.json")


def require(token: str | None, scheme: str = "Bearer") -> None:
    """Let only those pass who send the token, where there is one: as a bearer's, or as the password of any user.

    Raises Problem, with the `scheme` that is asked for: `Basic` has a browser ask its user.
    """
    if token is not None and not _sends(token):
        raise Problem(Kind.UNAUTHORIZED, "send `Authorization: Bearer TOKEN`", {"WWW-Authenticate": scheme})


def guard_status() -> None:
    """Ask for the token on TOKEN_PATHS."""
    path = f"/{request.path.split('/')[1]}"
    if path in TOKEN_PATHS:
        require(current().settings.status_token, "Basic" if path == "/docs" else "Bearer")


def _sends(token: str) -> bool:
    """Whether the request carries the token, compared in a time that does not tell how much of it was right."""
    offered = request.authorization
    if offered is None or offered.type not in ("bearer", "basic"):
        return False
    given = offered.token if offered.type == "bearer" else offered.password
    return given is not None and hmac.compare_digest(given.encode(), token.encode())
