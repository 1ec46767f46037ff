"""The log files: trimmed on resume, complete, and with an error on a full disk."""

import errno
import os

import numpy as np
import pytest

from dgkit.errors import OutputError
from dgkit.training.loop import training_log
from dgkit.training.loop.training_log import Meter, TrainingLog


def test_a_resumed_log_drops_later_lines_and_the_one_cut_short(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss,lr,grad_norm,seconds\n2,1.5,1,1,1\n4,1.25,1,1,1\n6,1.1,1,1,1\n1,9")
    (tmp_path / "validation.csv").write_text("step,name,value\n4,psnr,20\n4,size,1\n6,psnr,21\n")
    opened = TrainingLog(tmp_path, 4)
    opened.add_step(6, 0.5, 1e-3, 2.0, 0.25)
    opened.add_validation(6, {"psnr": 22.0, "look": np.zeros((2, 2, 3), np.uint8)})
    opened.close()
    log, validation = ((tmp_path / f"{name}.csv").read_text().splitlines() for name in ("log", "validation"))
    assert log == ["step,loss,lr,grad_norm,seconds", "2,1.5,1,1,1", "4,1.25,1,1,1", "6,0.5,0.001,2,0.25"]
    assert validation == ["step,name,value", "4,psnr,20", "4,size,1", "6,psnr,22"]
    assert (tmp_path / "validation" / "step_00000006_look.png").is_file()


def test_a_new_run_starts_with_empty_files(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss,lr,grad_norm,seconds\n2,1.5,1,1,1\n")
    TrainingLog(tmp_path, 0).close()
    assert (tmp_path / "log.csv").read_text() == "step,loss,lr,grad_norm,seconds\n"


def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch):
    opened = TrainingLog(tmp_path, 0)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OutputError, match=r"log\.csv: the disk is full"):
        patched.setattr(training_log.os, "fsync", full)
        opened.sync()
    opened.close()


def test_a_meter_continues_from_its_saved_state():
    one, two = Meter(), Meter()
    for meter in (one, two):
        for loss in (4.0, 2.0):
            meter.add(loss, 0.5)
    two = Meter(two.state())
    for meter in (one, two):
        meter.add(0.0, 0.5)
    assert one.smoothed() == two.smoothed() == 2.0
    assert one.take() == two.take() == (2.0, 0.5)
    two.add(1.0, 0.25)
    assert two.take() == (1.0, 0.25) and two.smoothed() == 1.75


def test_the_smoothed_loss_covers_the_last_fifty_steps():
    meter = Meter()
    for loss in [100.0] * 10 + [1.0] * 50:
        meter.add(loss, 0.1)
    assert meter.smoothed() == 1.0
