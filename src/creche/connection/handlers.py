"""Handlers: the application's tasks on one connection, cancelled together.

Each child of a ConnectionTaskGroup, and its body, is a branch with a cancel scope of its own, so
that the end of the stream can cancel every branch but the one that has just met it and is perhaps
still at work on what came before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar
from types import TracebackType
from typing import Any, Protocol, TypeVar

import anyio
from anyio import TaskHandle
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from creche.connection.callables import callable_name
from creche.engine.deadlines import NEVER
from creche.exceptions import ConnectionClosed

T = TypeVar("T")


class Branch:
    """One task of a group, or its body. Its parent is the branch that the group is in."""

    __slots__ = ("handle", "parent", "scope")

    def __init__(self, parent: Branch | None) -> None:
        self.parent = parent
        self.scope = anyio.CancelScope()
        self.handle: TaskHandle[Any] | None = None  # what others hold of a child

    def was_cancelled_itself(self) -> bool:
        """Whether somebody has cancelled this very child, and may ask what became of it."""
        handle = self.handle
        return handle is not None and handle.status is TaskHandle.Status.CANCELLING


_branch: ContextVar[Branch | None] = ContextVar("creche_branch", default=None)


def current_branches() -> set[Branch]:
    """The branches that the current task is in, of any connection."""
    branches = set()
    branch = _branch.get()
    while branch is not None:
        branches.add(branch)
        branch = branch.parent
    return branches


class Connected(Protocol):
    """What a ConnectionTaskGroup needs to know of its connection."""

    def is_own_end(self, exc: BaseException) -> bool:
        """Whether an exception tells of this connection's end, and of nothing else."""

    def loss(self) -> ConnectionClosed | None:
        """What to raise if the connection has ended badly, else None."""

    def join_group(self, group: ConnectionTaskGroup) -> None: ...

    def leave_group(self, group: ConnectionTaskGroup) -> None: ...


def is_cancelled() -> bool:
    """Whether a scope around the current task is cancelled."""
    return anyio.current_effective_deadline() == -NEVER


def user_part(exc: BaseException, connection: Connected) -> BaseException | None:
    """What is left of an exception without the connection's own end; None for nothing."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(lambda part: connection.is_own_end(part))[1]
    return None if connection.is_own_end(exc) else exc


def _without_cancellations(group: BaseExceptionGroup) -> BaseException:
    """What the user's code raised, beside a cancellation."""
    return group.split(anyio.get_cancelled_exc_class())[1] or group


class ConnectionTaskGroup(TaskGroup):
    """An AnyIO task group that follows a connection.

    When the connection is lost, it is cancelled and its `async with` raises one
    ConnectionClosedError, unless children have raised. When the peer ends it well, a child that
    meets the end is finished, and the rest are cancelled once `receive` has reported the end.
    """

    def __init__(self, connection: Connected, holder: object = None) -> None:
        self._connection = connection
        self._holder = holder  # a connection that nobody holds is closed
        self._group = anyio.create_task_group()
        self.cancel_scope = self._group.cancel_scope
        self._body: Branch | None = None
        self._branches: set[Branch] = set()

    async def __aenter__(self) -> ConnectionTaskGroup:
        await self._group.__aenter__()
        self.cancel_scope = self._group.cancel_scope
        self._body = Branch(_branch.get())
        self._body.scope.__enter__()
        self._branches.add(self._body)
        _branch.set(self._body)
        self._connection.join_group(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        assert self._body is not None
        _branch.set(self._body.parent)
        self._branches.discard(self._body)
        own_exit = self._body.scope.__exit__(exc_type, exc_val, exc_tb)
        exc = None if own_exit or exc_val is None else user_part(exc_val, self._connection)
        try:
            swallowed = await self._group.__aexit__(
                None if exc is None else type(exc), exc, None if exc is None else exc.__traceback__
            )
        except BaseExceptionGroup as group:
            raise _without_cancellations(group) from None
        finally:
            self._connection.leave_group(self)
            del exc_val, exc_tb
        if exc is not None and not swallowed:  # pragma: no cover - AnyIO raises instead
            return False
        loss = self._connection.loss()
        try:
            await checkpoint_if_cancelled()  # a cancellation from outside goes on outwards
            if loss is not None:
                raise loss
        finally:
            del loss, exc  # a frame that keeps what it raises keeps itself
        return True

    # Children

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> Any:
        name = name or getattr(coro, "__qualname__", None)
        try:
            branch = self._new_branch()
        except RuntimeError:
            coro.close()
            raise
        run = self._run_child(branch, coro)
        branch.handle = self._group.create_task(run, name=name, context=context)
        return branch.handle

    def _new_branch(self) -> Branch:
        """A child's branch; it is there before the child runs, so that no end is missed."""
        if self._body is None:
            raise RuntimeError("this task group has not been entered: no task can be started")
        branch = Branch(self._body.parent)
        self._branches.add(branch)
        return branch

    async def start(
        self,
        func: Callable[..., Coroutine[Any, Any, Any]],
        *args: object,
        name: object = None,
        return_handle: bool = False,
    ) -> Any:
        start: Callable[..., Awaitable[Any]] = self._group.start
        branches: list[Branch] = []
        started = await start(
            self._start_child,
            func,
            args,
            branches,
            name=name or callable_name(func),
            return_handle=return_handle,
        )
        if return_handle:
            branches[0].handle = started
        return started

    async def _start_child(
        self,
        func: Callable[..., Coroutine[Any, Any, Any]],
        args: tuple[object, ...],
        branches: list[Branch],
        *,
        task_status: TaskStatus[Any],
    ) -> Any:
        status = _StartedStatus(task_status)
        coro = func(*args, task_status=status)
        branches.append(self._new_branch())
        return await self._run_child(branches[0], coro, status)

    async def _run_child(
        self, branch: Branch, coro: Awaitable[T], status: _StartedStatus | None = None
    ) -> T | None:
        _branch.set(branch)
        try:
            with branch.scope:
                return await coro
        except (ConnectionClosed, BaseExceptionGroup) as exc:
            rest = user_part(exc, self._connection)
            try:
                if rest is exc or (status is not None and not status.is_started):
                    raise
                if rest is not None:
                    raise rest from None
            finally:
                del rest
        except anyio.get_cancelled_exc_class():
            if branch.was_cancelled_itself() or not is_cancelled():
                raise
            # The task ends here anyway; AnyIO would keep the frames of one that is cancelled in a
            # cycle.
        finally:
            branch.handle = None
            self._branches.discard(branch)
        return None

    # The connection's end

    def cancel_all(self) -> None:
        """The connection is lost."""
        self.cancel_scope.cancel()

    def cancel_rest(self, spared: set[Branch]) -> None:
        """The stream has ended well; those in `spared` have just met its end."""
        for branch in self._branches - spared:
            branch.scope.cancel()


class _StartedStatus:
    """A task status that remembers whether the task has started."""

    def __init__(self, status: TaskStatus[Any]) -> None:
        self._status = status
        self.is_started = False

    def started(self, value: Any = None) -> None:
        self.is_started = True
        self._status.started(value)
