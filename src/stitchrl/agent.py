"""A policy as its users meet it: observations of the task in, actions of the task out, for one seed or several at once.

Saved as `policy/`: config.json, model.safetensors (the policy's parameters alone) and normalizers.safetensors (the changes of
scale it was trained with, without which it cannot be loaded). Nothing is unpickled, and loading needs no training code.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from stitchrl import algorithms
from stitchrl.core import randomness
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.errors import CheckpointError, DataError
from stitchrl.core.files import read_json, write_atomically, write_json
from stitchrl.core.observation_checks import check_observations, check_rows
from stitchrl.core.policy import Memory
from stitchrl.core.policy_calls import FreshMemory, LogProbabilities, NextStep, Probabilities
from stitchrl.core.settings import read_settings, to_json
from stitchrl.core.spec import Discrete, Spec, is_image
from stitchrl.data.transforms import Affine, apply, from_state, learner_spec, to_state, undo

FORMAT = 1
NOISE_AT_ONCE = 2**25  # random numbers of a draw: 128 MB a seed


@final
class Agent:
    """Policies of S seeds of one algorithm, with the transforms between the task and what they learned on."""

    def __init__(
        self,
        name: str,
        template: Algorithm,
        parameters: Mapping[str, Tensor],
        spec: Spec,
        transforms: Sequence[Affine],
        seeds: Sequence[int],
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """categories: what the codes of its columns stand for, as the log told (`metadata["categories"]`); None where it told nothing."""
        self.name = name
        self.config = template.config
        self.spec = spec
        self.transforms = list(transforms)
        self.seeds = tuple(seeds)
        self.categories = {column: list(values) for column, values in (categories or {}).items()}
        self.policy = template.policy().eval()
        self.parameters = {k: parameters[v].detach() for k, v in parameter_names(self.policy, template).items()}
        self._generators = [randomness.generator(seed, "acting") for seed in self.seeds]
        self.remembers = self.policy.memory(1) is not None
        self._memories: list[Memory] | None = None  # of each seed; None: every episode is about to begin
        self._began = np.ones((len(self.seeds), 0), bool)  # [S, N] episodes that have not seen an action yet

    @torch.inference_mode()
    def reset(self, mask: np.ndarray | None = None) -> None:
        """Begins episodes anew: of the environments `mask [S, N]`, or of all. A policy that remembers nothing has nothing to forget."""
        if mask is None:
            self._memories = None
        elif self._memories is not None and (mask := np.asarray(mask, bool)).any():
            if mask.shape != self._began.shape:
                raise DataError(
                    f"the mask has shape {list(mask.shape)}; the policy acts in [S, N] = {list(self._began.shape)} environments"
                )
            self._began = self._began | mask
            for i in np.flatnonzero(mask.any(1)).tolist():
                chosen, fresh = torch.from_numpy(mask[i]), self._fresh(i, mask.shape[1])
                for name, value in self._memories[i].items():
                    value[chosen.to(value.device)] = fresh[name][chosen.to(value.device)]

    @torch.inference_mode()
    def act(self, observations: np.ndarray, rewards: np.ndarray | None = None, *, sampled: bool = False) -> np.ndarray:
        """Returns actions `[S, N, *A]` (int64 `[S, N]` where discrete) in the task's units for observations `[S, N, *O]`.

        The mode or mean of the policy; `sampled` draws from it, reproducibly from each seed's own generator. A policy with a memory takes
        each call as the next step of the same N environments, whose last actions earned `rewards [S, N]`; `reset` begins their episodes.
        """
        seeds, count = observations.shape[:2]
        if sampled and not self.remembers and count > (most := self._most_at_once()):
            return np.concatenate([self.act(observations[:, i : i + most], sampled=True) for i in range(0, count, most)], 1)
        x = self._observations(observations)
        noise = self._noise(count) if sampled else None
        chosen = self._step(x, rewards, noise) if self.remembers else self._map(self._policy_of, x, noise)
        actions: np.ndarray = chosen.cpu().numpy()
        if isinstance(self.spec.action, Discrete):
            return actions
        flat = actions.reshape(seeds * count, *self.spec.action.shape)
        return undo(self.transforms, "actions", flat).reshape(seeds, count, *self.spec.action.shape)

    def predict(self, observations: np.ndarray, *, seed: int | None = None, sampled: bool = False) -> np.ndarray:
        """Returns actions `[N, *A]` of one seed (the first unless told) for observations `[N, *O]`; raises DataError for other shapes.

        A policy with a memory takes them as the first of N episodes; `act` goes on. One that reaches goals reads `[observation, goal]`.
        """
        observations = np.asarray(observations)
        check_rows(observations, self.spec.observation)
        alone = copy.copy(self.of_seed(self.seeds[0] if seed is None else seed))
        alone.reset()  # of the copy: what `act` remembers stays
        actions: np.ndarray = alone.act(observations[None], sampled=sampled)[0]
        return actions

    @torch.inference_mode()
    def action_probabilities(self, observations: np.ndarray, *, sampled: bool = False) -> np.ndarray:
        """Returns `[S, N, n]`, the probability of each discrete action: of `predict`'s greedy choice, or of `sampled` ones."""
        x = self._observations(np.stack([observations] * len(self.seeds)))
        calls = Probabilities(self.policy, sampled)
        prefixed = {f"policy.{k}": v for k, v in self.parameters.items()}
        result: Tensor = self._map(lambda p, o, _: functional_call(calls, p, (o,)), x, None, prefixed)
        probabilities: np.ndarray = result.cpu().numpy()
        return probabilities

    @property
    def stochastic(self) -> bool:
        """Whether `sampled` actions differ from the mode."""
        return self.policy.noise(1) is not None

    @torch.inference_mode()
    def log_probabilities(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Returns `[S, N]`, of each seed's sampled policy: log-probabilities of integer actions, log-densities in the task's units of others.

        Raises TypeError for a policy that has none.
        """
        x = self._observations(np.stack([observations] * len(self.seeds)))
        done, log_scale = np.asarray(actions), 0.0
        if not isinstance(self.spec.action, Discrete):
            done = apply(self.transforms, "actions", done.astype(np.float32)).reshape(len(done), -1)  # as it learned them: vectors
            size = self.spec.action.size
            scales = [np.broadcast_to(t.scale, size) for t in self.transforms if t.column == "actions"]
            log_scale = float(sum(np.log(np.abs(scale)).sum() for scale in scales))  # of the change of variables
        a = torch.as_tensor(done, device=x.device)
        a = a.to(self._parameter.dtype) if a.is_floating_point() else a
        calls = LogProbabilities(self.policy)
        prefixed = {f"policy.{k}": v for k, v in self.parameters.items()}
        result: np.ndarray = self._map(lambda p, o, _: functional_call(calls, p, (o, a)), x, None, prefixed).cpu().numpy()
        return result + log_scale

    @property
    def generators(self) -> list[torch.Generator]:
        """The seeds' own generators of sampled actions, in the order of the seeds."""
        return self._generators

    def seed_acting(self, number: int) -> None:
        """Restarts the generators of sampled actions, each from the number and its seed."""
        self._generators = [torch.Generator().manual_seed((number + seed) % 2**63) for seed in self.seeds]

    def of_seed(self, seed: int) -> Agent:
        """Returns the policy of one seed alone."""
        if seed not in self.seeds:
            raise DataError(f"the policy has no seed {seed}; it has {', '.join(map(str, self.seeds))}")
        if len(self.seeds) == 1:
            return self
        i = self.seeds.index(seed)
        alone = copy.copy(self)
        alone.seeds, alone._generators = (seed,), [self._generators[i]]
        alone.parameters = {name: value[i] for name, value in self.parameters.items()}
        alone._memories = None
        return alone

    def anew(self, number: int | None = None) -> Agent:
        """Returns the same policies as they were loaded: no episode begun, nothing drawn yet; what they do leaves these as they are. They draw
        what their seeds, and the `number` if there is one, say."""
        twin = copy.copy(self)
        twin._generators, twin._memories = [randomness.generator(seed, "acting", number=number) for seed in self.seeds], None
        return twin

    def in_double(self) -> Agent:
        """Returns the same policies computed in float64, drawn numbers too: what processors round otherwise is then far below float32's last bit.

        They draw from the same generators as these.
        """
        wide = copy.copy(self)
        wide.parameters = {name: value.double() for name, value in self.parameters.items()}
        wide._memories = None
        return wide

    def save(self, directory: Path, *, half: bool = False) -> None:
        """Writes config.json, model.safetensors and normalizers.safetensors into a directory; raises CheckpointError if it cannot.

        half: parameters rounded to float16, half the size; the policy loaded from them is the rounded one.
        """
        from safetensors.numpy import save as arrays_to_bytes
        from safetensors.torch import save as to_bytes

        described, arrays = to_state(self.transforms)
        parameters = {name: value.cpu().contiguous().clone() for name, value in self.parameters.items()}
        if half:
            parameters = {name: value.half() for name, value in parameters.items()}
            if large := [name for name, value in parameters.items() if not bool(torch.isfinite(value).all())]:
                raise CheckpointError(f"{directory}: '{large[0]}' holds a number beyond float16's 65,504; save it without half")
        model = to_bytes(parameters)
        config = {"format": FORMAT, "algorithm": self.name, "settings": to_json(self.config), "spec": self.spec.to_json()}
        config |= {"categories": self.categories} if self.categories else {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # without a config.json while the others change: parts of two policies are never taken for one
            (directory / "config.json").unlink(missing_ok=True)
            write_atomically(directory / "model.safetensors", model)
            write_atomically(directory / "normalizers.safetensors", arrays_to_bytes(arrays))
            write_json(directory / "config.json", config | {"transforms": described, "seeds": list(self.seeds)})
        except OSError as error:
            raise CheckpointError(f"{directory}: the policy could not be written ({error.strerror})") from error

    @property
    def _parameter(self) -> Tensor:
        """Any of the parameters: all are on one device, of one type."""
        return next(iter(self.parameters.values()))

    def _observations(self, observations: np.ndarray) -> Tensor:
        seeds, count = observations.shape[:2]
        device = self._parameter.device
        check_observations(observations, self.spec.observation, len(self.seeds))
        if isinstance(self.spec.observation, Discrete):
            return _tensor(np.asarray(observations, dtype=np.int64), device)
        if is_image(self.spec.observation):  # the network scales them
            return _tensor(np.ascontiguousarray(observations, dtype=np.uint8), device)
        flat = np.asarray(observations, dtype=np.float32).reshape(seeds * count, *self.spec.observation.shape)
        x = apply(self.transforms, "observations", flat).reshape(observations.shape)
        return _tensor(np.ascontiguousarray(x), device).to(self._parameter.dtype)

    def _most_at_once(self) -> int:
        """How many observations to draw actions for together: a policy that chooses among candidates takes thousands of numbers for each."""
        kind = self.policy.noise(1)
        return sys.maxsize if kind is None else max(1, NOISE_AT_ONCE // math.prod(kind.shape))

    def _noise(self, count: int) -> Tensor | None:
        kind = self.policy.noise(count)
        if kind is None:
            return None
        return torch.stack([kind.draw(1, g, self._parameter.dtype)[0] for g in self._generators]).to(self._parameter.device)

    def _policy_of(self, parameters: dict[str, Tensor], observations: Tensor, noise: Tensor | None) -> Tensor:
        actions: Tensor = functional_call(self.policy, parameters, (observations, noise))
        return actions

    def _own(self, seed: int) -> dict[str, Tensor]:
        """The parameters of the i-th seed."""
        return dict(self.parameters) if len(self.seeds) == 1 else {name: value[seed] for name, value in self.parameters.items()}

    def _fresh(self, seed: int, count: int) -> Memory:
        """What the i-th seed's policy remembers where `count` episodes begin."""
        memory: Memory = functional_call(FreshMemory(self.policy), {f"policy.{k}": v for k, v in self._own(seed).items()}, (count,))
        return memory

    def _step(self, x: Tensor, rewards: np.ndarray | None, noise: Tensor | None) -> Tensor:
        """`[S, N, …]`: the next actions of each seed, one after another, and what they remember then."""
        grid = x.shape[:2]
        if self._memories is None:
            self._memories, self._began = [self._fresh(i, grid[1]) for i in range(grid[0])], np.ones(grid, bool)
        if self._began.shape != grid:
            raise DataError(
                f"the policy acts in {self._began.shape[1]:,} environments and is shown {grid[1]:,}; call reset() before others"
            )
        if rewards is None and self.policy.reads_rewards and not self._began.all():
            raise DataError(f"a policy of '{self.name}' must be told what its last actions earned: act(observations, rewards)")
        earned = np.zeros(grid, np.float32) if rewards is None else self._earned(np.asarray(rewards, np.float32), grid)
        r = torch.as_tensor(np.where(self._began, 0, earned), device=x.device).to(self._parameter.dtype)
        calls, found = NextStep(self.policy), []
        for i in range(grid[0]):
            parameters = {f"policy.{k}": v for k, v in self._own(i).items()}
            a, self._memories[i] = functional_call(calls, parameters, (x[i], r[i], self._memories[i], None if noise is None else noise[i]))
            found.append(a)
        self._began = np.zeros(grid, bool)
        return torch.stack(found)

    def _earned(self, rewards: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
        """`[S, N]`, what the last actions earned, in the learner's units; where an episode begins nothing was, and nothing is read."""
        if rewards.shape != tuple(grid):
            raise DataError(f"rewards have shape {list(rewards.shape)}; expected [S, N] = {list(grid)}, one for each observation")
        if not np.isfinite(rewards[~self._began]).all():
            raise DataError(
                "rewards hold a number that is not finite, which the policy would remember; every value must be a finite number"
            )
        return apply(self.transforms, "rewards", rewards)

    def _map(self, call: Any, x: Tensor, noise: Tensor | None, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        parameters = self.parameters if parameters is None else parameters
        if len(self.seeds) == 1:
            result: Tensor = call(dict(parameters), x[0], None if noise is None else noise[0])
            return result.unsqueeze(0)
        if not self.policy.vmapped:
            each = range(len(self.seeds))
            return torch.stack([call({k: v[i] for k, v in parameters.items()}, x[i], None if noise is None else noise[i]) for i in each])
        if noise is None:
            return vmap(lambda p, o: call(p, o, None))(dict(parameters), x)  # type: ignore[no-any-return]
        return vmap(call)(dict(parameters), x, noise)  # type: ignore[no-any-return]


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    """A tensor of an array, which shares its memory where it may be written to."""
    return torch.as_tensor(values if values.flags.writeable else values.copy(), device=device)


def load(directory: Path) -> Agent:
    """Returns the saved policy of a run directory or of its `policy/`; raises CheckpointError for a missing, damaged or foreign part."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file as load_arrays
    from safetensors.torch import load_file

    directory = directory / "policy" if (directory / "policy").is_dir() else directory
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such run or policy")
    if not (directory / "config.json").exists():
        raise CheckpointError(f"{directory}: holds no config.json; expected the directory of a run or of a saved policy")
    config = read_json(directory / "config.json")
    if isinstance(config, dict) and "training" in config:
        before = f"; of before it went on, {directory / 'earlier'} has some" if (directory / "earlier").is_dir() else ""
        raise CheckpointError(f"{directory}: the run has no policy yet; let it end, or go on with it (--resume){before}")
    for file in ("model.safetensors", "normalizers.safetensors"):
        if not (directory / file).is_file():
            raise CheckpointError(f"{directory}: '{file}' is missing; a policy is only complete with config.json, model and normalizers")
    missing = {"format", "algorithm", "settings", "spec", "transforms", "seeds"} - set(config if isinstance(config, dict) else ())
    if missing or config["format"] != FORMAT:
        raise CheckpointError(
            f"{directory}/config.json: not a policy of format {FORMAT} (missing: {', '.join(sorted(missing)) or 'nothing'})"
        )
    try:
        arrays, tensors = load_arrays(directory / "normalizers.safetensors"), load_file(directory / "model.safetensors")
    except SafetensorError as error:
        raise CheckpointError(f"{directory}: not a safetensors file ({error})") from None
    try:
        template, spec, transforms = _described(config, arrays, directory)
        categories = _categories(config.get("categories", {}))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}/config.json: describes no policy that can be built ({str(error)[:300]})") from None
    names = parameter_names(template.policy(), template)
    _check_tensors(tensors, names, template, len(config["seeds"]), directory)
    # exact: float32 holds every float16. In memory of their own: convolutions round by where their weights begin
    wide = {names[k]: v.float() if v.dtype == torch.float16 else v.clone() for k, v in tensors.items()}
    return Agent(config["algorithm"], template, wide, spec, transforms, config["seeds"], categories)


def _described(config: Mapping[str, Any], arrays: dict[str, np.ndarray], directory: Path) -> tuple[Algorithm, Spec, list[Affine]]:
    """The algorithm, without memory for its parameters: those of the policy come from the file, and no others are needed to act."""
    seeds = config["seeds"]
    if not isinstance(seeds, list) or not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds are {str(seeds)[:100]}; expected a list of different integers")
    for seed in seeds:
        randomness.stream_seed(seed, "acting")  # raises for one that is no seed
    if not isinstance(config["settings"], dict):
        raise TypeError(f"settings are {str(config['settings'])[:100]}; expected an object")
    kind, settings = algorithms.find(config["algorithm"])
    spec = Spec.from_json(config["spec"])
    transforms = from_state(config["transforms"], arrays)
    if len(arrays) != 2 * len(transforms):
        raise ValueError("normalizers.safetensors holds more arrays than there are transforms")
    for transform in transforms:
        space = {"observations": spec.observation, "actions": spec.action}.get(transform.column)
        size = 1 if space is None or isinstance(space, Discrete) else space.size
        for array in (transform.scale, transform.shift):
            if array.ndim != 1 or array.size not in (1, size) or not np.isfinite(array).all():
                raise ValueError(f"the transform of {transform.column} is not 1 or {size} finite numbers")
    with torch.device("meta"):
        template = build(kind, read_settings(settings, _tuples(config["settings"]), str(directory)), learner_spec(spec, transforms), 0)
    return template, spec, transforms


def _categories(found: Any) -> dict[str, list[str]]:
    """The saved categories; raises TypeError for what is none."""
    listed = isinstance(found, dict) and all(
        isinstance(values, list) and all(isinstance(value, str) for value in values) for values in found.values()
    )
    if not listed:
        raise TypeError(f"categories are {str(found)[:100]}; expected an object that lists the values of each column")
    return dict(found)


def _check_tensors(tensors: Mapping[str, Tensor], names: Mapping[str, str], template: Algorithm, seeds: int, directory: Path) -> None:
    stacked = (seeds,) if seeds > 1 else ()
    own = dict(template.named_parameters())
    for name, full in names.items():
        found = tensors.get(name)
        if found is None or found.shape != (*stacked, *own[full].shape) or not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{directory}/model.safetensors: '{name}' is missing, of another shape, or not finite")
    if extra := set(tensors) - set(names):
        raise CheckpointError(f"{directory}/model.safetensors: holds '{sorted(extra)[0]}', which this policy does not have")
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= {torch.float16, torch.float32, torch.float64}:
        raise CheckpointError(
            f"{directory}/model.safetensors: holds {', '.join(map(str, dtypes))}; expected one of float16, float32 and float64 alone"
        )


def parameter_names(policy: torch.nn.Module, template: Algorithm) -> dict[str, str]:
    """The policy's parameter names -> the algorithm's names of the same parameters."""
    by_identity = {id(parameter): name for name, parameter in template.named_parameters()}
    return {name: by_identity[id(parameter)] for name, parameter in policy.named_parameters()}


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
