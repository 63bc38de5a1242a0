"""All phases of a run, in order: the probe where asked, then step after step until the policies are through."""

import time
from dataclasses import replace

import numpy as np

from tlcli.model.head import OUTPUT
from tlcli.train import checkpoint, events, memory, policy, probe, temperature
from tlcli.train.fit import run_step, thawed
from tlcli.train.gradients import SURVEYED, survey
from tlcli.train.plan import trained_parameters
from tlcli.train.session import Session, predict


def run(session: Session, *, saved: checkpoint.Saved | None = None) -> None:
    """Train everything the recipe asks for. With `saved`, go on from there."""
    resumed = saved if saved and "progress" in saved.state else None
    phases, groups = session.recipe.phases, session.groups
    if saved:
        session.take_up(saved.state)
        session.pretrained = saved.arrays["pretrained"]
        checkpoint.restore(session.classifier.model.weights, saved.arrays["start"])
    else:
        if any(phase.l2_sp for phase in phases):
            session.pretrained = checkpoint.values(session.backbone_weights)
        if phases[0].starts_from_probe:
            start_from_probe(session)
    is_first = saved is None
    while found := policy.next_step(phases, groups, session.outcomes, session.norms):
        if isinstance(found, policy.Survey):
            _survey(session, found)
            continue
        if resumed is None:
            # What the backbone was pretrained to never changes: it is written once.
            first = {"pretrained": session.pretrained} if is_first else {}
            start = checkpoint.values(session.classifier.model.weights)
            session.checkpoint.write(session.state(), {"start": start, **first}, keep=["pretrained"])
            is_first = False
            done = recalled(session, found) or _in_time(session, found)
        else:
            # The budget may have shortened it.
            done = run_step(session, replace(found, epochs=resumed.state["epochs"]), resumed=resumed)
        session.outcomes.append(done)
        session.observe(events.StepDone(done))
        resumed = None


def _survey(session: Session, wanted: policy.Survey) -> None:
    """Measure the gradients that a phase goes by, unless there is no time to train by them."""
    phases, groups = session.recipe.phases, session.groups
    (step,) = policy.steps_of(phases[wanted.phase], wanted.phase, groups)
    work = session.work(step)
    share = min(SURVEYED * session.recipe.performance.batch_size / len(session.train), 1.0)
    work = replace(work, before=work.before + share * work.an_epoch)
    fitting, why = session.budget.fitted(step, work, is_first=not session.outcomes)
    if fitting is None:
        done = left_out(session, step, why)
        session.outcomes.append(done)
        session.observe(events.StepDone(done))
    else:
        session.norms[wanted.phase] = survey(session, wanted)


def _in_time(session: Session, step: policy.Step) -> policy.Outcome:
    """Train a step for as long as the budget lets it, if it does."""
    fitting, why = session.budget.fitted(step, session.work(step), is_first=not session.outcomes)
    if fitting is None:
        return left_out(session, step, why)
    return (recalled(session, fitting) if fitting != step else None) or remembered(session, fitting)


def recalled(session: Session, step: policy.Step) -> policy.Outcome | None:
    """Put the result of a step in place that was trained before, exactly so. None where there is none."""
    began = time.perf_counter()
    key = _key(session, step)
    found = session.memory.find(key) if session.memory and key else None
    if found is None:
        return None
    session.enter(step)
    _, moving = thawed(session, step)
    checkpoint.restore(moving, found.arrays)
    session.history += found.state["history"]
    session.precisions |= found.state["precisions"]
    outcome = policy.outcome_from(step, found.state["outcome"])
    seconds = round(time.perf_counter() - began, 3)
    return replace(outcome, seconds=seconds, recalled=True, reason=f"{outcome.reason}; as trained before")


def remembered(session: Session, step: policy.Step) -> policy.Outcome:
    """Train a step, and keep its result for the next who asks for the same."""
    key = _key(session, step)
    rows = len(session.history)
    outcome = run_step(session, step)
    if key and not outcome.lacked_time:
        precisions = {name: value for name, value in session.precisions.items() if name == step.name}
        state = {"outcome": policy.record(outcome), "history": session.history[rows:], "precisions": precisions}
        _, moving = thawed(session, step)
        _keep(session, key, memory.Result(state, checkpoint.values(moving)))
    return outcome


def _key(session: Session, step: policy.Step) -> str | None:
    """What the result of a step is kept by; None where nothing is trained, or nothing kept."""
    return memory.key_of_step(session, step) if session.memory and step.epochs else None


def _keep(session: Session, key: str, result: memory.Result) -> None:
    if session.memory:
        try:
            session.memory.keep(key, result)
        except OSError as error:
            said = f"{session.memory.folder}: what was trained cannot be kept for another run ({error.strerror})"
            session.observe(events.Noticed(said, is_warning=True))


def left_out(session: Session, step: policy.Step, why: str) -> policy.Outcome:
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
        lacked_time=True,
    )


def calibrate(session: Session) -> float:
    """Divide the logits of the head by the temperature that fits the validation images, and return it.

    Its guesses stay what they are; its probabilities come nearer to how often it is right.
    """
    level = temperature.fitted(predict(session, session.val), session.val.labels)
    head = session.classifier.model.get_layer(OUTPUT)
    head.set_weights([weight / np.float32(level) for weight in head.get_weights()])
    return level


def start_from_probe(session: Session) -> None:
    """Put the optimum of the linear head in place, found on features of the plain images."""
    head = session.classifier.model.get_layer(OUTPUT)
    classes = len(session.classifier.classes)
    balanced = session.recipe.data.class_weights == "balanced"
    session.observe(events.Noticed("linear probe: solving the head on the frozen network"))
    pooled = session.pooled()
    train, val = (probe.Features(pooled(examples), examples.labels) for examples in (session.train, session.val))
    key = memory.key_of_probe(train, val, classes=classes, balanced=balanced) if session.memory else None
    found = session.memory.find(key) if session.memory and key else None
    if found is None:
        solution = probe.solve(train, val, classes=classes, balanced=balanced)
        found = memory.Result({"inverse_l2": solution.inverse_l2}, [solution.kernel, solution.bias])
        if key:
            _keep(session, key, found)
    head.set_weights(found.arrays)
