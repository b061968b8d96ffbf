"""What `import jaxcnn` alone gives."""

import subprocess
import sys

CODE = """
import sys
import jaxcnn
assert "jax" not in sys.modules  # The command line starts at once.
assert all(callable(getattr(jaxcnn, name)) for name in jaxcnn.__all__ if name != "weights")
print(jaxcnn.weights.load.__name__, jaxcnn.runs.load_run.__name__)
"""


def test_everything_is_there_when_asked_for():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100)
    assert (found.stdout, found.returncode) == ("load load_run\n", 0), found.stderr
