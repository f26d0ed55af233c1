"""What a Dask cluster on Kubernetes is, as plain data: ``KubernetesSpec``."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from headrace.core.scaling import bounds_of
from headrace.environments.kubernetes.merging import merge, merge_lists
from headrace.environments.options import check_names, names_of
from headrace.errors import SetupError
from headrace.storage.confidential import secret_paths
from headrace.storage.findings import WARNING, Finding

#: The group of workers that each cluster has; the operator names it so.
DEFAULT_GROUP = "default"
#: Seconds after which a cluster that does nothing is removed, also when nobody is left who could remove it.
IDLE_TIMEOUT = 3600
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
#: The operator adds ``-scheduler`` to a cluster's name, and names of Services end at 63 characters.
_LONGEST = 53
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|e\d+)?")
_FACTORS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTP", 1)
}

#: How a variable of a pod is written: its value, or where Kubernetes finds it.
Variable = str | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class KubernetesSpec:
    """A Dask cluster on Kubernetes, as plain data. Made by ``of``, which checks.

    Attributes
    ----------
    image : str
        Of all pods. It holds headrace, in the versions of this process.
    image_pull_policy : str, optional
        ``"Always"``, ``"IfNotPresent"`` or ``"Never"``.
    image_pull_secrets : list of str
        Names of Secrets with which images are pulled.
    namespace, context, kubeconfig : str, optional
        Where the cluster lives; by default, what the kubeconfig says.
    service_account : str, optional
        Of all pods.
    cpu, memory : str or number, optional
        Of each pod, as Kubernetes writes them (``"500m"``, ``"4Gi"``): requested, and the limit.
    cpu_limit, memory_limit : str or number, optional
        Limits that are higher than what is requested.
    gpus : int
        Of each worker; tasks address them by ``resources={"GPU": 1}``.
    resources : dict of str to float
        What tasks may ask of a worker by ``resources=``.
    nthreads : int, optional
        Threads of a worker; by default one for each CPU.
    env : dict
        Variables of all pods: name → value, ``{"secret": NAME, "key": KEY}``, ``{"config_map": NAME, "key": KEY}``, or
        Kubernetes' own ``{"valueFrom": …}``.
    env_from : list of dict
        As Kubernetes writes it: all variables of a Secret or a ConfigMap.
    labels, annotations : dict of str to str
        Of all that is made.
    tolerations, node_selector, affinity, volumes, volume_mounts, init_containers
        Of all pods, as Kubernetes writes them.
    worker_groups : dict
        Further groups of workers: name → the options of pods from above, which hold over those of the whole cluster,
        and ``n_workers``, ``adapt``, ``worker_spec`` of its own. ``"default"`` is the group that is there anyway.
    scheduler, driver : dict
        Options of these pods alone, over those of the whole cluster.
    worker_spec, scheduler_spec, driver_spec : dict
        Parts of pod specs, merged last, over all that we say.
    manifest : list of dict
        A DaskCluster of the user's own, with any DaskWorkerGroups of it, that is used instead. Options of pods are
        those of a driver's pod alone then.
    idle_timeout : int
        Seconds without work after which the operator removes the cluster; 0 is never.
    dashboard : bool
        Whether there is Dask's dashboard. Whoever reaches the pods may read it.
    reach : str
        How a process outside connects: ``"forward"``, ``"dns"``, ``"load-balancer"``, ``"node-port"``, or ``"auto"``.
    security : bool or distributed.Security
        True: TLS, with certificates made for this cluster. False: none. Or what a cluster that is there needs.
    name : str, optional
        Of a cluster that is there: it is joined, and never deleted.
    """

    image: str = ""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: list[str] = field(default_factory=list)
    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None
    service_account: str | None = None
    cpu: str | int | float | None = None
    memory: str | int | float | None = None
    cpu_limit: str | int | float | None = None
    memory_limit: str | int | float | None = None
    gpus: int = 0
    resources: dict[str, float] = field(default_factory=dict)
    nthreads: int | None = None
    env: dict[str, Variable] = field(default_factory=dict)
    env_from: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    node_selector: dict[str, str] = field(default_factory=dict)
    affinity: dict[str, Any] = field(default_factory=dict)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    volume_mounts: list[dict[str, Any]] = field(default_factory=list)
    init_containers: list[dict[str, Any]] = field(default_factory=list)
    worker_groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    driver: dict[str, Any] = field(default_factory=dict)
    worker_spec: dict[str, Any] = field(default_factory=dict)
    scheduler_spec: dict[str, Any] = field(default_factory=dict)
    driver_spec: dict[str, Any] = field(default_factory=dict)
    manifest: list[dict[str, Any]] = field(default_factory=list)
    idle_timeout: int = IDLE_TIMEOUT
    dashboard: bool = True
    reach: Literal["auto", "forward", "dns", "load-balancer", "node-port"] = "auto"
    security: Any = True
    name: str | None = None

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Make one of options as users write them.

        Parameters
        ----------
        **options
            The attributes; also ``manifest`` as a path or a dict.

        Raises
        ------
        SetupError
            If an option is unknown, or is not what it can be; says what to write.
        """
        check_names(options, [*names_of(cls), "n_workers", "adapt"], "DaskEnvironment('kubernetes')")
        options = {name: value for name, value in options.items() if value is not None}
        if options.get("manifest"):
            options["manifest"] = _manifest(options["manifest"])
            own = options["manifest"][0].get("metadata", {}).get("namespace")
            options = {**({"namespace": own} if own else {}), **options}
            options.setdefault("security", False)
        options = {**options, **_plain_pod_options(options, "")}
        for role in ("scheduler", "driver"):
            if role in options:
                options[role] = _overlay(options[role], f"{role}=", _POD_OPTIONS)
        groups = _mapping(options.get("worker_groups", {}), "worker_groups")
        options["worker_groups"] = {
            name: _overlay(each, f"worker_groups[{name!r}]", _GROUP_OPTIONS) for name, each in groups.items()
        }
        spec: Self = _typed(cls, options, "")
        spec._check()
        return spec

    def _check(self) -> None:
        for name in (self.name, *self.worker_groups):
            if name is not None and (not _NAME.fullmatch(name) or len(name) > _LONGEST):
                raise SetupError(
                    f"{name!r} cannot be a name in Kubernetes: at most {_LONGEST} small letters, digits and dashes, "
                    "the first one a letter"
                )
        if not (self.image or self.manifest or self.name):
            raise SetupError(
                "a cluster on Kubernetes needs an image; give image=, one that holds Python, Dask and headrace in the "
                "versions of this process, or manifest= with a whole DaskCluster, or name= of a cluster that is there"
            )
        if self.manifest and self.security is True:
            raise SetupError(
                "security=True makes certificates for pods that we describe; with manifest=, its pods are yours: give "
                "the distributed.Security that they listen with, or leave security= out"
            )
        if self.idle_timeout < 0:
            raise SetupError(f"idle_timeout must be seconds, or 0 for never, got {self.idle_timeout!r}")

    # -- parts ---------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> list[str]:
        """Names of all groups of workers, the default one first; those of a manifest are called as they are there."""
        names = self._own_groups if self.manifest else self.worker_groups
        return [DEFAULT_GROUP, *(name for name in names if name != DEFAULT_GROUP)]

    @property
    def _own_groups(self) -> dict[str, dict[str, Any]]:
        """What a manifest says of each group."""
        own = {each["metadata"]["name"]: each for each in self.manifest[1:]}
        return {**own, DEFAULT_GROUP: self.manifest[0]}

    def group(self, name: str) -> KubernetesSpec:
        """Return the options of one group of workers: its own over those of the whole cluster.

        Parameters
        ----------
        name : str
            One of ``groups``.
        """
        return self._with(self.worker_groups.get(name, {}))

    def role(self, name: Literal["scheduler", "driver"]) -> KubernetesSpec:
        """Return the options of the scheduler's or the driver's pod.

        Parameters
        ----------
        name : str
            Which.
        """
        return self._with({"scheduler": self.scheduler, "driver": self.driver}[name])

    @property
    def findings(self) -> list[Finding]:
        """What is unwise about it: secrets that stand in manifests."""
        return [
            Finding(
                WARNING,
                f"option {where}",
                "looks like a secret, and whoever may read DaskClusters and pods there reads it",
                'put it into a Secret, and name that: {"secret": "its name", "key": "its key"}',
            )
            for where in secret_paths(dataclasses.replace(self, security=True).to_json())
        ]

    def size(self, group: str) -> int | None:
        """How many workers a group has to begin with, of its own accord; None if nobody has said.

        Parameters
        ----------
        group : str
            One of ``groups``.
        """
        size: int | None
        if self.manifest:
            size = ((self._own_groups[group].get("spec") or {}).get("worker") or {}).get("replicas")
        else:
            options = self.worker_groups.get(group, {})
            least, _ = options.get("adapt", (None, None))
            size = options.get("n_workers", least)
        return size

    def offers(self, group: str) -> dict[str, float]:
        """What tasks may ask of a worker of a group by ``resources=``.

        Parameters
        ----------
        group : str
            One of ``groups``.
        """
        options = self.group(group)
        return ({"GPU": float(options.gpus)} if options.gpus else {}) | options.resources

    def threads(self, group: str) -> int:
        """How many threads a worker of a group has.

        Parameters
        ----------
        group : str
            One of ``groups``.
        """
        options = self.group(group)
        if options.nthreads is not None:
            return options.nthreads
        cpu = options.cpu_limit if options.cpu is None else options.cpu
        return max(1, round(quantity(cpu))) if cpu is not None else 1

    def _with(self, options: Mapping[str, Any]) -> KubernetesSpec:
        changes: dict[str, Any] = {}
        for name, value in options.items():
            if name in ("n_workers", "adapt"):
                continue
            below = getattr(self, name)
            if name == "env":
                changes[name] = {key: each for key, each in {**below, **value}.items() if each is not None}
            elif isinstance(value, Mapping):
                changes[name] = merge(below, value)
            elif isinstance(value, list):
                changes[name] = merge_lists(_LISTS[name], below, value)
            else:
                changes[name] = _DEFAULTS[name] if value is None else value
        return dataclasses.replace(self, **changes)

    # -- as data -------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, of which ``of`` makes an equal one: what differs from the defaults.

        Raises
        ------
        SetupError
            If it holds a live ``Security``.
        """
        if not isinstance(self.security, bool):
            raise SetupError(
                "a Security of one's own cannot be written down, because it holds a private key; leave it out where "
                "the environment is written down, and give it again where it is used"
            )
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        kept = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
        if self.manifest:
            kept["security"] = self.security
        data: dict[str, Any] = json.loads(json.dumps(kept))
        return data


#: options of pods: they may differ from group to group, and between scheduler, workers and driver.
_POD_OPTIONS = (
    "image", "image_pull_policy", "image_pull_secrets", "service_account", "cpu", "memory", "cpu_limit", "memory_limit",
    "gpus", "resources", "nthreads", "env", "env_from", "labels", "annotations", "tolerations", "node_selector",
    "affinity", "volumes", "volume_mounts", "init_containers",
)  # fmt: skip
_GROUP_OPTIONS = (*_POD_OPTIONS, "n_workers", "adapt", "worker_spec")
_DEFAULTS = {
    each.name: each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
    for each in dataclasses.fields(KubernetesSpec)
}
#: option → the field of a pod whose way of merging holds for it.
_LISTS = {
    "image_pull_secrets": "tolerations",
    "env_from": "envFrom",
    "tolerations": "tolerations",
    "volumes": "volumes",
    "volume_mounts": "volumeMounts",
    "init_containers": "initContainers",
}


def quantity(text: str | float) -> float:
    """Read an amount as Kubernetes writes it: ``"500m"``, ``"4Gi"``, ``2``.

    Parameters
    ----------
    text : str or number
        The amount.

    Raises
    ------
    SetupError
        If it is none.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        raise SetupError(
            f"{text!r} is no amount that Kubernetes knows; write CPUs as 2, 0.5 or '500m', memory as '4Gi' or '500M'"
        )
    number, unit = match.groups()
    return float(number + unit) if unit and unit.startswith("e") else float(number) * _FACTORS.get(unit, 1.0)


def variable(name: str, value: Any) -> Variable:
    """Return a variable as Kubernetes takes it, without its name: its text, or ``{"valueFrom": …}``.

    Parameters
    ----------
    name : str
        Of the variable, for messages.
    value : object
        As ``KubernetesSpec.env`` holds it.

    Raises
    ------
    SetupError
        If it is none of these.
    """
    if isinstance(value, bool | int | float | str):
        return str(value)
    if isinstance(value, Mapping):
        for ours, theirs in (("secret", "secretKeyRef"), ("config_map", "configMapKeyRef")):
            if set(value) == {ours, "key"}:
                return {"valueFrom": {theirs: {"name": value[ours], "key": value["key"]}}}
        if set(value) == {"valueFrom"}:
            return dict(value)
    raise SetupError(  # its keys only: a value may be confidential
        f"the variable {name!r} is given as {sorted(value) if isinstance(value, Mapping) else type(value).__name__}; "
        "give its text, {'secret': NAME, 'key': KEY}, {'config_map': NAME, 'key': KEY} or {'valueFrom': …}"
    )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SetupError(f"{where} must be a dict of options, got {value!r}")
    return dict(value)


def _overlay(options: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    """Options of some pods, checked by themselves; None stays, as it takes away what holds for the whole cluster."""
    given = _mapping(options, where)
    check_names(given, known, where)
    given |= _plain_pod_options(given, f"{where} ")
    said = {name: _without_none(value) for name, value in given.items() if value is not None}
    if (n_workers := said.pop("n_workers", 0)) and (not isinstance(n_workers, int) or n_workers < 0):
        raise SetupError(f"{where}: n_workers must be a whole number from 0 on, got {n_workers!r}")
    if (adapt := said.pop("adapt", None)) is not None:
        given["adapt"] = bounds_of(adapt, f"{where}: adapt")
    typed = _typed(KubernetesSpec, said, f"{where} ")
    return given | {name: getattr(typed, name) for name in said if not isinstance(given[name], Mapping)}


def _without_none(value: Any) -> Any:
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, Mapping) else value


def _plain_pod_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options that users write in several ways, in the one that we hold."""
    plain: dict[str, Any] = {}
    if isinstance(options.get("env"), Mapping):
        plain["env"] = {
            name: None if value is None and where else variable(name, value) for name, value in options["env"].items()
        }
    if isinstance(options.get("image_pull_secrets"), str):
        plain["image_pull_secrets"] = [options["image_pull_secrets"]]
    for name in ("cpu", "memory", "cpu_limit", "memory_limit"):
        if options.get(name) is not None:
            quantity(options[name])
    return plain


def _typed(cls: type[Any], options: dict[str, Any], where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(step) for step in first["loc"][:2])
        raise SetupError(f"{where}{path} of a cluster on Kubernetes is wrong: {first['msg']}") from None


def _manifest(given: Any) -> list[dict[str, Any]]:
    """The user's own DaskCluster, and its groups of workers after it."""
    where = "manifest="
    if isinstance(given, str | Path):
        import yaml

        where = f"manifest={str(given)!r}"
        try:
            documents = list(yaml.safe_load_all(Path(given).read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError) as error:
            raise SetupError(f"{where} cannot be read ({type(error).__name__}: {error})") from error
    else:
        documents = [given] if isinstance(given, Mapping) else list(given)
    found = [dict(each) for each in documents if each]
    kinds = [each.get("kind") for each in found]
    if kinds.count("DaskCluster") != 1 or set(kinds) - {"DaskCluster", "DaskWorkerGroup"}:
        raise SetupError(
            f"{where} must hold one DaskCluster, and besides it DaskWorkerGroups only; it holds {kinds or 'nothing'}"
        )
    if unnamed := [
        each for each in found if each["kind"] != "DaskCluster" and not each.get("metadata", {}).get("name")
    ]:
        raise SetupError(f"{where} has {len(unnamed)} DaskWorkerGroup without metadata.name; give it one")
    return sorted(found, key=lambda each: str(each["kind"]))  # a DaskCluster comes before its DaskWorkerGroups
