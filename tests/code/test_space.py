"""Two versions of the same modules in one process, one after the other and at the same time."""

import importlib
import os
import pickle
import sys
import threading
import time
import traceback

import pytest

from headrace.code.bundle import Bundle, bundle_for
from headrace.code.space import active, forget, space_of
from headrace.errors import FlowError
from tests.waiting import until


@pytest.fixture
def bundle_of(tmp_path, monkeypatch):
    """Make a bundle of sources that this process cannot import itself."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    made = []

    def make(files, *names):
        folder = tmp_path / f"project{len(made)}"
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        sys.path.insert(0, str(folder))
        try:
            importlib.invalidate_caches()
            bundle = bundle_for(names)
        finally:
            sys.path.remove(str(folder))
            importlib.invalidate_caches()
        made.append(bundle)
        return bundle

    yield make
    for bundle in made:
        forget(bundle.sha256)


def version(number, root="spaced_mod"):
    text = f"STATE = []\nclass Row:\n    number = {number}\ndef answer():\n    STATE.append(1)\n    return {number}\n"
    return {f"{root}.py": text}


def answer(name="spaced_mod"):
    return importlib.import_module(name).answer()


def test_versions_alternate_and_keep_their_state(bundle_of):
    one, two = bundle_of(version(1), "spaced_mod"), bundle_of(version(2), "spaced_mod")
    assert one.sha256 != two.sha256
    for _ in range(3):
        with active(one):
            assert answer() == 1
        with active(two):
            assert answer() == 2
    with active(one):
        assert len(importlib.import_module("spaced_mod").STATE) == 3


def test_the_same_sources_give_the_same_bundle(bundle_of):
    assert bundle_of(version(1), "spaced_mod") == bundle_of(version(1), "spaced_mod")
    assert pickle.loads(pickle.dumps(bundle_of(version(1), "spaced_mod"))).units.keys() == {"spaced_mod"}


def test_spaces_that_agree_share_modules_and_are_active_at_once(bundle_of):
    common = version(1)
    one = bundle_of({**common, "only_a.py": "import spaced_mod"}, "only_a")
    other = bundle_of({**common, "only_b.py": "import spaced_mod"}, "only_b")
    assert not space_of(one).conflicts(space_of(other))
    with active(one), active(other):
        a, b = importlib.import_module("only_a"), importlib.import_module("only_b")
        assert a.spaced_mod is b.spaced_mod


def test_a_module_that_imports_another_version_is_not_shared(bundle_of):
    user = {"user_mod.py": "import spaced_mod\ndef answer(): return spaced_mod.answer()"}
    one, two = bundle_of({**user, **version(1)}, "user_mod"), bundle_of({**user, **version(2)}, "user_mod")
    for bundle, number in [(one, 1), (two, 2), (one, 1)]:
        with active(bundle):
            assert answer("user_mod") == number


def test_who_conflicts_waits_and_first_come_is_first_served(bundle_of):
    one, two = bundle_of(version(1), "spaced_mod"), bundle_of(version(2), "spaced_mod")
    order = []

    def work(name, bundle):
        with active(bundle):
            order.append((name, answer()))

    threads = []
    with active(one):
        for name, bundle in [("a", two), ("b", one), ("c", two)]:
            threads.append(threading.Thread(target=work, args=(name, bundle)))
            threads[-1].start()
            until(lambda: _waiting() == len(threads))
        assert order == []
        with active(one):  # who is inside waits for nobody
            assert answer() == 1
    for thread in threads:
        thread.join(30)
    assert [number for _, number in sorted(order)] == [2, 1, 2]
    assert order[0][0] == "a"
    assert order.index(("b", 1)) < 2


def _waiting():
    from headrace.code import space

    return len(space._WAITING)


def test_many_threads_each_get_their_own_answer(bundle_of):
    bundles = {number: bundle_of(version(number), "spaced_mod") for number in (1, 2, 3)}
    wrong = []

    def work(number):
        for _ in range(50):
            with active(bundles[number]):
                if answer() != number:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(1 + index % 3,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_another_version_further_inside(bundle_of):
    one, two = bundle_of(version(1), "spaced_mod"), bundle_of(version(2), "spaced_mod")
    with active(one):
        outside = importlib.import_module("spaced_mod")
        with active(two):
            assert answer() == 2
            with active(one):
                assert answer() == 1
            assert answer() == 2
        assert importlib.import_module("spaced_mod") is outside


def test_another_version_further_inside_while_others_are_at_work(bundle_of):
    one, two = bundle_of(version(1), "spaced_mod"), bundle_of(version(2), "spaced_mod")
    inside, done = threading.Event(), threading.Event()

    def other():
        with active(one):
            inside.set()
            done.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(30)
    try:
        with active(one), pytest.raises(FlowError, match=r"spaced_mod.*other tasks are at work"):
            space_of(two).enter(timeout=0.1)
        with pytest.raises(TimeoutError, match="another version of spaced_mod"):
            space_of(two).enter(timeout=0.1)
    finally:
        done.set()
        thread.join(30)
    with active(two):
        assert answer() == 2


def test_what_the_process_had_itself_comes_back(bundle_of, tmp_path, monkeypatch):
    two = bundle_of(version(2), "spaced_mod")
    own = tmp_path / "own"
    own.mkdir()
    (own / "spaced_mod.py").write_text(version(1)["spaced_mod.py"])
    monkeypatch.syspath_prepend(own)
    mine = importlib.import_module("spaced_mod")
    try:
        with active(two):
            assert answer() == 2
        assert sys.modules["spaced_mod"] is mine
        with active(bundle_for(["spaced_mod"])):  # the same sources: used as they are
            assert importlib.import_module("spaced_mod") is mine
    finally:
        del sys.modules["spaced_mod"]


def test_a_failing_import_leaves_no_trace(bundle_of):
    bad = bundle_of({"spaced_bad.py": "1 / 0"}, "spaced_bad")
    with active(bad):
        with pytest.raises(ZeroDivisionError) as told:
            importlib.import_module("spaced_bad")
        assert traceback.extract_tb(told.value.__traceback__)[-1].line == "1 / 0"
        assert "spaced_bad" not in sys.modules


def test_packages_with_data_relative_and_lazy_imports(bundle_of):
    bundle = bundle_of(
        {
            "spaced_pkg/__init__.py": "",
            "spaced_pkg/top.py": "from .inner import low\nfrom . import inner\n"
            "def answer():\n    from .inner.lazy import ONE\n    import spaced_mod\n"
            "    return low.TEN + ONE + spaced_mod.answer()",
            "spaced_pkg/inner/__init__.py": "",
            "spaced_pkg/inner/low.py": "TEN = 10",
            "spaced_pkg/inner/lazy.py": "from importlib import resources\n"
            "ONE = int(resources.files('spaced_pkg').joinpath('data/one.txt').read_text())",
            "spaced_pkg/data/one.txt": "1",
            **version(100),
        },
        "spaced_pkg.top",
    )
    assert bundle.modules == ("spaced_mod", "spaced_pkg")
    with active(bundle):
        assert answer("spaced_pkg.top") == 111


def test_parts_of_namespace_packages(bundle_of):
    bundle = bundle_of(
        {
            "spaced_ns/one.py": "from . import two\nfrom spaced_ns.three import deep\n"
            "def answer(): return two.X + deep.Y",
            "spaced_ns/two.py": "X = 1",
            "spaced_ns/three/__init__.py": "",
            "spaced_ns/three/deep.py": "Y = 2",
            "spaced_ns/unused.py": "",
        },
        "spaced_ns.one",
    )
    assert bundle.modules == ("spaced_ns.one", "spaced_ns.three", "spaced_ns.two")
    with active(bundle):
        assert answer("spaced_ns.one") == 3


def test_a_damaged_folder_is_replaced(bundle_of, tmp_path):
    from headrace.code.unpacked import unpack

    files = dict(bundle_of(version(1), "spaced_mod").units["spaced_mod"].files)
    folder = unpack("name", files)
    assert unpack("name", files) == folder
    target = tmp_path / "cache" / "code"
    (found,) = target.glob("*/name/spaced_mod.py")
    found.write_text("changed")
    assert unpack("name", files) == folder
    assert found.read_bytes() == files["spaced_mod.py"]
    found.unlink()
    unpack("name", files)
    assert found.exists()


def test_folders_that_nobody_uses_go(bundle_of, tmp_path):
    from headrace.code.unpacked import UNUSED, unpack

    files = dict(bundle_of(version(1), "spaced_mod").units["spaced_mod"].files)
    old, used = unpack("old", files), unpack("used", files)
    for folder in (old, used):
        os.utime(folder, (1, time.time() - UNUSED - 1))
    unpack("used", files)
    unpack("new", files)
    assert [os.path.exists(folder) for folder in (old, used)] == [False, True]


def test_a_bundle_is_plain_data(bundle_of):
    bundle = bundle_of(version(1), "spaced_mod")
    again = Bundle(bundle.sha256, bundle.data, bundle.modules)
    assert space_of(again) is space_of(bundle)
