"""run and fit: the same steps however they are cut, and a reason for every end."""

import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.optim import Info, Reason, Rule

from ..problems import start

STEPS = 12


@pytest.fixture(scope="module")
def em():
    model, params, ys = start("full")
    return optim.em_step(model), params, ys


@pytest.fixture(scope="module")
def sampling():
    """A rule that draws from its key, so that a wrong key shows."""
    model, params, ys = start("ppca")
    return optim.vae_step(model, optax.adam(1e-2), estimator=elbo.Reparameterized()), params, ys


def close(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


@pytest.mark.parametrize("every", [1, 5, 50])
def test_fit_equals_run_whatever_every_is(sampling, key, every):
    rule, params, ys = sampling
    whole = optim.run(rule, params, ys, key=key, steps=STEPS)
    cut = optim.fit(rule, params, ys, key=key, steps=STEPS, every=every, progress=False)
    assert cut.steps == STEPS and cut.reason is Reason.MAX_STEPS
    assert all(leaf.shape == (STEPS,) for leaf in cut.history)
    close(cut.params, whole.params, 1e-5)
    close(cut.history.elbo, whole.history.elbo, 1e-5)


@pytest.mark.parametrize("rule_name", ["em", "sampling"])
def test_going_on_equals_not_stopping(rule_name, key, request):
    rule, params, ys = request.getfixturevalue(rule_name)
    whole = optim.run(rule, params, ys, key=key, steps=STEPS)
    # with the state given, as for the rest, so that both are one program
    half = optim.run(rule, params, ys, key=key, steps=STEPS // 2, state=rule.init(params), first=0)
    rest = optim.run(rule, half.params, ys, key=key, steps=STEPS // 2, state=half.state, first=STEPS // 2)
    close(rest.params, whole.params, 1e-5)
    half = optim.fit(rule, params, ys, key=key, steps=5, progress=False)
    rest = optim.fit(rule, half.params, ys, key=key, steps=7, state=half.state, first=half.steps, progress=False)
    close(rest.params, whole.params, 1e-5)


def test_converged_means_that_the_objective_stood_still(em):
    rule, params, ys = em
    result = optim.run(rule, params, ys, steps=500, tolerance=1e-5)
    assert Reason(int(result.reason)) is Reason.CONVERGED
    taken = int(result.steps)
    objective = np.asarray(result.history.objective)
    assert 2 <= taken < 500 and np.isfinite(objective[:taken]).all() and np.isneginf(objective[taken:]).all()
    changes = np.abs(np.diff(objective[:taken])) / np.maximum(1, np.abs(objective[1:taken]))
    assert changes[-1] <= 1e-5 and (changes[:-1] > 1e-5).all()
    fitted = optim.fit(rule, params, ys, steps=500, tolerance=1e-5, every=3, progress=False)
    assert (fitted.steps, fitted.reason) == (taken, Reason.CONVERGED)  # across the seams of fit's blocks, too


def test_vmapped_run_stops_each_lane_by_itself(em):
    rule, params, ys = em
    starts = [start("full", seed)[1] for seed in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    together = jax.vmap(lambda p: optim.run(rule, p, ys, steps=500, tolerance=1e-5))(stacked)
    for lane, alone in enumerate(starts):
        single = optim.run(rule, alone, ys, steps=500, tolerance=1e-5)
        # float32 may cross the tolerance a step apart: vmap orders its sums otherwise
        assert abs(int(together.steps[lane]) - int(single.steps)) <= 2
        close(together.history.elbo[lane][:5], single.history.elbo[:5], 1e-4)
    assert len(set(together.steps.tolist())) > 1


def reporting(finite, value=0.0):
    """A rule that moves nothing and reports what it is told, by its step number."""

    def update(key, params, state, ys, *, weights=None):
        return params, state + 1, Info(value + state * 1.0, value + state * 1.0, finite=finite(state))

    return Rule(lambda params: jnp.zeros((), jnp.int32), update)


def test_gives_up_after_ten_rejections_in_a_row():
    params, ys = elbo.Params(jnp.ones(()), ()), jnp.ones(3)
    never, sometimes = reporting(lambda i: i < 4), reporting(lambda i: i % 9 != 0)
    for tolerance in (0.0, None):
        result = optim.run(never, params, ys, steps=30, tolerance=tolerance)
        assert Reason(int(result.reason)) is Reason.NONFINITE
        assert Reason(int(optim.run(sometimes, params, ys, steps=30, tolerance=tolerance).reason)) is Reason.MAX_STEPS
    assert int(optim.run(never, params, ys, steps=30, tolerance=0.0).steps) == 14
    fitted = optim.fit(never, params, ys, steps=30, every=30, progress=False)
    assert (fitted.steps, fitted.reason) == (14, Reason.NONFINITE)


def test_callback_sees_progress_stops_it_and_may_keep_what_it_saw(em):
    rule, params, ys = em
    seen = []

    def callback(step, params, info):
        seen.append((step, params, info))
        return step >= 6

    result = optim.fit(rule, params, ys, steps=50, every=3, callback=callback, progress=False)
    assert (result.reason, result.steps) == (Reason.STOPPED, 6)
    assert [step for step, _, _ in seen] == [3, 6]
    for (step, kept, info), before in zip(seen, [2, 5], strict=True):
        np.testing.assert_array_equal(info.elbo, result.history.elbo[before])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept)), step


def test_fit_from_shared_buffers_leaves_the_callers_arrays_alone(em):
    rule, params, ys = em
    shared = elbo.Params.tied(params.theta)
    before = jax.tree.map(np.array, shared)
    first = optim.fit(rule, shared, ys, steps=4, progress=False)
    again = optim.fit(rule, shared, ys, steps=4, progress=False)
    close(shared, before)
    close(first.params, again.params)


def test_interrupting_keeps_the_last_parameters(em, monkeypatch):
    rule, params, ys = em

    from elbo.optim import fit as module_function  # noqa: F401 - the module is shadowed by the function in the package

    module = sys.modules["elbo.optim._fit"]
    real, calls = module._block, []

    def block(*args, **kwargs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "_block", block)
    result = optim.fit(rule, params, ys, steps=50, every=3, progress=False)
    assert (result.reason, result.steps) == (Reason.STOPPED, 6)
    close(result.params, optim.run(rule, params, ys, steps=6).params, 1e-5)


def test_progress_bar_is_drawn_on_standard_error_where_that_is_a_terminal(em, capsys, monkeypatch):
    rule, params, ys = em
    optim.fit(rule, params, ys, steps=4, every=2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes what is captured for a terminal
    optim.fit(rule, params, ys, steps=4, every=2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "nats a datum" in captured.err and "4/4" in captured.err


def test_history_of_no_steps(em):
    rule, params, ys = em
    result = optim.fit(rule, params, ys, steps=0, progress=False)
    assert result.history is None and result.steps == 0
    with pytest.raises(ValueError, match="every: got"):
        optim.fit(rule, params, ys, every=0)


def test_run_without_tolerance_is_differentiable(x64):
    model, params, ys = start("full")
    rule = optim.em_step(model)

    def value(scale):
        return optim.run(rule, params, ys * scale, steps=3).history.elbo[-1]

    both, step = jax.jit(jax.value_and_grad(value)), 1e-5
    (_, slope), (up, _), (down, _) = (both(1.0 + h) for h in (0.0, step, -step))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("every", [1, 3, 10, 30])
def test_fit_gives_up_after_the_same_step_whatever_every_is(every):
    params, ys = elbo.Params(jnp.ones(()), ()), jnp.ones(3)
    fitted = optim.fit(reporting(lambda i: i < 4), params, ys, steps=40, every=every, progress=False)
    assert (fitted.steps, fitted.reason) == (14, Reason.NONFINITE)
    # nine rejections in a row, again and again, are no reason
    fitted = optim.fit(reporting(lambda i: i % 10 == 5), params, ys, steps=40, every=every, progress=False)
    assert (fitted.steps, fitted.reason) == (40, Reason.MAX_STEPS)


def test_fit_compiles_once_whatever_the_number_of_blocks():
    traces = []

    def update(key, params, state, ys, *, weights=None):
        traces.append(1)
        return params, state, Info(ys[0], ys[0])

    params, ys = elbo.Params(jnp.ones(()), ()), jnp.ones(3)

    def count(steps):
        traces.clear()
        optim.fit(
            Rule(lambda params: (), lambda *a, **k: update(*a, **k)), params, ys, steps=steps, every=5, progress=False
        )
        return len(traces)

    assert count(5) == count(23) > 0


@pytest.mark.parametrize("delay", [0.05, 0.3])
def test_a_real_interrupt_loses_nothing(em, delay):
    """Wherever it comes: parameters, steps and history are those of the last block that was done."""
    rule, params, ys = em
    optim.fit(rule, params, ys, steps=1, every=1000, progress=False)  # compiled before the clock starts

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        # again every two seconds: Python drops one that comes inside a destructor or a callback of the collector
        signal.setitimer(signal.ITIMER_REAL, delay, 2.0)
        result = optim.fit(rule, params, ys, steps=10**9, every=1000, progress=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert result.reason is Reason.STOPPED
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert result.steps % 1000 == 0 and (result.history is None) == (result.steps == 0)
    assert result.history is None or len(result.history.elbo) == result.steps


def test_best_explains_all_data_and_ranks_what_it_returns():
    final = {"objective": jnp.array([-3.0, -1.0, 0.0, jnp.nan]), "dropped": jnp.array([0, 0, 9, 0])}
    info = jax.tree.map(lambda a: jnp.broadcast_to(a, 4), Info(final["objective"], **final))
    assert optim.best(optim.Result(jnp.arange(4), (), (), (), (), info)).params == 1


def test_the_final_report_is_of_the_parameters_returned(em):
    rule, params, ys = em
    for tolerance in (None, 0.0):
        result = optim.run(rule, params, ys, steps=3, tolerance=tolerance)
        np.testing.assert_allclose(result.final.elbo, rule.update(None, result.params, (), ys)[2].elbo, rtol=1e-6)
    fitted = optim.fit(rule, params, ys, steps=3, every=2, progress=False)
    np.testing.assert_allclose(fitted.final.elbo, result.final.elbo, rtol=1e-6)


def test_means_over_different_data_do_not_converge_and_fit_says_what_it_dropped():
    def update(key, params, state, ys, *, weights=None):
        return params, state + 1, Info(-1.0, -1.0, dropped=state)  # another datum is dropped in every step

    rule, params = Rule(lambda params: jnp.zeros((), jnp.int32), update), elbo.Params(jnp.ones(()), ())
    assert int(optim.run(rule, params, jnp.ones(3), steps=5, tolerance=1e-3).steps) == 5
    with pytest.warns(RuntimeWarning, match="2 data dropped"):
        assert optim.fit(rule, params, jnp.ones(3), steps=2, tolerance=1e-3, progress=False).steps == 2
