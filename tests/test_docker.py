"""The Dockerfile and the compose files, without a Docker engine: linters, schemas, and what must hold between them."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from build_engines.profiles import PROFILES
from tests.container import DOCKERFILE, DOCKERIGNORE, PROJECT_DIR, DockerIgnore, Image
from tritone.deploy import DEMO_VOICE, Settings

TARGETS = PROFILES
DOCKER_DIR = PROJECT_DIR / "docker"
BIN_DIR = Path(sys.executable).parent


@pytest.fixture(params=TARGETS)
def image(request: pytest.FixtureRequest) -> Image:
    return Image.of(request.param)


def service(target: str) -> dict:
    """The compose file's one service, what it extends included."""
    own = yaml.safe_load((DOCKER_DIR / f"compose.{target}.yaml").read_text())["services"]["tritone"]
    extended = own.pop("extends", None)
    if extended is None:
        return own
    assert extended == {"file": "compose.cpu.yaml", "service": "tritone"}
    base = service("cpu")
    return base | own | {"build": base["build"] | own["build"]}


@pytest.fixture(scope="module")
def requirements() -> ModuleType:
    """docker/requirements.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("requirements", DOCKER_DIR / "requirements.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hadolint_finds_nothing() -> None:
    subprocess.run([BIN_DIR / "hadolint", "--failure-threshold", "style", DOCKERFILE], check=True)


@pytest.mark.parametrize("target", TARGETS)
def test_compose_file_follows_the_specification(target: str) -> None:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    subprocess.run([BIN_DIR / "check-jsonschema", *schema, DOCKER_DIR / f"compose.{target}.yaml"], check=True)


def test_base_images_are_exact() -> None:
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", Image.of("cpu").base)
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-trtllm-python-py3", Image.of("gpu").base)


def test_image_does_not_run_as_root(image: Image) -> None:
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", image.user)  # a number: Kubernetes cannot tell who a name is


def test_image_serves_and_checks_its_health_with_the_same_module(image: Image) -> None:
    assert image.entrypoint[-3:] == ("python3", "-m", "tritone.deploy")
    assert image.arguments == ("serve",)
    assert image.health_command == ("python3", "-m", "tritone.deploy", "health")


@pytest.mark.parametrize("target", TARGETS)
def test_image_sets_every_setting_that_containers_need(target: str) -> None:
    image = Image.of(target)
    settings = Settings.from_environment(image.environment)

    assert settings.profile == target
    assert image.environment["MODEL_DIR"] == DEMO_VOICE
    assert settings.host == "0.0.0.0"
    ports = (settings.http_port, settings.grpc_port, settings.metrics_port)
    assert image.ports == tuple(map(str, ports))
    assert image.environment["PYTHONPATH"] == image.working_dir


def test_both_images_have_the_same_files_and_settings() -> None:
    cpu, gpu = map(Image.of, TARGETS)
    differing = {name for name, value in cpu.environment.items() if gpu.environment.get(name) != value}

    assert differing == {"PROFILE", "PATH"}
    assert gpu.environment.keys() <= cpu.environment.keys()
    assert gpu.copies[-len(cpu.copies) :] == cpu.copies


def test_only_what_the_dockerfile_copies_reaches_the_daemon(image: Image) -> None:
    ignore = DockerIgnore(DOCKERIGNORE.read_text())
    copied = {Path(source) for source, _ in image.copies}

    for path in [*PROJECT_DIR.iterdir(), *DOCKER_DIR.iterdir(), *(PROJECT_DIR / "checkpoints").iterdir()]:
        relative = path.relative_to(PROJECT_DIR)
        if not any(source.is_relative_to(relative) for source in copied):
            expected = relative.name not in ("pyproject.toml", "requirements.lock", "requirements.py")
            assert ignore.leaves_out(str(relative)) is expected, relative
    for source in copied:
        assert (PROJECT_DIR / source).exists()
        assert not ignore.leaves_out(str(source)), source


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("tritone/serve.py", False),
        ("tritone/__pycache__/serve.pyc", True),
        ("checkpoints/demo_voice/config.yaml", False),
        ("checkpoints/Spark-TTS-0.5B/config.yaml", True),
        ("build/cpu/demo_voice-int8/config.pbtxt", True),
        (".git/config", True),
        (".env", True),
    ],
)
def test_ignore_file_leaves_out(path: str, left_out: bool) -> None:
    assert DockerIgnore(DOCKERIGNORE.read_text()).leaves_out(path) is left_out


@pytest.mark.parametrize("target", TARGETS)
def test_compose_builds_its_target(target: str) -> None:
    build = service(target)["build"]

    assert (DOCKER_DIR / build["context"]).resolve() == PROJECT_DIR
    assert PROJECT_DIR / build["dockerfile"] == DOCKERFILE
    assert build["target"] == target
    assert service(target)["image"] == f"tritone:{target}"


@pytest.mark.parametrize("target", TARGETS)
def test_compose_mounts_what_must_be_written_and_nothing_else_is(target: str) -> None:
    composed, environment = service(target), Image.of(target).environment
    volumes = {volume.split(":/")[1].removesuffix(":ro"): volume for volume in composed["volumes"]}

    assert composed["read_only"] is True
    assert composed["tmpfs"] == [environment["HOME"]]
    assert volumes.keys() == {"model", "engines", "voices"}
    assert {name for name, volume in volumes.items() if not volume.endswith(":ro")} == {"engines"}
    assert environment["ENGINES_DIR"] == "/engines"
    assert environment["VOICES_DIR"] == "/voices"
    assert composed["environment"]["MODEL_DIR"] == "/model"


@pytest.mark.parametrize("target", TARGETS)
def test_compose_publishes_every_port_on_loopback_unless_told_otherwise(target: str) -> None:
    published = service(target)["ports"]

    assert tuple(port.rpartition(":")[2] for port in published) == Image.of(target).ports
    assert all(port.startswith("${HOST:-127.0.0.1}:") for port in published)


def test_only_the_gpu_service_reserves_one() -> None:
    (device,) = service("gpu")["deploy"]["resources"]["reservations"]["devices"]

    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in service("cpu")


def test_installed_packages_are_kept_and_others_are_locked(requirements: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# versions\nnumpy==1.26.4\ntorch==2.13.0\nsoxr==1.1.0\n")
    installed = {"numpy": "2.1.0", "torch": "2.10.0a0+nv"}

    assert requirements.missing(["numpy<2", "soxr", "torch", "tritonclient[grpc]"], installed) == [
        "soxr",
        "tritonclient[grpc]",
    ]
    assert requirements.constraints(lock, installed) == ["numpy==2.1.0", "soxr==1.1.0", "torch==2.10.0a0+nv"]


def test_every_requirement_of_the_images_is_locked(requirements: ModuleType) -> None:
    needed = requirements.required(PROJECT_DIR / "pyproject.toml", ["server", "normalize", "build"])
    constraints = requirements.constraints(PROJECT_DIR / "requirements.lock", installed={})

    names = {requirements.canonical(re.match(r"[\w.-]+", line).group()) for line in needed}
    assert "nvidia-pytriton" in names
    assert names <= {line.partition("==")[0] for line in constraints}
