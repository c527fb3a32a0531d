"""Pages by templates."""

from pathlib import Path

from experiments.shared.pages import page_of


def test_figure_of_a_run_folder_is_found_from_the_folder_of_the_shell(tmp_path, monkeypatch):
    """`--out runs`, the default, is relative to the shell, and not to the templates."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/elbo.svg").write_text("<?xml?><svg>here</svg>", "utf-8")
    values = {"title": "Run", "text": "1 < 2", "pictures": [Path("runs/elbo.svg")]}
    page = page_of("rlhf/report.html", **values)
    assert "<figure><svg>here</svg></figure>" in page
    assert "1 &lt; 2" in page
