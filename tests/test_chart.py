"""The Helm chart, without a cluster: what it renders is valid Kubernetes and holds together."""

import itertools
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests import helm
from tests.chart import (
    CHART_DIR,
    VALUES_DIR,
    Manifest,
    containers,
    environment,
    of_kind,
    only,
    pod_templates,
    render,
    selects,
    server_container,
    walk,
)
from tests.container import Image
from tritone import serve

PROJECT_DIR = CHART_DIR.parents[1]
CUSTOM_RESOURCES = yaml.safe_load((PROJECT_DIR / "tests" / "data" / "custom_resources.yaml").read_text())
KUBERNETES_VERSIONS = ("1.29", "1.31", "1.34", "1.37")  # the oldest is that of Chart.yaml

# All features, in sets that can be on at the same time.
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "open": {
        "checkpoint": {"source": "volume", "directory": "alice"},
        "autoscaling": {"kind": "hpa", "minReplicas": 2},
        "gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["speech.example.com"]},
        "monitoring": {"podMonitor": True, "prometheusRule": True, "dashboard": True, "labels": {"release": "prom"}},
        "voices": {"configMap": "voices"},
        "image": {"repository": "registry.example.com:5000/tritone", "tag": "7", "pullSecrets": ["registry"]},
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}],
            "egress": [{"ports": [{"port": 4318}]}],
        },
        "tracing": {"otlpUrl": "http://collector.monitoring:4318"},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "extraEnv": [{"name": "ANOTHER", "value": "1"}],
    },
    "closed": {
        "autoscaling": {"kind": "keda"},
        "monitoring": {"serviceMonitor": True},
        "tls": {"secret": "tritone-tls", "mutual": True},
        "access": {"adminSecret": "admin"},
        "ingress": {
            "enabled": True,
            "host": "speech.example.com",
            "className": "nginx",
            "tlsSecret": "speech-tls",
            "annotations": {"nginx.ingress.kubernetes.io/backend-protocol": "GRPCS"},
        },
        "image": {"digest": f"sha256:{64 * '0'}"},
        "storage": {"existingClaim": "models", "storageClassName": "files"},
        "gpu": {"product": "NVIDIA-L4", "runtimeClassName": "nvidia"},
        "nodeSelector": {"pool": "speech"},
        "tolerations": [{"key": "speech", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "high",
        "jobPriorityClassName": "higher",
        "podLabels": {"team": "speech"},
        "podAnnotations": {"note": "x"},
        "precision": "bf16",
        "strategy": {"maxSurge": 0, "maxUnavailable": "25%"},
        "checkpoint": {
            "source": "download",
            "download": {"tokenSecret": "hub", "endpoint": "https://hub.example.com"},
        },
    },
    "unguarded": {"networkPolicy": {"enabled": False}, "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"}},
}


def _combined(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: _combined(values.get(key, {}), value) for key, value in more.items() if isinstance(value, dict)}
    return {**values, **more, **nested}


MATRIX: dict[str, dict[str, Any]] = {
    f"{profile}-{build}-{feature}": _combined({"profile": profile, "engines": {"build": build}}, FEATURES[feature])
    for profile, build, feature in itertools.product(("cpu", "gpu"), ("job", "pod"), FEATURES)
} | {path.stem: yaml.safe_load(path.read_text()) for path in sorted(VALUES_DIR.glob("*.yaml"))}


@cache
def _rendered(name: str) -> str:
    return json.dumps(render(MATRIX[name]))


@pytest.fixture(params=MATRIX)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """What one set of values renders."""
    return json.loads(_rendered(request.param))


@cache
def _check(manifest_json: str) -> None:
    """Raise if a manifest is not valid; cached, as many sets of values render many the same."""
    manifest = json.loads(manifest_json)
    if (custom := CUSTOM_RESOURCES.get(manifest["kind"])) is not None:
        assert manifest["apiVersion"] == custom["apiVersion"]
        jsonschema.validate(manifest["spec"], custom["spec"])
        assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
    else:
        for version in KUBERNETES_VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_manifests_are_valid_in_every_supported_version(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        _check(json.dumps(manifest, sort_keys=True))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "readinesProbe"), {}),
        ("Service", ("spec", "ports", 0, "port"), "grpc"),
        ("ScaledObject", ("spec", "maxReplicas"), 3),
        ("GRPCRoute", ("spec", "rules", 0, "backendRefs", 0, "port"), "grpc"),
    ],
)
def test_a_wrong_manifest_would_be_noticed(kind: str, path: tuple[str | int, ...], value: object) -> None:
    name = "cpu-job-open" if kind == "GRPCRoute" else "cpu-job-closed"
    manifest = of_kind(json.loads(_rendered(name)), kind)[0]
    _check(json.dumps(manifest))
    node = manifest
    for step in path[:-1]:
        node = node[step]  # type: ignore[index]
    node[path[-1]] = value  # type: ignore[index]

    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        _check(json.dumps(manifest))


def test_oldest_version_is_the_charts_own() -> None:
    assert helm.metadata(CHART_DIR)["kubeVersion"] == f">={KUBERNETES_VERSIONS[0]}.0-0"


@pytest.mark.parametrize("name", ["cpu-job-plain", "gpu-pod-closed", "gpu", "kind"])
def test_lint_finds_nothing(name: str) -> None:
    report = helm.lint(CHART_DIR, MATRIX[name], kube_version=f"v{KUBERNETES_VERSIONS[0]}.0")

    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


# Values.


def _schema() -> dict[str, Any]:
    return json.loads((CHART_DIR / "values.schema.json").read_text())


def _properties(schema: Mapping[str, Any], root: Mapping[str, Any], path: str = "") -> set[str]:
    if (reference := schema.get("$ref")) is not None:
        schema = root["$defs"][reference.removeprefix("#/$defs/")]
    names: set[str] = set()
    for name, part in schema.get("properties", {}).items():
        names |= {f"{path}{name}"} | _properties(part, root, f"{path}{name}.")
    return names


def _keys(values: Mapping[str, Any], path: str = "") -> set[str]:
    names: set[str] = set()
    for name, value in values.items():
        names |= {f"{path}{name}"} | (_keys(value, f"{path}{name}.") if isinstance(value, dict) else set())
    return names


def test_schema_and_defaults_name_the_same_values() -> None:
    schema = _schema()
    free_form = re.compile(r"^(.*\.(requests|limits)\b|monitoring\.dashboardLabels\.)")
    defaults = yaml.safe_load((CHART_DIR / "values.yaml").read_text())

    declared = {name for name in _properties(schema, schema) if not free_form.match(name)}
    given = {name for name in _keys(defaults) if not free_form.match(name)}

    assert declared - {"global"} == given


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replicaz": 2}, "replicaz"),
        ({"drain": {"exitTimeout": 3}}, "exitTimeout"),
        ({"profile": "tpu"}, "profile"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"replicas": "two"}, "/replicas"),
        ({"tls": {"mutual": True}}, "/tls/secret"),
        ({"ingress": {"enabled": True}}, "/ingress/host"),
        ({"gateway": {"enabled": True}}, "/gateway/parentRefs"),
        ({"monitoring": {"podMonitor": True, "serviceMonitor": True}}, "/monitoring"),
        ({"checkpoint": {"directory": "../etc"}}, "/checkpoint/directory"),
        ({"resources": {"cpu": {"limits": {"memory": "8GB"}}}}, "/resources/cpu/limits/memory"),
        ({"networkPolicy": {"clients": []}}, "/networkPolicy/clients"),
        ({"autoscaling": {"streamsPerPod": 64}}, "/autoscaling/streamsPerPod"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(helm.ValuesRefused, match=re.escape(complaint)):
        render(values)


def test_a_pod_never_aims_at_more_streams_than_its_server_takes() -> None:
    limit = _schema()["properties"]["autoscaling"]["properties"]["streamsPerPod"]["maximum"]

    for model in ("spark_tts", "spark_tts_stream"):
        config = text_format.Parse((PROJECT_DIR / "model_repo" / model / "config.pbtxt").read_text(), ModelConfig())
        assert int(config.parameters["max_requests"].string_value) == limit


# Names and selectors.


def _server_labels(manifests: list[Manifest]) -> dict[str, str]:
    return only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]


def _job_labels(manifests: list[Manifest]) -> list[dict[str, str]]:
    return [job["spec"]["template"]["metadata"]["labels"] for job in of_kind(manifests, "Job")]


def test_whatever_selects_pods_selects_the_servers_alone(manifests: list[Manifest]) -> None:
    policies = of_kind(manifests, "NetworkPolicy")
    selectors = [only(manifests, "Deployment")["spec"]["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in of_kind(manifests, "Service")]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in of_kind(manifests, "PodDisruptionBudget")]
    selectors += [monitor["spec"]["selector"]["matchLabels"] for monitor in of_kind(manifests, "PodMonitor")]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in policies[:1]]
    spread = only(manifests, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors += [constraint["labelSelector"]["matchLabels"] for constraint in spread]

    assert len(selectors) >= 6
    for selector in selectors:
        assert selects(selector, _server_labels(manifests))
        assert not any(selects(selector, labels) for labels in _job_labels(manifests))


def test_every_pod_of_the_release_has_a_network_policy() -> None:
    manifests = render({"engines": {"build": "job"}})
    selectors = [policy["spec"]["podSelector"]["matchLabels"] for policy in of_kind(manifests, "NetworkPolicy")]

    for labels in (_server_labels(manifests), *_job_labels(manifests)):
        assert sum(selects(selector, labels) for selector in selectors) == 1


def test_service_monitor_finds_each_pod_once() -> None:
    manifests = render({"monitoring": {"serviceMonitor": True}})
    monitor = only(manifests, "ServiceMonitor")["spec"]
    found = [
        service
        for service in of_kind(manifests, "Service")
        if selects(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
    ]

    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == ["metrics"]
    assert ["metrics" in {port["name"] for port in service["spec"]["ports"]} for service in found] == [True]


def test_two_releases_in_a_namespace_do_not_meet(manifests: list[Manifest]) -> None:
    others = render(MATRIX["cpu-job-plain"], release="other")
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}

    assert len(names) == len(manifests)
    assert names.isdisjoint((manifest["kind"], manifest["metadata"]["name"]) for manifest in others)
    for service in of_kind(others, "Service"):
        assert not selects(service["spec"]["selector"], _server_labels(manifests))


def test_long_release_names_stay_within_kubernetes_limits() -> None:
    manifests = render(MATRIX["cpu-job-closed"], release=f"a{51 * 'b'}z")

    for manifest in manifests:
        assert len(manifest["metadata"]["name"]) <= 63 - len("-12345")
    assert all(len(value) <= 63 for key, value in walk(manifests) if key.startswith("app.kubernetes.io/"))


def test_names_that_are_referred_to_exist(manifests: list[Manifest]) -> None:
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    deployment = only(manifests, "Deployment")["metadata"]["name"]
    ports = {
        service["metadata"]["name"]: {key for port in service["spec"]["ports"] for key in (port["name"], port["port"])}
        for service in of_kind(manifests, "Service")
    }

    for template in pod_templates(manifests):
        assert ("ServiceAccount", template["spec"]["serviceAccountName"]) in names
        for volume in template["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert claim == "models" or ("PersistentVolumeClaim", claim) in names
    for autoscaler in [*of_kind(manifests, "HorizontalPodAutoscaler"), *of_kind(manifests, "ScaledObject")]:
        assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment
    for ingress in of_kind(manifests, "Ingress"):
        backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        assert backend["port"]["name"] in ports[backend["name"]]
    for route in of_kind(manifests, "GRPCRoute"):
        for backend in route["spec"]["rules"][0]["backendRefs"]:
            assert backend["port"] in ports[backend["name"]]


# Containers.


def test_ports_are_those_that_the_server_listens_on(manifests: list[Manifest]) -> None:
    ports = {port["name"]: port["containerPort"] for port in server_container(manifests)["ports"]}

    assert ports == {
        "http": serve.DEFAULT_HTTP_PORT,
        "grpc": serve.DEFAULT_GRPC_PORT,
        "metrics": serve.DEFAULT_METRICS_PORT,
    }
    for service in of_kind(manifests, "Service"):
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]
    for policy in of_kind(manifests, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= ports.keys()
    for monitor in of_kind(manifests, "PodMonitor"):
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports.keys()
    container = server_container(manifests)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"


def test_http_is_not_offered_where_tls_is_asked_for(manifests: list[Manifest]) -> None:
    with_tls = "TLS_CERT" in environment(server_container(manifests))

    for service in of_kind(manifests, "Service"):
        names = {port["name"] for port in service["spec"]["ports"]}
        assert "grpc" in names
        assert not (with_tls and "http" in names)


def test_images_are_of_one_version(manifests: list[Manifest]) -> None:
    images = {container["image"] for template in pod_templates(manifests) for container in containers(template)}

    (image,) = images
    assert re.search(r"(@sha256:[0-9a-f]{64}|:[\w.-]+)$", image)
    assert not image.endswith(":latest")


def test_pods_meet_the_restricted_security_standard(manifests: list[Manifest]) -> None:
    for template in pod_templates(manifests):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_volumes_and_mounts_belong_together(manifests: list[Manifest]) -> None:
    for template in pod_templates(manifests):
        volumes = [volume["name"] for volume in template["spec"]["volumes"]]
        mounts = [mount for container in containers(template) for mount in container["volumeMounts"]]
        assert len(set(volumes)) == len(volumes)
        assert {mount["name"] for mount in mounts} == set(volumes)
        for container in containers(template):
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(set(paths)) == len(paths)
            named = [value for value in environment(container).values() if value.startswith("/")]
            named += [word for word in container.get("command", []) if word.startswith("/")]
            assert all(any(path == mount or path.startswith(f"{mount}/") for mount in paths) for path in named)


def test_shared_memory_is_a_memory_volume_with_a_limit(manifests: list[Manifest]) -> None:
    for template in pod_templates(manifests):
        (volume,) = [volume for volume in template["spec"]["volumes"] if volume["name"] == "shared-memory"]
        assert volume["emptyDir"]["medium"] == "Memory"
        assert volume["emptyDir"]["sizeLimit"]
        main = template["spec"]["containers"][0]
        assert {"name": "shared-memory", "mountPath": str(serve.SHARED_MEMORY_DIR)} in main["volumeMounts"]


def test_resources_are_asked_for_and_limited(manifests: list[Manifest]) -> None:
    on_gpu = "nvidia.com/gpu" in server_container(manifests)["resources"]["limits"]

    for template in pod_templates(manifests):
        for container in containers(template):
            resources = container["resources"]
            assert resources["requests"]["cpu"]
            # What a pod asks for and may use are the same, so that memory pressure on a node never takes a server.
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
        limits = template["spec"]["containers"][0]["resources"]["limits"]
        assert limits.get("nvidia.com/gpu") == (1 if on_gpu else None)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_profile_decides_image_gpu_and_node(profile: str) -> None:
    manifests = render({"profile": profile, "gpu": {"product": "NVIDIA-L4"}})

    for template in pod_templates(manifests):
        main = template["spec"]["containers"][0]
        assert main["image"].endswith(f"-{profile}")
        assert ("nvidia.com/gpu" in main["resources"]["limits"]) == (profile == "gpu")
        selector = template["spec"]["nodeSelector"]
        assert selector["kubernetes.io/arch"] == "amd64"
        assert selector.get("nvidia.com/gpu.product") == ("NVIDIA-L4" if profile == "gpu" else None)


def test_every_variable_is_read_by_somebody() -> None:
    sources = "\n".join(path.read_text() for path in sorted((PROJECT_DIR / "tritone").rglob("*.py")))
    names: set[str] = set()
    for values in MATRIX:
        for template in pod_templates(json.loads(_rendered(values))):
            for container in containers(template):
                own = [entry["name"] for entry in container.get("env", [])]
                assert len(set(own)) == len(own)
                names |= set(own)

    read_by_the_hubs_client, set_by_the_test = {"HF_TOKEN", "HF_ENDPOINT"}, {"ANOTHER"}
    unread = {name for name in names if f'"{name}"' not in sources}
    assert unread == read_by_the_hubs_client | set_by_the_test


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_pods_fit_the_image(profile: str) -> None:
    image = Image.of(profile)
    manifests = render({"profile": profile, "voices": {"configMap": "voices"}, "checkpoint": {"source": "download"}})

    ports = {port["containerPort"] for port in server_container(manifests)["ports"]}
    assert {int(port) for port in image.ports} == ports
    for template in pod_templates(manifests):
        security = template["spec"]["securityContext"]
        assert image.user == f"{security['runAsUser']}:{security['runAsGroup']}"
        for container in containers(template):
            # The entry point is the image's own, and so is whatever the chart does not set.
            assert ("command" in container) == (container["name"] == "download")
            assert not {"PROFILE", "HOST", "HTTP_PORT", "GRPC_PORT", "METRICS_PORT"} & environment(container).keys()
    mounts = {mount["name"]: mount["mountPath"] for mount in server_container(manifests)["volumeMounts"]}
    assert mounts["voices"] == image.environment["VOICES_DIR"]
    assert mounts["tmp"] == image.environment["HOME"]


def test_tls_and_admin_key_come_from_secrets() -> None:
    def variables(values: dict[str, Any]) -> set[str]:
        container = server_container(render(values))
        return {entry["name"] for entry in container["env"]} & {"TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "ADMIN_KEY"}

    assert variables({}) == set()
    assert variables({"tls": {"secret": "x"}}) == {"TLS_CERT", "TLS_KEY"}
    assert variables({"tls": {"secret": "x", "mutual": True}}) == {"TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA"}
    assert variables({"access": {"adminSecret": "x"}}) == {"ADMIN_KEY"}
    (entry,) = [
        entry
        for entry in server_container(render({"access": {"adminSecret": "x"}}))["env"]
        if entry["name"] == "ADMIN_KEY"
    ]
    assert entry["valueFrom"]["secretKeyRef"] == {"name": "x", "key": "admin-key"}


# Engines.


def test_job_and_servers_agree_on_what_is_built() -> None:
    for name, values in MATRIX.items():
        if values.get("engines", {}).get("build") == "job":
            manifests = json.loads(_rendered(name))
            (builder,) = only(manifests, "Job")["spec"]["template"]["spec"]["containers"]
            server = server_container(manifests)
            asked = environment(server)
            assert builder["args"] == ["build"]
            assert server["args"] == ["serve"]
            assert asked["TRITONE_BUILD"] == "never"
            assert environment(builder).items() <= asked.items()
            assert {mount["name"]: mount.get("readOnly", False) for mount in server["volumeMounts"]}["data"] is True
            assert all(not mount.get("readOnly") for mount in builder["volumeMounts"])


def test_pods_that_build_may_write_and_have_no_job() -> None:
    manifests = render({"engines": {"build": "pod"}})

    assert of_kind(manifests, "Job") == []
    assert environment(server_container(manifests))["TRITONE_BUILD"] == "auto"
    assert not any(
        mount["name"] == "data" and mount["readOnly"] for mount in server_container(manifests)["volumeMounts"]
    )


def test_job_is_a_new_one_exactly_when_it_does_something_else() -> None:
    def job_name(values: dict[str, Any]) -> str:
        return only(render(values, is_upgrade=True), "Job")["metadata"]["name"]

    first = job_name({})

    for same in ({"replicas": 3}, {"autoscaling": {"kind": "hpa"}}, {"tls": {"secret": "x"}}, {"startupSeconds": 99}):
        assert job_name(same) == first
    others = [
        {"image": {"tag": "8-cpu"}},
        {"precision": "bf16"},
        {"profile": "gpu"},
        {"profile": "gpu", "gpu": {"product": "NVIDIA-L4"}},
        {"checkpoint": {"source": "download"}},
    ]
    assert len({first, *map(job_name, others)}) == 1 + len(others)


@pytest.mark.parametrize("build", ["job", "pod"])
def test_checkpoint_is_downloaded_by_whoever_builds_with_the_token_from_its_secret(build: str) -> None:
    download = {"tokenSecret": "hub", "tokenKey": "t", "endpoint": "https://hub.example.com"}
    manifests = render({"engines": {"build": build}, "checkpoint": {"source": "download", "download": download}})
    templates = [template for template in pod_templates(manifests) if "initContainers" in template["spec"]]
    (container,) = [container for template in templates for container in template["spec"]["initContainers"]]

    assert [of_kind(manifests, "Job") != []] == [build == "job"]
    model_dir = environment(server_container(manifests))["MODEL_DIR"]
    assert container["command"] == ["python3", "-m", "build_engines", "download", "--output-dir", model_dir]
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "t"}}} in container["env"]
    assert "hf_" not in json.dumps(manifests)


def test_only_who_downloads_reaches_the_internet() -> None:
    def open_ports(values: dict[str, Any]) -> list[set[int]]:
        return [
            {port["port"] for rule in policy["spec"].get("egress", []) for port in rule["ports"]}
            for policy in of_kind(render(values), "NetworkPolicy")
        ]

    assert open_ports({}) == [{53}, set()]
    assert open_ports({"checkpoint": {"source": "download"}}) == [{53}, {53, 443}]
    assert open_ports({"checkpoint": {"source": "download"}, "engines": {"build": "pod"}}) == [{53, 443}]


# Life of a pod.


def test_grace_outlasts_the_drain() -> None:
    for seconds in (1, 30, 600):
        manifests = render({"drain": {"endpointsSeconds": 7, "exitTimeoutSeconds": seconds}})
        container = server_container(manifests)
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
        assert environment(container)["EXIT_TIMEOUT_S"] == str(seconds)
        grace_s = only(manifests, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace_s >= 7 + seconds + serve.KILL_TIMEOUT_S + 5


def test_start_may_take_as_long_as_engines_and_models_do(manifests: list[Manifest]) -> None:
    container = server_container(manifests)
    startup = container["startupProbe"]
    engines_s = int(environment(container)["ENGINES_TIMEOUT_S"])

    budget_s = startup["periodSeconds"] * startup["failureThreshold"]
    assert budget_s >= engines_s + serve.READY_TIMEOUT_S
    assert only(manifests, "Deployment")["spec"]["progressDeadlineSeconds"] > budget_s
    for job in of_kind(manifests, "Job"):
        assert job["spec"]["activeDeadlineSeconds"] == engines_s


def test_autoscaler_owns_the_number_of_pods(manifests: list[Manifest]) -> None:
    autoscaled = of_kind(manifests, "HorizontalPodAutoscaler") + of_kind(manifests, "ScaledObject")

    assert ("replicas" in only(manifests, "Deployment")["spec"]) == (not autoscaled)


def test_both_autoscalers_scale_alike_on_requests_that_run_and_down_slowly() -> None:
    hpa = only(render({"autoscaling": {"kind": "hpa", "streamsPerPod": 5}}), "HorizontalPodAutoscaler")["spec"]
    keda = only(render({"autoscaling": {"kind": "keda", "streamsPerPod": 5}}), "ScaledObject")["spec"]
    (metric,) = hpa["metrics"]
    (trigger,) = keda["triggers"]

    assert metric["pods"]["metric"]["name"] == "tritone_requests_running"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "5"}
    assert trigger["metadata"]["query"].startswith(
        'sum(tritone_requests_running{namespace="speech", pod=~"demo-tritone-'
    )
    assert trigger["metadata"]["threshold"] == "5"
    assert hpa["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert hpa["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])


def test_gateway_lets_clients_speak_but_not_manage() -> None:
    manifests = json.loads(_rendered("cpu-job-open"))
    matches = only(manifests, "GRPCRoute")["spec"]["rules"][0]["matches"]

    methods = {match["method"]["method"] for match in matches}
    assert {"ModelInfer", "ModelStreamInfer"} <= methods
    assert not any(re.search("Repository|SharedMemory|TraceSetting|LogSettings", method) for method in methods)
    assert all(hasattr(_triton_service(), method) for method in methods)


def _triton_service() -> type:
    from tritonclient.grpc import service_pb2_grpc

    return service_pb2_grpc.GRPCInferenceServiceServicer


# Monitoring files and the package.


def test_rules_and_dashboard_are_rendered_as_they_are() -> None:
    manifests = json.loads(_rendered("cpu-job-open"))
    (dashboards,) = of_kind(manifests, "ConfigMap")

    assert only(manifests, "PrometheusRule")["spec"] == yaml.safe_load((CHART_DIR / "files/alerts.yaml").read_text())
    assert dashboards["data"] == {path.name: path.read_text() for path in (CHART_DIR / "files").glob("*.json")}
    assert dashboards["data"]
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_package_has_everything_that_is_rendered(tmp_path: Path) -> None:
    archive = helm.package(CHART_DIR, tmp_path)
    values = MATRIX["cpu-job-open"]
    assert helm.render(archive, values, name="demo") == helm.render(CHART_DIR, values, name="demo")


def test_readme_names_values_and_files_that_exist() -> None:
    schema = _schema()
    names = _properties(schema, schema)
    text = (CHART_DIR.parent / "README.md").read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    values = {name for name in re.findall(r"`([a-z]\w+(?:\.\w+)+)[:`]", prose) if name.split(".")[0] in names}
    set_by_commands = set(re.findall(r"--set ([\w.]+)=", text))
    files = set(re.findall(r"\]\(([\w./]+)\)", text)) | set(re.findall(r"kubernetes/[\w./]+\.yaml", text))

    assert len(values) > 10
    assert values | set_by_commands <= names
    for name in files:
        assert (PROJECT_DIR / name).exists() or (CHART_DIR.parent / name).exists(), name
