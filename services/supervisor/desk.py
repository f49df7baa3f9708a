"""Where every command comes to, by whatever way: it decides, acts or queues, and replies.

Channel Access and HTTP hand in what they were given; nothing is decided anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from records import (
    DuplicateIdError,
    NewRequest,
    QueueFullError,
    RequestError,
    StateError,
    UnknownRequestError,
)
from services.supervisor.actions import FREE, Actions, action_functions
from services.supervisor.commands import (
    Command,
    CommandRefusedError,
    Origin,
    RefusalKind,
    read_command,
)
from services.supervisor.control import ALWAYS_ALLOWED, Control, ControlView
from services.supervisor.guards import Guards
from services.supervisor.identity import Client, Identity, said
from services.supervisor.registry import Entry, Registry
from services.supervisor.status import Reply
from services.supervisor.supervisor import DATABASE_ERRORS, Supervisor, first_line

log = logging.getLogger(__name__)

RESERVED = frozenset({"request", "proposal", "data_directory"})
"""What start documents say of the request, and nobody but the server."""

KIND_OF: dict[type[Exception], RefusalKind] = {
    DuplicateIdError: "state",
    QueueFullError: "full",
    StateError: "state",
    UnknownRequestError: "unknown",
}


class Desk:
    """Takes commands.

    Parameters
    ----------
    supervisor : Supervisor
    registry : Registry
        Of the plans; the actions are added to it.
    identity : Identity
    control : Control
    guards : Guards
    most_queued : int
    """

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        registry: Registry,
        identity: Identity,
        control: Control,
        guards: Guards,
        most_queued: int,
    ) -> None:
        self.supervisor, self.registry, self.control = supervisor, registry, control
        self._board, self._queue = supervisor.board, supervisor.queue
        self._identity, self._guards, self._most_queued = identity, guards, most_queued
        self._controlling = asyncio.Lock()
        for function in action_functions():
            registry.add(Entry.action(function))

    def client_of(self, origin: Origin) -> Client:
        """Tell who it is that only looks, without a command.

        Raises
        ------
        CommandRefusedError
            If a token is needed and missing, or is not known.
        """
        nothing = Command.model_construct(id="", function="")
        return self._identity.of(nothing, origin)

    async def command(self, sent: bytes | str, origin: Origin) -> Reply:
        """Take what was written to Command: a plan, for the queue.

        Returns
        -------
        Reply
            "accepted"; how it goes on is announced on the board.

        Raises
        ------
        CommandRefusedError
            If it is not; that has been announced, too.
        """
        command = None
        try:
            command = read_command(sent)
            reply = await self._enqueue(command, origin)
        except CommandRefusedError as error:
            await self._board.reply(_refusal(command, error))
            raise
        await self._board.reply(reply)
        await self.supervisor.queue_changed()  # after it: "accepted" comes before "running"
        return reply

    async def immediate(self, sent: bytes | str, origin: Origin) -> Reply:
        """Take what was written to Immediate: an action, which is done now.

        Returns
        -------
        Reply
            "done", with what it gives back.

        Raises
        ------
        CommandRefusedError
            If it is not carried out.
        """
        command = None
        try:
            command = read_command(sent)
            reply = await self._act(command, origin)
        except CommandRefusedError as error:
            await self._board.reply(_refusal(command, error), to_action=True)
            raise
        await self._board.reply(reply, to_action=True)
        return reply

    async def _enqueue(self, command: Command, origin: Origin) -> Reply:
        entry = self.registry.get(command.function, "plan")
        client = self._identity.of(command, origin)
        arguments = entry.bind(command.args, command.kwargs)
        if taken := RESERVED & (arguments.get("md") or {}).keys():
            raise CommandRefusedError(
                f"md holds {', '.join(sorted(taken))}, which only the server writes; proposal and "
                "directory are parts of the command itself"
            )
        proposal, directory = self._guards.check(command.proposal, command.directory)
        await self.admit(client, command.function)
        new = NewRequest(
            id=command.id,
            function=command.function,
            arguments=arguments,
            client=client.name,
            host=client.host,
            priority=command.priority,
            batch=command.batch,
            proposal=proposal,
            directory=directory,
            held=command.held,
        )
        await self.add(new)
        held = self._board.status.queue_held
        return Reply(
            command.id,
            command.function,
            "accepted",
            f"the queue is held ({held}); release_queue lets it go on" if held else "",
        )

    async def add(self, new: NewRequest) -> None:
        """Put a request into the queue; `Supervisor.queue_changed` has it looked at.

        Raises
        ------
        CommandRefusedError
            If its id was used before, or the queue is full, or the database does not answer.
        """
        await self.on_records(self._queue.add, new, limit=self._most_queued)

    async def _act(self, command: Command, origin: Origin) -> Reply:
        entry = self.registry.get(command.function, "action")
        if command.function in ALWAYS_ALLOWED:
            client = self._whoever(command, origin)
        else:
            client = self._identity.of(command, origin)
        arguments = entry.bind(command.args, command.kwargs)
        # What is about control itself, control decides.
        if command.function not in FREE and not command.function.endswith("_control"):
            await self.admit(client, command.function)
        result = await getattr(Actions(self, client), command.function)(**arguments)
        message = result if isinstance(result, str) else ""
        return Reply(
            command.id,
            command.function,
            "done",
            message,
            result=None if isinstance(result, str) else result,
        )

    def _whoever(self, command: Command, origin: Origin) -> Client:
        """Tell who sends what anybody may send: a wrong token is no reason not to stop."""
        try:
            return self._identity.of(command, origin)
        except CommandRefusedError:
            return said(command, origin)

    async def admit(self, client: Client, function: str) -> None:
        """Refuse a command if somebody else has control."""
        if function not in ALWAYS_ALLOWED:  # and asks the database nothing
            await self.on_control(self.control.admit, client, function)

    async def on_control(self, function: Any, *args: Any) -> Any:
        """Call something of the control, one call after the other, and show who has it then."""
        async with self._controlling:
            result = await self.on_records(function, *args)
        if isinstance(result, ControlView):
            await self._board.set(controller=result.holder or "")
        return result

    async def on_records(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something of the database; what it refuses, the command is refused for.

        Raises
        ------
        CommandRefusedError
        """
        try:
            return await self.supervisor.records(function, *args, **kwargs)
        except (RequestError, ValueError) as error:
            kind = KIND_OF.get(type(error), "mistake")
            raise CommandRefusedError(str(error), kind=kind) from error
        except DATABASE_ERRORS as error:
            words = first_line(error)
            log.error("the database of requests: %s", words)
            raise CommandRefusedError(
                f"the database of requests does not answer: {words}", kind="unavailable"
            ) from error


def _refusal(command: Command | None, error: CommandRefusedError) -> Reply:
    if command is not None:
        error.id = command.id  # for who handed it in, too
    function = command.function if command is not None else ""
    return Reply(error.id, function, "rejected", error.reason)
