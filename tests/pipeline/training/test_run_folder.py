"""Who may have a run folder, and who may look at it."""

import fcntl
import threading
import time

import pytest

from rdmf.pipeline.training.run_folder import LOCK, is_locked, locked


def test_a_folder_is_locked_for_as_long_as_somebody_has_it(tmp_path):
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(ValueError, match="another process trains into"), locked(tmp_path):
            pass
    assert not is_locked(tmp_path)


def test_whoever_looks_whether_a_run_is_trained_does_not_end_it(tmp_path):
    looks = threading.Event()

    def look_slowly() -> None:
        with (tmp_path / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)  # what `is_locked` has for an instant
            looks.set()
            time.sleep(0.2)

    looker = threading.Thread(target=look_slowly)
    looker.start()
    assert looks.wait(10)
    with locked(tmp_path):
        pass
    looker.join()
