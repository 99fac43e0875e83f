"""Checks that too little memory is reported in one line with the estimate and what to do, wherever it is noticed."""

from __future__ import annotations

import pytest

from compact_hf.errors import TuningError
from compact_hf.training.child_output import KILLED_STATUS, ChildOutput
from compact_hf.training.memory import (
    ESTIMATE_PREFIX,
    MemoryEstimate,
    check_memory,
    describe_memory,
    translate_memory_errors,
)

GB = 10**9
ESTIMATE = MemoryEstimate(weights=14 * GB, gradients=GB, optimizer=2 * GB, activations=23 * GB, parameters=1, trained=1)


def test_what_is_held_whatever_the_batch_asks_for_another_way_and_large_batches_for_smaller_ones() -> None:
    with pytest.raises(
        TuningError, match=r"takes about 40 GB \(weights 14, .*23\), and 16 GB are available; train a LoRA"
    ):
        check_memory(ESTIMATE, 16 * GB)
    with pytest.raises(
        TuningError, match=r"and 24 GB are available; lower per_device_train_batch_size and raise gradient_acc"
    ):
        check_memory(ESTIMATE, 24 * GB)


def test_before_batches_are_known_nothing_is_said_of_activations() -> None:
    estimate = MemoryEstimate(
        weights=12_800 * GB, gradients=GB, optimizer=2 * GB, activations=0, parameters=1, trained=1
    )
    with pytest.raises(
        TuningError, match=r"about 12,803 GB \(weights 12,800, gradients 1, optimizer 2\), and 24 GB are available"
    ):
        check_memory(estimate, 24 * GB)


def test_what_may_still_fit_is_tried() -> None:
    """An estimate is up to 15% higher than the memory that training takes."""
    check_memory(ESTIMATE, 36 * GB)


def test_an_allocation_that_fails_is_told_with_the_estimate() -> None:
    import torch

    with pytest.raises(TuningError) as excinfo, translate_memory_errors(ESTIMATE, 44 * GB):
        torch.empty(1 << 60, dtype=torch.uint8)  # larger than the address space
    message = str(excinfo.value)
    assert message.startswith(
        "out of memory: 1152921504606846976 bytes more could not be allocated; training takes about 40 GB"
    )
    assert "gradient_accumulation_steps" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.5 GiB", "20.00 MiB more"),
        ("CUDA out of memory.", "out of memory: training takes"),
    ],
)
def test_a_gpus_words_are_understood(said: str, told: str) -> None:
    from torch import OutOfMemoryError

    with pytest.raises(TuningError, match=told), translate_memory_errors(ESTIMATE, 44 * GB):
        raise OutOfMemoryError(said)


def test_other_failures_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), translate_memory_errors(ESTIMATE, 44 * GB):
        raise RuntimeError("shapes do not match")


def test_of_a_killed_process_its_first_words_tell_the_estimate_unless_it_said_what_was_wrong() -> None:
    output = ChildOutput()
    output.add_line(f"{ESTIMATE_PREFIX}{describe_memory(ESTIMATE, 24 * GB)}")
    output.add_line("{'loss': '1.4'}")
    message = str(output.build_error(KILLED_STATUS, None))
    assert "killed from outside" in message
    assert (
        "training takes about 40 GB (weights 14, gradients 1, optimizer 2, activations 23), and 24 GB are available; "
        in message
    )
    assert str(output.build_error(1, None)) == "training ended with status 1: {'loss': '1.4'}"
    output.add_line("compact_hf.errors.TuningError: no row is left")
    assert str(output.build_error(KILLED_STATUS, None)) == "no row is left"
