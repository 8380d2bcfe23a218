"""Who may ask a server for what: TLS and mTLS for gRPC, and a key for the endpoints that manage the server.

Triton's HTTP has no TLS. With TLS on, HTTP therefore answers health alone, which is what probes need, so that nobody
sends text or audio in the clear by mistake.

Triton has one gRPC endpoint, and over that the models call each other. Under TLS they trust the server's own
certificate and show one that is made at each start; for mTLS it is added to those that the server accepts.
"""

import datetime
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tritone.inference import INNER_CERTIFICATE, INNER_KEY, SERVER_CERTIFICATE, SERVER_NAME

ADMIN_HEADER = "admin-key"  # of HTTP; gRPC's has `triton-grpc-protocol-` before it
_MANAGEMENT_APIS = ("model-repository", "shared-memory", "trace", "logging")
_ALL_APIS_BUT_HEALTH = (*_MANAGEMENT_APIS, "inference", "metadata", "model-config", "statistics")
_MIN_ADMIN_KEY_CHARS = 16
_ADMIN_KEY_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

_ACCEPTED_CLIENTS = "accepted-clients.pem"
_INNER_CLIENT_VALIDITY = datetime.timedelta(days=3650)  # as long as a server could possibly run


class AccessError(ValueError):
    """The settings cannot be used; the message names the variable."""


@dataclass(frozen=True)
class Access:
    """What the endpoints of one server ask of their clients.

    Attributes:
        tls_cert, tls_key: PEM files, the server's certificate with its chain and its key; gRPC speaks TLS with them
        tls_client_ca: PEM file; gRPC then serves those only who show a certificate of this authority
        admin_key: opens the management endpoints (model repository, shared memory, traces, log settings); unless said,
            one that nobody knows

    Raises:
        AccessError: they do not fit together, or a file cannot be used.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    admin_key: str = field(default_factory=secrets.token_urlsafe, repr=False)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise AccessError("TLS_CERT and TLS_KEY belong together: only one of them is set")
        if self.tls_client_ca is not None and not self.has_tls:
            raise AccessError("TLS_CLIENT_CA needs TLS_CERT and TLS_KEY: without TLS no client can show a certificate")
        if len(self.admin_key) < _MIN_ADMIN_KEY_CHARS or not _ADMIN_KEY_CHARS.issuperset(self.admin_key):
            raise AccessError(
                f"ADMIN_KEY must have at least {_MIN_ADMIN_KEY_CHARS} characters, of letters, digits, - and _ "
                "(`openssl rand -hex 32` makes one)"
            )
        if self.tls_cert is not None and self.tls_key is not None:
            certificate = _certificates("TLS_CERT", self.tls_cert)[0]
            _name(certificate)
            _check_key("TLS_KEY", self.tls_key, certificate)
        if self.tls_client_ca is not None:
            _certificates("TLS_CLIENT_CA", self.tls_client_ca)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Access":
        """The settings in TLS_CERT, TLS_KEY, TLS_CLIENT_CA and ADMIN_KEY; an empty one counts as not set."""

        def path(variable: str) -> Path | None:
            return Path(environment[variable]) if environment.get(variable) else None

        admin_key = environment.get("ADMIN_KEY") or secrets.token_urlsafe()
        return cls(path("TLS_CERT"), path("TLS_KEY"), path("TLS_CLIENT_CA"), admin_key)

    @property
    def has_tls(self) -> bool:
        """Whether gRPC speaks TLS."""
        return self.tls_cert is not None

    def server_arguments(self, http_key: str, inner_tls_dir: Path) -> list[str]:
        """Arguments for tritonserver.

        Args:
            http_key: opens what is closed on HTTP
            inner_tls_dir: where `write_inner_tls` has been
        """
        http_apis = _ALL_APIS_BUT_HEALTH if self.has_tls else _MANAGEMENT_APIS
        arguments = [
            f"--http-restricted-api={','.join(http_apis)}:{ADMIN_HEADER}={http_key}",
            f"--grpc-restricted-protocol={','.join(_MANAGEMENT_APIS)}:{ADMIN_HEADER}={self.admin_key}",
        ]
        if self.has_tls:
            arguments += [f"--grpc-server-cert={self.tls_cert}", f"--grpc-server-key={self.tls_key}"]
            if self.tls_client_ca is None:
                arguments.append("--grpc-use-ssl=true")
            else:
                arguments += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={inner_tls_dir / _ACCEPTED_CLIENTS}"]
        return arguments

    def write_inner_tls(self, directory: Path) -> None:
        """Write what the models need to call each other under TLS: `tritone.inference` reads it.

        Args:
            directory: an empty folder that others cannot read
        """
        assert self.tls_cert is not None
        (directory / SERVER_CERTIFICATE).write_bytes(self.tls_cert.read_bytes())
        (directory / SERVER_NAME).write_text(_name(_certificates("TLS_CERT", self.tls_cert)[0]))
        inner_certificate = _write_inner_client(directory)
        if self.tls_client_ca is not None:
            accepted = [self.tls_client_ca.read_bytes(), inner_certificate]
            (directory / _ACCEPTED_CLIENTS).write_bytes(b"\n".join(accepted))


def _certificates(variable: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise AccessError(f"{variable}: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise AccessError(f"{variable}: {path} holds no certificate in PEM") from error


def _check_key(variable: str, path: Path, certificate: x509.Certificate) -> None:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise AccessError(f"{variable}: {path} cannot be read ({error.strerror})") from error
    except (TypeError, ValueError) as error:  # TypeError: it is encrypted
        raise AccessError(f"{variable}: {path} holds no private key in PEM, without a password") from error
    if key.public_key() != certificate.public_key():
        raise AccessError(f"{variable}: {path} is not the key of TLS_CERT's first certificate")


def _name(certificate: x509.Certificate) -> str:
    """A name that the certificate is good for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        candidates = [
            *names.get_values_for_type(x509.DNSName),
            *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
        ]
    except x509.ExtensionNotFound:
        candidates = []
    if not candidates:
        raise AccessError("TLS_CERT: the certificate names neither a host nor an address (subjectAltName)")
    return candidates[0].replace("*", "server")


def _write_inner_client(directory: Path) -> bytes:
    """Make a key and a certificate for it, which no authority but itself has signed; returns the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the models of this server")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _INNER_CLIENT_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    (directory / INNER_CERTIFICATE).write_bytes(certificate)
    (directory / INNER_KEY).write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate
