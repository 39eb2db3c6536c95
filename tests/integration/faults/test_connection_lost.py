"""A worker whose connection to the broker breaks goes on with what it has in hand: each task is done once."""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis as redis_client

from native.ports import LOOPBACK
from tasks.storage.dead_letters import list_letters
from tests.integration.faults.conftest import APP, MAX_CURE_SECONDS, drain, publish, seconds_until_done
from tests.support.fault_app import begun, done, hold
from tests.support.servers import RedisServer
from tests.support.tcp_server import TcpServer
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


class Cutter(TcpServer):
    """Passes everything on, and cuts the connection over which Redis gives a message, before the message arrives."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._redis = port
        self.cuts = 0  # to be made

    def serve(self, client: socket.socket, _: int) -> None:
        with client, socket.create_connection((LOOPBACK, self._redis)) as server:
            self._start_thread(self._pass_on, client, server)
            self._pass_on(server, client)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(2**20):
                if self.cuts and data.startswith(b"*3\r\n:"):  # what TAKE returns with a message
                    self.cuts -= 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_message_that_was_lost_on_its_way_is_taken_again_at_once(
    client: redis_client.Redis, redis: RedisServer, tmp_path: Path, environment: Callable[..., None]
) -> None:
    """As when Redis restarts just after it gave the message: it is noted as delivered, and nobody has it."""
    with Cutter(redis.port) as network:
        environment(REDIS_URL=redis.url.replace(f":{redis.port}", f":{network.port}"))
        with Worker(tmp_path, app=APP) as worker:
            seconds_until_done(tmp_path, 0)
            for number in (1, 2):
                network.cuts = number  # the second message is lost twice

                assert seconds_until_done(tmp_path, number) < MAX_CURE_SECONDS

                assert network.cuts == 0, "nothing was cut"
            wait_until(lambda: not client.exists("unacked", "unacked_index", "sync"), "some are not acknowledged")
            assert "Traceback" not in worker.log.read_text()
    assert done(tmp_path) == dict.fromkeys(range(3), 1)


def test_a_worker_that_stops_gives_back_a_message_that_is_on_its_way(
    client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    channel, got = connect()
    publish(tmp_path, [1], queue="send")
    channel.connection.cycle.on_poll_start()
    wait_until(lambda: client.exists("unacked"), "it is not taken")

    channel.qos.hang_up()
    channel.qos.tell_what_is_owed()

    assert (client.exists("unacked", "unacked_index"), client.llen("send"), got) == (0, 1, [])
    other, got = connect()
    drain(other, lambda: got)
    got[0].ack()
