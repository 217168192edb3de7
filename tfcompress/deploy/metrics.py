"""What predictions are worth: metrics by name, from labels in the forms that users have.

Each metric reads one of four views of labels and predictions. A view is filled part by part and
keeps per example only what its metrics need, so a result does not depend on the parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from numbers import Integral, Real
from typing import Any, Final, Protocol

import numpy as np

from tfcompress.errors import ConfigError, DataError

Custom = Callable[[Any, Any], float]
_F1: Final = {"f1": "macro", "f1_weighted": "weighted", "f1_micro": "micro", "f1_binary": "binary"}
_ERRORS: Final = ("mae", "mse", "rmse")
_TEXT: Final = ("bleu", "rouge")
LARGEST_EXPONENT: Final = 709.0  # of what a float holds
_SMALLEST: Final = 1e-7  # Keras's epsilon, below which a probability counts as this
_LIKELIHOOD: Final = ("cross_entropy", "perplexity")
NAMES: Final = ("accuracy", "top_K", *_F1, *_LIKELIHOOD, *_ERRORS, *_TEXT)


class View(Protocol):
    """What some metrics read."""

    def add(self, labels: list[Any], predicted: np.ndarray) -> None:
        """Takes in the next examples."""

    def results(self, metrics: Sequence[str | Custom]) -> dict[str, float]:
        """The figures of these metrics, by name."""


class Metrics:
    """The metrics of one output.

    Args:
        metrics: names, as in `NAMES`, or functions `(y_true, y_pred) -> float`.
        threshold: between the two classes of an output of one unit; None takes `linear`'s, or
            else that of the values.
        linear: whether the output is known to be logits (True) or probabilities (False).
        ignore_label: a class index that marks what is not to be counted.
        decode: token ids (length,) to text.

    Raises:
        ConfigError: a metric of no known name, or twice; an argument of a wrong type.
    """

    def __init__(
        self,
        metrics: Sequence[str | Custom],
        *,
        threshold: float | None = None,
        linear: bool | None = None,
        ignore_label: int | None = None,
        decode: Callable[[np.ndarray], str] | None = None,
    ) -> None:
        _check(metrics, threshold, ignore_label, decode)
        self._views: list[tuple[View, list[str | Custom]]] = []
        groups: dict[str, list[str | Custom]] = {}
        for metric in metrics:
            groups.setdefault(_view_of(metric), []).append(metric)
        names = [name_of(metric) for metric in metrics]
        if len(set(names)) < len(names):
            raise ConfigError(f"Each metric may be given once. Received: {names}")
        makers: dict[str, Callable[[], View]] = {
            "classes": lambda: _Classes(
                threshold, linear, ignore_label, any(m in _LIKELIHOOD for m in groups["classes"])
            ),
            "values": _Values,
            "texts": lambda: _Texts(decode),
            "all": _Everything,
        }
        for kind, members in groups.items():
            self._views.append((makers[kind](), members))
        self._order = names

    def add(self, labels: list[Any], predicted: np.ndarray) -> None:
        """Takes in the next examples.

        Args:
            labels: one for each example.
            predicted: (examples, ...).

        Raises:
            DataError: the labels do not fit the predictions, or these hold NaN.
        """
        if predicted.dtype.kind == "f" and np.isnan(predicted).any():
            raise DataError(
                "The model's outputs must be numbers. Received: NaN. Look at the model: some "
                "operator overflows on this data."
            )
        for view, _ in self._views:
            view.add(labels, predicted)

    def results(self) -> dict[str, float]:
        """All figures by name, in the order of the metrics."""
        found: dict[str, float] = {}
        for view, members in self._views:
            found.update(view.results(members))
        first = {name: found.pop(name) for name in self._order if name in found}
        return {**first, **found}


def _check(metrics: Any, threshold: Any, ignore_label: Any, decode: Any) -> None:
    if not isinstance(metrics, Collection):
        raise ConfigError(f"`metrics` must be names or functions. Received: {metrics!r}")
    number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if threshold is not None and not (number and math.isfinite(threshold)):
        raise ConfigError(f"`threshold` must be a finite number or None. Received: {threshold!r}")
    whole = isinstance(ignore_label, Integral) and not isinstance(ignore_label, bool)
    if ignore_label is not None and not whole:
        raise ConfigError(
            f"`ignore_label` must be a class index, a whole number, or None. Received: "
            f"{ignore_label!r}"
        )
    if decode is not None and not callable(decode):
        raise ConfigError(f"`decode` must be a function or None. Received: {decode!r}")


def name_of(metric: str | Custom) -> str:
    """The name under which a metric's figure stands."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")


def _view_of(metric: Any) -> str:
    if callable(metric):
        return "all"
    if isinstance(metric, str):
        if metric in ("accuracy", *_F1, *_LIKELIHOOD) or re.fullmatch(r"top_[1-9]\d*", metric):
            return "classes"
        if metric in _ERRORS:
            return "values"
        if metric in _TEXT:
            return "texts"
    raise ConfigError(
        f"A metric must be one of {', '.join(NAMES)} (top_5 for K = 5), or a function (y_true, "
        f"y_pred) -> float. Received: {metric!r}"
    )


def _array(labels: list[Any]) -> np.ndarray:
    try:
        array = np.asarray(labels)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise DataError(
            "Labels must be numbers, of one shape for all examples. Received: "
            f"{str(labels[:2])[:80]}"
        )
    return array


class _Classes:
    """True and predicted classes, the rank of the true one, and how likely it was held."""

    def __init__(
        self, threshold: float | None, linear: bool | None, ignore: int | None, likelihood: bool
    ) -> None:
        self._threshold, self._linear, self._ignore = threshold, linear, ignore
        self._likelihood = likelihood
        # Of each answer the true class's score and the logarithm of the sum of all exponentials.
        self._own: list[np.ndarray] = []
        self._all: list[np.ndarray] = []
        self._shares = True  # so far, scores are not negative and sum up to 1
        self._true: list[np.ndarray] = []
        self._guess: list[np.ndarray] = []
        self._rank: list[np.ndarray] = []
        self._score: list[np.ndarray] = []
        self._classes = 0

    def add(self, labels: list[Any], predicted: np.ndarray) -> None:
        true = _array(labels)
        if predicted.dtype.kind in "iub" and _fits(true, predicted):  # classes, not scores
            true, guess = self._kept(_whole(true.reshape(-1)), predicted.reshape(-1))
            self._true.append(true)
            self._guess.append(guess.astype(np.int64))
        elif predicted.ndim >= 2 and predicted.shape[-1] > 1:
            self._add_scores(true, predicted)
        else:
            self._add_binary(true, predicted)

    def _add_scores(self, true: np.ndarray, scores: np.ndarray) -> None:
        classes = self._classes = scores.shape[-1]
        if true.shape == scores.shape:
            sums, highest = true.sum(-1), true.max(-1)
            if (true < 0).any() or not np.allclose([sums, highest], 1, atol=1e-3):
                raise DataError(
                    "One-hot labels must name one class for each answer, with 1 there and 0 "
                    "elsewhere. Received: labels that name none or several, or shares of them. "
                    "Give their argmax, or a function (y_true, y_pred) -> float as metric."
                )
            true = true.argmax(-1)
        elif _fits(true, scores[..., 0]):
            true = _whole(true)
        else:
            raise DataError(
                f"Labels must be class indices {('n', *scores.shape[1:-1])} or one-hot "
                f"{('n', *scores.shape[1:])}, as the output is. Received: "
                f"{('n', *true.shape[1:])}"
            )
        true, kept = self._kept(true.reshape(-1), scores.reshape(-1, classes))
        _in_range(true, classes)
        own = np.take_along_axis(kept, true[:, None], -1)
        ahead = (kept > own) | ((kept == own) & (np.arange(classes) < true[:, None]))
        self._true.append(true)
        self._guess.append(kept.argmax(-1))
        self._rank.append(ahead.sum(-1))
        if self._likelihood:
            exact = kept.astype(np.float64)
            if not np.isfinite(exact).all():
                raise DataError("Cross-entropy needs finite scores. Received: infinite ones")
            top = exact.max(-1, keepdims=True, initial=-np.inf)
            self._own.append(own[:, 0].astype(np.float64))
            self._all.append(np.log(np.exp(exact - top).sum(-1)) + top[:, 0])
            self._shares &= bool((exact >= 0).all() and np.allclose(exact.sum(-1), 1, atol=0.05))

    def _add_binary(self, true: np.ndarray, scores: np.ndarray) -> None:
        if not _fits(true, scores):
            raise DataError(
                f"Labels must fit an output of one unit, {('n', *scores.shape[1:])}, with 0 or 1 "
                f"for each. Received: {('n', *true.shape[1:])}"
            )
        true, scores = self._kept(_whole(true.reshape(-1)), scores.reshape(-1))
        _in_range(true, 2)
        self._true.append(true)
        self._score.append(scores)

    def _kept(self, true: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._ignore is None:
            return true, other
        wanted = true != self._ignore
        return true[wanted], other[wanted]

    def results(self, metrics: Sequence[str | Custom]) -> dict[str, float]:
        true = np.concatenate(self._true)
        if not len(true):
            raise DataError("All labels are the one to ignore: nothing is left to count.")
        if self._score:
            score = np.concatenate(self._score)
            guess = (score > self._between(score)).astype(np.int64)
        else:
            guess = np.concatenate(self._guess)
        found = {}
        for metric in map(str, metrics):
            if metric == "accuracy":
                found[metric] = float(np.mean(true == guess))
            elif metric in _F1:
                found[metric] = _f1(true, guess, _F1[metric])
            elif metric in _LIKELIHOOD:
                entropy = self._cross_entropy(metric)
                perplexity = math.exp(min(entropy, LARGEST_EXPONENT))
                found[metric] = entropy if metric == "cross_entropy" else perplexity
            else:
                found[metric] = self._top(metric)
        return found

    def _between(self, score: np.ndarray) -> float:
        if self._threshold is not None:
            return self._threshold
        if self._linear is not None:
            return 0.0 if self._linear else 0.5
        return 0.5 if ((score >= 0) & (score <= 1)).all() else 0.0

    def _cross_entropy(self, metric: str) -> float:
        """In nats, the mean over all answers that count."""
        if not self._own:
            raise DataError(f"{metric!r} needs an output with a score for each class.")
        own, whole = np.concatenate(self._own), np.concatenate(self._all)
        # A mean of softmaxes looks like logits in the file, so the values have the last word.
        if self._linear is not False and not self._shares:
            return float(np.mean(whole - own))
        return float(np.mean(-np.log(np.maximum(own, _SMALLEST))))

    def _top(self, metric: str) -> float:
        best = int(metric[4:])
        if not self._rank:
            raise DataError(f"{metric!r} needs an output with a score for each class.")
        if best > self._classes:
            raise DataError(f"{metric!r} needs as many classes. Received: {self._classes}")
        return float(np.mean(np.concatenate(self._rank) < best))


def _fits(true: np.ndarray, predicted: np.ndarray) -> bool:
    """Whether the shapes are the same but for axes of one at the end."""
    a, b = list(true.shape), list(predicted.shape)
    while len(a) > 1 and a[-1] == 1:
        a.pop()
    while len(b) > 1 and b[-1] == 1:
        b.pop()
    return a == b


def _whole(labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind == "f" and not (labels == np.rint(labels)).all():
        raise DataError("Class indices must be whole numbers. Received: fractions")
    return labels.astype(np.int64)


def _in_range(true: np.ndarray, classes: int) -> None:
    if len(true) and (true.min() < 0 or true.max() >= classes):
        raise DataError(
            f"Labels must be from 0 to {classes - 1}, as the output has {classes} classes. "
            f"Received: {true.min()} to {true.max()}. `ignore_label` leaves one out."
        )


def _f1(true: np.ndarray, guess: np.ndarray, average: str) -> float:
    try:
        from sklearn.metrics import f1_score
    except ImportError as error:
        raise ConfigError(
            f"The metric 'f1' needs scikit-learn ({error}): pip install scikit-learn"
        ) from error
    if average == "binary" and max(true.max(), guess.max()) > 1:
        raise DataError(f"'f1_binary' takes two classes. Received: {max(true.max(), guess.max())}")
    return float(f1_score(true, guess, average=average, zero_division=0))


class _Values:
    """Each example's mean absolute and squared error."""

    def __init__(self) -> None:
        self._absolute: list[np.ndarray] = []
        self._squared: list[np.ndarray] = []

    def add(self, labels: list[Any], predicted: np.ndarray) -> None:
        true = _array(labels)
        if not _fits(true, predicted):
            raise DataError(
                f"Labels must have the output's shape {('n', *predicted.shape[1:])}. Received: "
                f"{('n', *true.shape[1:])}"
            )
        count = len(predicted)
        error = predicted.reshape(count, -1).astype(np.float64) - true.reshape(count, -1)
        self._absolute.append(np.abs(error).mean(1))
        self._squared.append(np.square(error).mean(1))

    def results(self, metrics: Sequence[str | Custom]) -> dict[str, float]:
        squared = float(np.concatenate(self._squared).mean())
        figures = {
            "mae": float(np.concatenate(self._absolute).mean()),
            "mse": squared,
            "rmse": squared**0.5,
        }
        return {str(name): figures[str(name)] for name in metrics}


class _Texts:
    """Texts, each with one or several references."""

    def __init__(self, decode: Callable[[np.ndarray], str] | None) -> None:
        self._decode = decode
        self._found: list[str] = []
        self._wanted: list[list[str]] = []

    def add(self, labels: list[Any], predicted: np.ndarray) -> None:
        if predicted.dtype.kind == "f" and predicted.ndim >= 2:
            predicted = predicted.argmax(-1)
        self._found += [self._text(value) for value in predicted]
        for label in labels:
            listed = isinstance(label, (list, tuple, np.ndarray)) and np.ndim(label) == 1
            several = listed and isinstance(label[0] if len(label) else "", (str, bytes))
            self._wanted.append([self._text(v) for v in (label if several else [label])])

    def _text(self, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype.kind in "SUO" and array.size == 1:
            value = array.item()
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if isinstance(value, str):
            return value
        if self._decode is None:
            raise DataError(
                "Text metrics take texts. Received: numbers. Pass `decode`, a function from token "
                "ids (length,) to text."
            )
        if array.dtype.kind not in "biu":
            raise DataError(f"`decode` takes token ids. Received: {array.dtype}")
        try:
            text = self._decode(array)
        except Exception as error:
            raise DataError(
                f"`decode` must turn token ids into text. Received: ids {array.tolist()!r:.60}, on "
                f"which it raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(text, str):
            raise DataError(f"`decode` must return text. Received: {text!r:.60}")
        return text

    def results(self, metrics: Sequence[str | Custom]) -> dict[str, float]:
        found: dict[str, float] = {}
        if "bleu" in metrics:
            from_sacrebleu = _extra("sacrebleu")
            most = max(map(len, self._wanted))
            # The k-th reference of every text; None where one has fewer.
            columns = [[r[k] if k < len(r) else None for r in self._wanted] for k in range(most)]
            found["bleu"] = float(from_sacrebleu.BLEU().corpus_score(self._found, columns).score)
        if "rouge" in metrics:
            kinds = ["rouge1", "rouge2", "rougeL"]
            scorer = _extra("rouge_score.rouge_scorer").RougeScorer(kinds)
            pairs = zip(self._wanted, self._found, strict=True)
            scores = [scorer.score_multi(wanted, text) for wanted, text in pairs]
            for kind in kinds:
                found[kind] = float(np.mean([score[kind].fmeasure for score in scores]))
        return found


def _extra(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"Text metrics need packages of their own ({error}): pip install 'tfcompress[metrics]'"
        ) from error


class _Everything:
    """Labels and predictions as they are, for the user's own functions."""

    def __init__(self) -> None:
        self._labels: list[Any] = []
        self._predicted: list[np.ndarray] = []

    def add(self, labels: list[Any], predicted: np.ndarray) -> None:
        self._labels += labels
        self._predicted.append(predicted)

    def results(self, metrics: Sequence[str | Custom]) -> dict[str, float]:
        try:
            true = np.asarray(self._labels)
        except ValueError:  # of different lengths
            true = np.empty(len(self._labels), object)
            true[:] = self._labels
        predicted = np.concatenate(self._predicted)
        found = {}
        for metric in metrics:
            assert callable(metric)
            try:
                found[name_of(metric)] = float(metric(true, predicted))
            except Exception as error:  # the function is the user's
                raise DataError(
                    f"The metric {name_of(metric)!r} must return one number for labels "
                    f"{true.shape} and outputs {predicted.shape}. It raised "
                    f"{type(error).__name__}: {error}"
                ) from error
        return found
