import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from tfcompress.runtime import isolation
from tfcompress.runtime.isolation import JobError, run_isolated

# Jobs are named by module, so this file is their module too.
HERE = os.path.dirname(__file__)
sys.path.insert(0, HERE)
JOBS = "test_isolation"


def add(a, b):
    print("adding")
    os.write(2, b"in native code\n")
    return a + b


def slow_add(a, b):
    time.sleep(2)
    return a + b


def frozen():
    return gc.get_freeze_count()


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def hang():
    time.sleep(60)


def eat():
    block = []
    while True:
        block.append(bytearray(1 << 24))


def spawn_and_hang(path):
    child = subprocess.Popen(["sleep", "60"])
    with open(path, "w") as file:
        file.write(str(child.pid))
    time.sleep(60)


@pytest.fixture(params=["forked", "fresh process"])
def way(request, monkeypatch):
    """Both ways of running: the server that forks, and what systems without fork get."""
    monkeypatch.setattr(isolation, "FORKS", request.param == "forked")
    return request.param


def test_value_and_output_come_back(way):
    value, log = run_isolated(f"{JOBS}:add", {"a": 1, "b": 2})
    assert value == 3
    assert "adding" in log and "in native code" in log


def test_what_the_server_imported_is_not_collected_in_each_job():
    isolation.start((JOBS,))  # told beforehand, it is one and the same server
    count = len(isolation._servers)
    assert run_isolated(f"{JOBS}:frozen", {}, preload=(JOBS,))[0] > 10_000
    assert len(isolation._servers) == count


def test_an_exception_keeps_its_kind_and_message(way):
    with pytest.raises(JobError, match="unsupported operand") as caught:
        run_isolated(f"{JOBS}:add", {"a": 1, "b": "x"})
    assert (caught.value.reason, caught.value.kind) == ("exception", "TypeError")
    assert "Traceback" in caught.value.log


def test_a_crash_is_an_exception_and_the_next_job_runs(way):
    with pytest.raises(JobError, match="SIGSEGV") as caught:
        run_isolated(f"{JOBS}:crash", {})
    assert caught.value.reason == "died"
    assert run_isolated(f"{JOBS}:add", {"a": 1, "b": 2})[0] == 3


def test_a_hang_ends_at_the_time_limit(way):
    started = time.monotonic()
    with pytest.raises(JobError, match="within 1 seconds") as caught:
        run_isolated(f"{JOBS}:hang", {}, seconds=1)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - started < 10


def test_memory_has_a_limit():
    with pytest.raises(JobError, match="more memory than its limit of 256 MiB") as caught:
        run_isolated(f"{JOBS}:eat", {}, memory=256 << 20, seconds=30)
    assert caught.value.reason == "memory"


def test_what_a_job_started_ends_with_it(tmp_path):
    path = tmp_path / "pid"
    with pytest.raises(JobError):
        run_isolated(f"{JOBS}:spawn_and_hang", {"path": str(path)}, seconds=1)
    pid = int(path.read_text())
    for _ in range(100):
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().split()[2] == "Z":
                return
        time.sleep(0.05)
        if not os.path.exists(f"/proc/{pid}"):
            return
    pytest.fail("the job's child lives on")


def test_the_server_is_restarted_when_it_has_ended():
    run_isolated(f"{JOBS}:add", {"a": 1, "b": 2})
    for server in list(isolation._servers.values()):
        server.process.kill()
        server.process.wait()
    assert run_isolated(f"{JOBS}:add", {"a": 1, "b": 2})[0] == 3


def test_an_interrupt_ends_the_job_and_no_answer_goes_astray():
    run_isolated(f"{JOBS}:add", {"a": 1, "b": 2})

    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_isolated(f"{JOBS}:slow_add", {"a": 1, "b": 1})
    finally:
        signal.signal(signal.SIGALRM, old)
    assert run_isolated(f"{JOBS}:add", {"a": 1, "b": 2})[0] == 3


def test_no_process_outlives_its_parent(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {HERE!r})\n"
        "from tfcompress.runtime import isolation\n"
        f"isolation.run_isolated('{JOBS}:add', {{'a': 1, 'b': 2}})\n"
        "print([s.process.pid for s in isolation._servers.values()][0], flush=True)\n"
        "import os; os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
