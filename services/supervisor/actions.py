"""What a client can have done at once: to the request that runs, to the queue, to control.

Each public method of `Actions` is one; its signature is what the registry publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field

from records import NewRequest, Request
from services.supervisor.commands import CommandRefusedError
from services.supervisor.escalation import Step
from services.supervisor.identity import Client

if TYPE_CHECKING:
    from services.supervisor.desk import Desk

Deadline = Annotated[float, Field(gt=0, le=86_400)] | None
MONTAGES = ("montage", "fly_montage", "resume_montage")
ENDED = ("done", "failed", "aborted", "interrupted")
LISTED = 200  # requests at a time, so that a listing stays a few 100 KB
FREE = frozenset({"request", "queue", "history", "control"})
"""Actions that only look: nobody needs control for them."""


class Actions:
    """The actions, for one client.

    Parameters
    ----------
    desk : Desk
    client : Client
    """

    def __init__(self, desk: Desk, client: Client) -> None:
        self._desk, self._client = desk, client
        self._supervisor, self._queue = desk.supervisor, desk.supervisor.queue

    # The request that runs

    async def pause(self, deadline: Deadline = None) -> str:
        """Pause the plan that runs, with the beam blanked.

        Parameters
        ----------
        deadline : float
            Seconds after which it is aborted instead.
        """
        return await self._begin("pause", "paused", deadline)

    async def resume(self, deadline: Deadline = None) -> str:
        """Go on with a plan that is paused.

        Parameters
        ----------
        deadline : float
            Seconds after which it is aborted instead.
        """
        return await self._begin("resume", "resumed", deadline)

    async def stop_after_tile(self, deadline: Deadline = None) -> str:
        """End the plan that runs where it can be paused next: after this tile, this focus.

        Parameters
        ----------
        deadline : float
            Seconds after which it is aborted.
        """
        return await self._begin("stop_after_tile", "stopped after a tile", deadline)

    async def stop_after_request(self, deadline: Deadline = None) -> str:
        """Let the request that runs end, and nothing follow it.

        Parameters
        ----------
        deadline : float
            Seconds after which it is stopped after a tile.
        """
        reason = f"stopped after this request by {self._client.label}"
        await self._change(self._queue.hold_queue, "", reason)
        return await self._begin("stop_after_request", "stopped after a request", deadline)

    async def abort(self, deadline: Deadline = None) -> str:
        """End the plan that runs now, and leave the microscope safe.

        Parameters
        ----------
        deadline : float
            Seconds after which it is halted.
        """
        return await self._begin("abort", "aborted", deadline)

    async def halt(self, deadline: Deadline = None) -> str:
        """End the plan that runs now, without what it does to clean up; the beam is blanked.

        Parameters
        ----------
        deadline : float
            Seconds after which the plan worker is killed.
        """
        return await self._begin("halt", "halted", deadline)

    async def _begin(self, step: Step, done: str, deadline: float | None) -> str:
        await self._supervisor.settled()
        reason = f"{done} by {self._client.label}"
        return self._supervisor.escalation.begin(step, reason, deadline)

    # The queue

    async def hold_queue(self, reason: str = "") -> str:
        """Start nothing more until the queue is released.

        Parameters
        ----------
        reason : str
        """
        because = f": {reason}" if reason else ""
        by = f"held by {self._client.label}{because}"
        return await self._change(self._queue.hold_queue, "the queue is held", by)

    async def release_queue(self) -> str:
        """Go on with the queue."""
        return await self._change(self._queue.release_queue, "the queue goes on")

    async def hold(self, id: str) -> str:
        """Let a request wait until it is released.

        Parameters
        ----------
        id : str
        """
        return await self._change(self._queue.hold, f"{id} is held", id)

    async def release(self, id: str) -> str:
        """Let a request that was held run when its turn comes.

        Parameters
        ----------
        id : str
        """
        return await self._change(self._queue.release, f"{id} is released", id)

    async def hold_batch(self, batch: str) -> str:
        """Let all requests of a batch wait.

        Parameters
        ----------
        batch : str
        """
        return await self._change(self._queue.hold_batch, f"batch {batch} is held", batch)

    async def release_batch(self, batch: str) -> str:
        """Let the requests of a batch run when their turn comes.

        Parameters
        ----------
        batch : str
        """
        return await self._change(self._queue.release_batch, f"batch {batch} is released", batch)

    async def edit(
        self,
        id: str,
        kwargs: dict[str, Any] | None = None,
        priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None,
    ) -> str:
        """Change a request that waits.

        Parameters
        ----------
        id : str
        kwargs : dict
            All arguments anew, by name.
        priority : int
        """
        changes: dict[str, Any] = {} if priority is None else {"priority": priority}
        if kwargs is not None:
            request = await self._request(id)
            entry = self._desk.registry.get(request.function, "plan")
            changes["arguments"] = entry.bind([], kwargs)
        return await self._change(self._queue.edit, f"{id} is changed", id, **changes)

    async def move(
        self,
        id: str,
        to: Literal["first", "last", "up", "down"] | None = None,
        before: str | None = None,
        after: str | None = None,
    ) -> str:
        """Move a request that waits within the queue: to a place, or before or after another.

        Parameters
        ----------
        id : str
        to : str
        before, after : str
            Ids; the request takes their priority.
        """
        place = {"to": to, "before": before, "after": after}
        given = {key: value for key, value in place.items() if value is not None}
        if len(given) != 1:
            raise CommandRefusedError(
                f"move: {len(given)} places are given; one of to, before, after is needed"
            )
        return await self._change(self._queue.move, f"{id} is moved", id, **given)

    async def remove(self, id: str) -> str:
        """Take a request that waits out of the queue.

        Parameters
        ----------
        id : str
        """
        by = f"removed by {self._client.label}"
        return await self._change(self._queue.remove, f"{id} is removed", id, by)

    async def remove_batch(self, batch: str) -> str:
        """Take all requests of a batch that wait out of the queue.

        Parameters
        ----------
        batch : str
        """
        by = f"removed by {self._client.label}"
        return await self._change(self._queue.remove_batch, f"batch {batch} is removed", batch, by)

    async def retry(self, id: str) -> dict[str, Any]:
        """Queue a request that has ended once more, as it was.

        Parameters
        ----------
        id : str
        """
        request = await self._ended(id)
        again = await self._again(request, request.function, request.arguments)
        await self._supervisor.queue_changed()
        return again

    async def resume_request(self, id: str, release: bool = True) -> dict[str, Any]:
        """Go on with a request that was cut off: a montage at its first missing tile.

        Anything else, and a montage that had not begun, is run anew.

        Parameters
        ----------
        id : str
        release : bool
            Whether the queue goes on with it if it is held.
        """
        request = await self._ended(id)
        if request.function in MONTAGES and request.run_uids:
            added = await self._again(request, "resume_montage", {"run": request.run_uids[-1]})
        else:
            added = await self._again(request, request.function, request.arguments)
        # Only when all of it is done may it run: what runs cannot be moved.
        await self._desk.on_records(self._queue.move, added["id"], to="first")
        if release:
            await self._desk.on_records(self._queue.release_queue)
        await self._supervisor.queue_changed()
        return added

    async def _again(
        self, request: Request, function: str, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        new = NewRequest(
            id=uuid4().hex,
            function=function,
            arguments=arguments,
            client=self._client.name,
            host=self._client.host,
            priority=request.priority,
            batch=request.batch,
            proposal=request.proposal,
            directory=request.directory,
            parent=request.id,
        )
        await self._desk.add(new)
        return {"id": new.id, "function": function, "parent": request.id}

    async def _ended(self, id: str) -> Request:
        request = await self._request(id)
        if request.state not in ENDED:
            reason = f"request {id} is {request.state}; it has not ended"
            raise CommandRefusedError(reason, kind="state")
        return request

    async def _change(
        self, function: Callable[..., Any], message: str, *args: Any, **kwargs: Any
    ) -> str:
        await self._desk.on_records(function, *args, **kwargs)
        await self._supervisor.queue_changed()
        return message

    # To look

    async def request(self, id: str) -> dict[str, Any]:
        """Give all that is known of a request.

        Parameters
        ----------
        id : str
        """
        request = await self._request(id)
        history = await self._desk.on_records(self._queue.transitions, id)
        return as_json(request) | {"transitions": [_plain(asdict(one)) for one in history]}

    async def queue(self) -> dict[str, Any]:
        """Give the requests that run and wait, the next first."""
        running = await self._desk.on_records(self._queue.running)
        queued = await self._desk.on_records(self._queue.queued, limit=LISTED)
        return {
            "running": [as_json(one) for one in running],
            "queued": [as_json(one) for one in queued],
            "length": await self._desk.on_records(self._queue.count),
            "held": self._supervisor.board.status.queue_held,
        }

    async def history(
        self, limit: Annotated[int, Field(ge=1, le=LISTED)] = 50, before: str | None = None
    ) -> dict[str, Any]:
        """Give requests that have ended, the last first.

        Parameters
        ----------
        limit : int
            How many at most.
        before : str
            Those that ended before this moment, ISO 8601.
        """
        try:
            moment = None if before is None else datetime.fromisoformat(before)
            if moment is not None:
                moment.astimezone(UTC)  # which the first and the last day may not have
        except (ValueError, OverflowError):
            raise CommandRefusedError(
                f"history: before is {before!r}; it must be a moment such as "
                "2026-11-27T10:00:00+00:00"
            ) from None
        ended = await self._desk.on_records(self._queue.history, limit=limit, before=moment)
        return {"requests": [as_json(one) for one in ended]}

    async def control(self) -> dict[str, Any]:
        """Tell who has control."""
        return await self._control(self._desk.control.view)

    async def _request(self, id: str) -> Request:
        request: Request = await self._desk.on_records(self._queue.get, id)
        return request

    # Control

    async def ask_control(self) -> dict[str, Any]:
        """Ask for control: had at once if nobody has it."""
        return await self._control(self._desk.control.ask, self._client)

    async def grant_control(self) -> dict[str, Any]:
        """Give control to who asks for it."""
        return await self._control(self._desk.control.grant, self._client)

    async def refuse_control(self) -> dict[str, Any]:
        """Decline to give control to who asks for it."""
        return await self._control(self._desk.control.refuse, self._client)

    async def release_control(self) -> dict[str, Any]:
        """Give control up, or no longer ask for it."""
        return await self._control(self._desk.control.release, self._client)

    async def take_control(self, reason: str = "") -> dict[str, Any]:
        """Take control from whoever has it; staff only.

        Parameters
        ----------
        reason : str
        """
        return await self._control(self._desk.control.take, self._client, reason)

    async def lock_control(self, reason: str = "") -> dict[str, Any]:
        """Keep everybody but staff from commanding; staff only.

        Parameters
        ----------
        reason : str
        """
        return await self._control(self._desk.control.lock, self._client, reason)

    async def unlock_control(self) -> dict[str, Any]:
        """End a lock; staff only."""
        return await self._control(self._desk.control.unlock, self._client)

    async def _control(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        view: dict[str, Any] = asdict(await self._desk.on_control(function, *args))
        return view


def action_functions() -> Collection[Callable[..., Any]]:
    """Give the actions as functions, for the registry."""
    return [one for name, one in vars(Actions).items() if not name.startswith("_")]


def as_json(request: Request) -> dict[str, Any]:
    """Give a request as plain data."""
    return _plain(asdict(request))


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in content.items()
    }
