"""What the README says to type runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_fusion_alone_runs_and_needs_torch_alone() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    others = ("transformers", "h5py", "pyarrow", "dask", "decord", "av", "typer", "pydantic", "scipy", "matplotlib")
    checks = f"""
import sys
assert fused.shape == (2, 75, 256) and fused.isfinite().all()
fused.sum().backward()
assert not [name for name in {others!r} if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", example + checks], check=True)
