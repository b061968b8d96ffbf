"""What `import jaxcnn` alone gives."""

import subprocess
import sys

import jaxcnn

CODE = """
import sys
import jaxcnn
assert "jax" not in sys.modules  # The command line starts at once.
print(jaxcnn.__version__, jaxcnn.weights.load.__name__, jaxcnn.runs.load_run.__name__)
"""


def test_everything_is_there_when_asked_for():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100)
    assert (found.stdout, found.returncode) == (f"{jaxcnn.__version__} load load_run\n", 0), found.stderr


def test_it_offers_what_it_promises():
    assert {*jaxcnn.__all__, "__version__"} == set(dir(jaxcnn))
    assert len(set(jaxcnn.__all__)) == len(jaxcnn.__all__)
    for name in jaxcnn.__all__:
        one = getattr(jaxcnn, name)
        # Of a class its own, not one that it inherits, or that dataclasses make of its signature.
        own = vars(one).get("__doc__") if isinstance(one, type) else one.__doc__
        assert own and not own.startswith(f"{name}("), name


def test_another_name_is_told():
    assert not hasattr(jaxcnn, "Momentun")
