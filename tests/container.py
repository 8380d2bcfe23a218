"""A container without Docker: what docker/Dockerfile describes, in namespaces of the kernel.

`Image.of` reads one target of the Dockerfile with BuildKit's own parser. `Container` runs a command in it: the files
that the Dockerfile copies (less what .dockerignore leaves out) and nothing else of the project, at the paths of the
image, read-only; its environment, user, folder and entry point; the first process of its own process namespace; own
/tmp and /dev/shm; no capability. The base image's part is this machine's: /usr, and the virtual environment as
/opt/venv. The network is this machine's, too.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

PROJECT_DIR = Path(__file__).resolve().parent.parent
DOCKERFILE = PROJECT_DIR / "docker" / "Dockerfile"
DOCKERIGNORE = PROJECT_DIR / ".dockerignore"
VENV = Path("/opt/venv")

# What a container gets of its own; a user that is not root needs one of users, too, and is root in it.
NAMESPACES = (
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    *(("--user", "--map-root-user") * bool(os.getuid())),
)


@cache
def can_run() -> bool:
    """Whether the kernel lets this user make namespaces and mount in them as a container needs it."""
    trial = (
        "mount -t tmpfs none /mnt; mkdir /mnt/usr /mnt/proc; mount -t proc none /mnt/proc; mount --bind /usr /mnt/usr"
    )
    command = [*NAMESPACES, "sh", "-euc", f"{trial}; mount -o remount,bind,ro /mnt/usr"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass
class Image:
    """What one target of the Dockerfile comes to.

    Attributes:
        base: the image that it starts from
        copies: (path in the project, path in the image) of everything copied from the project
    """

    base: str
    copies: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    user: str = "root"
    entrypoint: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    health_command: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()

    @classmethod
    def of(cls, target: str) -> "Image":
        """Read a target; build arguments have their defaults."""
        return _images()[target]

    def write_files(self, root: Path) -> None:
        """Copy what the Dockerfile copies from the project, to the same paths below `root`."""
        ignore = DockerIgnore(DOCKERIGNORE.read_text())
        for source, destination in self.copies:
            for path in _files(PROJECT_DIR / source):
                relative = path.relative_to(PROJECT_DIR)
                if not ignore.leaves_out(str(relative)):
                    copy = root / destination.lstrip("/") / path.relative_to(PROJECT_DIR / source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, copy)


@dataclass(frozen=True)
class _Command:
    """One line of the Dockerfile, as BuildKit's parser reads it."""

    cmd: str
    value: tuple[str, ...]
    flags: tuple[str, ...]
    start_line: int


def _commands() -> list[_Command]:
    """Parsed in a process of its own: the parser is a Go library, see tests/helm.py."""
    program = (
        "import dockerfile, json, sys\n"
        "commands = dockerfile.parse_file(sys.argv[1])\n"
        "print(json.dumps([(c.cmd, c.value, c.flags, c.start_line) for c in commands]))"
    )
    arguments = [sys.executable, "-c", program, str(DOCKERFILE)]
    commands = json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout)
    return [_Command(cmd, tuple(value), tuple(flags), line) for cmd, value, flags, line in commands]


def _images() -> dict[str, Image]:
    images: dict[str, Image] = {}
    arguments: dict[str, str] = {}
    for command in _commands():
        value = command.value
        if command.cmd == "ARG":
            name, _, default = value[0].partition("=")
            arguments[name] = default
        elif command.cmd == "FROM":
            image = Image(base=re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], value[0]))
            images[value[2]] = image
        elif command.cmd == "COPY":
            *sources, destination = value
            origin = next((flag.removeprefix("--from=") for flag in command.flags if flag.startswith("--from=")), None)
            if origin is None:
                image.copies += [(source, destination) for source in sources]
            elif sources == [destination]:  # what another stage copied, at the same place
                image.copies += [copy for copy in images[origin].copies if Path(copy[1]).is_relative_to(destination)]
            else:
                raise ValueError(f"line {command.start_line}: copied to another place")
        elif command.cmd == "ENV":
            image.environment |= {
                name: shlex.split(text)[0] for name, text in zip(value[::2], value[1::2], strict=True)
            }
        elif command.cmd == "WORKDIR":
            image.working_dir = value[0]
        elif command.cmd == "USER":
            image.user = value[0]
        elif command.cmd == "EXPOSE":
            image.ports = value
        elif command.cmd == "HEALTHCHECK":
            image.health_command = value[1:]
        elif command.cmd == "ENTRYPOINT":
            image.entrypoint = value
        elif command.cmd == "CMD":
            image.arguments = value
        elif command.cmd != "RUN":
            raise ValueError(f"line {command.start_line}: {command.cmd} is not known here")
    return images


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
    else:
        yield path


class DockerIgnore:
    """What a .dockerignore leaves out: the last pattern that a path, or a folder above it, matches decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        patterns = [line for line in lines if line and not line.startswith("#")]
        self._rules = [(_regex(line.removeprefix("!")), not line.startswith("!")) for line in patterns]

    def leaves_out(self, path: str) -> bool:
        """Whether `path`, relative to the file's folder, does not reach the Docker daemon."""
        prefixes = [path, *(str(parent) for parent in Path(path).parents)]
        decisions = [left_out for regex, left_out in self._rules if any(map(regex.fullmatch, prefixes))]
        return decisions[-1] if decisions else False


def _regex(pattern: str) -> re.Pattern[str]:
    parts = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/"))
    return re.compile("".join(parts.get(token, re.escape(token)) for token in tokens))


class Container:
    """One command in an image, from its creation on.

    Args:
        files: a folder that `Image.write_files` filled
        arguments: for the entry point, instead of the image's own
        environment: variables besides the image's
        volumes: folders by their path in the container; those in `read_only` cannot be written there
        log_path: where both its outputs go
    """

    def __init__(
        self,
        image: Image,
        files: Path,
        *,
        arguments: Sequence[str] | None = None,
        environment: Mapping[str, str],
        volumes: Mapping[str, Path],
        read_only: Sequence[str] = (),
        log_path: Path,
    ) -> None:
        self.log_path = log_path
        command = [*image.entrypoint, *(image.arguments if arguments is None else arguments)]
        script = _script(image, files, {path: (source, path in read_only) for path, source in volumes.items()})
        variables = [f"{name}={value}" for name, value in (image.environment | dict(environment)).items()]
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*NAMESPACES, "sh", "-euc", script, "sh", "env", "--ignore-environment", *variables, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the container's first process, as `docker stop` and the kubelet do."""
        for first in psutil.Process(self.process.pid).children():
            first.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Its exit code."""
        return self.process.wait(timeout_s)

    def wait_for_log(self, text: str, timeout_s: float) -> None:
        """Wait until it has written `text`; fail with its log if it ends before, or is late."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log:
            assert self.process.poll() is None, f"it ended with exit code {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"{text!r} is late:\n{self.log}"
            time.sleep(0.05)

    def remove(self) -> None:
        """Kill whatever is left of it: when the first process goes, the kernel kills all others of its namespace."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.wait()


def _script(image: Image, files: Path, volumes: Mapping[str, tuple[Path, bool]]) -> str:
    """What makes the container's root at /mnt, of the new mount namespace only, and runs its arguments in it."""
    lines = [
        "mount --make-rprivate /",
        "mount -t tmpfs -o mode=755 none /mnt",
        "mkdir -p /mnt/proc /mnt/sys /mnt/dev /mnt/tmp",
        "mount -t proc none /mnt/proc",
        "mount --rbind /sys /mnt/sys",
        "mount -t tmpfs -o mode=755 none /mnt/dev",
        "mkdir /mnt/dev/shm",
        "mount -t tmpfs -o size=1g,mode=1777 none /mnt/dev/shm",
        "mount -t tmpfs -o size=1g,mode=1777 none /mnt/tmp",
        "for name in null zero random urandom; do touch /mnt/dev/$name; mount --bind /dev/$name /mnt/dev/$name; done",
        "for name in bin sbin lib lib64; do ln -s usr/$name /mnt/$name; done",
    ]
    # The base image's part, and the Python that the virtual environment links to.
    parts = {"/usr": (Path("/usr"), True), "/etc": (Path("/etc"), True), str(VENV): (Path(sys.prefix), True)}
    parts |= {sys.base_prefix: (Path(sys.base_prefix), True)} if not sys.base_prefix.startswith("/usr") else {}
    parts |= {f"/{path.name}/{child.name}": (child, True) for path in files.iterdir() for child in path.iterdir()}
    for path, (source, is_read_only) in (parts | dict(volumes)).items():
        target = shlex.quote(f"/mnt{path}")
        lines += [f"mkdir -p {target}", f"mount --bind {shlex.quote(str(source))} {target}"]
        lines += [f"mount -o remount,bind,ro {target}"] if is_read_only else []
    drop = "--no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all"
    if os.getuid() == 0:
        user, group = image.user.split(":")
        drop += f" --reuid={user} --regid={group} --clear-groups"
    lines += [
        "mount -o remount,bind,ro /mnt",
        f'exec chroot /mnt setpriv {drop} -- sh -c \'cd {image.working_dir} && exec "$@"\' sh "$@"',
    ]
    return "\n".join(lines)
