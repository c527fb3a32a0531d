import pytest

from experiments.shared import figures


@pytest.fixture(scope="module")
def grammar_folder(prior, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grammar")
    prior.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _figures(monkeypatch):
    """Leave the figures of a report empty. The modules that test reports replace this fixture."""

    def save(figure, path):
        figures.plt.close(figure)
        path.write_text("<svg></svg>")
        return path

    monkeypatch.setattr(figures, "save", save)
