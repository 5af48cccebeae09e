"""Fewer steps to the same end: extrapolation from the steps of a rule, refused where the objective would fall."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from elbo import Params
from elbo.extend import PyTree, axes_of, is_family, value, varying

from ._arguments import require_count, require_params, require_rule
from ._compose import rebuilt
from ._finite import select
from ._moving import join, moves, part
from ._rule import Info, Rule, rule_of

Method = Literal["anderson", "squarem"]
PATIENCE = 3
"""Steps of the rule before the first proposal: from far away its steps point anywhere."""
REACH = 4.0
"""How many times as long as the rule's own step a proposal may be at first; and by how much that grows or falls."""
HERE, PROPOSAL, OWN, DONE = range(4)
"""What a step evaluates: the parameters given, if new to it; a proposal; the rule's own step, if that is refused."""
RANK = 1e-4
"""Of the changes that Anderson mixing reads, those smaller than this share of the largest are rounding."""


class Memory(NamedTuple):
    """The state of an accelerated rule. P is the number of coordinates, m the memory.

    Attributes:
      inner: the state of the rule; it holds no numbers.
      vector: the parameters at which `next` and `info` are known, [P].
      next: those that the rule makes of them, [P].
      info: its report.
      points, steps: the last parameters and the rule's steps from there, the newest first, [m, P].
      count: how many of them there are, an int.
      stage: of a cycle of SQUAREM, an int.
      reach: how many times as long as the rule's own a step may be.
      wait: how many of the rule's own steps come before the next proposal, an int.
      refusals: how many proposals in a row were refused, an int.
      evaluations: of the rule, since `init`; an int.
    """

    inner: PyTree
    vector: jax.Array
    next: jax.Array
    info: Info
    points: jax.Array
    steps: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    stage: jax.Array
    reach: jax.Array
    wait: jax.Array
    refusals: jax.Array
    evaluations: jax.Array


def accelerate(rule: Rule, *, memory: int = 5, method: Method = "anderson") -> Rule:
    """The rule with its steps extrapolated: the fixed points of `rule` in fewer evaluations of it.

    With x the free coordinates of the parameters (logits, means, logarithms of scales: all values are valid), F(x) what
    the rule makes of them and f = F − x, Anderson mixing (1965) proposes

        x + f + Σ_j γ_j (Δx_j + Δf_j),     γ = argmin |f + Σ_j γ_j Δf_j|,     Δ_j from the last `memory` points

    and SQUAREM (Varadhan & Roland 2008) x + 2 α f + α² Δf after every two steps. A proposal is taken only if the
    objective there, which the next step needs anyway, is no lower than here and no more data are dropped; else the
    rule's own step is taken. So the objective never falls where the rule's does not, but for rounding. A step is at
    most `Memory.reach` times as long as the rule's, which falls with each refusal and grows with success.

    A step costs one evaluation of the rule; one more in the first step, and where a proposal is refused, or where the
    parameters given are not those that the last step returned; `state.evaluations` counts them. Under vmap all members
    wait for those that need two.

    The state holds what is known of the data: give the same data in every step, `init` anew for others. It is of no use
    in `minibatches`. In a chain, the objective is the one that the rule reports.

    It is not differentiable in reverse mode.

    Args:
      rule: deterministic and without a state: made of `em_step` by any of chain, repeat and restrict.
      memory: m, of Anderson mixing.
      method: "anderson" or "squarem".

    >>> from elbo import optim
    >>> from elbo.models import mixture
    >>> from elbo.models.families import Categorical, Poisson
    >>> deaths, days = jnp.arange(10.0)[:, None], jnp.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1.0])
    >>> two = Poisson.create(jnp.array([[1.0], [2.5]]))
    >>> start = Params.tied(mixture.Theta(Categorical.create(jnp.array([0.3, 0.7])), two))
    >>> slow = optim.em_step(mixture.model(2))
    >>> def rates(rule, steps):
    ...     return optim.run(rule, start, deaths, steps=steps, weights=days).params.theta.components.rate()[:, 0]
    >>> rates(optim.accelerate(slow), 15).tolist(), rates(slow, 500).tolist()  # 1.2561 and 2.6634 at the maximum
    ([1.2561, 2.6634], [1.2413, 2.6531])
    """
    require_rule("rule", rule)
    require_count("memory", memory)
    if method not in ("anderson", "squarem"):
        raise ValueError(f"method: got {method!r}, expected 'anderson' or 'squarem'")
    return rule_of(_Accelerate(rule, memory, method))


@value
class _Accelerate:
    rule: Rule
    memory: int
    method: str

    def init(self, params: Params) -> Memory:
        require_params(params)
        inner = self.rule.init(params)
        if jax.tree.leaves(inner):
            raise TypeError(
                f"rule: {self.rule!r} has a state, and so no fixed map of the parameters to accelerate; expected one "
                "made of em_step by chain, repeat or restrict. A gradient rule is made faster by its optimiser"
            )
        vector = _vector(params)
        nothing = jnp.zeros((self.slots, *vector.shape), vector.dtype)
        zero, none = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.promote_types(vector.dtype, jnp.float32))
        info = Info(none, none, jnp.array(True), zero, zero, jnp.array(True), zero, none)
        reach = jnp.full((), REACH, vector.dtype)
        return Memory(inner, vector, vector, info, nothing, nothing, zero, zero, reach, zero + PATIENCE, zero, zero)

    @property
    def slots(self) -> int:
        """How many points are remembered."""
        return self.memory + 1 if self.method == "anderson" else 2

    def update(self, key, params, state, ys, *, weights=None):
        require_params(params)
        here = _vector(params)

        def evaluate(vector, inner):
            new, inner, info = self.rule.update(key, _params(vector, params), inner, ys, weights=weights)
            return _vector(new), inner, info

        def body(carry):
            phase, memory, told = carry
            proposal, far = self.propose(memory)
            bold = far & (phase == PROPOSAL)
            trial = jnp.where(phase == HERE, here, memory.next)
            trial = jnp.where(phase == PROPOSAL, _projected(proposal, params), trial)
            new, inner, info = evaluate(trial, memory.inner)
            info = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), info, memory.info)
            memory = memory._replace(inner=inner, evaluations=memory.evaluations + 1)
            good = ~bold | _no_worse(info, memory.info)
            length, own = _length(proposal - memory.points[0]), _length(memory.steps[0])
            held = bold & (length > 0.9 * memory.reach * own)
            taken = self.remember(memory, trial, new, info)._replace(
                stage=jnp.where(phase == HERE, 0, (memory.stage + 1) % 3),
                reach=jnp.where(held, REACH * memory.reach, memory.reach),
                wait=jnp.where(phase == PROPOSAL, jnp.maximum(memory.wait - 1, 0), memory.wait),
                refusals=jnp.where(bold, memory.refusals // 2, memory.refusals),
            )
            # what led astray is forgotten
            refused = memory._replace(
                count=jnp.minimum(memory.count, 1),
                stage=jnp.zeros_like(memory.stage),
                reach=jnp.maximum(memory.reach / REACH**2, REACH),
                wait=2 ** jnp.minimum(memory.refusals, 6) - 1,
                refusals=memory.refusals + 1,
            )
            told = select(phase == HERE, info, told)
            phase = jnp.where(good, jnp.where(phase == HERE, PROPOSAL, DONE), OWN).astype(jnp.int32)
            return varying((phase, select(good, taken, refused), told), axes)

        axes = axes_of(key, params, state, ys, weights)
        fresh = (state.evaluations == 0) | ~jnp.all(here == state.vector)
        start = varying((jnp.where(fresh, HERE, PROPOSAL).astype(jnp.int32), state, state.info), axes)
        _, memory, told = jax.lax.while_loop(lambda carry: carry[0] < DONE, body, start)
        return _params(memory.vector, params), memory, told

    def propose(self, memory: Memory) -> tuple[jax.Array, jax.Array]:
        """Where to go, and whether that is anything else than the rule's own step."""
        if self.method == "anderson":
            step, far = anderson(memory.points, memory.steps, memory.count), (memory.count > 1) & (memory.wait == 0)
        else:
            step, far = squarem(memory.points, memory.steps), (memory.stage == 1) & (memory.wait == 0)
        step = jnp.where(far & jnp.all(jnp.isfinite(step)), step, memory.steps[0])
        length, limit = _length(step), memory.reach * _length(memory.steps[0])
        step = step * jnp.where(length > limit, limit / jnp.where(length > 0, length, 1), 1)
        return jnp.where(far, memory.points[0] + step, memory.next), far

    def remember(self, memory: Memory, vector: jax.Array, new: jax.Array, info: Info) -> Memory:
        """The memory with one more point."""

        def push(rows, row):
            return jnp.concatenate([row[None], rows[:-1]])

        points, steps = push(memory.points, vector), push(memory.steps, new - vector)
        count = jnp.minimum(memory.count + 1, self.slots)
        return memory._replace(vector=vector, next=new, info=info, points=points, steps=steps, count=count)

    def rebuild(self, *, where=(), rate=None, total=None):
        if rate is not None or not where:
            return None
        inner = rebuilt(self.rule, where=where)
        return None if inner is None else rule_of(_Accelerate(inner, self.memory, self.method))


def anderson(points: jax.Array, steps: jax.Array, count: jax.Array) -> jax.Array:
    """The step of Anderson mixing from the newest of `count` points, the first row, [P]."""
    known = (jnp.arange(1, len(points)) < count)[:, None]
    changes = jnp.where(known, steps[1:] - steps[0], 0)
    ways = jnp.where(known, points[1:] - points[0], 0)
    lengths = jax.vmap(_length)(changes)
    lengths = jnp.where(lengths > 0, lengths, 1)
    shares = jnp.linalg.lstsq((changes / lengths[:, None]).T, -steps[0], rcond=RANK)[0] / lengths
    return steps[0] + shares @ (ways + changes)


def squarem(points: jax.Array, steps: jax.Array) -> jax.Array:
    """The step of SQUAREM (its third scheme) from the newer of two points, the first row, [P]."""
    change = steps[0] - steps[1]
    square = jnp.sum(change**2)
    length = jnp.sqrt(jnp.sum(steps[1] ** 2) / jnp.where(square > 0, square, 1))
    length = jnp.maximum(length, 1)
    return points[1] + 2 * length * steps[1] + length**2 * change - points[0]


def _no_worse(new: Info, old: Info) -> jax.Array:
    rounding = 4 * jnp.finfo(jnp.result_type(old.objective)).eps * jnp.maximum(1, jnp.abs(old.objective))
    return new.finite & (new.objective >= old.objective - rounding) & (new.dropped <= old.dropped)


def _length(step: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(step**2))


def _chosen(params: Params) -> PyTree:
    moving = moves(params, ())
    return jax.tree.map(lambda m, a: m and jnp.issubdtype(jnp.result_type(a), jnp.floating), moving, params)


def _vector(params: Params) -> jax.Array:
    """The coordinates, in no less than float32."""
    vector = ravel_pytree(part(params, _chosen(params)))[0]
    return vector.astype(jnp.promote_types(vector.dtype, jnp.float32))


def _params(vector: jax.Array, params: Params) -> Params:
    own, tree = ravel_pytree(part(params, _chosen(params)))
    return join(tree(vector.astype(own.dtype)), params)


def _projected(vector: jax.Array, params: Params) -> jax.Array:
    """The nearest parameters that the families allow."""

    def allowed(node: Any) -> Any:
        return node.project() if is_family(node) and hasattr(node, "project") else node

    return _vector(jax.tree.map(allowed, _params(vector, params), is_leaf=is_family))
