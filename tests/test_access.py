"""Settings of access: what is refused, and what tritonserver and the models are told."""

from pathlib import Path

import pytest
import trustme

from tritone.access import Access, AccessError
from tritone.inference import SERVER_NAME

KEY = "a-key-of-enough-characters"
Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    paths = {
        name: folder / name for name in ("cert", "key", "other_key", "wildcard", "wildcard_key", "address", "nobody")
    }
    server, other = authority.issue_cert("tritone.example"), authority.issue_cert("other.example")
    wildcard, address = authority.issue_cert("*.tritone.example"), authority.issue_cert("10.0.0.1")
    server.cert_chain_pems[0].write_to_path(str(paths["cert"]))
    server.private_key_pem.write_to_path(str(paths["key"]))
    other.private_key_pem.write_to_path(str(paths["other_key"]))
    wildcard.cert_chain_pems[0].write_to_path(str(paths["wildcard"]))
    wildcard.private_key_pem.write_to_path(str(paths["wildcard_key"]))
    address.private_key_and_cert_chain_pem.write_to_path(str(paths["address"]))
    authority.issue_cert(common_name="nobody").private_key_and_cert_chain_pem.write_to_path(str(paths["nobody"]))
    return paths


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"TLS_KEY": "key"}, "TLS_CERT and TLS_KEY belong together"),
        ({"TLS_CLIENT_CA": "cert"}, "TLS_CLIENT_CA needs TLS_CERT and TLS_KEY"),
        ({"TLS_CERT": "cert", "TLS_KEY": "other_key"}, "TLS_KEY: .* is not the key of TLS_CERT"),
        ({"TLS_CERT": "key", "TLS_KEY": "key"}, "TLS_CERT: .* holds no certificate"),
        ({"TLS_CERT": "cert", "TLS_KEY": "cert"}, "TLS_KEY: .* holds no private key"),
        (
            {"TLS_CERT": "nowhere", "TLS_KEY": "key"},
            r"TLS_CERT: .*nowhere cannot be read \(No such file or directory\)",
        ),
        ({"TLS_CERT": "cert", "TLS_KEY": "key", "TLS_CLIENT_CA": "key"}, "TLS_CLIENT_CA: .* holds no certificate"),
    ],
)
def test_files_that_cannot_be_used_are_named(files: Files, settings: dict[str, str], message: str) -> None:
    with pytest.raises(AccessError, match=message):
        Access.from_environment({variable: str(files.get(name, name)) for variable, name in settings.items()})


@pytest.mark.parametrize("key", ["short", "with a space in it, so not", "with=an=equals=sign=in=it"])
def test_key_that_triton_could_misread_is_refused(key: str) -> None:
    with pytest.raises(AccessError, match="ADMIN_KEY must have at least 16 characters, of letters, digits"):
        Access.from_environment({"ADMIN_KEY": key})


def test_empty_settings_are_none_and_the_key_is_nobody_s(tmp_path: Path) -> None:
    variables = ("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "ADMIN_KEY")
    one, other = (Access.from_environment(dict.fromkeys(variables, "")) for _ in range(2))
    assert not one.has_tls
    assert one.admin_key != other.admin_key
    assert one.admin_key not in repr(one)
    assert not any("inference" in argument or "ssl" in argument for argument in one.server_arguments(KEY, tmp_path))


def test_http_beside_tls_has_a_key_of_its_own_for_everything_but_health(files: Files, tmp_path: Path) -> None:
    access = Access(files["cert"], files["key"], admin_key=KEY)
    http, grpc, *_ = access.server_arguments("the-launcher-s-own-key", tmp_path)
    assert http.startswith("--http-restricted-api=") and KEY not in http
    assert "inference" in http and "health" not in http
    assert grpc.endswith(f":admin-key={KEY}") and "inference" not in grpc


@pytest.mark.parametrize(
    ("cert", "key", "name"),
    [
        ("cert", "key", "tritone.example"),
        ("wildcard", "wildcard_key", "server.tritone.example"),
        ("address", "address", "10.0.0.1"),
    ],
)
def test_models_call_the_server_by_a_name_of_its_certificate(
    files: Files, tmp_path: Path, cert: str, key: str, name: str
) -> None:
    Access(files[cert], files[key]).write_inner_tls(tmp_path)
    assert (tmp_path / SERVER_NAME).read_text() == name


def test_certificate_without_a_name_is_refused(files: Files) -> None:
    with pytest.raises(AccessError, match="names neither a host nor an address"):
        Access(files["nobody"], files["nobody"])
