"""Training on folds: each step trains one classifier per fold, and all out-of-fold predictions decide on it together.

The classifiers start alike and keep, or roll back, the same steps. They share the features of frozen layers and the
compiled training step. At the end, one classifier repeats the kept steps on all images. The pooled predictions say how
good that is: each was made by a classifier that was not trained on the image.

Ref: out-of-fold prediction and refitting, Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning,
section 7.10.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from tlcli.cluster import connection
from tlcli.data.pixels import Examples
from tlcli.errors import DivergedError
from tlcli.model.head import OUTPUT_LAYER
from tlcli.recipe.phase import UntilSpec
from tlcli.train import checkpoint, decision, events, interpolation, linear_probe, phases, policy
from tlcli.train.budget import Budget
from tlcli.train.calibration import score_probabilities
from tlcli.train.checkpoint import Arrays, Progress
from tlcli.train.compile import StepState, batches_per_epoch, prepare_step
from tlcli.train.fold_tasks import train_on
from tlcli.train.member import Member, PreparedStep, Trained, prepare, train, use
from tlcli.train.session import Session
from tlcli.train.step import decide, outcome_of, train_epochs, verify_frozen


def run(session: Session, *, saved: checkpoint.Saved | None = None) -> None:
    """Run all phases of the recipe on the folds, then the kept steps on all images.

    Args:
        session: The session. It receives the outcomes, the out-of-fold probabilities and the final weights.
        saved: The checkpoint of an interrupted run. The step that was interrupted starts again.
    """
    start, members = _restore(session, saved) if saved else _start(session)
    while step := policy.next_step(session.recipe.phases, session.groups, session.outcomes, session.norms):
        if isinstance(step, policy.GradientSurvey):
            use(session, Member(session.pool, _none_of(session.pool), members[0].weights))
            phases.survey_gradients(session, step)
            continue
        _save(session, start, members)
        outcome = _run_within_budget(session, members, step)
        session.outcomes.append(outcome)
        session.observe(events.StepDone(outcome))
    _save(session, start, members)
    session.out_of_fold = _out_of_fold(session, members)
    _refit(session, start)
    session.reopen()


def _start(session: Session) -> tuple[Arrays, list[Member]]:
    """The weights of the final classifier before the first step, and the members at the same point."""
    recipe, model = session.recipe, session.classifier.model
    if any(phase.l2_sp for phase in recipe.phases):
        session.pretrained = checkpoint.copy_values(session.backbone_weights)
    members = _members(session, checkpoint.copy_values(model.weights))
    if recipe.phases[0].starts_from_probe:
        _start_from_probe(session, members)
    return checkpoint.copy_values(model.weights), members


def _start_from_probe(session: Session, members: Sequence[Member]) -> None:
    """Solve the head of every member, then that of the final classifier with the median of their penalties."""
    session.observe(events.Noticed("linear probe: solving the head on the frozen network, fold by fold"))
    pooled, classes = session.pooled(), len(session.classifier.classes)
    balanced = session.recipe.data.is_balanced
    head = session.classifier.model.get_layer(OUTPUT_LAYER)
    strengths = []
    for member in members:
        train, val = (linear_probe.Features(pooled(part), part.labels) for part in (member.train, member.val))
        solution = linear_probe.solve(train, val, classes=classes, balanced=balanced)
        strengths.append(solution.inverse_l2)
        head.set_weights([solution.kernel, solution.bias])
        member.weights = checkpoint.copy_values(session.classifier.model.weights)
    everything = linear_probe.Features(pooled(session.pool), session.pool.labels)
    none = linear_probe.Features(everything.x[:0], everything.y[:0])
    strength = statistics.median_low(strengths)
    solution = linear_probe.solve(everything, none, classes=classes, balanced=balanced, inverse_l2=strength)
    phases.tell_of_weights(session, solution)
    head.set_weights([solution.kernel, solution.bias])


def _run_within_budget(session: Session, members: Sequence[Member], step: policy.Step) -> policy.Outcome:
    """Run a step with as many of its epochs as fit the time budget. Skip it if none does."""
    cost = session.cost_of(step)
    # The members together train on all images but one fold each, and the final classifier on all.
    cost = replace(cost, epoch_flops=cost.epoch_flops * len(members))
    fitting, reason = session.budget.shorten(step, cost, is_first=not session.outcomes)
    return phases.skipped_step(session, step, reason) if fitting is None else _run_step(session, members, fitting)


def _run_step(session: Session, members: Sequence[Member], step: policy.Step) -> policy.Outcome:
    """Train every member, and keep the step for all of them or for none."""
    use(session, members[0])
    prepared = prepare(session, step, None)
    parameters = sum(int(np.prod(variable.shape)) for variable in prepared.state.trainable)
    batches = batches_per_epoch(session)
    session.observe(events.StepBegun(step, step.epochs, batches, len(session.pool), parameters))
    trained, state = _train(session, members, step, prepared)
    state.progress, position = _pool(trained, [member.val for member in members], state.phase.until)
    if state.phase.until.after_rollback == "if_learnable":
        state.progress.learnable = _learnable(members)
    state.diverged = next((one.diverged for one in trained if one.diverged), "")
    result = decide(state)
    if result.kept:
        for member, one in zip(members, trained, strict=True):
            use(session, member)
            checkpoint.assign_values(state.moving, one.weights_at(position))
            member.weights = checkpoint.copy_values(session.classifier.model.weights)
            member.probabilities = one.probabilities[position]
    _report_epochs(session, state, [one.rows for one in trained])
    return outcome_of(state, result, position, parameters)


def _train(
    session: Session, members: Sequence[Member], step: policy.Step, prepared: PreparedStep
) -> tuple[Sequence[Trained], StepState]:
    """Train all members: one after the other, or on the cluster of the command, but for a time budget.

    Returns:
        What the step made of each member, and the step after the last one that was trained here.
    """
    if (cluster := connection.current()) is not None and math.isinf(session.budget.total_s):
        return train_on(cluster, session, members, step), prepared.state
    trained = []
    for number, member in enumerate(members):
        use(session, member)
        prepared = prepare(session, step, prepared)
        with _as_fold(session, number, len(members)):
            trained.append(train(session, member, prepared))
    return trained, prepared.state


def _pool(trained: Sequence[Trained], val: Sequence[Examples], until: UntilSpec) -> tuple[Progress, float]:
    """The scores of all members together, and the position whose confident gain is the largest."""
    parts = [one.progress for one in trained]
    start = None if parts[0].start_scores is None else _joined(part.start_scores for part in parts)
    chosen, best_gain = 1.0, -math.inf
    scored = {
        position: [
            score_probabilities(one.probabilities[position], part.labels)
            for one, part in zip(trained, val, strict=True)
        ]
        for position in trained[0].probabilities
    }
    for position, scores in scored.items():
        values = _joined(part.values_for(until.metric) for part in scores)
        if start is None or decision.mean_gain(start, values, until) <= 0:
            continue
        if (gain := decision.confident_gain(start, values, until)) > best_gain:
            chosen, best_gain = position, gain
    losses = np.concatenate([part.losses for part in scored[chosen]])
    hits = np.concatenate([part.hits for part in scored[chosen]])
    progress = Progress(
        epoch=max(part.epoch for part in parts),
        best_epoch=round(statistics.fmean(part.best_epoch or part.epoch for part in parts)),
        best_loss=float(losses.mean()),
        best_accuracy=float(hits.mean()),
        seconds=sum(part.seconds for part in parts),
        best_scores=_joined(part.values_for(until.metric) for part in scored[chosen]),
        best_hits=hits.tolist(),
    )
    if start is not None:
        sizes = [len(part) for part in val]
        progress.start_scores, progress.start_hits = start, _joined(part.start_hits for part in parts)
        progress.start_accuracy = statistics.fmean(progress.start_hits)
        progress.start_loss = float(np.average([float(part.start_loss or 0) for part in parts], weights=sizes))
    return progress, chosen


def _learnable(members: Sequence[Member]) -> float | None:
    """Confidence (0-1) that the errors of all members together are learnable; None with an untrained head."""
    hits: list[float] = []
    certainties: list[float] = []
    for member in members:
        if member.probabilities is None:
            return None
        hits += (member.probabilities.argmax(axis=1) == member.val.labels).tolist()
        certainties += member.probabilities.max(axis=1).tolist()
    return decision.learnable(hits, certainties)


def _joined(parts: Iterable[list[float] | None]) -> list[float]:
    return [value for part in parts for value in part or ()]


def _report_epochs(session: Session, state: StepState, parts: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Record and report each epoch as the mean over the folds that have it."""
    for epoch in range(1, 1 + max(len(rows) for rows in parts)):
        rows = [rows[epoch - 1] for rows in parts if len(rows) >= epoch]
        means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0] if isinstance(rows[0][key], float)}
        seconds = sum(row["seconds"] for row in rows)
        row = {**rows[0], **means, "seconds": round(seconds, 3)}
        session.history.append(row)
        shown = {key: value for key, value in row.items() if key not in ("phase", "epoch")}
        best = epoch == state.progress.best_epoch
        session.observe(events.EpochDone(step=state.step, epoch=epoch, is_best=best, **shown))


def _refit(session: Session, start: Arrays) -> None:
    """Repeat the kept steps on all images, each for the mean of the best epochs, without decisions."""
    use(session, Member(session.pool, _none_of(session.pool), start))
    # The steps have been planned within the time budget; this classifier must not end half trained.
    session.budget = Budget()
    for outcome in session.outcomes:
        if not outcome.kept or not outcome.epochs:
            continue
        # The schedule ends with the best epoch, so that the learning rate has fallen by then.
        name = f"{outcome.step.name}, all images"
        state = prepare_step(session, replace(outcome.step, name=name, epochs=outcome.best_epoch))
        parameters = outcome.trainable_parameters
        batches = batches_per_epoch(session)
        begun = events.StepBegun(state.step, outcome.best_epoch, batches, len(session.train), parameters)
        session.observe(begun)
        train_epochs(session, state, outcome.best_epoch)
        if state.diverged:
            raise DivergedError(state.diverged, where=f"phase {name}")
        end = checkpoint.copy_values(state.moving)
        checkpoint.assign_values(state.moving, interpolation.between(state.start_weights, end, outcome.interpolation))
        verify_frozen(state)


def _chosen(examples: Examples, mask: np.ndarray) -> Examples:
    return Examples(examples.pixels, examples.rows[mask], examples.labels[mask])


def _none_of(examples: Examples) -> Examples:
    return _chosen(examples, np.zeros(len(examples), bool))


def _out_of_fold(session: Session, members: Sequence[Member]) -> np.ndarray:
    """The probabilities of all members in the order of the images."""
    of_row = np.array(session.folds)
    joined = np.zeros((len(of_row), len(session.classifier.classes)), np.float32)
    for fold, member in enumerate(members):
        if member.probabilities is None:
            raise RuntimeError("no step has been kept")
        joined[of_row == fold] = member.probabilities
    return joined


def _save(session: Session, start: Arrays, members: Sequence[Member]) -> None:
    """Write a checkpoint before a step. `pretrained` and `start` never change and are written once."""
    arrays = {f"weights-{fold}": member.weights for fold, member in enumerate(members)}
    scored = [member.probabilities for member in members if member.probabilities is not None]
    is_first = not session.outcomes
    once = {"pretrained": session.pretrained, "start": start} if is_first else {}
    session.checkpoint.write(session.state(), {**arrays, "probabilities": scored, **once}, keep=["pretrained", "start"])


def _restore(session: Session, saved: checkpoint.Saved) -> tuple[Arrays, list[Member]]:
    """Continue from a checkpoint."""
    session.restore(saved.state)
    session.pretrained = saved.arrays["pretrained"]
    members = _members(session, [])
    for fold, member in enumerate(members):
        member.weights = saved.arrays[f"weights-{fold}"]
        member.probabilities = saved.arrays["probabilities"][fold] if saved.arrays["probabilities"] else None
    return saved.arrays["start"], members


def _members(session: Session, weights: Arrays) -> list[Member]:
    """A member for every fold, each with these weights."""
    of_row = np.array(session.folds)
    return [
        Member(_chosen(session.pool, of_row != fold), _chosen(session.pool, of_row == fold), weights)
        for fold in range(int(of_row.max()) + 1)
    ]


@contextmanager
def _as_fold(session: Session, number: int, count: int) -> Iterator[None]:
    """Report batches as progress of a fold, and leave out its epochs, which are reported as means over all folds."""
    observe = session.observe

    def observe_fold(event: events.Event) -> None:
        if isinstance(event, events.BatchDone):
            batches = batches_per_epoch(session)
            stage = f"{event.step.name}, fold {number + 1} of {count}"
            done = (event.epoch - 1) * batches + event.batch
            observe(events.Advanced(stage, done, event.step.epochs * batches))
        elif not isinstance(event, events.EpochDone):
            observe(event)

    session.observe = observe_fold
    try:
        yield
    finally:
        session.observe = observe
