"""Pages by templates."""

from pathlib import Path

from experiments.shared.run_folder import page_of


def test_figure_of_a_run_folder_is_found_from_the_folder_of_the_shell(tmp_path, monkeypatch):
    """`--out runs`, the default, is relative to the shell, and not to the templates."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/elbo.svg").write_text("<?xml?><svg>here</svg>", "utf-8")
    values = {"title": "Run", "text": "1 < 2", "pictures": [Path("runs/elbo.svg")]}
    page = page_of("rlhf/report.html", **values)
    assert '<figure role="img" aria-label="elbo"><svg>here</svg></figure>' in page
    assert "1 &lt; 2" in page


def test_report_is_as_wide_as_a_phone(chromium, tmp_path):
    """A long name in the title breaks, and a wide table scrolls by itself."""
    report = tmp_path / "report.html"
    title, row = "function:folder_of_my_rewards/rewards.py:" + "x" * 40, ["x" * 40, *"1234"]
    values = {"title": title, "head": row, "rows": [row], "pictures": [], "samples": {}}
    report.write_text(page_of("steer/report.html", **values, notes=[]), "utf-8")
    page = chromium.new_page(viewport={"width": 360, "height": 800})
    page.goto(report.as_uri())
    width = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert width <= 360
