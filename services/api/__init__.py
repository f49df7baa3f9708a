"""The HTTP interface of the supervising server."""

from services.api.app import make_app
from services.api.http_server import HttpServer

__all__ = ["HttpServer", "make_app"]
