import headrace as hr
from tests.environments import flows


def test_it_runs_in_this_process(tmp_path):
    import os

    storage = hr.Storage(tmp_path)
    with hr.LocalEnvironment() as env:
        env.setup(storage)
        env.setup(storage)
        run = env.execute(storage, storage.add_flow(flows.processes), {"n": 2})
    assert run.result() == [os.getpid()] * 2
    assert repr(env) == "LocalEnvironment()"
