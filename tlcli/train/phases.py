"""All phases of a run in order: the linear probe, gradient surveys, and the steps that the policies choose."""

import itertools
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.cache.results import CachedResult
from tlcli.errors import DivergedError
from tlcli.model.head import OUTPUT_LAYER
from tlcli.model.hosts import from_first
from tlcli.model.layer_groups import LayerGroups
from tlcli.train import checkpoint, events, freeze, linear_probe, policy
from tlcli.train.cached_results import as_cached, cache_result, probe_key, restore_cached, run_and_cache
from tlcli.train.compile import batches_of, layer_names
from tlcli.train.plan import trained_parameters
from tlcli.train.session import Session
from tlcli.train.step import run_step

# Number of training batches of a gradient survey.
SURVEY_BATCHES = 16


class GradientSum(keras.optimizers.SGD):
    """An optimiser that sums gradients instead of changing weights. As an optimiser it works on any backend."""

    def build(self, variables: list[Any]) -> None:
        """Create one sum per variable."""
        super().build(variables)
        self._totals = [self.add_variable_from_reference(variable, name="total") for variable in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Add one gradient to its sum."""
        self.assign_add(self._totals[self._get_variable_index(variable)], gradient)

    def norms(self) -> list[float]:
        """The Euclidean norm of each sum, in the order of the variables."""
        # The squares of large gradients exceed float32.
        return [float(np.linalg.norm(ops.convert_to_numpy(total.value).astype(np.float64))) for total in self._totals]


def measure_gradients(session: Session, survey: policy.GradientSurvey) -> dict[str, float]:
    """The relative gradient norm of every layer group, over up to `SURVEY_BATCHES` training batches.

    Raises:
        DivergedError: If a gradient is not finite.
    """
    phase = session.recipe.phases[survey.phase]
    session.observe(events.Noticed(f"{phase.name}: measuring the gradient of every layer group"))
    step = policy.Step(survey.phase, 0, f"{phase.name} survey", session.groups.names, survey.layers, 1)
    session.enter(step)
    trainee = session.stage.trainee
    trainable = freeze.set_trainable(session.classifier, step.layers, batch_norm=phase.batch_norm_policy)
    gradient_sum = GradientSum(learning_rate=0.0)
    trainee.uses_batch_statistics = False
    trainee.compile(optimizer=gradient_sum, loss=keras.losses.CategoricalCrossentropy(), jit_compile=trainee.jit)
    gradient_sum.build(trainable)
    order = np.random.default_rng(session.recipe.seed)
    batches = list(itertools.islice(batches_of(session, step, 0, order), SURVEY_BATCHES))
    classes = len(session.classifier.classes)
    for inputs, targets, weights in batches:
        # The survey asks what the labels say, without a teacher.
        trainee.train_on_batch(inputs, targets[:, :classes], weights)
    mean_norms = [norm / len(batches) for norm in gradient_sum.norms()]
    if not np.isfinite(mean_norms).all():
        hint = "The weights of the head are too large for this network. Use the policy all, or init: random."
        raise DivergedError("the gradient is not finite", where=f"phase {phase.name}", hint=hint)
    return _relative_norms(trainable, mean_norms, session.groups, layer_names(session))


def _relative_norms(
    variables: list[Any], gradient_norms: list[float], groups: LayerGroups, layers: dict[int, str]
) -> dict[str, float]:
    """Norm of the mean gradient of each group, divided by the norm of its weights; 0 for a group without variables.

    Ref: relative gradient norm, Lee et al. 2022, arXiv 2210.11466.

    Args:
        variables: The trainable variables.
        gradient_norms: Norm of the mean gradient of each variable.
        groups: The layer groups of the backbone.
        layers: Name of the layer of each variable, by the id of the variable.
    """
    group_of = {layer.name: group.name for group in groups.groups for layer in group.layers}
    gradient, weight = dict.fromkeys(groups.names, 0.0), dict.fromkeys(groups.names, 0.0)
    for variable, norm in zip(variables, gradient_norms, strict=True):
        name = group_of.get(layers[id(variable)])
        if name is not None:
            gradient[name] += norm**2
            weight[name] += float(np.sum(np.square(ops.convert_to_numpy(variable.value), dtype=np.float64)))
    return {name: (gradient[name] / weight[name]) ** 0.5 if weight[name] else 0.0 for name in groups.names}


def run(session: Session, *, saved: checkpoint.Saved | None = None) -> None:
    """Run all phases of the recipe.

    Args:
        session: The session. It receives the outcomes.
        saved: The checkpoint of an interrupted run, to continue from.
    """
    _start(session, saved)
    resumed = saved if saved and "progress" in saved.state else None
    is_first = saved is None
    while step := policy.next_step(session.recipe.phases, session.groups, session.outcomes, session.norms):
        if isinstance(step, policy.GradientSurvey):
            survey_gradients(session, step)
            continue
        if resumed:
            # The time budget may have reduced the number of epochs.
            outcome = run_step(session, replace(step, epochs=resumed.state["epochs"]), resumed=resumed)
            resumed = None
        else:
            # The pretrained weights never change and are written once.
            pretrained = {"pretrained": session.pretrained} if is_first else {}
            start = checkpoint.copy_values(session.classifier.model.weights)
            session.checkpoint.write(session.state(), {"start": start, **pretrained}, keep=["pretrained"])
            is_first = False
            outcome = restore_cached(session, step) or _run_within_budget(session, step)
        _add_outcome(session, outcome)
    session.reopen()


def _start(session: Session, saved: checkpoint.Saved | None) -> None:
    """Put the weights of the checkpoint in place, or those of the start of a run."""
    phases = session.recipe.phases
    if saved:
        session.restore(saved.state)
        session.pretrained = saved.arrays["pretrained"]
        checkpoint.assign_values(session.classifier.model.weights, saved.arrays["start"])
        return
    if any(phase.l2_sp for phase in phases):
        session.pretrained = checkpoint.copy_values(session.backbone_weights)
    if phases[0].starts_from_probe:
        start_from_probe(session)


def _add_outcome(session: Session, outcome: policy.Outcome) -> None:
    if session.probe_from_cache and not outcome.step.epochs:
        outcome = as_cached(outcome)
    session.outcomes.append(outcome)
    session.observe(events.StepDone(outcome))


def survey_gradients(session: Session, survey: policy.GradientSurvey) -> None:
    """Measure the gradients that the policy needs. Skip the step instead if it does not fit the time budget."""
    phases, groups = session.recipe.phases, session.groups
    (step,) = policy.steps_of(phases[survey.phase], survey.phase, groups)
    cost = session.cost_of(step)
    epochs = min(SURVEY_BATCHES * session.recipe.performance.batch_size / len(session.train), 1.0)
    cost = replace(cost, setup_flops=cost.setup_flops + epochs * cost.epoch_flops)
    fitting, reason = session.budget.shorten(step, cost, is_first=not session.outcomes)
    if fitting is None:
        _add_outcome(session, skipped_step(session, step, reason))
    else:
        session.norms[survey.phase] = measure_gradients(session, survey)


def _run_within_budget(session: Session, step: policy.Step) -> policy.Outcome:
    """Run a step with as many of its epochs as fit the time budget. Skip it if none does."""
    fitting, reason = session.budget.shorten(step, session.cost_of(step), is_first=not session.outcomes)
    if fitting is None:
        return skipped_step(session, step, reason)
    return (restore_cached(session, fitting) if fitting != step else None) or run_and_cache(session, fitting)


def skipped_step(session: Session, step: policy.Step, reason: str) -> policy.Outcome:
    """The outcome of a step that does not fit the time budget."""
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
        reason=reason,
        seconds=0.0,
        out_of_time=True,
    )


def tell_of_weights(session: Session, solution: linear_probe.Solution) -> None:
    """Say it if the weights of the head are so large that deeper layers may not be trained from it."""
    if solution.warning and any(phase.train != "head" for phase in session.recipe.phases):
        session.observe(events.Noticed(solution.warning))


def start_from_probe(session: Session) -> None:
    """Set the head to the solution of the linear probe on the plain images, or to its cached result."""
    head = session.classifier.model.get_layer(OUTPUT_LAYER)
    classes = len(session.classifier.classes)
    balanced = session.recipe.data.is_balanced
    session.observe(events.Noticed("linear probe: solving the head on the frozen network"))
    pooled = session.pooled()
    train, val = (linear_probe.Features(pooled(examples), examples.labels) for examples in (session.train, session.val))
    key = probe_key(train, val, classes=classes, balanced=balanced) if session.results else None
    result = session.results.find(key) if session.results and key else None
    session.probe_from_cache = result is not None
    if result is None:
        solution = linear_probe.solve(train, val, classes=classes, balanced=balanced)
        result = CachedResult({"inverse_l2": solution.inverse_l2}, [solution.kernel, solution.bias])
        tell_of_weights(session, solution)
        if key:
            cache_result(session, key, result)
    head.set_weights(from_first(result.arrays))
