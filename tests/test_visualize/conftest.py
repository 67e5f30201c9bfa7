import pytest
from matplotlib.figure import Figure


@pytest.fixture
def drawn(monkeypatch):
    """Return the figure that was saved last."""
    pages = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda page, *args, **options: pages.append(page) or save(page, *args, **options)
    )
    return lambda: pages[-1]
