"""The README's code runs as it stands, from top to bottom, and says what the README says it does."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

import elbo

README = Path(__file__).parent.parent / "README.md"


def test_code_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)  # noqa: S102
    assert names["result"].reason.name == "CONVERGED"
    means = sorted(names["result"].params.theta.components.mean[:, 0].tolist())
    assert abs(means[0]) < 0.5 and abs(means[1] - 5) < 0.5
    assert jax.vmap(lambda q: q.mean())(names["posteriors"]).shape == (300, 2)
    assert bool(names["info"].finite)
    assert names["best"].theta.components.mean.shape == (2, 2)
    assert names["states"].shape == (2, 100) and (names["states"][1, 60:] == -1).all()
    assert names["cuts"].starts.tolist() == [1, 0, 1, 0, 0] * 4 and names["cuts"].states[:5].tolist() == [0, 0, 1, 1, 1]
    assert names["lasted"].theta["lasts"].probabilities().argmax(1).tolist() == [1, 2]
    assert names["alignment"].shape == (20,) and set(names["alignment"].tolist()) <= set(range(7))
    ours = elbo.evidence(names["reader"])(names["trained"], names["spoken"])
    assert jnp.allclose(names["loss"], -ours, rtol=1e-4) and names["heard"].max() <= 2
    assert (names["parses"].end[:, 0] == jnp.array([4, 3])).all()
    assert 1.5 < float(names["fitted"].params.theta["count"].rate()[0]) < 4.5
    assert "False" not in capsys.readouterr().out.split("True")[-1]
    assert jnp.isfinite(names["fitted"].history.elbo).all()


def test_first_example_is_at_most_15_lines():
    first = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert first is not None and len(first.group(1).strip().splitlines()) <= 15
