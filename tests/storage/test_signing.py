from __future__ import annotations

import hashlib
import pickle
import re
import time
from base64 import b64encode

import pytest

import headrace as hr
from headrace import redaction
from headrace.errors import (
    DamagedObject,
    EnvelopeError,
    LeftOut,
    NotPicklable,
    RunError,
    SigningKeyError,
    UntrustedObject,
)
from headrace.storage.capture import load_flow, open_flow
from headrace.storage.costs import StoredCosts
from headrace.storage.envelope import open_envelope, pack
from headrace.storage.files import Files, private_memory
from headrace.storage.records import create_record, read_record
from headrace.storage.runs import RunRecord
from headrace.storage.signing import UNSEALED, VARIABLE, Seal, key_id, sources_of
from tests.cli_kit import process

ONE, OTHER = "one-" + "k" * 28, "other-" + "k" * 26


@hr.task
def double(x):
    return 2 * x


@hr.flow
def etl(n: int = 3):
    return double(n)


@hr.flow
def other(n: int = 3):
    return double(n)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "store")


def filled(url, keys=ONE) -> hr.Storage:
    """A storage with all kinds of objects: two flows, a run that has ended, what its tasks cost."""
    storage = hr.Storage(url, signing_keys=keys)
    storage.add_flow(etl)
    storage.add_flow(other)
    storage.build()
    run = storage.get_runner("etl").run()
    assert run.result() == 6
    return storage


def seal(*keys) -> Seal:
    return Seal(sources_of(keys))


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Key → bytes of all objects that `filled` makes; made once, because it starts interpreters."""
    files = filled(tmp_path_factory.mktemp("filled")).files
    return {key: files.read(key) for key in files.list()}


@pytest.fixture
def full(objects, url):
    """A storage with all these objects."""
    storage = hr.Storage(url, signing_keys=ONE)
    for key, data in objects.items():
        storage.files.create(key, data)
    return storage


@pytest.fixture
def no_unpickling(objects, no_unpickling):
    """The same, once the objects are made."""


def keys_of(storage):
    """The objects that are signed themselves: bundles of code are named by their digest, in what flows sign."""
    return [key for key in storage.files.list() if "/code/" not in key]


# -- all that is written is signed, and nothing else is used -------------------------------------------------


def use(storage, key):
    """Use an object in the way it is for."""
    if key.startswith("flows/") and key.endswith(".flow"):
        return storage.load(key)
    if key.endswith("/outcome"):
        return storage.get_run(key.split("/")[1]).outcome
    return read_record(storage.files, key)


def test_all_objects_of_a_storage_are_signed(full):
    storage = full
    keys = keys_of(storage)
    assert {key.rpartition("/")[2] for key in keys} >= {"costs.json", "run.json", "outcome"}
    name = key_id(ONE.encode())
    for key in keys:
        assert f"hmac-sha256:{name}:".encode() in storage.files.read(key), key
        assert use(storage, key)


def test_nothing_is_used_without_the_key_that_signed_it(full, url, no_unpickling):
    strict, stranger = full, hr.Storage(url, signing_keys=OTHER)
    for key in keys_of(full):
        with pytest.raises(UntrustedObject, match=rf"another key \(id {key_id(ONE.encode())}\)") as caught:
            use(stranger, key)
        assert caught.value.reason == "other key"
        data = _unsigned(strict.files.read(key))
        strict.files.replace(key, data)
        with pytest.raises(UntrustedObject, match="not signed") as caught:
            use(strict, key)
        assert caught.value.reason == "unsigned"


def test_code_that_was_changed_is_not_used(full):
    (key,) = full.files.list("flows/etl/code")
    full.files.replace(key, full.files.read(key).replace(b"import", b"IMPORT", 1))
    with pytest.raises(DamagedObject, match="does not match its sha256"):
        full.load("etl")


def _unsigned(data: bytes) -> bytes:
    """As a writer without a key leaves it."""
    data, count = re.subn(rb'( |,\n "signature": ")hmac-sha256:[0-9a-f]{8}:[0-9a-f]{64}"?', b"", data, count=1)
    assert count == 1
    return data


def test_without_keys_signatures_are_not_looked_at(full, url):
    storage = hr.Storage(url)
    for key in keys_of(storage):
        assert use(storage, key)


def test_a_run_by_name_and_by_environment_with_a_key_of_the_variable(url, monkeypatch):
    monkeypatch.setenv(VARIABLE, ONE)
    storage = filled(url, None)
    assert storage.get_env_runner("etl").run(parameters={"n": 5}).result() == 10
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(SigningKeyError, match=VARIABLE):
        hr.Storage.deserialize(storage.serialize()).get_runner("etl")


def test_a_process_that_does_not_get_the_key_says_so(full):
    with pytest.raises(RunError, match=f"set {VARIABLE} here"):
        full.get_env_runner("etl").run()
    assert full.get_env_runner("etl").run({VARIABLE: ONE}).result() == 6


# -- replays -------------------------------------------------------------------------------------------------


def test_a_flow_under_another_name(full, url, no_unpickling):
    storage = full
    location = storage.resolve("etl")
    moved = location.replace("flows/etl/", "flows/other/")
    storage.files.create(moved, storage.files.read(location))
    with pytest.raises(UntrustedObject, match="another place") as caught:
        storage.load(moved)
    assert caught.value.reason == "forged"
    with pytest.raises(DamagedObject, match="moved"):  # also where there is no key
        hr.Storage(url).load(moved)


def test_records_under_other_keys(full, no_unpickling):
    storage = full
    moved = [key.replace("/etl/", "/copy/").replace("runs/", "runs/2") for key in keys_of(storage)]
    for key, old in zip(moved, keys_of(storage), strict=True):
        if not storage.files.exists(key):
            storage.files.create(key, storage.files.read(old))
    for key in {*moved} - {*storage.files.list("flows/other")}:
        with pytest.raises(UntrustedObject, match="another place"):
            use(storage, key)


def test_two_objects_that_changed_places(full, no_unpickling):
    storage = full
    one, two = storage.resolve("etl"), storage.resolve("other")
    first, second = storage.files.read(one), storage.files.read(two)
    storage.files.replace(one, second)
    storage.files.replace(two, first)
    for location in (one, two):
        with pytest.raises(UntrustedObject):
            storage.load(location)


def test_a_forged_run_hides_no_others(full):
    storage = full
    good = storage.runs()[0].run_id
    storage.files.create("runs/29990101T000000-00000000/run.json", b'{"run_id": "x", "flow": "etl"}')
    told = {}
    for record in storage.runs():
        try:
            told[record.run_id] = record.flow
        except UntrustedObject as error:
            told[record.run_id] = error.reason
    assert told == {"29990101T000000-00000000": "unsigned", good: "etl"}


def test_a_forged_hint_is_not_there(full):
    storage = full
    key = "flows/etl/costs.json"
    assert StoredCosts(storage.files, "etl").means()
    storage.files.replace(key, _unsigned(storage.files.read(key)))
    costs = StoredCosts(storage.files, "etl")
    assert costs.means() == {}
    assert costs.keep({"a": 1.0}).wait(20)
    assert StoredCosts(storage.files, "etl").means() == {"a": 1.0}


# -- rotation ------------------------------------------------------------------------------------------------


def test_rotation(full, url):
    both, new = hr.Storage(url, signing_keys=[OTHER, ONE]), hr.Storage(url, signing_keys=OTHER)
    before = {key: use(both, key) for key in keys_of(both)}  # the old key is accepted …
    run = both.get_runner("etl").run()  # … and the new one signs
    assert new.get_run(run.run_id).state == "Success"
    with pytest.raises(UntrustedObject, match="another key"):
        new.load("etl")
    done = both.sign_again()
    assert done.refused == {}
    assert done.signed >= len(before) - 1  # the run may have written the hint again
    assert both.sign_again().signed == 0
    for key in before:  # without the old key
        assert use(new, key)
        with pytest.raises(UntrustedObject):
            use(full, key)
    assert new.get_runner("etl").run().result() == 6


def test_signing_what_was_there_before_there_was_a_key(full):
    for key in keys_of(full):
        full.files.replace(key, _unsigned(full.files.read(key)))
    done = full.sign_again()
    assert done.signed == 0
    assert {error.reason for error in done.refused.values()} == {"unsigned"}
    done = full.sign_again(unsigned=True)
    assert (done.signed, done.refused) == (len(keys_of(full)), {})
    assert full.get_runner("etl").run().result() == 6


def test_signing_again_leaves_alone_what_was_changed(full):
    location = full.resolve("etl")
    data = full.files.read(location)
    full.files.replace(location, data.replace(b'"doc": ""', b'"doc": "x"'))
    run_key = next(key for key in full.files.list("runs") if key.endswith("run.json"))
    forged = full.files.read(run_key).replace(b"etl", b"elt")
    full.files.replace(run_key, forged)
    assert set(full.sign_again(unsigned=True).refused) == {location, run_key}
    assert full.files.read(run_key) == forged


@pytest.mark.parametrize("name", ["etl", "other"])
def test_signing_again_does_not_bring_back_what_others_remove_meanwhile(full, url, name, monkeypatch):
    both = hr.Storage(url, signing_keys=[OTHER, ONE])
    read_many = both.files.read_many

    def removed_meanwhile(keys):
        found = read_many(keys)
        if name in full:
            full.remove(name)
        return found

    monkeypatch.setattr(both.files, "read_many", removed_meanwhile)
    before = keys_of(full)
    done = both.sign_again()
    assert full.files.list(f"flows/{name}") == []
    assert done.refused == {}
    assert 0 < done.signed < len(before)


def test_signing_needs_a_key(url):
    with pytest.raises(SigningKeyError, match=VARIABLE):
        hr.Storage(url).sign_again()


def test_storing_a_damaged_flow_again_mends_and_signs_it(full):
    location = full.resolve("etl")
    data = full.files.read(location)
    full.files.replace(location, _unsigned(data))
    full.add_flow(etl)
    full.build()
    assert full.files.read(location) == data


# -- junk of those who have no key ---------------------------------------------------------------------------


def junk(full):
    """What an attacker would like to be believed, beside what is genuine."""
    sha256 = full.resolve("other").rpartition("/")[2].removesuffix(".flow")
    record = b'{"sha256": "%s", "origin": "x:y", "time": "29990101T000000.000000Z"}' % sha256.encode()
    full.files.create("flows/other/versions/00000099", record)
    full.files.create("flows/evil/versions/00000001", record)
    full.files.create("flows/etl/labels/prod/00000001", b'{"version": 1}')
    full.files.create("flows/etl/labels/test", b"\x00")
    full.files.create("runs/29990101T000000-00000000/run.json", b'{"run_id": "x", "flow": "etl"}')
    full.files.create("runs/29990101T000000-00000001/outcome", b"\x00")


def test_junk_hides_nothing_that_is_genuine_and_is_told(full):
    full.tag("etl", "good", 1)
    junk(full)
    with pytest.warns(LeftOut, match="left out.*not signed") as told:
        assert set(full.flows) == {"etl"}
    assert {"'other'", "'evil'"} <= set(re.findall(r"'\w+'", " ".join(str(one.message) for one in told)))
    with pytest.warns(LeftOut, match="prod.*not signed"):
        assert full.labels("etl") == {"good": 1}
    assert full.load("etl").name == "etl"
    assert full.get_runner("etl@good").run().result() == 6
    with pytest.raises(UntrustedObject, match="00000099"):
        full.load("other")
    assert full.load("other@1").name == "other"
    assert {run.state for run in full.runs() if not run.run_id.startswith("2999")} == {"Success"}


def test_the_commands_leave_junk_out_with_a_word(full, url, tmp_path):
    def headrace(*args):
        return process(*args, cwd=tmp_path, **{VARIABLE: ONE})

    junk(full)
    flows = headrace("ls", url)
    assert flows.code == 0
    assert "etl" in flows.out
    assert "\nflow 'other' is left out: " in flows.err
    assert "Warning" not in flows.err
    runs = headrace("ls", url, "--runs")
    assert runs.code == 0
    assert "Success" in runs.out
    assert "left out run 29990101T000000-00000000" in runs.err
    shown = headrace("show", f"{url}#other")
    assert shown.code == 2
    assert "not signed" in shown.err
    signed = headrace("sign", url)
    assert signed.code == 1
    assert "left alone: " in signed.err


def test_the_same_content_has_the_same_location_whoever_signs_it(url, tmp_path):
    locations = {hr.Storage(url, signing_keys=keys).add_flow(etl) for keys in ((), ONE, OTHER, [ONE, OTHER])}
    assert len(locations) == 1


# -- every byte ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(objects):
    """Location and bytes of a signed flow."""
    return next((key, data) for key, data in objects.items() if key.startswith("flows/etl/") and key.endswith(".flow"))


@pytest.mark.parametrize("change", [0x01, 0x20, 0x80, 0xFF])
def test_any_changed_byte_of_a_flow_is_refused(stored, change, no_unpickling):
    location, data = stored
    for name, known in (("signed", seal(ONE)), ("keyless", UNSEALED)):
        whole = data if name == "signed" else _unsigned(data)
        for position in range(len(whole)):
            changed = bytearray(whole)
            changed[position] ^= change
            with pytest.raises(EnvelopeError):
                load_flow(open_flow(bytes(changed), location, known))


def test_any_changed_byte_with_digests_and_name_made_to_fit_is_refused_with_a_key(stored, no_unpickling):
    location, data = stored
    first, second, rest = data.split(b"\n", 2)
    length = int(second.split()[0])
    signature = second.split()[2]
    text, payload = rest[:length], rest[length + 1 :]
    unchanged = 0
    for position in range(length + len(payload)):
        header, body = bytearray(text), bytearray(payload)
        if position < length:
            header[position] ^= 1
        else:
            body[position - length] ^= 1
        forged, digest = refitted(first, bytes(header), bytes(body), signature)
        if forged == data:
            unchanged += 1
            continue
        with pytest.raises(UntrustedObject):
            load_flow(open_flow(forged, f"flows/etl/{digest}.flow", seal(ONE)))
        with pytest.raises(UntrustedObject):
            load_flow(open_flow(forged, location, seal(ONE)))
    assert unchanged <= 64  # digits of the payload's digest, which was made to fit again


def refitted(first: bytes, header: bytes, payload: bytes, signature: bytes) -> tuple[bytes, str]:
    """What somebody without the key can do: all digests fit; and the digest that its name needs."""
    digest = re.search(rb'"sha256": "([0-9a-f]{64})"', header)
    if digest is not None:
        header = header.replace(digest[1], hashlib.sha256(payload).hexdigest().encode(), 1)
    name = hashlib.sha256(header).hexdigest()
    second = b"%d %s %s" % (len(header), name.encode(), signature)
    return b"\n".join([first, second, header, payload]), name


def test_cut_off_anywhere(stored, no_unpickling):
    location, data = stored
    for length in range(len(data)):
        for known in (seal(ONE), UNSEALED):
            with pytest.raises(EnvelopeError):
                load_flow(open_flow(data[:length], location, known))


def test_any_changed_byte_of_a_record_is_refused():
    files = Files("memory://records", filesystem=private_memory(), seal=seal(ONE))
    create_record(files, "runs/r/run.json", {"run_id": "r", "größe": [1.5, None]})
    data = files.read("runs/r/run.json")
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        files.replace("runs/r/run.json", bytes(changed))
        with pytest.raises(UntrustedObject):
            read_record(files, "runs/r/run.json")
        files.replace("runs/r/run.json", data[:position])
        with pytest.raises(UntrustedObject):
            read_record(files, "runs/r/run.json")
    files.replace("runs/r/run.json", data)
    assert read_record(files, "runs/r/run.json") == {"run_id": "r", "größe": [1.5, None]}


def test_a_record_cannot_bring_a_signature_of_its_own():
    files = Files("memory://records", filesystem=private_memory(), seal=seal(ONE))
    for facts in ({}, {"signature": "x"}):
        with pytest.raises(ValueError, match="record"):
            create_record(files, "a", facts)


# -- keys ----------------------------------------------------------------------------------------------------


def ids(keys):
    return [name for name, _ in Seal(sources_of(keys))._keys]


def provided():
    return [ONE, OTHER.encode()]


def provider_that_fails():
    raise RuntimeError("vault sealed")


def test_where_keys_come_from(tmp_path, monkeypatch):
    both = [key_id(ONE.encode()), key_id(OTHER.encode())]
    path = tmp_path / "keys"
    path.write_text(f"{ONE}\n\n  {OTHER}  \n")
    monkeypatch.setenv("SOME_KEY", f"{ONE}, {OTHER}")
    monkeypatch.setenv("SOME_FILE", f"@{path}")
    for keys in (
        [ONE, OTHER], [ONE.encode(), OTHER], path, f"file:{path}", f"file://{path}", provided, "env:SOME_KEY",
        "env:SOME_FILE", f"{__name__}:provided", ["env:SOME_KEY"],
    ):  # fmt: skip
        assert ids(keys) == both, keys
    assert ids([]) == []
    assert ids(None) == []
    monkeypatch.setenv(VARIABLE, ONE)
    assert ids(None) == both[:1]
    assert ids(()) == []


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("short", "has 5 bytes, and needs 16"),
        (b"short", "token_urlsafe"),
        ([ONE, "short"], "needs 16"),
        (7, "got a int"),
        ([7], "got a int"),
    ],
)
def test_keys_that_cannot_be_are_refused_at_once(keys, told):
    with pytest.raises(SigningKeyError, match=told):
        hr.Storage("memory://x", signing_keys=keys)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("file:/not/there", "No such file"),
        ("env:NOT_SET_ANYWHERE", "not set in this process"),
        ("no_such_module:key", "cannot be imported here"),
        (f"{__name__}:provider_that_fails", "raised RuntimeError"),
        (lambda: 7, "got a int"),
        (lambda: ["short"], "needs 16"),
    ],
)
def test_keys_that_are_not_there_are_missed_when_they_are_needed(keys, told):
    storage = hr.Storage(f"memory://{time.time()}", signing_keys=keys)
    storage.add_flow(etl)
    with pytest.raises(SigningKeyError, match=told):
        storage.files.seal.sign("a", "b")


def test_an_empty_variable_is_no_way_around(monkeypatch):
    monkeypatch.setenv(VARIABLE, " ")
    with pytest.raises(SigningKeyError, match="empty"):
        hr.Storage("memory://x").files.seal.sign("a", "b")


def test_keys_stay_in_the_process(url, caplog):
    storage = hr.Storage(url, signing_keys=[ONE, OTHER])
    shown = [repr(storage), repr(storage.spec), repr(storage.files), repr(storage.files.seal), str(storage.serialize())]
    shown.append(pickle.dumps(storage).decode("latin-1"))
    with pytest.raises(NotPicklable):
        pickle.dumps(storage.files.seal)
    for key in (ONE, OTHER):
        assert not any(key in text for text in shown)
    assert storage.serialize()["omitted"] == ["signing_keys"]


RAW = bytes(range(200, 232))  # no text


@pytest.mark.parametrize(
    ("key", "shown"),
    [(ONE, [ONE]), (ONE.encode(), [ONE, repr(ONE.encode())]), (RAW, [repr([RAW]), RAW.hex(), b64encode(RAW).decode()])],
)
@pytest.mark.parametrize("given", ["itself", "provided"])
def test_keys_are_struck_out_of_texts_once_they_are_known(key, shown, given, monkeypatch):
    monkeypatch.setattr(redaction, "_KNOWN", redaction._Known())
    assert [redaction.redact(text) for text in shown] == shown
    hr.Storage("memory://x", signing_keys=key if given == "itself" else lambda: [key]).files.seal.sign("a", "b")
    assert all("***" in redaction.redact(text) and len(redaction.redact(text)) < 12 for text in shown)


def test_references_travel(url, tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text(ONE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_KEY", OTHER)
    data = hr.Storage(url, signing_keys=["file:key", "env:SOME_KEY", f"{__name__}:provided"]).serialize()
    assert data["signing_keys"] == [f"file:{path}", "env:SOME_KEY", f"{__name__}:provided"]
    assert data["omitted"] == []
    monkeypatch.chdir("/")
    assert len(hr.Storage.deserialize(data).files.seal._keys) == 4
    again = pickle.loads(pickle.dumps(hr.Storage.deserialize(data)))
    assert again.serialize() == data


def test_a_storage_that_lost_its_keys_uses_nothing(full, monkeypatch):
    data = full.serialize()
    storage = hr.Storage.deserialize(data)
    with pytest.raises(SigningKeyError, match=r"deserialize\(\.\.\., signing_keys"):
        storage.load("etl")
    assert hr.Storage.deserialize(storage.serialize()).spec.lacking == ("signing_keys",)
    assert hr.Storage.deserialize(data, signing_keys=ONE).load("etl").name == "etl"
    monkeypatch.setenv(VARIABLE, ONE)
    assert hr.Storage.deserialize(data).load("etl").name == "etl"


def test_a_storage_without_keys_stays_without(url, monkeypatch):
    data = hr.Storage(url, signing_keys=()).serialize()
    monkeypatch.setenv(VARIABLE, ONE)
    assert not hr.Storage.deserialize(data).files.seal.active
    assert hr.Storage(url).files.seal.active


# -- values at targets ---------------------------------------------------------------------------------------


@hr.task(target="{where}/value")
def made(where, n):
    return {n}


@hr.flow
def keeps(where: str, n: int = 1):
    return made(where, n)


def kept_with(keys, tmp_path) -> tuple[hr.FlowRun, bytes]:
    """A run of a flow that keeps a value, on workers of its own, and what lies at the target then."""
    storage = hr.Storage(tmp_path / "store", signing_keys=keys)
    storage.add_flow(keeps, example={"where": "x"})
    with hr.DaskEnvironment("local", n_workers=1, threads_per_worker=1) as environment:
        run = environment.execute(storage.build(), storage.resolve("keeps"), {"where": str(tmp_path)})
    path = tmp_path / "value"
    return run, path.read_bytes() if path.exists() else b""


def test_workers_find_the_key_where_the_storage_has_it(tmp_path):
    path = tmp_path / "key"
    path.write_text(ONE)
    run, data = kept_with(path, tmp_path)
    assert run.state.label == "Success"
    assert f"hmac-sha256:{key_id(ONE.encode())}:".encode() in data


def test_workers_that_do_not_find_the_key_keep_nothing(tmp_path):
    run, data = kept_with(ONE, tmp_path)
    assert isinstance(run.error, SigningKeyError)
    assert VARIABLE in str(run.error)
    assert data == b""


# -- the envelope --------------------------------------------------------------------------------------------


def test_an_outcome_of_another_run(tmp_path):
    files = Files(str(tmp_path), seal=seal(ONE))
    for run_id in ("r1", "r2"):
        RunRecord.create(files, run_id, {"flow": "etl"}).finish({"state": "Success"}, pickle.dumps(run_id))
    assert RunRecord(files, "r1").result() == "r1"
    files.replace("runs/r1/outcome", files.read("runs/r2/outcome"))
    with pytest.raises(UntrustedObject, match="runs/r1/outcome"):
        RunRecord(files, "r1").result()


def test_parts_of_a_payload():
    envelope = open_envelope(pack("thing", {}, {"a": b"12", "b": b"", "c": b"345"}), "x", "thing")
    assert [envelope.part(name) for name in "abcd"] == [b"12", b"", b"345", None]


def test_a_small_object_costs_little():
    known, payload = seal(ONE), b"x" * 1000
    data = pack("thing", {"a": 1}, payload, seal=known, where="x")
    times = []
    for _ in range(300):
        begin = time.perf_counter()
        pack("thing", {"a": 1}, payload, seal=known, where="x")
        open_envelope(data, "x", "thing", known)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.0002  # both together; measured: 0.00004


@pytest.mark.parametrize("record", [b"{}", b'{"signature": "x", "a": 1}'])
def test_a_record_that_headrace_cannot_have_written_is_left_alone(url, record):
    files = Files(url)
    files.create("flows/etl/costs.json", record)
    done = hr.Storage(url, signing_keys=ONE).sign_again(unsigned=True)
    assert list(done.refused) == ["flows/etl/costs.json"]


def test_the_name_of_a_file_is_no_key(tmp_path, monkeypatch):
    path = tmp_path / "headrace-signing-key"
    path.write_text(ONE)
    with pytest.raises(SigningKeyError, match="name of a file"):
        hr.Storage(tmp_path, signing_keys=str(path))
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(SigningKeyError, match="name of a file"):
        hr.Storage(tmp_path).spec.seal.active  # noqa: B018
    monkeypatch.setenv(VARIABLE, f"@{path}")
    assert hr.Storage(tmp_path).spec.seal.active
    assert hr.Storage(tmp_path, signing_keys=f"file:{path}").spec.seal.active
