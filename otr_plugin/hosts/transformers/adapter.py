"""transformers' Trainer, and every host built on it: draws follow its steps, metrics go into its log.

Two verbs. *Attach*: a model trains with OTR (`otr_plugin.attach`). *Connect*: a trainer and an attached model work
together, as `connect` describes. A trainer is connected from the start of its `train`, where its model is final, to the
end: it makes no difference whether the model was attached before the trainer was constructed or after.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import MethodType, ModuleType
from typing import Any, NamedTuple

import torch
import transformers
from transformers import Trainer, TrainerCallback

from otr_plugin.config import OTRConfig
from otr_plugin.hosts.patching import is_marked, marked, replace
from otr_plugin.hosts.recipes import RecipeError
from otr_plugin.hosts.resume import STATE_KEY, changed_settings, to_save
from otr_plugin.hosts.run_record import RunRecord
from otr_plugin.hosts.transformers import run_facts
from otr_plugin.loss.dispatch import why_not_triton
from otr_plugin.model.attach import attach, attached_handle
from otr_plugin.model.handle import Handle

# The methods of Trainer in which it works with its model, and others that connecting uses.
ENTRIES = ("train", "evaluate", "predict")
USED = ("call_model_init", "log", "add_callback")
# What a host may set on a trainer or on its class: functions that log, and a context manager for the time in which the
# trainer is connected, which takes the handle.
LOG, CONNECT = "_otr_log", "_otr_connect"


class Log(NamedTuple):
    """A host's functions that log one line. Only the first rank's line should appear."""

    info: Callable[[str], Any]
    warning: Callable[[str], Any]


def attach_and_announce(trainer: Trainer, config: OTRConfig, log: Log) -> Handle:
    """Attach OTR to the trainer's model, and say so in the host's log. The trainer is connected when it trains."""
    handle = attach(trainer.model, config)
    handle.default_seed = trainer.args.seed
    setattr(trainer, LOG, log)
    log.info(handle.describe(trainer.args.device))
    return handle


def patch_trainer(trainer_module: ModuleType) -> None:
    """transformers.trainer: a Trainer is connected to its model while it trains or evaluates, if that is attached."""
    trainer: Any = getattr(trainer_module, "Trainer", None)
    missing = [name for name in (*ENTRIES, *USED) if not callable(getattr(trainer, name, None))]
    if missing:
        raise RuntimeError(
            f"otr: looked for {', '.join(missing)} in {trainer_module.__name__}.Trainer, with which a trainer is "
            "connected to an attached model, but did not find it; transformers "
            f"{transformers.__version__} is installed. Nothing is trained."
        )
    for name in ENTRIES:
        original = getattr(trainer, name)
        if not is_marked(original):
            why = f"connects a Trainer to its model during {name}, if the model is attached"
            replace(trainer, name, _connected_during(original), why)


def _connected_during(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def entry(self: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            if original.__name__ == "train":
                _connect_for_training(self, stack)
            else:
                _connect_for_evaluation(self, stack, logits_are_returned=original.__name__ == "predict")
            return original(self, *args, **kwargs)

    return marked(entry)


def _connect_for_training(trainer: Any, stack: ExitStack) -> None:
    handle = attached_handle(trainer.model)
    if trainer.model_init is None:
        if handle is not None:
            connect(trainer, handle, stack)
        return
    make_model = trainer.call_model_init

    def call_model_init(*args: Any, **kwargs: Any) -> Any:
        """Trainer's method, which `train` calls for the model that it trains."""
        model = make_model(*args, **kwargs)
        new = attached_handle(model)
        if new is not None:
            connect(trainer, new, stack)
        elif handle is not None:
            raise ValueError(
                "otr: the trainer's model was attached, but its model_init has now returned another one that is not, "
                "and the run would train without OTR. Call attach(model) inside model_init, or give the trainer the "
                "attached model instead of model_init."
            )
        return model

    stack.enter_context(changed(trainer, call_model_init=call_model_init))


def _connect_for_evaluation(trainer: Any, stack: ExitStack, logits_are_returned: bool) -> None:
    handle = attached_handle(trainer.model)
    if handle is not None:
        needs_logits = logits_are_returned or trainer.compute_metrics is not None
        needs_logits = needs_logits and not trainer.args.prediction_loss_only
        stack.enter_context(changed(handle, evaluation_needs_logits=needs_logits))
        _connect_by_host(trainer, handle, stack)


def connect(trainer: Any, handle: Handle, stack: ExitStack) -> None:
    """Make a trainer work with the attached model that it trains, until `stack` is closed or the model detached.

    - Draws are keyed by the trainer's optimiser step.
    - A training step in which OTR's loss was not computed raises, and so does a trainer with a loss of its own.
    - Every entry of the training log gets OTR's metrics.
    - Evaluation computes logits only if the trainer has compute_metrics.
    """
    default_seed = trainer.args.seed
    needs_logits = trainer.compute_metrics is not None
    stack.enter_context(changed(handle, default_seed=default_seed, evaluation_needs_logits=needs_logits))
    _connect_by_host(trainer, handle, stack)
    _refuse_own_loss(trainer)
    log_without_metrics = trainer.log

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # an entry of training; those of evaluation have eval_loss
            logs |= {name: round(value, 6) for name, value in handle.take_metrics().items()}
        log_without_metrics(logs, *args, **kwargs)

    stack.enter_context(changed(trainer, log=MethodType(log, trainer)))
    by_host: Log | None = getattr(trainer, LOG, None)
    printing = Log(trainer.accelerator.print, trainer.accelerator.print)
    callback = StepCallback(handle, by_host or printing, announced=by_host is not None)
    trainer.add_callback(callback)
    stack.callback(_remove_callback, trainer, callback)
    # detach() may be called by a callback, in the middle of training. Closing the stack twice does nothing.
    stack.enter_context(changed(handle, disconnect=stack.close))


def _connect_by_host(trainer: Any, handle: Handle, stack: ExitStack) -> None:
    by_host: Callable[[Handle], AbstractContextManager[None]] | None = getattr(trainer, CONNECT, None)
    if by_host is not None:
        stack.enter_context(by_host(handle))


def _remove_callback(trainer: Any, callback: TrainerCallback) -> None:
    # A new list: the handler may be in a loop over the old one, and would leave out the callback after the removed one.
    trainer.callback_handler.callbacks = [one for one in trainer.callback_handler.callbacks if one is not callback]


class StepCallback(TrainerCallback):
    """Keys the draws by the trainer's step, checks every step, and records the run. `announced`: OTR is in the log."""

    def __init__(self, handle: Handle, log: Log, announced: bool) -> None:
        self.handle, self.log, self.announced = handle, log, announced
        self.report = handle.first_step_report  # of an earlier training
        self.record: RunRecord | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.handle.default_seed = args.seed  # a search for hyperparameters may have changed it
        self.handle.sums = {}  # those of an earlier run that ended between two entries of its log
        if not self.announced:
            self.log.info(self.handle.describe(args.device))
            self.announced = True
        config, seed = self.handle.config, self.handle.seed_of_draws
        resumed = state.global_step > 0
        if resumed and (warning := changed_settings(state.stateful_callbacks, config, seed)):
            self.log.warning(warning)
        state.stateful_callbacks[STATE_KEY] = to_save(config, seed)  # saved with every checkpoint
        if state.is_world_process_zero and args.output_dir:
            self.record = RunRecord(args.output_dir, self.log.warning)
            self.record.start(lambda: run_facts.at_start(config, seed, args, state, given))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.record is not None:
            self.record.finish(lambda: run_facts.at_end(state))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A resumed run continues with its checkpoint's global_step, and so repeats the draws of an unbroken run.
        self.handle.start_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.handle.require_loss_in_step()
        report = self.handle.first_step_report
        if report is not None and report is not self.report:
            self.log.info(report.describe())
            self.report = report


@contextmanager
def changed(owner: Any, **attributes: Any) -> Iterator[None]:
    """Set attributes of an object, and set them back after the block."""
    own = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in own:
                setattr(owner, name, own[name])
            else:
                delattr(owner, name)


def require_kernel(config: OTRConfig) -> None:
    """Raise for `kernel: triton` where Triton cannot run: when the recipe is read, before any weight is loaded."""
    if config.kernel == "triton":
        device = torch.device("cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else "cpu")
        if reason := why_not_triton(device, torch.float32):
            raise RecipeError([f"`kernel: triton` cannot be used: {reason}. Set `kernel: auto`, or remove it"])


def _refuse_own_loss(trainer: Any) -> None:
    """A Trainer with a loss of its own takes the labels out of the batch, so that the model computes no loss."""
    for name, fix in (
        ("label_smoother", "set label_smoothing_factor to 0"),
        ("compute_loss_func", "construct the trainer without compute_loss_func"),
    ):
        if getattr(trainer, name, None) is not None:
            raise ValueError(
                f"otr: the trainer's {name} would compute the loss, and the run would not train with OTR: {fix}."
            )
    liger = getattr(trainer.args, "liger_kernel_config", None) or {}
    if getattr(trainer.args, "use_liger_kernel", False) and liger.get("fused_linear_cross_entropy", True):
        raise ValueError(
            "otr: use_liger_kernel would compute the loss in Liger's own forward, and the run would not train with "
            "OTR. Set liger_kernel_config to {'fused_linear_cross_entropy': False}; Liger's other kernels stay."
        )
