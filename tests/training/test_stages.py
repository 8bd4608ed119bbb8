"""Each training stage: what it trains, what it leaves alone, and whether its loss falls.

Ten times lower, as it gets when eight images are learnt by heart, takes some stages minutes at this size too:
`benchmarks/overfit.py` shows that.
"""

from pathlib import Path

import pytest

from tests.training.stages import STAGES, build

# Steps, and the share of the loss that may be left after them.
SHORT = {
    "autoencoder": (40, 0.6),
    "base": (40, 0.1),
    "tagger": (60, 0.9),
    "dape": (60, 0.9),
    "clip": (30, 0.1),
    "cognitive_encoder": (40, 0.1),
    "scedit_adversarial": (40, 0.85),
}


@pytest.mark.parametrize("name", STAGES)
def test_what_should_train_learns_and_the_rest_stays(name: str, tmp_path: Path) -> None:
    stage = build(name)
    trains = {each for each, parameter in stage.module.named_parameters() if parameter.requires_grad}
    assert trains == {each for each, _ in stage.module.named_parameters() if stage.should_train(each)}
    assert all(any(each.startswith(beginning) for each in trains) for beginning in stage.trained)

    stage.module.train()
    sum(stage.module(stage.batch()).values()).backward()
    for each, parameter in stage.module.named_parameters():
        assert (parameter.grad is not None) == (each in trains), each
        assert each not in trains or (parameter.grad is not None and parameter.grad.any()), each
    stage.module.zero_grad(set_to_none=True)

    before = {each: tensor.clone() for each, tensor in stage.module.state_dict().items()}
    steps, share = SHORT.get(name, (15 if name.endswith("adversarial") else 20, 0.85))
    loss = stage.loss()
    stage.fit(tmp_path, steps)
    after = stage.module.state_dict()
    for each in before:
        if each in trains:
            assert not after[each].equal(before[each]), each
        # Else it is a buffer of a model that trains.
        elif not each.startswith(stage.trained) or each.startswith(stage.frozen):
            assert after[each].equal(before[each]), each
    assert stage.loss() < share * loss
