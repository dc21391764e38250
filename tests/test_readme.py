"""The README shows what the committed rows say, and only commands and files that exist."""

import re

from helpers import settings, study
from helpers.report import readme

TEXT = (settings.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_result_table_is_that_of_the_rows():
    rows = study.rows(settings.profile("study"), compute_missing=False)
    assert readme.updated(TEXT, rows) == TEXT, "run `python -m helpers.report.readme`"


def test_commands_and_links_exist():
    targets = set(re.findall(r"^([a-z]+):", (settings.ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", TEXT)) <= targets
    assert {"report", "test"} <= set(re.findall(r"make ([a-z]+)", TEXT))
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (settings.ROOT / link).exists(), link
