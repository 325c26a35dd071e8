"""Train on the digits that ship with xpnet: ``python -m xpnet.examples.train_digits``."""

from xpnet import AdamW, Dense, Dropout, ReLU, Trainer, schedules
from xpnet.data import load_named, split


def main():
    """Train, predict and evaluate; print the accuracy on rows that were held out."""
    digits, _ = load_named("digits")  # 1797 images of 8 x 8 pixels, 0 ... 16
    x, y = digits.x / 16, digits.y  # (1797, 64), and (1797,) class indices
    train, validation, test = split(y, (0.7, 0.1, 0.2), seed=0)  # row numbers

    trainer = Trainer(
        [Dense(256), ReLU(), Dropout(0.3), Dense(128), ReLU(), Dropout(0.3), Dense(10)],
        loss="softmax_cross_entropy",
        optimizer=AdamW(lr=0.003),
        schedule=schedules.Cosine(),
        batch_size=32,
    )
    history = trainer.fit(
        (x[train], y[train]), epochs=30, validation=(x[validation], y[validation])
    )
    for record in history[::10]:
        print("epoch {epoch}: loss {loss:.4f}, validation {val_accuracy:.4f}".format(**record))

    probabilities = trainer.predict(x[test])  # (N, 10)
    print("the first are", probabilities[:8].argmax(axis=1), "and should be", y[test][:8])
    print(f"test accuracy {trainer.evaluate((x[test], y[test])).accuracy:.4f}")


if __name__ == "__main__":
    main()
