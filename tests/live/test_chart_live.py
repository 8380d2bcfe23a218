"""The containers that the Helm chart renders, run for real on the CPU profile through the life of a pod.

What a cluster would do is done here: a node (see `Node`) runs the containers of the Job and of the Deployment with the
command, arguments and variables of the manifests, and asks the probes at the paths that they name.
"""

import dataclasses
import http.client
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException
from tritone_client import ControlledVoice, Tritone, TritoneError, Unavailable
from tritone_client.speech import Speech

from build_engines.checkpoint import CONFIG_FILES, WEIGHTS_FILES
from tests import container as runtime
from tests.chart import VALUES_DIR, Manifest, only, pod_templates, render, server_container
from tests.container import PROJECT_DIR, Container, Image
from tests.test_download import FakeHub

TOKEN = "hf_of-the-secret"
ADMIN_KEY = "of-the-secret-0123456789"
PORTS = ("http", "grpc", "metrics")
POLL_INTERVAL_S = 0.05
WAITING_TIMEOUT_S = 60
BUILT_TIMEOUT_S = 250
READY_TIMEOUT_S = 120
NOOP_TIMEOUT_S = 60
LONG_TEXT = "the river is near the mountain and the dog is inside the house. " * 4

pytestmark = pytest.mark.skipif(not runtime.can_run(), reason="the kernel gives this user no namespaces to mount in")


class Node:
    """Runs containers of rendered pods with tests.container in the place of a container runtime.

    The network is this machine's, so the ports of the manifests are not its own: the container's variables set others.
    """

    def __init__(self, folder: Path, secrets: dict[str, dict[str, str]]) -> None:
        self._folder = folder
        self._secrets = secrets
        self._image = Image.of("cpu")
        self._files = folder / "files"
        self._image.write_files(self._files)
        self.claim = folder / "claim"
        self.claim.mkdir()
        self.claim.chmod(0o777)  # what fsGroup does
        self._started: list[Container] = []

    def start(self, template: Manifest, container: Manifest) -> Container:
        image = self._image
        if (command := container.get("command")) is not None:  # takes the place of both, as in Kubernetes
            image = dataclasses.replace(image, entrypoint=tuple(command), arguments=())
        volumes = {volume["name"]: self._volume(volume) for volume in template["spec"]["volumes"]}
        folders = {name: folder for name, folder in volumes.items() if folder is not None}
        mounts = [mount for mount in container["volumeMounts"] if mount["name"] in folders]
        started = Container(
            image,
            self._files,
            arguments=container.get("args"),
            environment={entry["name"]: self._value(entry) for entry in container.get("env", [])},
            volumes={mount["mountPath"]: folders[mount["name"]] for mount in mounts},
            read_only=[mount["mountPath"] for mount in mounts if mount.get("readOnly")],
            log_path=self._folder / f"{len(self._started)}-{container['name']}.log",
        )
        self._started.append(started)
        return started

    def run(self, template: Manifest, container: Manifest, timeout_s: float) -> Container:
        """Run a container to its end, which must be a good one."""
        started = self.start(template, container)
        assert started.wait(timeout_s) == 0, started.log
        return started

    def remove(self) -> None:
        for started in self._started:
            started.remove()

    def _value(self, entry: dict[str, Any]) -> str:
        if "value" in entry:
            return entry["value"]
        reference = entry["valueFrom"]["secretKeyRef"]
        return self._secrets[reference["name"]][reference["key"]]

    def _volume(self, volume: dict[str, Any]) -> Path | None:
        """The folder of a volume; None for /tmp and /dev/shm, which the runtime makes for every container."""
        if "persistentVolumeClaim" in volume:
            return self.claim
        if "secret" in volume:
            name = volume["secret"]["secretName"]
            folder = self._folder / name
            folder.mkdir(exist_ok=True)
            for key, content in self._secrets[name].items():
                (folder / key).write_text(content)
            return folder
        assert "emptyDir" in volume, f"no test needs {volume}"
        return None


class Probe:
    """Asks what a probe of a manifest asks, as often as told to."""

    def __init__(self, manifest: Manifest, ports: dict[str, int]) -> None:
        self._path = manifest["httpGet"]["path"]
        self._port = ports[manifest["httpGet"]["port"]]
        self._timeout_s = manifest["timeoutSeconds"]

    def succeeds(self) -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout_s)) as connection:
            try:
                connection.request("GET", self._path)
                return 200 <= connection.getresponse().status < 400
            except (OSError, http.client.HTTPException):
                return False

    def wait(self, expected: bool, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.succeeds() != expected:
            assert time.monotonic() < deadline, f"{self._path} is late to {'succeed' if expected else 'fail'}"
            time.sleep(POLL_INTERVAL_S)


@dataclasses.dataclass(frozen=True)
class Release:
    """What a set of values renders, and where its server listens on this machine, by the names of its ports."""

    manifests: list[Manifest]
    ports: dict[str, int]

    def probe(self, name: str) -> Probe:
        return Probe(server_container(self.manifests)[f"{name}Probe"], self.ports)

    def probed(self) -> dict[str, bool]:
        """Which probes of the server succeed just now."""
        return {name: self.probe(name).succeeds() for name in ("startup", "readiness", "liveness")}


@dataclasses.dataclass
class Life:
    """What was seen of a pod from its creation to its end."""

    release: Release
    server: Container
    probed_while_waiting: dict[str, bool] = dataclasses.field(default_factory=dict)
    hub_was_asked_by: set[str | None] = dataclasses.field(default_factory=set)
    build_log: str = ""
    second_build_log: str = ""
    models_when_ready: dict[str, bool] = dataclasses.field(default_factory=dict)
    probed_when_ready: dict[str, bool] = dataclasses.field(default_factory=dict)
    streams_at_rest: float | None = None
    streams_under_load: float | None = None
    live_while_draining: bool | None = None
    refusal_while_draining: Exception | None = None
    speech: list[Speech] = dataclasses.field(default_factory=list)
    exit_code: int | None = None


@pytest.fixture(scope="module")
def hub(tiny_checkpoint: Path) -> Iterator[FakeHub]:
    """A model hub that has the tiny checkpoint under the published one's name."""
    with FakeHub() as server:
        server.files = {name: (tiny_checkpoint / name).read_bytes() for name in (*CONFIG_FILES, *WEIGHTS_FILES)}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who certifies the server and its clients."""
    return trustme.CA()


@pytest.fixture(scope="module")
def node(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the Secrets that the tests' values name."""
    certificate = authority.issue_cert("127.0.0.1")
    secrets = {
        "hub": {"token": TOKEN},
        "admin": {"admin-key": ADMIN_KEY},
        "tls": {
            "tls.crt": "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems),
            "tls.key": certificate.private_key_pem.bytes().decode(),
            "ca.crt": authority.cert_pem.bytes().decode(),
        },
    }
    created = Node(tmp_path_factory.mktemp("node"), secrets)
    yield created
    created.remove()


@pytest.fixture(scope="module")
def release(hub: FakeHub, free_ports: Callable[[], dict[str, int]]) -> Callable[..., Release]:
    """Renders releases with a downloaded checkpoint, each with ports of its own."""

    def rendered(**values: Any) -> Release:
        variables = {name.upper(): str(port) for name, port in free_ports().items()}
        manifests = render(
            yaml.safe_load((VALUES_DIR / "kind.yaml").read_text())
            | {
                "checkpoint": {"source": "download", "download": {"tokenSecret": "hub", "endpoint": hub.endpoint}},
                "extraEnv": [{"name": name, "value": value} for name, value in variables.items()],
            }
            | values
        )
        return Release(manifests, {name: int(variables[f"{name.upper()}_PORT"]) for name in PORTS})

    return rendered


@pytest.fixture(scope="module")
def life(hub: FakeHub, node: Node, release: Callable[..., Release]) -> Life:
    """A pod is there before its engines, serves, and is stopped at work."""
    drain = {"endpointsSeconds": 1, "exitTimeoutSeconds": 60}
    installed = release(drain=drain, monitoring={"podMonitor": True}, autoscaling={"kind": "hpa"})
    server_pod, job_pod = pod_templates(installed.manifests)
    (download,), (build,) = job_pod["spec"]["initContainers"], job_pod["spec"]["containers"]
    readiness = installed.probe("readiness")

    seen = Life(installed, node.start(server_pod, server_container(installed.manifests)))
    seen.server.wait_for_log("waiting", WAITING_TIMEOUT_S)
    seen.probed_while_waiting = installed.probed()

    node.run(job_pod, download, NOOP_TIMEOUT_S)
    seen.hub_was_asked_by = set(hub.authorizations)
    seen.build_log = node.run(job_pod, build, BUILT_TIMEOUT_S).log
    readiness.wait(True, READY_TIMEOUT_S)
    seen.models_when_ready = _models_ready(installed.ports["grpc"])
    seen.probed_when_ready = installed.probed()

    node.run(job_pod, download, NOOP_TIMEOUT_S)
    seen.second_build_log = node.run(job_pod, build, NOOP_TIMEOUT_S).log

    _stop_at_work(seen, node)
    return seen


def _models_ready(grpc_port: int) -> dict[str, bool]:
    with closing(InferenceServerClient(f"127.0.0.1:{grpc_port}")) as client:
        return {path.name: client.is_model_ready(path.name) for path in (PROJECT_DIR / "model_repo").iterdir()}


def _stop_at_work(seen: Life, node: Node) -> None:
    """Stop the server as a kubelet does while a stream runs, and watch."""
    pod = only(seen.release.manifests, "Deployment")["spec"]["template"]
    container = server_container(seen.release.manifests)
    url = f"127.0.0.1:{seen.release.ports['grpc']}"
    seen.streams_at_rest = _autoscalers_metric(seen.release)

    node.run(pod, container | container["lifecycle"]["preStop"]["exec"] | {"args": []}, NOOP_TIMEOUT_S)
    with Tritone(url) as tritone, Tritone(url) as another:
        stream = tritone.stream(LONG_TEXT, voice=ControlledVoice("female"), seed=1)
        seen.speech.append(next(stream))
        seen.streams_under_load = _autoscalers_metric(seen.release)
        seen.server.signal(signal.SIGTERM)
        seen.release.probe("readiness").wait(False, timeout_s=10)
        seen.live_while_draining = seen.release.probe("liveness").succeeds()
        try:
            another.synthesize("hello", voice=ControlledVoice("female"))
        except TritoneError as error:
            seen.refusal_while_draining = error
        seen.speech += stream
    seen.exit_code = seen.server.wait(pod["spec"]["terminationGracePeriodSeconds"])


def _autoscalers_metric(release: Release) -> float:
    """What the HorizontalPodAutoscaler would get: its metric's sum over the pod's series, at the PodMonitor's path."""
    (endpoint,) = only(release.manifests, "PodMonitor")["spec"]["podMetricsEndpoints"]
    (metric,) = only(release.manifests, "HorizontalPodAutoscaler")["spec"]["metrics"]
    with closing(http.client.HTTPConnection("127.0.0.1", release.ports[endpoint["port"]], timeout=10)) as connection:
        connection.request("GET", endpoint["path"])
        lines = connection.getresponse().read().decode().splitlines()
    name = metric["pods"]["metric"]["name"]
    values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{")]
    assert values, f"no series of {name}"
    return sum(values)


def test_pod_waits_for_its_engines_and_is_not_ready(life: Life) -> None:
    # Nor is it live, which does not count before the startup probe has succeeded once.
    assert life.probed_while_waiting == {"startup": False, "readiness": False, "liveness": False}


def test_checkpoint_came_with_the_token_of_the_secret(life: Life) -> None:
    assert f"Bearer {TOKEN}" in life.hub_was_asked_by


def test_job_builds_into_the_volume_and_a_second_one_does_nothing(life: Life) -> None:
    assert "engines built in" in life.build_log
    assert "engines are there" in life.second_build_log
    assert "/data/engines/cpu-int8-Spark-TTS-0.5B-" in life.second_build_log


def test_pod_is_ready_when_every_model_is(life: Life) -> None:
    assert len(life.models_when_ready) == 7
    assert all(life.models_when_ready.values())
    assert life.probed_when_ready == {"startup": True, "readiness": True, "liveness": True}


def test_autoscalers_metric_rises_with_streams(life: Life) -> None:
    assert life.streams_at_rest == 0
    assert life.streams_under_load == 1


def test_draining_pod_is_live_but_not_ready_and_refuses_new_requests(life: Life) -> None:
    assert life.live_while_draining is True  # and _stop_at_work waited until it was not ready
    assert isinstance(life.refusal_while_draining, Unavailable)


def test_running_stream_finishes_and_the_pod_ends_within_its_grace(life: Life) -> None:
    assert life.streams_under_load == 1  # just before the signal
    assert len(life.speech) > 1
    assert life.speech[-1].end_reason is not None
    assert life.exit_code == 0


def test_tls_and_admin_key_of_secrets_reach_the_server(
    life: Life, node: Node, release: Callable[..., Release], authority: trustme.CA, tmp_path: Path
) -> None:
    installed = release(tls={"secret": "tls", "mutual": True}, access={"adminSecret": "admin"})
    pod = only(installed.manifests, "Deployment")["spec"]["template"]
    url = f"127.0.0.1:{installed.ports['grpc']}"
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    own = authority.issue_cert("client.example.com")
    own.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "client.crt"))
    certificates = {
        "root_certificates": str(tmp_path / "ca.crt"),
        "private_key": str(tmp_path / "client.key"),
        "certificate_chain": str(tmp_path / "client.crt"),
    }

    server = node.start(pod, server_container(installed.manifests))
    server.wait_for_log("ready: gRPC", READY_TIMEOUT_S)

    assert installed.probed() == {"startup": True, "readiness": True, "liveness": True}
    with closing(InferenceServerClient(url, ssl=True, **certificates)) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException):
            client.get_log_settings()
        assert client.get_log_settings(headers={"triton-grpc-protocol-admin-key": ADMIN_KEY}).settings
    with (
        closing(InferenceServerClient(url, ssl=True, root_certificates=certificates["root_certificates"])) as stranger,
        pytest.raises(InferenceServerException),
    ):
        stranger.is_server_ready()
    server.signal(signal.SIGTERM)
    assert server.wait(pod["spec"]["terminationGracePeriodSeconds"]) == 0
