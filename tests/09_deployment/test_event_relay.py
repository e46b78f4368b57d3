"""Stage 9: how tokens come from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio

from deployment.generation import EventRelay
from optimization.engine.events import TokenEvent

TOKEN, LAST = TokenEvent(7), TokenEvent(8, finish_reason="length")


class Text:
    """Stands for a generation, and counts the events that it receives."""

    def __init__(self, streamed: bool = True):
        self.streamed, self.begun, self.received = streamed, False, 0

    def receive(self, event: TokenEvent, at: float) -> None:
        self.received += 1


async def received_after_each(interval: float, text: Text, *events: TokenEvent) -> list[int]:
    """The number of events a text has received, after each post and one turn of the loop."""
    relay, counts = EventRelay(interval), []
    relay.attach(asyncio.get_running_loop())
    for event in events:
        relay.post(text, event)  # type: ignore[arg-type]
        for _ in range(3):
            await asyncio.sleep(0)
        counts.append(text.received)
    return counts


def test_the_first_token_and_the_last_come_at_once_and_with_it_what_has_gathered():
    assert asyncio.run(received_after_each(1000, Text(), TOKEN, TOKEN, TOKEN, LAST)) == [1, 1, 1, 4]


def test_without_an_interval_every_token_comes_at_once():
    assert asyncio.run(received_after_each(0, Text(), TOKEN, TOKEN, TOKEN, LAST)) == [1, 2, 3, 4]


def test_nobody_is_woken_for_less_than_a_whole_answer():
    assert asyncio.run(received_after_each(0, Text(streamed=False), TOKEN, TOKEN, LAST)) == [0, 0, 3]


def test_what_has_gathered_comes_when_the_interval_is_over():
    async def wait() -> None:
        text = Text()
        assert (await received_after_each(0.05, text, TOKEN, TOKEN, TOKEN))[0] == 1
        while text.received < 3:
            await asyncio.sleep(0.005)

    async def in_time() -> None:
        await asyncio.wait_for(wait(), 10)

    asyncio.run(in_time())


def test_the_first_token_of_one_text_brings_what_others_have_gathered():
    async def two() -> tuple[int, int]:
        relay, one, other = EventRelay(1000), Text(), Text()
        relay.attach(asyncio.get_running_loop())
        for text in (one, one, one, other):
            relay.post(text, TOKEN)  # type: ignore[arg-type]
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return one.received, other.received

    assert asyncio.run(two()) == (3, 1)
