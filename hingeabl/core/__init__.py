"""The files at the clone's root under a name of their own: `hingeabl.core.losses` is losses.py.

hingeabl/ and the files themselves import them by these names, as `utils` or `model` may be a file of the user's. Here a
wheel holds copies of them; in a clone, and after `pip install -e .`, this package's path is the root.
"""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE if (HERE / "losses.py").exists() else HERE.parents[1]
__path__ = [str(ROOT)]


def one_module(name: str) -> None:
    """Make `import losses` the module `hingeabl.core.losses`, so that there is one of each, and one registry of losses.
    The last line of each file calls this with its __name__."""
    if "." not in name and name != "__main__":
        sys.modules[name] = importlib.import_module(f"hingeabl.core.{name}")
