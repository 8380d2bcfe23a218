"""The CPU image from its Dockerfile to speech: engines built once by whoever comes first, served, reused, stopped."""

import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tritone_client import ControlledVoice, Tritone

from tests import container
from tests.container import Container, Image

BUILDING_TIMEOUT_S = 60
BUILT_TIMEOUT_S = 500
READY_TIMEOUT_S = 100
STOPPED_TIMEOUT_S = 60

pytestmark = [
    pytest.mark.skipif(not container.can_run(), reason="the kernel gives this user no namespaces to mount in"),
    pytest.mark.timeout(BUILT_TIMEOUT_S + 100),
]


class Deployment:
    """Containers of the CPU image that share their volumes; each has a log of its own."""

    def __init__(self, folder: Path) -> None:
        self.image = Image.of("cpu")
        self.files = folder / "files"
        self.engines = folder / "engines"
        self.voices = folder / "voices"
        self.image.write_files(self.files)
        for volume in (self.engines, self.voices):
            volume.mkdir()
            volume.chmod(0o777)
        self._folder = folder
        self._containers: list[Container] = []

    def start(self, *arguments: str, read_only: tuple[str, ...] = (), **environment: str) -> Container:
        """A container with the image's own command, or with `arguments`."""
        return self._start(self.image, arguments or None, read_only, environment)

    def is_healthy(self, *options: str, **environment: str) -> bool:
        """What the image's health check says."""
        image = dataclasses.replace(self.image, entrypoint=self.image.health_command)
        return self._start(image, options, (), environment).wait(STOPPED_TIMEOUT_S) == 0

    def built(self) -> list[str]:
        """The names in the volume of the engines, locks aside."""
        return [path.name for path in self.engines.iterdir() if path.suffix != ".lock"]

    def remove(self) -> None:
        for started in self._containers:
            started.remove()

    def _start(
        self, image: Image, arguments: Sequence[str] | None, read_only: tuple[str, ...], environment: dict[str, str]
    ) -> Container:
        started = Container(
            image,
            self.files,
            arguments=arguments,
            environment=environment,
            volumes={"/engines": self.engines, "/voices": self.voices},
            read_only=("/voices", *read_only),
            log_path=self._folder / f"{len(self._containers)}.log",
        )
        self._containers.append(started)
        return started


@pytest.fixture(scope="module")
def variables(free_ports: Callable[[], dict[str, int]]) -> dict[str, str]:
    """The ports of the first server, by the variables that set them."""
    return {name.upper(): str(port) for name, port in free_ports().items()}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The volumes after a container was killed while it built."""
    created = Deployment(tmp_path_factory.mktemp("deployment"))
    killed = created.start("build")
    killed.wait_for_log("building the engines", BUILDING_TIMEOUT_S)
    killed.remove()
    yield created
    created.remove()


@pytest.fixture(scope="module")
def starts(deployment: Deployment, variables: dict[str, str]) -> tuple[Container, Container]:
    """Two containers that found no engines at the same time: a ready server, and a build that came to its end."""
    assert [name.endswith(".partial") for name in deployment.built()] == [True]
    server, builder = deployment.start(**variables), deployment.start("build")
    assert builder.wait(BUILT_TIMEOUT_S) == 0, builder.log
    server.wait_for_log("ready: gRPC", READY_TIMEOUT_S)
    return server, builder


def test_engines_are_built_once_and_what_a_killed_builder_left_is_gone(
    deployment: Deployment, starts: tuple[Container, Container]
) -> None:
    logs = [started.log for started in starts]

    assert sum("engines built in" in log for log in logs) == 1
    assert sum("another process" in log for log in logs) == 1
    (repository,) = deployment.built()
    assert repository.startswith("cpu-int8-demo_voice-")
    assert f"/engines/{repository}" in starts[1].log


def test_image_speaks(starts: tuple[Container, Container], variables: dict[str, str]) -> None:
    with Tritone(f"127.0.0.1:{variables['GRPC_PORT']}") as tritone:
        speech = tritone.synthesize("hello world", voice=ControlledVoice("female"))

    assert 0.3 < speech.duration_s < 5


def test_health_check_of_the_image_knows_a_ready_server(
    deployment: Deployment, starts: tuple[Container, Container], variables: dict[str, str]
) -> None:
    assert deployment.is_healthy(**variables)
    assert deployment.is_healthy("--live", **variables)


def test_later_start_needs_no_writing_and_stops_in_order(
    deployment: Deployment, starts: tuple[Container, Container], free_ports: Callable[[], dict[str, int]]
) -> None:
    variables = {name.upper(): str(port) for name, port in free_ports().items()}
    server = deployment.start("serve", read_only=("/engines",), TRITONE_BUILD="never", **variables)
    server.wait_for_log("ready: gRPC", READY_TIMEOUT_S)

    server.signal(signal.SIGTERM)

    assert server.wait(STOPPED_TIMEOUT_S) == 0, server.log
    assert not deployment.is_healthy("--live", **variables)


def test_second_build_does_nothing(deployment: Deployment, starts: tuple[Container, Container]) -> None:
    again = deployment.start("build", read_only=("/engines",))

    assert again.wait(BUILDING_TIMEOUT_S) == 0, again.log
    assert "engines are there" in again.log


def test_folder_that_cannot_be_written_is_named(deployment: Deployment) -> None:
    refused = deployment.start("build", ENGINES_DIR="/elsewhere")

    assert refused.wait(BUILDING_TIMEOUT_S) == 1
    assert "error: ENGINES_DIR: /elsewhere cannot be written by user" in refused.log
