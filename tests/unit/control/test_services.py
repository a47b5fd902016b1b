"""Parts of a command that do not answer."""

import pytest

from control.services import open_store
from runtime.errors import MissingServiceError


def test_a_store_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(MissingServiceError, match=r"no ClickHouse answers at http://127\.0\.0\.1:9/db") as caught:
        open_store("http://ann:hush@127.0.0.1:9/db")
    assert "hush" not in str(caught.value)
    assert "ann" not in str(caught.value)
