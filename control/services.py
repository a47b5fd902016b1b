"""Kafka and the store for a command: given by address, found running on the data folder, or started and stopped here.

Every command that needs a part asks here, so `--bootstrap-servers` and `--clickhouse-url` switch any of them, a
running `barograph up` is shared by all commands on its folder, and nothing started for a command outlives it. Hence a
command that works for longer builds only on parts that last: not on the broker of another `run`, which ends with it.
"""

from contextlib import ExitStack
from textwrap import shorten
from typing import Self

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from control.embedded.kafka import EmbeddedKafka
from control.embedded.store import running_store
from control.output import Output
from runtime.endpoints import Endpoints, without_login
from runtime.errors import MissingServiceError
from runtime.kafka import ping
from runtime.settings import Settings
from sinks.clickhouse import connect


class Services:
    """The parts of one command; a context manager.

    Args:
        settings: addresses and data folder.
        out: where a first-time download shows its progress.
        lasting: whether parts that another command started for itself are left alone; its own start is then refused,
            because that command owns the folder.
    """

    def __init__(self, settings: Settings, out: Output, *, lasting: bool = False) -> None:
        self.settings, self._out, self._lasting = settings, out, lasting
        self.endpoints = Endpoints(settings.data_dir)
        self._stack = ExitStack()
        self._kafka = self._store = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kafka(self) -> str:
        """Bootstrap servers of a broker that answers.

        Raises:
            MissingServiceError: the given one does not answer, or the embedded one cannot be had.
            FolderInUseError: another command runs one for itself on this folder.
        """
        if not self._kafka:
            known = self.settings.bootstrap_servers or self.endpoints.find("kafka", lasting=self._lasting)
            if known:
                ping(known)
                self._kafka = known
            else:
                self._kafka = self._start_kafka()
        return self._kafka

    def store(self) -> str:
        """HTTP address of a ClickHouse that answers.

        Raises:
            MissingServiceError: the given one does not answer.
        """
        if not self._store:
            known = self.settings.clickhouse_url or self.endpoints.find("store", lasting=self._lasting)
            if known is None or not known:
                known = self._stack.enter_context(running_store(self.settings.data_dir))
                self._publish("store", known)
            self._store = known
            open_store(known).close()
        return self._store

    def _start_kafka(self) -> str:
        with self._out.bar("Apache Kafka (first time)", "bytes") as advance:
            broker = EmbeddedKafka(
                self.settings.data_dir / "kafka",
                port=self.settings.kafka_port,
                heap_mb=self.settings.kafka_heap_mb,
                on_progress=advance,
            )
            broker.start()
        self._stack.callback(broker.stop)
        self._publish("kafka", broker.bootstrap_servers)
        return broker.bootstrap_servers

    def _publish(self, name: str, address: str) -> None:
        self.endpoints.publish(name, address, lasting=False)
        self._stack.callback(self.endpoints.withdraw, name)


def open_store(url: str) -> Client:
    """A client for a ClickHouse that answers.

    Raises:
        MissingServiceError: nobody answers there, or the login is wrong.
    """
    try:
        return connect(url)
    except ClickHouseError as error:
        reason, shown = shorten(" ".join(str(error).split()), 200, placeholder=" …"), without_login(url)
        raise MissingServiceError(
            f"no ClickHouse answers at {shown} ({reason.replace(url, shown)})",
            remedy="start one, or correct --clickhouse-url",
        ) from error
