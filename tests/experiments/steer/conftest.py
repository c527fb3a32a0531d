import pytest


@pytest.fixture(scope="module")
def grammar_folder(prior, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grammar")
    prior.save_pretrained(folder)
    return folder
