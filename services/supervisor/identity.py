"""Tells who sends a command, by a token if it has one; Channel Access itself proves nobody.

Tokens come from the environment or from a file of the server's owner, and are shown nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.errors import PlainError
from services.runtime import kept_secret
from services.supervisor.commands import Command, CommandRefusedError, Origin

TOKENS_VARIABLE = "TEMLINE_TOKENS"
TOKEN_VARIABLE = "TEMLINE_TOKEN"  # noqa: S105 - the name of a variable, no token
KEY_FILE = "command.key"
KEY_NAME = "staff"  # whom the token in that file makes of a client
NAME = r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}"
SHORTEST, LONGEST = 16, 256  # characters of a token


@dataclass(frozen=True)
class Client:
    """Who sends a command.

    Attributes
    ----------
    name, host, session : str
    staff : bool
    authenticated : bool
        Whether a token proves the name; else it is what the client says.
    """

    name: str
    host: str
    session: str = ""
    staff: bool = False
    authenticated: bool = False

    @property
    def label(self) -> str:
        """Like ``gui@host (session)``."""
        return label(self.name, self.host, self.session)


@dataclass(frozen=True)
class Token:
    """What proves one name; of the secret only a digest is kept."""

    name: str
    staff: bool
    digest: bytes = field(repr=False)


class Identity:
    """Tells who sends a command.

    Parameters
    ----------
    tokens : iterable of Token
    required : bool
        Whether commands over Channel Access need a token; those by HTTP always do.
    """

    def __init__(self, tokens: Iterable[Token], required: bool) -> None:
        self._tokens = tuple(tokens)
        self._names = {_likeness(token.name) for token in self._tokens}
        self._required = required

    def of(self, command: Command, origin: Origin) -> Client:
        """Tell who sends a command.

        Raises
        ------
        CommandRefusedError
            If a token is wrong, or needed and missing.
        """
        secret = command.token or origin.token
        client = self._proven(secret, command, origin) if secret else said(command, origin)
        if client.authenticated:
            return client
        how = f"set {TOKEN_VARIABLE}, or send it with the command"
        if origin.face != "ca" or self._required:
            raise _refusal(f"a token is needed, and there is none; {how}", command)
        if _likeness(client.name) in self._names:
            raise _refusal(f"the name {client.name} needs its token; {how}", command)
        return client

    def _proven(self, secret: str, command: Command, origin: Origin) -> Client:
        digest, known = _digest(secret), None
        for token in self._tokens:  # all of them: how long it takes tells nothing
            if hmac.compare_digest(token.digest, digest):
                known = token
        if known is None:
            raise _refusal("the token is not known", command)
        if command.client not in {"", known.name}:
            raise _refusal(
                f"the token is that of {known.name}, and not of {command.client}", command
            )
        return Client(known.name, _host(origin), command.session, known.staff, authenticated=True)


def _refusal(reason: str, command: Command) -> CommandRefusedError:
    return CommandRefusedError(reason, command.id, kind="token")


def said(command: Command, origin: Origin) -> Client:
    """Give who a command says that it is from, proven by nothing: for what anybody may do."""
    by_login = f"{_plain(origin.user)}@{_host(origin)}"[:64] if origin.user else "anonymous"
    return Client(command.client or by_login, _host(origin), command.session)


def label(name: str, host: str, session: str) -> str:
    """Name a client to people: ``gui@host (session)``."""
    at = f"@{host}" if host and not name.endswith(f"@{host}") else ""
    return f"{name}{at}" + (f" ({session})" if session else "")


def read_tokens(folder: Path, environ: Mapping[str, str] = os.environ) -> tuple[Token, ...]:
    """Give the tokens that the server knows.

    They are those of TEMLINE_TOKENS: ``name=token`` or ``name:staff=token``, with semicolons or
    line ends between. Without it there is one of staff, made once and kept in the folder.

    Parameters
    ----------
    folder : path
        The configuration's `folder`.
    environ : mapping

    Raises
    ------
    PlainError
        If one cannot be used; named by its number, for its content is secret.
    """
    entries = [entry.strip() for entry in re.split(r"[;\n]", environ.get(TOKENS_VARIABLE, ""))]
    if not any(entries):
        return (_kept_token(folder / KEY_FILE),)
    tokens: list[Token] = []
    for number, entry in enumerate(filter(None, entries), 1):
        try:
            tokens.append(_read_entry(entry, tokens))
        except ValueError as error:
            raise PlainError(f"{TOKENS_VARIABLE}, entry {number}: {error}") from None
    return tuple(tokens)


def client_token(folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Give the token that a client on this machine sends, or "" if it has none.

    It is that of TEMLINE_TOKEN, or else the one that the server keeps in the folder, if this user
    may read it. Whether one is needed is for the server to say.

    Parameters
    ----------
    folder : path
        The configuration's `folder`.
    environ : mapping
    """
    if token := environ.get(TOKEN_VARIABLE, "").strip():
        return token
    try:
        return (folder / KEY_FILE).read_text(encoding="ascii").strip()
    except (FileNotFoundError, PermissionError):
        return ""


def _read_entry(entry: str, before: Iterable[Token]) -> Token:
    who, equals, secret = (part.strip() for part in entry.partition("="))
    name, colon, role = (part.strip() for part in who.partition(":"))
    if not (equals and re.fullmatch(NAME, name) and (role == "staff" or not colon)):
        raise ValueError("expected name=token or name:staff=token")
    token = _make_token(name, role == "staff", secret)
    for other in before:
        if _likeness(other.name) == _likeness(name):
            raise ValueError("an entry before it has the same name")
        if other.digest == token.digest:
            raise ValueError("an entry before it has the same token")
    return token


def _kept_token(path: Path) -> Token:
    try:
        return _make_token(KEY_NAME, True, kept_secret(path))
    except ValueError as error:
        raise PlainError(f"{path}: {error}; remove the file, and a new one is made") from None


def _make_token(name: str, staff: bool, secret: str) -> Token:
    """Make a token, or say what is wrong with the secret without showing it."""
    if not SHORTEST <= len(secret) <= LONGEST:
        raise ValueError(f"a token has {SHORTEST} to {LONGEST} characters, found {len(secret)}")
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise ValueError("a token has letters, digits and signs of ASCII only, found others")
    return Token(name, staff, _digest(secret))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _likeness(name: str) -> str:
    """Give what names have in common that people take for the same."""
    return "".join(name.split()).casefold()


def _host(origin: Origin) -> str:
    return _plain(origin.host)[:64]


def _plain(text: str) -> str:
    """Give a text from the network as it can be shown and kept."""
    return re.sub(r"[^A-Za-z0-9._:-]", "_", text)
