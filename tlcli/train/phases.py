"""All phases of a run in order: the probe, then step after step until the policies end."""

import itertools
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.cache import results
from tlcli.model.classifier import OUTPUT
from tlcli.model.groups import LayerGroups
from tlcli.train import cached_results, checkpoint, events, freeze, policy, probe
from tlcli.train.cached_results import cache_result, restore_cached, run_and_cache
from tlcli.train.compile import batches_of, layer_of
from tlcli.train.plan import trained_parameters
from tlcli.train.session import Session
from tlcli.train.step import run_step

# Batches of training images whose gradients a survey adds up.
SURVEY_BATCHES = 16


class Sums(keras.optimizers.SGD):
    """Adds up the gradients it is given and changes no weight, on any backend."""

    def build(self, variables: list[Any]) -> None:
        """One sum for each variable."""
        super().build(variables)
        self._totals = [self.add_variable_from_reference(variable, name="total") for variable in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Take note of one gradient."""
        self.assign_add(self._totals[self._get_variable_index(variable)], gradient)

    def norms(self) -> list[float]:
        """The Euclidean norm of each sum, in the order of the variables."""
        return [float(np.linalg.norm(ops.convert_to_numpy(total.value))) for total in self._totals]


def measure_gradients(session: Session, wanted: policy.GradientSurvey) -> dict[str, float]:
    """Relative gradient norm of every layer group over some batches of training images, with everything trainable."""
    phase = session.recipe.phases[wanted.phase]
    session.observe(events.Noticed(f"{phase.name}: measuring the gradient of every layer group"))
    step = policy.Step(wanted.phase, 0, f"{phase.name} survey", session.groups.names, wanted.layers, 1)
    session.enter(step)
    trainee = session.stage.trainee
    trainable = freeze.apply(session.classifier, step.layers, batch_norm=phase.batch_norm_policy)
    sums = Sums(learning_rate=0.0)
    trainee.uses_batch_statistics = False
    trainee.compile(optimizer=sums, loss=keras.losses.CategoricalCrossentropy(), jit_compile=trainee.jit)
    sums.build(trainable)
    batches = list(
        itertools.islice(batches_of(session, step, 0, np.random.default_rng(session.recipe.seed)), SURVEY_BATCHES)
    )
    for batch in batches:
        trainee.train_on_batch(*batch)
    return _relative_norms(trainable, sums, len(batches), session.groups, layer_of(session))


def _relative_norms(
    variables: list[Any], sums: Sums, batches: int, groups: LayerGroups, layer_of: dict[int, str]
) -> dict[str, float]:
    """Norm of the mean gradient of each group over the norm of its weights.

    Ref: Lee et al. 2022, arXiv 2210.11466, who call it relative gradient norm.

    Args:
        variables: The trainable ones, in the order that `sums` was built for.
        sums: After training for `batches` batches.
        batches: How many.
        groups: Of the backbone; a group none of whose weights is trainable has the norm 0.
        layer_of: By the id of a variable the name of its layer.
    """
    group_of = {layer.name: group.name for group in groups.groups for layer in group.layers}
    gradient, weight = dict.fromkeys(groups.names, 0.0), dict.fromkeys(groups.names, 0.0)
    for variable, norm in zip(variables, sums.norms(), strict=True):
        name = group_of.get(layer_of[id(variable)])
        if name is not None:
            gradient[name] += (norm / batches) ** 2
            weight[name] += float(np.sum(np.square(ops.convert_to_numpy(variable.value), dtype=np.float64)))
    return {name: (gradient[name] / weight[name]) ** 0.5 if weight[name] else 0.0 for name in groups.names}


def run(session: Session, *, saved: checkpoint.Saved | None = None) -> None:
    """Train everything the recipe asks for. With `saved`, go on from there."""
    resumed = saved if saved and "progress" in saved.state else None
    phases, groups = session.recipe.phases, session.groups
    if saved:
        session.restore(saved.state)
        session.pretrained = saved.arrays["pretrained"]
        checkpoint.assign_values(session.classifier.model.weights, saved.arrays["start"])
    else:
        if any(phase.l2_sp for phase in phases):
            session.pretrained = checkpoint.copy_values(session.backbone_weights)
        if phases[0].starts_from_probe:
            start_from_probe(session)
    is_first = saved is None
    while found := policy.next_step(phases, groups, session.outcomes, session.norms):
        if isinstance(found, policy.GradientSurvey):
            _survey_gradients(session, found)
            continue
        if resumed is None:
            # What the backbone was pretrained to never changes: it is written once.
            first = {"pretrained": session.pretrained} if is_first else {}
            start = checkpoint.copy_values(session.classifier.model.weights)
            session.checkpoint.write(session.state(), {"start": start, **first}, keep=["pretrained"])
            is_first = False
            done = restore_cached(session, found) or _in_time(session, found)
        else:
            # The budget may have shortened it.
            done = run_step(session, replace(found, epochs=resumed.state["epochs"]), resumed=resumed)
        session.outcomes.append(done)
        session.observe(events.StepDone(done))
        resumed = None


def _survey_gradients(session: Session, wanted: policy.GradientSurvey) -> None:
    """Measure the gradients that a phase goes by, unless there is no time to train by them."""
    phases, groups = session.recipe.phases, session.groups
    (step,) = policy.steps_of(phases[wanted.phase], wanted.phase, groups)
    work = session.work(step)
    share = min(SURVEY_BATCHES * session.recipe.performance.batch_size / len(session.train), 1.0)
    work = replace(work, before=work.before + share * work.epoch_flops)
    fitting, why = session.budget.fit(step, work, is_first=not session.outcomes)
    if fitting is None:
        done = skipped_step(session, step, why)
        session.outcomes.append(done)
        session.observe(events.StepDone(done))
    else:
        session.norms[wanted.phase] = measure_gradients(session, wanted)


def _in_time(session: Session, step: policy.Step) -> policy.Outcome:
    """Train a step for as long as the budget lets it, if it does."""
    fitting, why = session.budget.fit(step, session.work(step), is_first=not session.outcomes)
    if fitting is None:
        return skipped_step(session, step, why)
    return (restore_cached(session, fitting) if fitting != step else None) or run_and_cache(session, fitting)


def skipped_step(session: Session, step: policy.Step, why: str) -> policy.Outcome:
    """The outcome of a step for which there is no time."""
    phase = session.recipe.phases[step.phase]
    head = sum(int(np.prod(weight.shape)) for layer in session.classifier.head_layers for weight in layer.weights)
    parameters = head + trained_parameters(session.groups, step.layers, batch_norm=phase.batch_norm_policy)
    return policy.Outcome(
        step=step,
        trainable_parameters=parameters,
        epochs=0,
        best_epoch=0,
        loss_before=None,
        accuracy_before=None,
        val_loss=None,
        val_accuracy=None,
        confidence=None,
        kept=False,
        reason=why,
        seconds=0.0,
        out_of_time=True,
    )


def start_from_probe(session: Session) -> None:
    """Put the optimum of the linear head in place, found on features of the plain images."""
    head = session.classifier.model.get_layer(OUTPUT)
    classes = len(session.classifier.classes)
    balanced = session.recipe.data.class_weights == "balanced"
    session.observe(events.Noticed("linear probe: solving the head on the frozen network"))
    pooled = session.pooled()
    train, val = (probe.Features(pooled(examples), examples.labels) for examples in (session.train, session.val))
    key = cached_results.probe_key(train, val, classes=classes, balanced=balanced) if session.results else None
    found = session.results.find(key) if session.results and key else None
    if found is None:
        solution = probe.solve(train, val, classes=classes, balanced=balanced)
        found = results.CachedResult({"inverse_l2": solution.inverse_l2}, [solution.kernel, solution.bias])
        if key:
            cache_result(session, key, found)
    head.set_weights(found.arrays)
