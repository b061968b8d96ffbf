"""A run that is read back where the code of its user is another by now."""

import jaxcnn

MINE = """
import flax.linen as nn
import numpy as np
from jaxcnn import Adam, DataConfig, Experiment, ModelConfig, TrainConfig

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(4)(x.mean((1, 2)))))

def data():
    label = np.arange(40) % 2
    image = np.full((40, 4, 4, 1), 50, np.uint8) + 100 * label.astype(np.uint8)[:, None, None, None]
    return {"train": {"image": image, "label": label}, "test": {"image": image, "label": label}}

EXPERIMENT = Experiment(
    name="mine",
    model=ModelConfig(name="mine.py:Net"),
    data=DataConfig(source=data),
    optim=Adam(learning_rate=1e-2),
    train=TrainConfig(batch_size=8, steps=2, devices=1),
)
"""


def test_what_is_computed_by_changed_files_is_said_to_be(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    run = jaxcnn.run(jaxcnn.load_experiment(file), progress=False)

    def said():
        capsys.readouterr()
        assert jaxcnn.load_run(run.path).state.step == 2
        return capsys.readouterr().err

    assert said() == ""
    file.write_text(MINE.replace("relu", "sigmoid"))
    assert said() == f"jaxcnn: mine.py changed since {run.path} was trained\n"
    file.write_text(MINE)
    assert said() == ""
    file.write_text(f"{MINE}\n# A comment.")
    jaxcnn.run(jaxcnn.load_experiment(file), progress=False)  # which finds that it is the same run
    assert said() == ""
