"""The mesh of devices, and the rules that place arrays on it.

The parameters carry names for their axes (``'vocab'``, ``'mlp'``, …); the rules map some of them to the mesh's axis
``'model'``, over which they are split. Batches are split over ``'data'``. The compiler inserts the communication.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
from flax.linen import partitioning
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genret_jax.errors import InputError

DATA, MODEL = "data", "model"

# The one-dimensional layout of T5X's standard rules: activations and weights are split along heads, hidden units and
# vocabulary; the residual stream stays whole.
LOGICAL_AXIS_RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", DATA),
    ("vocab", MODEL),
    ("nodes", MODEL),
    ("mlp", MODEL),
    ("heads", MODEL),
    ("joined_kv", MODEL),
    ("kv", None),
    ("embed", None),
    ("relpos_buckets", None),
    ("length", None),
)


def make_mesh(
    *, model_parallel: int = 1, data_parallel: int | None = None, devices: Sequence[Any] | None = None
) -> Mesh:
    """Return a mesh with axes ``('data', 'model')``.

    Args:
        model_parallel: Devices that share one copy of the parameters.
        data_parallel: Copies of the parameters; None takes as many as the devices allow.
        devices: Devices to choose from; by default all that jax has.

    Raises:
        InputError: If there are too few devices, they do not divide, a process would have none of them, or jax cannot
            start them.
    """
    try:
        devices = jax.devices() if devices is None else list(devices)
    except RuntimeError as error:
        raise missing_devices(error) or error from None
    if model_parallel < 1:
        raise InputError(f"model_parallel={model_parallel}", expected="at least 1")
    if data_parallel is None and len(devices) % model_parallel:
        raise InputError(
            f"model_parallel={model_parallel} does not divide the {len(devices)} devices",
            expected="a divisor of the number of devices",
            fix="change TrainerConfig.model_parallel, or set data_parallel to use fewer devices",
        )
    data_parallel = data_parallel or len(devices) // model_parallel
    if data_parallel * model_parallel > len(devices):
        raise InputError(
            f"a mesh of {data_parallel}×{model_parallel} devices, but there are {len(devices)}",
            fix="lower TrainerConfig.data_parallel or model_parallel",
        )
    chosen = devices[: data_parallel * model_parallel]
    if idle := sorted({device.process_index for device in devices} - {device.process_index for device in chosen}):
        raise InputError(
            f"a mesh of {data_parallel}×{model_parallel} devices leaves process {idle[0]} without any; there are "
            f"{len(devices)} devices in {jax.process_count()} processes",
            fix="raise TrainerConfig.data_parallel, leave it at None, or start fewer processes",
        )
    shape = (data_parallel, model_parallel)
    try:
        placed = mesh_utils.create_device_mesh(shape, chosen)
    except NotImplementedError:  # raised for a TPU torus with longer axes than these
        placed = mesh_utils.create_device_mesh(shape, chosen, allow_split_physical_axes=True)
    # Auto lets the compiler place arrays without constraints; the default is Explicit.
    return Mesh(placed, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def missing_devices(error: RuntimeError) -> InputError | None:
    """Convert jax's error for a missing platform, as by ``JAX_PLATFORMS=tpu``; None for other errors."""
    if "Unable to initialize backend" not in str(error):
        return None
    return InputError(
        f"jax cannot start the devices ({str(error)[:120]})",
        expected="a platform that this machine has",
        fix="unset the environment variable JAX_PLATFORMS, or set it to cpu",
    )


@contextlib.contextmanager
def placed_on(mesh: Mesh) -> Iterator[None]:
    """Set the mesh and the rules for the sharding constraints of a model or a search that is traced in the block."""
    with jax.set_mesh(mesh), partitioning.axis_rules(LOGICAL_AXIS_RULES):
        yield


def logical_axes(variables: Mapping[str, Any]) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    """Return the axis names of every parameter that has some, by its path.

    Args:
        variables: Linen variables, or their shapes; without a ``params_axes`` collection, the result is empty.
    """
    if "params_axes" not in variables:
        return {}
    names = flax.core.unfreeze(partitioning.get_axis_names(variables["params_axes"]))
    return {path: tuple(axes) for path, axes in flax.traverse_util.flatten_dict(names).items()}


def param_shardings(mesh: Mesh, params: Any, axes: Mapping[tuple[str, ...], Sequence[str | None]]) -> Any:
    """Return the sharding of every parameter, in a tree like ``params``.

    An axis whose size the mesh does not divide is kept whole on every device, as are parameters without axis names.

    Args:
        mesh: From :func:`make_mesh`.
        params: Nested dict of arrays or of their shapes.
        axes: From :func:`logical_axes`.
    """
    flat = flax.traverse_util.flatten_dict(params)
    specs = {path: _spec(mesh, leaf.shape, axes.get(path, (None,) * len(leaf.shape))) for path, leaf in flat.items()}
    return flax.traverse_util.unflatten_dict({path: NamedSharding(mesh, spec) for path, spec in specs.items()})


def batch_sharding(mesh: Mesh, runs: int) -> NamedSharding:
    """Return the sharding of stacked batches ``[s, b, ...]``, or ``[s, r, b, ...]`` of several runs side by side."""
    return NamedSharding(mesh, PartitionSpec(*[None] * (1 if runs == 1 else 2), DATA))


def side_by_side(shardings: Any) -> Any:
    """Return the shardings of arrays of several runs, stacked along a new first axis."""
    return jax.tree.map(lambda s: NamedSharding(s.mesh, PartitionSpec(None, *s.spec)), shardings)


def require_split(mesh: Mesh, params: Any, shardings: Any) -> None:
    """Check that the model axis of the mesh divides an axis of some parameter.

    Args:
        mesh: From :func:`make_mesh`.
        params: Nested dict of arrays or of their shapes.
        shardings: From :func:`param_shardings`.

    Raises:
        InputError: If every device would hold and compute the whole model.
    """
    specs = [tuple(sharding.spec) for sharding in jax.tree.leaves(shardings)]
    if mesh.shape[MODEL] == 1 or any(MODEL in spec for spec in specs):
        return
    shapes = sorted({leaf.shape for leaf in jax.tree.leaves(params)}, key=len)
    raise InputError(
        f"model_parallel={mesh.shape[MODEL]} divides no axis of the model that can be split; its largest parameter is "
        f"{list(max(shapes, key=lambda shape: math.prod(shape)))}",
        expected="a divisor of its heads, hidden units or vocabulary",
        fix="change TrainerConfig.model_parallel",
    )


def _spec(mesh: Mesh, shape: tuple[int, ...], names: Sequence[str | None]) -> PartitionSpec:
    used: set[str] = set()
    spec: list[str | None] = []
    rules = dict(LOGICAL_AXIS_RULES)
    for size, name in zip(shape, names, strict=True):
        axis = rules.get(name) if name is not None else None
        if axis is None or axis in used or size % mesh.shape[axis]:
            spec.append(None)
        else:
            used.add(axis)
            spec.append(axis)
    return PartitionSpec(*spec)


def optimizer_shardings(mesh: Mesh, optimizer_state: Any, params: Any, shardings: Any) -> Any:
    """Return the shardings of an optimizer's state: an array that belongs to a parameter is split as the parameter.

    Adafactor's factored moments lack one axis of their parameter and follow the others.

    Args:
        mesh: From :func:`make_mesh`.
        optimizer_state: Shapes of the optimizer's state, which holds trees like ``params``.
        params: Shapes of the parameters.
        shardings: From :func:`param_shardings`.
    """
    shapes = {_names(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    specs = {_names(path): s.spec for path, s in jax.tree_util.tree_leaves_with_path(shardings)}

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = _names(path)
        owner = next((names[i:] for i in range(len(names)) if names[i:] in shapes), None)
        if owner is None:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, _matching_spec(leaf.shape, shapes[owner], specs[owner]))

    return jax.tree_util.tree_map_with_path(place, optimizer_state)


def on_each_process(params: Any) -> Any:
    """Return parameters on the devices of this process alone; unchanged for a single process.

    Args:
        params: Nested dict of arrays, which may lie on the devices of several processes.
    """
    if jax.process_count() == 1:
        return params
    everywhere = jax.tree.map(lambda x: NamedSharding(x.sharding.mesh, PartitionSpec()), params)
    whole = jax.jit(lambda x: x, out_shardings=everywhere)(params)
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


def _matching_spec(shape: tuple[int, ...], owner: tuple[int, ...], spec: PartitionSpec) -> PartitionSpec:
    if shape == owner:
        return spec
    for dropped in range(len(owner)):
        if shape == owner[:dropped] + owner[dropped + 1 :]:
            return PartitionSpec(*spec[:dropped], *spec[dropped + 1 :])
    return PartitionSpec()


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey))


def mesh_of(params: Mapping[str, Any]) -> Mesh | None:
    """Return the mesh over which parameters are spread; None for parameters on one device."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh.size > 1:
            mesh = leaf.sharding.mesh
            return mesh if isinstance(mesh, Mesh) else None
    return None


def on_all_devices(tree: Any, mesh: Mesh | None) -> Any:
    """Put arrays whole on every device of a mesh, or on the default device for None."""
    where = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.device_put(jax.device_get(tree), where)
