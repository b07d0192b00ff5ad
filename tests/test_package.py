"""What `import elmnet` offers, and when it is loaded."""

import subprocess
import sys

import pytest
from conftest import ROOT

import elmnet


def test_every_name_is_there_listed_and_kept():
    assert set(elmnet.__all__) <= set(dir(elmnet))
    for name in elmnet.__all__:
        assert getattr(elmnet, name) is vars(elmnet)[name]


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'elmnet' has no attribute 'LSTM'"):
        elmnet.LSTM  # noqa: B018


def test_listing_the_names_needs_no_torch():
    code = "import sys, elmnet; sys.exit('ELM' not in dir(elmnet) or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_documentation_names_them():
    page = (ROOT / "docs" / "api.md").read_text()
    assert all(f"`{name}`" in page for name in elmnet.__all__)
