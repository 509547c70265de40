"""The two verbs on a ComfyUI model: `observe` and `guide`.

Both return a clone of the ModelPatcher whose wrappers share one `Attachment`; the order of the two does not
matter, the last of either kind wins, and there is one trace per model. The state of a run lives in that run's own
copy of the model options (`run.SamplingRun`), so nothing stays behind after an error or an interrupt.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from ...errors import ScfgError
from ...method.settings import Settings
from ...run.evaluation import Observation
from ...run.record import Run
from ...run.session import Collection
from ...run.trace import Trace
from ...run.weights import WordWeights
from .failed import FailedRun
from .follow import following_of
from .run import KEY, SamplingRun


class Listener(Protocol):
    """Receives the events of a model's runs, on the sampling thread, which must not wait."""

    def evaluated(self, run: Run, evaluation: Observation) -> None:
        """An evaluation was recorded; its tensors are still on the device."""
        ...

    def finished(self, run: Run, status: str) -> None:
        """A run ended well; its record is closed, `status` is one line for the user."""
        ...


@dataclass(frozen=True)
class Attachment:
    """What our nodes asked of a model.

    settings      None = only observe.
    collection    None = as the settings say.
    word_weights  factors on the guidance of what words of the prompt stand for.
    by_magnitude  whether what cannot be observed is guided by the magnitude of the guidance.
    listeners     receive the events of the runs.
    """

    settings: Settings | None = None
    collection: Collection | None = None
    word_weights: WordWeights = field(default_factory=WordWeights)
    by_magnitude: bool = False
    trace: Trace = field(default_factory=Trace)
    listeners: tuple[Listener, ...] = ()


def observe(
    model: Any, collection: Collection, listeners: Sequence[Listener] = (), trace: Trace | None = None
) -> tuple[Any, Trace]:
    """A clone of `model` whose attention is observed, and its trace. The image stays bit-identical."""
    return _attach(model, {"collection": collection}, listeners, trace)


def guide(
    model: Any,
    settings: Settings,
    word_weights: WordWeights | Mapping[str, float] | None = None,
    listeners: Sequence[Listener] = (),
    trace: Trace | None = None,
    by_magnitude: bool = False,
) -> tuple[Any, Trace]:
    """A clone of `model` whose guidance is scaled per region (Eq. 12), and its trace.

    word_weights: as `WordWeights.of` takes them; raises `SettingsError` for something else.
    by_magnitude: where the attention cannot be observed, scale patches by the magnitude of their guidance.
    """
    changes = {
        "settings": settings,
        "word_weights": WordWeights.of(word_weights),
        "by_magnitude": by_magnitude,
    }
    return _attach(model, changes, listeners, trace)


def _attach(
    model: Any, changes: dict[str, Any], listeners: Sequence[Listener], trace: Trace | None
) -> tuple[Any, Trace]:
    clone = model.clone()
    before = clone.get_attachment(KEY) or Attachment(trace=trace or Trace())
    attachment = replace(before, listeners=(*before.listeners, *listeners), **changes)
    clone.set_attachments(KEY, attachment)
    wrappers = _Wrappers(attachment)
    for kind in ("outer_sample", "predict_noise", "calc_cond_batch", "apply_model"):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, getattr(wrappers, kind))
    return clone, attachment.trace


class _Wrappers:
    """The host's wrapper signatures, translated into calls of the run that is under way."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        run = self._begin(guider, sigmas)
        options = guider.model_options.setdefault("transformer_options", {})
        if isinstance(run, SamplingRun):
            options[KEY] = run
        try:
            output = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            options.pop(KEY, None)
            run.end()
        try:
            self._attachment.trace.add(run.finished(output))
        except Exception:  # the image is there, whatever becomes of its record
            logging.exception("S-CFG could not keep the record of its run")
            return output
        self._notify(lambda listener: listener.finished(run.record, run.status()))
        return output

    def _begin(self, guider: Any, sigmas: Tensor) -> SamplingRun | FailedRun:
        """The run that is about to start, or that of plain CFG after an error of ours.

        Raises ValueError where a conditioning follows words that are not there: a plain one, as the host shows the
        name of its class before the sentence.
        """
        attachment = self._attachment
        settings = attachment.settings or replace(Settings(), strength=0.0)
        collection = attachment.collection or Collection()
        try:
            following = following_of(guider, settings.min_region)
        except ScfgError as error:
            raise ValueError(str(error)) from error
        weights, by_magnitude = attachment.word_weights, attachment.by_magnitude
        try:
            return SamplingRun(
                guider, settings, collection, weights, sigmas, self._evaluated, by_magnitude, following
            )
        except Exception as error:  # S-CFG never fails a generation
            logging.exception("S-CFG could not begin: plain CFG")
            return FailedRun(error, follows=following is not None)

    def _evaluated(self, run: Run, evaluation: Observation) -> None:
        self._notify(lambda listener: listener.evaluated(run, evaluation))

    def _notify(self, event: Callable[[Listener], None]) -> None:
        """An error in a listener goes to the log; sampling goes on."""
        for listener in self._attachment.listeners:
            try:
                event(listener)
            except Exception:
                logging.exception("S-CFG: an error in a listener")

    def predict_noise(self, executor, x, timestep, model_options=None, seed=None):
        model_options = model_options or {}
        run = _run_of(model_options)
        if run is None or not run.begin(x, timestep):
            return executor(x, timestep, model_options, seed)
        try:
            return executor(x, timestep, run.guided(model_options), seed)
        finally:
            run.close_evaluation()

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        run = _run_of(model_options)
        if run is None or not run.watch(conds, x_in, timestep, model_options):
            return executor(model, conds, x_in, timestep, model_options)
        try:
            with run.watching():
                return executor(model, conds, x_in, timestep, model_options)
        finally:
            run.unwatch()

    def apply_model(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kw
    ):
        options = dict(transformer_options or {})
        run = options.pop(KEY, None)
        if run is None:
            return executor(x, t, c_concat, c_crossattn, control, options, **kw)
        options = run.watched(x, c_crossattn, options, kw) or options
        output = executor(x, t, c_concat, c_crossattn, control, options, **kw)
        run.session.end_call()
        return output


def _run_of(model_options: dict) -> SamplingRun | None:
    return model_options.get("transformer_options", {}).get(KEY)
