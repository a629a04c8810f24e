import torch

from pitstop.models.classifier import Classifier
from pitstop.models.training import train_classifier
from pitstop.models.training.fashion_mnist import LabelledImages


def bright_and_dark() -> LabelledImages:
    labels = torch.arange(2 * train_classifier.BATCH) % 2
    noise = torch.randn(len(labels), 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return LabelledImages(0.1 * noise + labels.float().view(-1, 1, 1, 1) - 0.5, labels)


def train(epochs: int) -> tuple[Classifier, list[tuple[int, float]]]:
    torch.manual_seed(0)
    model = Classifier(2)
    return model, list(train_classifier.run(model, bright_and_dark(), epochs))


def test_the_classifier_learns_to_tell_bright_from_dark() -> None:
    model, losses = train(epochs=3)
    assert [step for step, _ in losses] == list(range(6))
    assert losses[-1][1] < losses[0][1]
    assert not model.training
    assert train_classifier.accuracy(model, bright_and_dark()) > 0.95


def test_the_classifier_is_the_same_from_the_same_seed() -> None:
    first, losses = train(epochs=1)
    again, losses_again = train(epochs=1)
    assert losses == losses_again
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items()
    )
