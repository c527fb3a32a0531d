import pytest

from tests.inference.svi.checkpoint.case import Case


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return Case().run(tmp_path_factory.mktemp("whole"))
