"""Runs in ComfyUI's queue: one that follows another, and those that the page queues for itself.

The hint painter has the server run the nodes before it, to show their picture. The user did not queue that, so it must
not stay in ComfyUI's history, whatever becomes of the page meanwhile: POST /seada/run queues a prompt as ComfyUI's
/prompt does, takes it out of the history when it ends, and keeps the outcome for a while; POST /seada/ran gives it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import web
from server import PromptServer

from . import bridge

POLL_SECONDS = 0.1  # for the end of a run
PATIENCE = 150.0  # seconds after the page's last question until its run is dropped; a hidden page asks once a minute

_following: dict[str, list[tuple[Callable[[str], None], bool]]] = {}  # by the id of the run
_asked: dict[str, float] = {}  # when the page last asked, by the ids of its own runs
_outcomes: dict[str, dict | None] = {}  # of those that have ended; None where they were deleted before
_tasks: set[asyncio.Task] = set()  # asyncio itself keeps no references


def is_open(queue: Any, run: str) -> bool:
    """Whether a run waits or is executed."""
    return any(item[1] == run for items in queue.get_current_queue_volatile() for item in items)


def run_again(announce: Callable[[str], None], wanted: bool) -> None:
    """Queues the prompt that runs once more, in its place in the line, when it has succeeded; if that is `wanted`.

    A prompt that fails or is interrupted is not repeated, nor is one of the page's own. Of all calls in a run one that
    wants it is enough, and one run follows. Before it begins, `announce` is called with its id.
    """
    run, queue = bridge.execution()[0], PromptServer.instance.prompt_queue
    if run in _asked:
        return
    waiting = _following.setdefault(run, [])
    waiting.append((announce, wanted))
    if len(waiting) == 1:
        item = next(item for item in queue.get_current_queue_volatile()[0] if item[1] == run)
        # a copy: the item loses extra data when it is done, and becomes part of the history, which pages cannot read
        # once ComfyUI has executed its prompt again and noted NaN in it
        asyncio.run_coroutine_threadsafe(_repeat(queue, copy.deepcopy(item)), PromptServer.instance.loop)


async def _repeat(queue: Any, item: tuple) -> None:
    number, run, *rest = item
    while any(running[1] == run for running in queue.get_current_queue_volatile()[0]):
        await asyncio.sleep(POLL_SECONDS)
    waiting = _following.pop(run)
    status = queue.get_history(run, map_function=lambda entry: entry["status"]).get(run)
    if status is not None and status["completed"] and any(wanted for _, wanted in waiting):
        following = str(uuid.uuid4())
        for announce, _ in waiting:
            announce(following)
        queue.put((number, following, *rest))


async def queue_apart(request: web.Request) -> web.StreamResponse:
    """POST /seada/run: what ComfyUI answers to the same POST /prompt."""
    answer = await bridge.post_handler("/prompt")(request)
    if answer.status == 200 and isinstance(answer, web.Response):
        run = json.loads(answer.text or "")["prompt_id"]
        _asked[run] = time.monotonic()
        task = asyncio.create_task(_follow(PromptServer.instance.prompt_queue, run))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    return answer


async def _follow(queue: Any, run: str) -> None:
    def is_awaited() -> bool:
        return time.monotonic() - _asked[run] < PATIENCE

    while is_open(queue, run):
        if not is_awaited():
            queue.delete_queue_item(lambda item: item[1] == run)  # one that is executed goes on
        await asyncio.sleep(POLL_SECONDS)
    kept = queue.get_history(run, map_function=lambda entry: {key: entry[key] for key in ("outputs", "status")})
    _outcomes[run] = kept.get(run)
    queue.delete_history_item(run)
    PromptServer.instance.queue_updated()  # pages that have it in their lists ask again
    while is_awaited():
        await asyncio.sleep(1)
    del _asked[run], _outcomes[run]


async def outcome(request: web.Request) -> web.Response:
    """POST /seada/ran, {"run": prompt id}: {"ended": whether it has, "outcome": {"outputs", "status"} as in the history
    or null where there is none}; 404 for a run that is not the page's own, or was dropped."""
    try:
        run = (await request.json())["run"]
        if run not in _asked:
            return web.json_response({"error": "the server does not know this run"}, status=404)
    except (ValueError, LookupError, TypeError):
        return web.json_response({"error": 'expected JSON: {"run": prompt id}'}, status=400)
    _asked[run] = time.monotonic()
    return web.json_response({"ended": run in _outcomes, "outcome": _outcomes.get(run)})


def register() -> None:
    """Adds the routes to ComfyUI's server."""
    bridge.add_post_route("/seada/run", queue_apart)
    bridge.add_post_route("/seada/ran", outcome)
