"""A spec takes what users write, says what is wrong with it, and is plain data."""

import json
import subprocess
import sys

import pytest
from distributed.security import Security
from hypothesis import given
from hypothesis import strategies as st

from headrace.environments.kubernetes.spec import KubernetesSpec, quantity
from headrace.errors import SetupError
from headrace.storage.confidential import secret_paths
from tests.environments.kubernetes.cases import EVERYTHING, GROUPS, IMAGE, OWN


@pytest.mark.parametrize("options", [{"image": IMAGE}, EVERYTHING, GROUPS, OWN, {"name": "theirs"}], ids=str)
def test_a_spec_is_json_and_comes_back(options):
    spec = KubernetesSpec.of(**options)
    data = json.loads(json.dumps(spec.to_json()))
    assert KubernetesSpec.of(**data) == spec
    assert KubernetesSpec.of(**data).to_json() == data


def test_references_to_secrets_are_no_secrets():
    data = KubernetesSpec.of(**EVERYTHING).to_json()
    assert list(secret_paths(data)) == []
    assert list(secret_paths(KubernetesSpec.of(image=IMAGE, env={"TOKEN": "hunter2"}).to_json())) == ["env.TOKEN"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "needs an image; give image="),
        ({"imgae": "x"}, "did you mean 'image'"),
        ({"image": "x", "n_worker": 3}, "did you mean 'n_workers'"),
        ({"image": "x", "memory": "4GB"}, "'4GB' is no amount"),
        ({"image": "x", "gpus": "many"}, "gpus .* valid integer"),
        ({"image": "x", "reach": "telepathy"}, "reach .*'forward'"),
        ({"image": "x", "tolerations": {"key": "gpu"}}, "tolerations .*list"),
        ({"image": "x", "env": {"A": ["b"]}}, r"variable 'A' .*\{'secret': NAME, 'key': KEY\}"),
        ({"image": "x", "worker_groups": {"gpu": {"cpus": 2}}}, r"worker_groups\['gpu'\] .*did you mean 'cpu'"),
        ({"image": "x", "worker_groups": {"gpu": {"gpus": "x"}}}, r"worker_groups\['gpu'\] gpus"),
        ({"image": "x", "worker_groups": {"gpu": {"n_workers": -1}}}, r"n_workers must be"),
        ({"image": "x", "worker_groups": {"GPU": {}}}, "'GPU' cannot be a name"),
        ({"image": "x", "worker_groups": [1]}, "worker_groups must be a dict"),
        ({"image": "x", "scheduler": {"gpu": 1}}, "scheduler= has no option 'gpu'"),
        ({"image": "x", "idle_timeout": -1}, "0 for never"),
        ({"name": "x" * 54}, "cannot be a name"),
        ({"manifest": "no/such/file.yaml"}, "cannot be read"),
        ({"manifest": {"kind": "Pod"}}, "must hold one DaskCluster"),
        ({**OWN, "security": True}, "with manifest="),
    ],
    ids=str,
)
def test_what_is_wrong_is_told(options, told):
    with pytest.raises(SetupError, match=told):
        KubernetesSpec.of(**options)


def test_values_of_variables_do_not_come_up_in_errors():
    with pytest.raises(SetupError) as caught:
        KubernetesSpec.of(image=IMAGE, env={"A": {"hidden": "hunter2"}})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SetupError) as caught:
        KubernetesSpec.of(image=IMAGE, labels={"A": ["hunter2"]})
    assert "hunter2" not in str(caught.value)


def test_a_live_security_is_not_written_down():
    spec = KubernetesSpec.of(image=IMAGE, security=Security())
    with pytest.raises(SetupError, match="private key"):
        spec.to_json()


def test_a_groups_options_hold_over_those_of_the_cluster():
    group = KubernetesSpec.of(**GROUPS).group("gpu")
    assert (group.cpu, group.memory, group.gpus) == (2, "32Gi", 1)
    assert group.env == {"LEVEL": "9"}
    assert group.node_selector == {"pool": "gpu"}
    assert group.worker_spec["priorityClassName"] == "high"
    assert group.worker_spec["terminationGracePeriodSeconds"] == 120


@given(st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3"]), st.integers(0, 4096))
def test_quantities(unit, number):
    factor = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "e3": 1e3}[unit]
    assert quantity(f"{number}{unit}") == pytest.approx(number * factor)


def test_specs_need_no_package_of_kubernetes():
    code = (
        "import sys; from headrace.environments.kubernetes import manifests;"
        "manifests.KubernetesSpec.of(image='x');"
        "print([name for name in ('kr8s', 'distributed', 'dask') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"


def test_secrets_in_manifests_are_told():
    variables = {
        "API_KEY": "abc",
        "TOKENIZERS_PARALLELISM": "false",
        "LEVEL": "3",
        "TOKEN": {"secret": "vault", "key": "token"},
    }
    groups = {"gpu": {"env": {"PASSWORD": "xyz"}}}
    spec = KubernetesSpec.of(
        image="any", env=variables, worker_groups=groups, security=Security(require_encryption=False)
    )
    assert [each.subject for each in spec.findings] == ["option env.API_KEY", "option worker_groups.gpu.env.PASSWORD"]
    assert not any("abc" in str(each) or "xyz" in str(each) for each in spec.findings)
    assert KubernetesSpec.of(image="any", env={"TOKEN": {"secret": "vault", "key": "token"}}).findings == []
