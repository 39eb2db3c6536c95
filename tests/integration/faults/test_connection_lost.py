"""A worker whose connection to the broker breaks goes on with what it has in hand: each task is done once."""

from pathlib import Path

import redis as redis_client

from tasks.storage.dead_letters import list_letters
from tests.integration.faults.conftest import APP, publish
from tests.support.fault_app import begun, done, hold
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until


def break_connections(client: redis_client.Redis, worker: Worker) -> None:
    """All that are not of this test, and wait until it is connected again."""
    wait_until(lambda: client.client_list(_type="pubsub"), "it does not listen")
    before = worker.log.read_text().count("Connected to")
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)
    wait_until(lambda: worker.log.read_text().count("Connected to") > before, "it does not connect anew")


def test_what_is_in_hand_stays_there(client: redis_client.Redis, tmp_path: Path, environment: object) -> None:
    # Given tasks at work, tasks that wait for a process, and one that waits for its time
    environment(CELERY_WORKER_PREFETCH_MULTIPLIER="2")
    held = hold(tmp_path)
    with Worker(tmp_path, 2, app=APP) as worker:
        publish(tmp_path, [0], countdown=4)
        wait_until(lambda: client.hlen("unacked") == 1, "it does not take the one that waits for its time")
        publish(tmp_path, range(1, 7))
        wait_until(lambda: (begun(tmp_path), client.hlen("unacked")) == (2, 5), "it does not take them")
        tags = set(client.hkeys("unacked"))

        # When the connection breaks, twice
        for _ in range(2):
            break_connections(client, worker)

        # Then it has the same in hand, and no more
        assert set(client.hkeys("unacked")) == tags
        assert client.llen("sync") == 2
        held.unlink()
        wait_until(lambda: len(done(tmp_path)) == 7, "some are not done")
        wait_until(lambda: not client.exists("unacked", "unacked_index", "sync"), "some are not acknowledged")
        assert done(tmp_path) == dict.fromkeys(range(7), 1)

        # and takes as many at once as before
        held.touch()
        publish(tmp_path, range(10, 20))
        wait_until(lambda: client.hlen("unacked") == 4, "it does not take as many as before")
        wait_until(lambda: begun(tmp_path) == 9, "it does not begin as many as before")
        held.unlink()
        wait_until(lambda: len(done(tmp_path)) == 17, "some are not done")
        assert client.hlen("unacked") <= 4
        assert "Traceback" not in worker.log.read_text()
    assert list_letters() == []


def test_a_redis_that_restarts_and_is_killed_soon_after(
    client: redis_client.Redis, redis: RedisServer, tmp_path: Path
) -> None:
    """Tasks end while it is away, and are acknowledged later."""
    with Worker(tmp_path, 3, app=APP) as worker:
        for number, end in enumerate((redis.stop, redis.kill), start=1):
            held = hold(tmp_path)
            publish(tmp_path, range(3 * number, 3 * number + 3))
            wait_until(lambda so_far=number: begun(tmp_path) == 3 * so_far, "it does not take them")
            end()
            try:
                held.unlink()
                wait_until(lambda so_far=number: len(done(tmp_path)) == 3 * so_far, "they are not done")
            finally:
                redis.start()
        wait_until(lambda: not client.exists("unacked", "unacked_index", "sync"), "some are not acknowledged")
        assert "Traceback" not in worker.log.read_text()
    assert done(tmp_path) == dict.fromkeys(range(3, 9), 1)
    assert list_letters() == []
