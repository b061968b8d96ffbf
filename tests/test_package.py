"""What `import jaxcnn` alone gives."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jaxcnn

CODE = """
import sys, types
import jaxcnn
assert "jax" not in sys.modules  # The command line starts at once.
assert all(callable(found) or isinstance(found, types.ModuleType) for found in map(jaxcnn.__getattr__, jaxcnn.__all__))
print(jaxcnn.weights.load.__name__, jaxcnn.runs.load_run.__name__, jaxcnn.train.make_train_step.__name__)
"""


def test_everything_is_there_when_asked_for():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100)
    assert (found.stdout, found.returncode) == ("load load_run make_train_step\n", 0), found.stderr


def test_all_of_it_is_documented():
    for name in jaxcnn.__all__:
        one = getattr(jaxcnn, name)
        # Of a class its own, not one that it inherits, or that dataclasses make of its signature.
        own = vars(one).get("__doc__") if isinstance(one, type) else one.__doc__
        assert own and not own.startswith(f"{name}("), name


def test_another_name_is_told():
    assert not hasattr(jaxcnn, "Momentun")


def test_what_is_offered_is_what_is_promised_and_what_a_type_checker_sees():
    assert set(dir(jaxcnn)) == {*jaxcnn.__all__, "__version__"}
    assert jaxcnn.__version__ == metadata.version("jaxcnn")
    (checked,) = [node for node in ast.parse(Path(jaxcnn.__file__).read_text()).body if isinstance(node, ast.If)]
    named = [alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(named) == sorted(jaxcnn.__all__)
