"""How much each layer group would change if it could: gradients relative to weights."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.model.groups import LayerGroups
from tlcli.train import events, freeze, policy
from tlcli.train.batches import batches_of
from tlcli.train.fit import layer_of
from tlcli.train.session import Session

# Batches of training images whose gradients a survey adds up.
SURVEYED = 16


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


def survey(session: Session, wanted: policy.Survey) -> dict[str, float]:
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
    batches = list(itertools.islice(batches_of(session, step, 0, np.random.default_rng(session.recipe.seed)), SURVEYED))
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
