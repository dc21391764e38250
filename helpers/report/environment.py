"""What a page is computed with: the table that stands at the top of every notebook."""

import platform

import pandas as pd
import torch

from helpers import machine, results
from helpers.report import style, tables
from helpers.settings import Profile


def table(profile: Profile) -> tables.Table:
    """What this page is computed with."""
    line = {
        "Profile": profile.name,
        "Data sets": ", ".join(style.dataset(name) for name in profile.datasets),
        "Device": machine.processor(),
        "Threads": torch.get_num_threads(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "Commit": results.commit(),
    }
    return tables.table(pd.DataFrame([line]).set_index("Profile"), "What this page is computed with.")
