"""What a client sends: one command as JSON, read with care, and who sent it.

A command comes from anybody who reaches a process variable; whatever is wrong with it is found
here and told in one sentence.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NoReturn
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_BYTES = 2**17
"""The longest command, in bytes."""

MAX_DEPTH = 32
"""Lists in lists: what a plan needs has four levels."""

MAX_REASON = 400
"""Characters of the longest reason."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,63}$")]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$")]
ClientName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$")]


RefusalKind = Literal[
    "mistake", "size", "token", "control", "unknown", "state", "full", "unavailable"
]


class CommandRefusedError(Exception):
    """A command that is not carried out; the message says why, for the client.

    Parameters
    ----------
    reason : str
    id : str
        Of the command, if it could be read.
    kind : str
        Tells programs what it is about: the command itself, its size, its token, who has control,
        a request that is not known, one that is not as the command needs it (an id that was used
        before, too), a queue that is full, or a database that does not answer.
    """

    def __init__(self, reason: str, id: str = "", kind: RefusalKind = "mistake") -> None:
        super().__init__(reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…")
        self.id = id
        self.kind = kind

    @property
    def reason(self) -> str:
        """The message."""
        return str(self)


@dataclass(frozen=True)
class Origin:
    """How a command came in.

    Attributes
    ----------
    face : {"ca", "http"}
    host : str
        As far as the transport knows; over Channel Access it is what the client says.
    user : str
        The login name that a Channel Access client says; nobody checks it.
    token : str
        That came beside the command, as HTTP has it; the command's own comes first.
    """

    face: Literal["ca", "http"]
    host: str
    user: str = ""
    token: str = field(default="", repr=False)


class Command(BaseModel):
    """One command.

    LSDC's bare form has only `function`, `args` and `kwargs`.

    Attributes
    ----------
    id : str
        Unique for ever: a second command with it is refused. Made up here if there is none.
    function : str
        Of the registry.
    args, kwargs
        Of the function.
    client, session : str
        Who sends it; the session tells two of one client apart.
    token : str
        Says that it is this client.
    priority : int
        Higher ones run first.
    batch : str
        A label for requests that belong together.
    proposal, directory : str
        What the data belong to, and the folder below that of all data that they go to.
    held : bool
        Whether it waits until it is released.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Id = Field(default_factory=lambda: uuid4().hex)
    function: Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    client: ClientName = ""
    session: ClientName = ""
    token: Annotated[str, Field(max_length=256, repr=False)] = ""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    batch: ClientName | None = None
    proposal: str | None = None
    directory: str | None = None
    held: bool = False


def read_command(sent: bytes | str) -> Command:
    """Read a command.

    Parameters
    ----------
    sent : bytes or str
        JSON; bytes are UTF-8, and end at the first NUL if nothing but NULs follows.

    Raises
    ------
    CommandRefusedError
        If it is not one; the reason says what was expected and what was found.
    """
    content = read_json(sent)
    if not isinstance(content, dict):
        raise CommandRefusedError(
            f"the command is {_kind(content)}; it must be an object such as "
            '{"function": "snap", "kwargs": {"exposure": 0.1}}'
        )
    found = content.get("id")
    id = found if isinstance(found, str) and re.fullmatch(r"[\w.:@-]{1,64}", found) else ""
    try:
        return Command.model_validate(content)
    except ValidationError as error:
        raise CommandRefusedError(explain(error), id) from None


def read_json(sent: bytes | str) -> Any:
    """Read JSON that a client sent; raises as `read_command` does."""
    size = len(sent)
    if size > MAX_BYTES:
        reason = f"the command has {size} bytes; {MAX_BYTES} are the most"
        raise CommandRefusedError(reason, kind="size")
    try:
        text = sent.rstrip(b"\0").decode() if isinstance(sent, bytes) else sent
    except UnicodeDecodeError as error:
        raise CommandRefusedError(f"the command is not UTF-8: {error.reason}") from None
    if "\0" in text or "\\u0000" in text:
        raise CommandRefusedError("the command holds a NUL")
    if not text.strip():
        raise CommandRefusedError("the command is empty")
    try:
        content = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        hint = "; caput needs -S for over 39 characters" if size in {39, 40} else ""
        raise CommandRefusedError(
            f"the command is not JSON: {error.msg} at character {error.pos}{hint}"
        ) from None
    except (RecursionError, ValueError) as error:
        raise CommandRefusedError(f"the command cannot be read: {error}") from None
    if _depth(content) > MAX_DEPTH:
        raise CommandRefusedError(f"the command is nested deeper than {MAX_DEPTH} levels")
    if not text.isascii() or "\\u" in text:
        _refuse_surrogates(content)
    return content


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _depth(content: Any) -> int:
    """Give how deep lists and objects are nested; stops looking beyond the most."""
    depth, level = 0, [content]
    while level and depth <= MAX_DEPTH:
        nested: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                nested += one.values()
            elif isinstance(one, list):
                nested += one
        depth += bool(nested)
        level = nested
    return depth


def _refuse_surrogates(content: Any) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CommandRefusedError("the command holds half a character (a surrogate)") from None


def _kind(content: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(content), "a number")


def explain(error: ValidationError, most: int = 3) -> str:
    """Say in one line what is wrong with what was given.

    Parameters
    ----------
    error : ValidationError
    most : int
        Of the mistakes that are named.
    """
    mistakes = error.errors(include_url=False, include_context=False, include_input=True)
    words = [_explain_one(mistake) for mistake in mistakes[:most]]
    more = f" (and {len(mistakes) - most} more)" if len(mistakes) > most else ""
    return "; ".join(words) + more


def _explain_one(mistake: Any) -> str:
    place = ".".join(str(part) for part in mistake["loc"]) or "the command"
    message = mistake["msg"].removeprefix("Value error, ")
    found = mistake.get("input")
    if mistake["type"] == "missing":
        return f"{place} is missing"
    if isinstance(found, str | int | float | bool) or found is None:
        shown = json.dumps(found)
        return f"{place} is {shown if len(shown) < 60 else shown[:57] + '…'}: {message}"
    return f"{place}: {message}"
