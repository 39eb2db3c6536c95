"""Logins at one mail server: one after another, and few at once."""

import asyncio

from tasks.watch.pace import Pace


def test_a_server_that_does_not_answer_keeps_no_other_one_waiting() -> None:
    async def main() -> None:
        pace, at_work = Pace(per_second=1000, at_once=2), []

        async def log_in(host: str) -> None:
            async with pace.turn(host):
                at_work.append(host)
                await asyncio.sleep(3600)

        logins = [asyncio.create_task(log_in(host)) for host in ("dead",) * 5 + ("other",)]
        async with asyncio.timeout(60):
            while at_work.count("other") == 0 or len(at_work) < 3:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert sorted(at_work) == ["dead", "dead", "other"]

        # A login that ends, or whose account is not to be watched any more, makes room for the next one.
        logins[0].cancel()
        async with asyncio.timeout(60):
            while at_work.count("dead") < 3:
                await asyncio.sleep(0.01)
        for login in logins:
            login.cancel()
        await asyncio.gather(*logins, return_exceptions=True)

    asyncio.run(main())
