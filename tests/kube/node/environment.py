"""What a container finds when it starts: variables, and files at its mount paths."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kube.control.objects import Object

if TYPE_CHECKING:
    from tests.kube.node.pods import Pod

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_SHIM = Path(__file__).parent / "podshim"


class Unconfigured(Exception):
    """A container refers to something that does not exist."""


class Unmounted(Exception):
    """A volume refers to something that does not exist."""


async def read(pod: Pod, kind: str, name: str) -> dict[str, bytes] | None:
    """What is in a Secret or a ConfigMap."""
    plural = f"{kind.lower()}s"
    status, found = await pod.client.request("GET", f"/api/v1/namespaces/{pod.namespace}/{plural}/{name}")
    if status != 200:
        return None
    data = found.get("data") or {}
    if kind == "Secret":
        return {key: base64.b64decode(value) for key, value in data.items()}
    return {key: value.encode() for key, value in data.items()}


def expanded(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", lambda match: variables.get(match[1], match[0]), text)


# -- variables -----------------------------------------------------------------------------------------------


async def variables_of(pod: Pod, container: Object) -> dict[str, str]:
    variables = _base(pod, container)
    for source in container.get("envFrom") or []:
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if key in source:
                data = await read(pod, kind, source[key]["name"])
                if data is None and not source[key].get("optional"):
                    raise Unconfigured(f'{kind.lower()} "{source[key]["name"]}" not found')
                prefix = source.get("prefix", "")
                variables |= {prefix + name: content.decode() for name, content in (data or {}).items()}
    for variable in container.get("env") or []:
        value = await _value(pod, container, variable)
        if value is not None:
            variables[variable["name"]] = expanded(value, variables)
    ours = [str(_SHIM), variables.pop("PYTHONPATH", ""), pod.node.pythonpath]
    return variables | {"PYTHONPATH": os.pathsep.join(filter(None, ours))}


def _base(pod: Pod, container: Object) -> dict[str, str]:
    path = pod.node.path
    image = re.fullmatch(r"(?:private-)?venv:(.+)", container["image"])
    if image:
        path = f"{image[1]}/bin:{path}"
    variables = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    temporary = pod.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return variables | {
        "PATH": path,
        "HOME": str(pod.folder),
        "TMPDIR": str(temporary),
        "HOSTNAME": pod.name,
        "PYTHONUNBUFFERED": "1",
        "KUBERNETES_SERVICE_HOST": pod.node.api_host,
        "KUBERNETES_SERVICE_PORT": pod.node.api_port,
        "BENCH": pod.node.address,
        "BENCH_POD": pod.uid,
        "BENCH_NAMESPACE": pod.namespace,
        "BENCH_ADDRESS": pod.address,
        "BENCH_HOSTS": str(pod.node.hosts),
    }


async def _value(pod: Pod, container: Object, variable: Object) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return str(variable.get("value") or "")
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if key in source:
            return await _referred(pod, kind, source[key])
    if "resourceFieldRef" in source:
        part, resource = source["resourceFieldRef"]["resource"].split(".")
        return str(((container.get("resources") or {}).get(part) or {}).get(resource, ""))
    return str(pod.field(source["fieldRef"]["fieldPath"]))


async def _referred(pod: Pod, kind: str, reference: Object) -> str | None:
    name, key = reference["name"], reference["key"]
    data = await read(pod, kind, name)
    if data is not None and key in data:
        return data[key].decode()
    if reference.get("optional"):
        return None
    if data is None:
        raise Unconfigured(f'{kind.lower()} "{name}" not found')
    raise Unconfigured(f"couldn't find key {key} in {kind} {pod.namespace}/{name}")


# -- files ---------------------------------------------------------------------------------------------------


async def mounts_of(pod: Pod, container: Object) -> dict[str, str]:
    """Mount path → the folder or file that is seen there. Programs in Python see it; see the README."""
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes") or []}
    mounts = {}
    for mount in container.get("volumeMounts") or []:
        source = await _volume(pod, volumes[mount["name"]])
        mounts[mount["mountPath"]] = str(source / mount["subPath"] if "subPath" in mount else source)
    if pod.spec.get("automountServiceAccountToken", True) and _ACCOUNT not in mounts:
        mounts[_ACCOUNT] = str(await _account(pod))
    return mounts


async def _volume(pod: Pod, volume: Object) -> Path:
    if "hostPath" in volume:
        return Path(str(volume["hostPath"]["path"]))
    folder: Path = pod.folder / "volumes" / volume["name"]
    folder.mkdir(parents=True, exist_ok=True)
    for key, kind, field in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
        if key in volume:
            source: dict[str, Any] = volume[key]
            data = await read(pod, kind, source[field])
            if data is None and not source.get("optional"):
                what = f'{kind.lower()} "{source[field]}" not found'
                raise Unmounted(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {what}')
            names = {item["key"]: item["path"] for item in source.get("items") or []}
            for name, content in (data or {}).items():
                if not names or name in names:
                    (folder / names.get(name, name)).write_bytes(content)
    return folder


async def _account(pod: Pod) -> Path:
    """The folder from which programs in a cluster learn how to reach its API server."""
    folder: Path = pod.folder / "serviceaccount"
    if not folder.exists():
        path = f"/api/v1/namespaces/{pod.namespace}/serviceaccounts/{pod.spec.get('serviceAccountName', 'default')}"
        status, found = await pod.client.request("POST", f"{path}/token", {"spec": {}})
        if status >= 400:
            raise Unmounted(f'MountVolume.SetUp failed for volume "kube-api-access" : {found["message"]}')
        folder.mkdir()
        (folder / "token").write_text(found["status"]["token"])
        (folder / "namespace").write_text(pod.namespace)
        (folder / "ca.crt").write_text(pod.node.ca.read_text())
    return folder
