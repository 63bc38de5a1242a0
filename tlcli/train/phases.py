"""All phases of a run, in order: the probe where asked, then step after step until the policies are through."""

import numpy as np

from tlcli.model.head import OUTPUT
from tlcli.train import checkpoint, events, policy, probe, temperature
from tlcli.train.fit import run_step
from tlcli.train.session import Session, predict


def run(session: Session, *, saved: checkpoint.Saved | None = None) -> None:
    """Train everything the recipe asks for. With `saved`, go on from there."""
    resumed = saved if saved and "progress" in saved.state else None
    if saved:
        session.take_up(saved.state)
        checkpoint.restore(session.classifier.model.weights, saved.arrays["start"])
    elif session.recipe.phases[0].init == "probe":
        start_from_probe(session)
    while step := policy.next_step(session.recipe.phases, session.groups, session.outcomes):
        if resumed is None:
            start = checkpoint.values(session.classifier.model.weights)
            session.checkpoint.write(session.state(), {"start": start})
        run_step(session, step, resumed=resumed)
        resumed = None


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
    solution = probe.solve(train, val, classes=classes, balanced=balanced)
    head.set_weights([solution.kernel, solution.bias])
