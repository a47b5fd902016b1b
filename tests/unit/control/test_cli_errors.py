"""What `barograph` makes of an error's chain of causes."""

import pytest

from control.cli import _is_interrupt


def caused(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.timeout(10)
def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    error = OSError("no space left")
    assert not _is_interrupt(caused(error, error))
    first, second = ValueError("a"), ValueError("b")
    caused(first, second)
    assert not _is_interrupt(caused(second, first))


def test_ctrl_c_below_other_errors_is_found() -> None:
    assert _is_interrupt(KeyboardInterrupt())
    assert _is_interrupt(caused(RuntimeError("wrapped"), KeyboardInterrupt()))
    assert not _is_interrupt(caused(RuntimeError("wrapped"), ValueError("no")))
    assert not _is_interrupt(None)
