"""The loop: data, step, log, evaluate, save, resume, stop on a signal. It knows no model.

The step is jitted over a mesh with the axis `data`; the state is donated and the same on every device, the batch is
divided among them. One device, eight or many hosts run the same lines.
"""

import contextlib
import math
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vqvae_jax.backend import choices, host, options_once
from vqvae_jax.checkpoint import GOES_ON, Checkpoints
from vqvae_jax.finite import FIRST_BAD, Watch
from vqvae_jax.logs import Log, read_metrics
from vqvae_jax.profiling import Profiled
from vqvae_jax.types import Data, Model, Observer, Task, TrainState, UserError

PICTURES = 20  # times a training that pictures are made where nothing is said; the last step is one more


def fit(
    task: Task,
    data: Data,
    held_out: Data,
    folder: Path,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    seed: int,
    origin: Callable[[Model], Model] | None = None,
    observer: Callable[[Iterable[Mapping[str, Any]]], Observer] | None = None,
    conclude: Callable[[Model], Model] | None = None,
) -> None:
    """Trains until step `settings["steps"]`, from the last checkpoint in `folder` if there is one.

    Args:
        task: what a step is.
        data: training batches; its `steps_per_epoch` says where an epoch ends.
        held_out: what decides which checkpoint is best.
        folder: of the stage: checkpoints/, metrics.jsonl, tensorboard/, pictures/.
        settings: a config's section `train`, `steps` resolved.
        config: the whole config, kept in the checkpoint.
        seed: of the initial parameters and all randomness of the steps.
        origin: shapes of a model → the weights that a new training starts from, with a fresh optimizer.
        observer: makes of the lines logged so far what is asked for remarks on the next ones.
        conclude: makes of the model of the last step the one that is saved; the state goes on as it was.

    Raises:
        NotFinite: NaN or infinity, as `train.on_nan` says; the checkpoints before it stay.
        SystemExit: 128 + number of the signal that stopped it, after everything was saved.
    """
    steps = settings["steps"]
    with Checkpoints(folder / "checkpoints", settings["keep"], GOES_ON) as checkpoints:
        start = checkpoints.latest() or 0
        if start >= steps:
            return
        checkpoints.best()  # what is damaged is told now, not by the first save
        run = Run(task, data, held_out, settings, conclude)
        state = run.begin(jax.random.key(seed), checkpoints if start else None)
        if not start and origin is not None:
            state = run.start_from(state, origin)
        run.prepare_evaluation(state)
        log = Log(folder, steps, start, folder.name)
        with log, stop_on_signal() as stop, contextlib.closing(data), contextlib.closing(held_out):
            observed = observer and observer(read_metrics(folder / "metrics.jsonl"))
            _loop(run, state, start, checkpoints, log, stop, dict(config), observed)


class Run:
    """A task on this machine's devices: its jitted functions, and how batches get there."""

    def __init__(
        self,
        task: Task,
        data: Data,
        held_out: Data,
        settings: Mapping[str, Any],
        conclude: Callable[[Model], Model] | None = None,
    ):
        self.task, self.data, self.held_out, self.settings = task, data, held_out, settings
        self.conclude = conclude
        mesh = make_mesh(settings["batch_size"])
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        self.divided = NamedSharding(mesh, PartitionSpec("data"))
        self.step = jax.jit(task.train_step, donate_argnums=0, static_argnums=3, out_shardings=self.everywhere)
        self.frozen = jax.device_put(task.frozen(), self.everywhere)
        self._eval_step: Any = jax.jit(task.eval_step, out_shardings=self.everywhere)

    def begin(self, key: jax.Array, checkpoints: Checkpoints | None) -> TrainState:
        """A new state, or that of the last checkpoint."""
        if checkpoints is None:
            return self._fresh(key)
        like = jax.eval_shape(self.task.init, key, self.data.batch(0))
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.everywhere), like)
        state = checkpoints.restore_train(like)
        if int(state.step) != (step := checkpoints.latest()):
            raise UserError(
                f"{checkpoints.directory}/{step} holds the train state of step {state.step}: a folder was copied or "
                "renamed; remove it, and the same command goes on from the step before"
            )
        return state

    def _fresh(self, key: jax.Array) -> TrainState:
        """Before the first step, on every device; drawn by the host where compiling for the device takes long."""
        batch, drawer = self.data.batch(0), host()
        if drawer is None:
            init = jax.jit(self.task.init, out_shardings=self.everywhere, compiler_options=options_once())
            return init(key, self.place(batch))
        with jax.default_device(drawer):
            init = jax.jit(self.task.init, compiler_options=options_once())
            state = init(jax.device_put(key, drawer), batch)
        return jax.device_put(state, self.everywhere)

    def prepare_evaluation(self, state: TrainState) -> None:
        """Has it compiled by a thread, meanwhile the first step compiles and runs. No process waits for it to end."""
        if not choices().compile_side_by_side:
            return
        place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.everywhere)  # noqa: E731
        model = jax.tree.map(place, jax.eval_shape(self.task.model, state))
        batch = self.place(next(iter(self.held_out.evaluation())))
        lowered = self._eval_step.lower(model, batch)  # here: JAX's settings are those of a thread
        self._eval_step = aside(lowered.compile)

    def start_from(self, state: TrainState, origin: Callable[[Model], Model]) -> TrainState:
        """A new state with the weights that another run ended with."""
        model = jax.tree.map(np.asarray, origin(jax.eval_shape(self.task.model, state)))
        return jax.jit(self.task.start_from, donate_argnums=0, out_shardings=self.everywhere)(state, model)

    def place(self, batch: Any) -> Any:
        """This process's rows of a batch → arrays over all devices."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.divided, np.asarray(x)), batch)

    def model(self, state: TrainState, last: bool) -> Model:
        """What sampling needs of a state."""
        model = self.task.model(state)
        return self.conclude(model) if last and self.conclude else model

    def evaluate(self, model: Model, data: Data) -> dict[str, float]:
        """The task's metrics over a whole split."""
        sums: Any = None
        for batch in data.evaluation():
            new = self._eval_step(model, self.place(batch))
            sums = new if sums is None else jax.tree.map(lambda a, b: a + b, sums, new)
        return self.task.summary(jax.device_get(sums))

    def pictures(self, model: Model, step: int) -> dict[str, np.ndarray]:
        """The task's pictures of the first held-out batch, made by the first process on a device of its own."""
        if jax.process_index():
            return {}
        model = jax.tree.map(lambda x: x.addressable_data(0), model)  # it is there already
        batch = next(iter(self.held_out.evaluation()))
        return self.task.pictures(model, batch, jax.random.fold_in(jax.random.key(1), step))


def aside(compile: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """What `compile` gives, made by a thread; the first call waits for it, and has its error."""
    compiled: Future = Future()

    def work() -> None:
        try:
            compiled.set_result(compile())
        except BaseException as error:
            compiled.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return lambda *inputs: compiled.result()(*inputs)


def make_mesh(batch_size: int, path: str = "config.train") -> jax.sharding.Mesh:
    """One axis, `data`, over all devices. `path` is that of the section that says the batch size.

    Raises:
        UserError: the batch does not divide among them.
    """
    count = jax.device_count()
    if batch_size % count:
        fit = max(1, round(batch_size / count)) * count
        said = f"{path}.batch_size={batch_size} does not divide among {count} devices"
        raise UserError(f"{said}: --{path}.batch_size={fit}")
    return jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def _loop(
    run: Run, state: TrainState, start: int, checkpoints, log: Log, stop: "Stop", config: dict, observer: Any
) -> None:
    settings, total = run.settings, run.settings["steps"]
    watch = Watch(log.folder.name, settings.get("on_nan", "stop"), state)
    waiting = Late(log, observer, watch)
    profiled = Profiled(run.step, settings.get("profile", ""), log.folder, total)
    with profiled as step, prefetched(lambda n: run.place(run.data.batch(n)), start, total) as batches:
        for done, batch in zip(range(start + 1, total + 1), batches, strict=False):
            state, metrics = step(done, state, batch, run.frozen, run.task.phase(done - 1))
            watch.put(done, batch, metrics)
            if done % settings["log_every"] == 0 or done == total:
                waiting.put(done, metrics)
            last = done == total
            stopped = stop.reached(done)
            evaluate = last or done % settings["evaluate_every"] == 0
            save = evaluate or stopped or done % settings["checkpoint_every"] == 0
            if save:  # which waits for the state anyway; what is saved is logged, however the run ends
                watch.look(done)
                waiting.flush()
            pictured = last or _pictures_due(settings, run.data, done)
            model: Any = run.model(state, last) if save or pictured else None
            loss = _evaluate(run, model, done, log, watch) if evaluate else None
            if pictured:
                for name, grid in run.pictures(model, done).items():
                    log.pictures(done, name, grid, epoch_ending(settings, run.data, done))
            if save:
                checkpoints.save(done, model, state, config, loss)
            log.progress(done, waiting.text)
            if stopped and not last:
                break
    waiting.flush()
    checkpoints.wait()
    if stopped or stop.number is not None:  # also in the last step or its evaluation: the next stage must not begin
        stop.say("everything is saved, the same command goes on from here")
        raise SystemExit(stop.exit_code)


def _evaluate(run: Run, model: Model, done: int, log: Log, watch: Watch) -> float:
    metrics = run.evaluate(model, run.held_out)
    log.metrics(done, metrics, "held_out")
    watch.look_at_loss(done, metrics["loss"])
    return metrics["loss"]


def _pictures_due(settings: Mapping[str, Any], data: Data, done: int) -> bool:
    """Every so many steps, or where epochs end."""
    if settings["pictures_every"]:
        return done % settings["pictures_every"] == 0
    return epoch_ending(settings, data, done) is not None


def epoch_ending(settings: Mapping[str, Any], data: Data, done: int) -> int | None:
    """The number of the epoch that ends with this step and is to be seen, where pictures go by epochs.

    Of many short epochs not each one: the ends of as many together as make PICTURES of the training.
    """
    many = max(1, math.ceil(settings["steps"] / data.steps_per_epoch / PICTURES))
    epoch, before = (int(step / data.steps_per_epoch) for step in (done, done - 1))
    return epoch if epoch // many > before // many and not settings["pictures_every"] else None


class Late:
    """Metrics are fetched when the next ones come, so that the device is not waited for; so are the steps' flags."""

    def __init__(self, log: Log, observer: Observer | None, watch: Watch):
        self.log, self.observer, self.watch, self.text = log, observer, watch, ""
        self._waiting: tuple[int, dict[str, jax.Array]] | None = None

    def put(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Keeps these, and logs those before."""
        self.flush()
        self._waiting = (step, metrics)

    def flush(self) -> None:
        """Logs what is kept."""
        if self._waiting is not None:
            step, metrics = self._waiting
            values = {name: float(v) for name, v in jax.device_get(metrics).items() if name != FIRST_BAD}
            self.watch.look(step)
            skipped = {"skipped": self.watch.skipped} if self.watch.on_nan == "skip" else {}
            self.log.metrics(step, values | skipped, "train")
            for remark in self.observer.remarks(step, values) if self.observer else ():
                self.log.say(remark)
            self.text, self._waiting = f"loss {values['loss']:.4g}", None


@contextlib.contextmanager
def prefetched(make: Callable[[int], Any], start: int, stop: int, ahead: int = 2) -> Iterator[Iterator[Any]]:
    """make(start), make(start + 1), … made by a thread, so many ahead. An error in it is raised here."""
    ready: queue.Queue = queue.Queue(ahead)
    over = threading.Event()

    def work():
        for step in range(start, stop):
            try:
                item = (make(step), None)
            except BaseException as error:
                item = (None, error)
            while not over.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    break
            if over.is_set() or item[1] is not None:
                return

    def items():
        for _ in range(start, stop):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        over.set()
        thread.join()


class Stop:
    """Whether a signal asked for the end, on any process."""

    def __init__(self):
        self.number: int | None = None

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM, so that schedulers put the job back in the queue."""
        return 128 + (self.number or signal.SIGTERM)

    def say(self, text: str) -> None:
        """A line for whoever stopped it."""
        if jax.process_index() == 0:
            print(text, flush=True)

    def reached(self, step: int) -> bool:
        """To be asked once a step, by all processes."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self.number is not None


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Inside, the first SIGTERM or Ctrl-C only sets a mark; the second one acts as usual.

    With several processes JAX itself watches for SIGTERM, so that all stop at the same step.
    """
    stop = Stop()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def mark(number, frame):
        stop.number = stop.number or number
        stop.say("\nstopping after this step")
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, mark)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
