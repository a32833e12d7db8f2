"""What every `daemon.ports.ServiceManager` must do: subclass `ServiceManagerContract`, give it a `service`.

Both ends are looked at: what the daemon says is judged by what its manager shows, and what somebody asks of the manager
by what the daemon is told of it. What a backend's surroundings cannot do skips with the reason.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from shamon_host.daemon.ports import ServiceManager, StopReason

LONG = 20_000
"""Characters; more than a datagram of systemd's notification protocol holds."""


class Service(Protocol):
    """A service that was just started and has said nothing yet, and the manager that started it."""

    @property
    def manager(self) -> ServiceManager:
        """As the service has it."""
        ...

    def is_up(self) -> bool:
        """Whether its manager counts it as started."""
        ...

    def shown(self) -> str:
        """What its manager shows to people as its status."""
        ...

    def ask(self, what: StopReason) -> None:
        """Ask the manager to stop or to restart it, or to shut the host down; it runs on, but has been told to end."""
        ...

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for the manager to have taken note; False when it does not in good time."""
        ...


def shows(service: Service, text: str) -> bool:
    """Whether the manager comes to show this status."""
    return service.until(lambda: service.shown() == text)


class ServiceManagerContract:
    """The suite."""

    @pytest.fixture
    def service(self) -> Service | Iterator[Service]:
        """A service of its own for each test."""
        raise NotImplementedError

    def test_it_is_up_once_it_says_that_it_is_ready(self, service: Service) -> None:
        assert not service.is_up()
        service.manager.ready()
        assert service.until(service.is_up)
        service.manager.ready()
        assert service.is_up()

    def test_its_status_is_shown_and_the_latest_counts(self, service: Service) -> None:
        assert service.shown() == ""
        for text in ("waiting for beta", "2 peers admitted, 3 links: tröt"):
            service.manager.status(text)
            assert shows(service, text)
        assert not service.is_up()

    def test_a_status_cannot_say_anything_else(self, service: Service) -> None:
        service.manager.status("lost beta\nREADY=1\0\x1b[31m")
        assert shows(service, "lost betaREADY=1[31m")
        assert not service.is_up()

    def test_of_a_long_status_the_beginning_is_shown(self, service: Service) -> None:
        """A status that is lost would leave the one before."""
        service.manager.status("short")
        assert shows(service, "short")
        service.manager.status("€" * LONG)
        assert service.until(lambda: service.shown() != "short")
        assert 100 <= len(service.shown()) < LONG
        assert set(service.shown()) == {"€"}

    def test_while_nobody_asks_it_to_end_the_reason_would_be_stop(self, service: Service) -> None:
        """The most careful of them: links are closed."""
        service.manager.ready()
        assert service.until(service.is_up)
        assert service.manager.stop_reason() is StopReason.STOP

    @pytest.mark.parametrize("reason", list(StopReason))
    def test_it_is_told_why_it_must_end(self, service: Service, reason: StopReason) -> None:
        service.manager.ready()
        assert service.until(service.is_up)
        service.ask(reason)
        assert service.manager.stop_reason() is reason

    @pytest.mark.parametrize("reason", [StopReason.STOP, StopReason.RESTART])
    def test_it_is_told_while_it_starts_too(self, service: Service, reason: StopReason) -> None:
        service.ask(reason)
        assert service.manager.stop_reason() is reason
