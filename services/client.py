"""Talks to the supervising server over HTTP, for the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from config import Config
from services.errors import PlainError
from services.processes import supervisor_uri
from services.runtime import load_joined
from services.supervisor.identity import TOKEN_VARIABLE, client_token

CONNECT_TIMEOUT = 3.0  # s
ANSWER_TIMEOUT = 30.0  # s; the server waits for its database, and /events says something every 15 s

Event = tuple[str, Any]
"""What it is ("status", "reply", "action", "end"), and its content."""


class RefusedError(PlainError):
    """The server does not do it; the message is its reason."""


class NoServerError(PlainError):
    """No supervising server answers."""


class Client:
    """A connection to the supervising server.

    Parameters
    ----------
    config : Config
        Says where it is.
    transport : httpx.BaseTransport, optional
        Instead of the network.
    """

    def __init__(self, config: Config, transport: httpx.BaseTransport | None = None) -> None:
        self._uri = supervisor_uri(config)
        token = client_token(config.folder)
        if not (token.isascii() and token.isprintable()):
            raise PlainError(f"{TOKEN_VARIABLE} holds none: a token has signs of ASCII only")
        self._http = httpx.Client(
            base_url=self._uri,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT),
            trust_env=False,  # it is here, and behind no proxy
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """Give what a path has.

        Raises
        ------
        RefusedError, NoServerError
        """
        return self._ask("GET", path, params=parameters)

    def send(self, method: str, path: str, content: Any = None) -> Any:
        """Send something, and give the reply.

        Parameters
        ----------
        method, path : str
        content : optional
            What JSON can say.

        Raises
        ------
        RefusedError, NoServerError
        """
        return self._ask(method, path, content=None if content is None else json.dumps(content))

    @contextmanager
    def events(self) -> Iterator[Iterator[Event]]:
        """Give what happens, as it happens, until the server ends it.

        Raises
        ------
        RefusedError, NoServerError
        """
        with self._errors(), self._http.stream("GET", "/events") as response:
            if response.is_error:
                response.read()
            self._check(response)
            yield read_events(response.iter_lines())

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        with self._errors():
            response = self._http.request(method, path, **content)
        self._check(response)
        try:
            return response.json()
        except ValueError:
            raise self._stranger() from None

    def _check(self, response: httpx.Response) -> None:
        if not response.is_error:
            return
        try:
            reason = response.json()["message"]
        except (ValueError, KeyError, TypeError):
            raise self._stranger() from None
        raise RefusedError(reason)

    def _stranger(self) -> NoServerError:
        return NoServerError(f"{self._uri} is another server's; set supervisor.http_port")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise NoServerError(
                f"no supervising server answers at {self._uri}: start one by `temline up` or "
                "`temline supervisor`"
            ) from None
        except httpx.TransportError as error:
            words = str(error) or type(error).__name__
            raise NoServerError(f"the server at {self._uri} is gone: {words}") from None


def join(site: Path | None) -> Client:
    """Connect to the server of a configuration, or to that of the temline that runs here.

    Parameters
    ----------
    site : path, optional
        The site's file, as for `config.load`.
    """
    return Client(load_joined(site).config)


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Read server-sent events."""
    topic, data = "", ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            topic = value
        elif field == "data":
            data += value
        elif not line and data:
            yield topic, json.loads(data)
            topic, data = "", ""
