"""An output layer, its square loss and its optimiser in one, whose steps cost the same for any number of classes.

The algebra is in ``_factor.py``; the loss is that of ``_gram_form.py``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqloss_plugins.losses._factor import (
    Factor,
    FactoredRows,
    MicroBatch,
    Pending,
    StoredRows,
    fold,
    plain_factor,
    sgd_step,
)
from sqloss_plugins.losses._gram_form import Problem, row_losses
from sqloss_plugins.losses._interrupts import interrupts_wait
from sqloss_plugins.losses._targets import check_input, check_options, index_targets, result_dtype, rows_that_count
from sqloss_plugins.losses.accumulation import row_sums
from sqloss_plugins.losses.linear_multilabel import check_label_lists, multilabel_problem, pair_losses, rows_of_pairs
from sqloss_plugins.losses.square import check_rescaling

_DTYPES = (torch.float32, torch.float64)

_OUTPUTS = 1 << 22
"""Outputs that :meth:`FactorisedSquareHead.top_classes` builds at once."""


class FactorisedSquareHead(nn.Module):
    """A linear layer trained by SGD on the square loss of its outputs, at a cost that does not grow with the classes.

    What is computed is exact: the loss, its gradient by the input, and the SGD step are those of a plain layer with
    :class:`torch.optim.SGD`, rounding apart. A step on N rows takes about 14 N d^2 floating-point operations whatever
    C is, and no memory of the weight's size beside the weight. Instead of W, the layer keeps V, U and u with
    W = V U + 1 u^T.

        head = FactorisedSquareHead(128, 1_000_000, k=15, M=30)
        optimizer = torch.optim.AdamW(encoder.parameters())  # of everything but the head
        for inputs, targets in batches:
            loss = head(encoder(inputs), targets)
            loss.backward()         # gradients of the encoder, and what the head needs for its step
            optimizer.step()
            head.step(lr=1e4)       # the head's own SGD step; then its gradient is gone
            optimizer.zero_grad()
        layer = head.materialise()  # an nn.Linear

    *Gradient accumulation*: several backward passes before :meth:`step` add up, and scaled losses scale what they add,
    as with any layer. *Gradient clipping*: :meth:`gradient_norm` is the exact norm of the gradient that a plain layer
    would have, and :meth:`scale_gradient` multiplies it, by the clipping factor or by the inverse of a loss scale.
    *Several labels*: with lists of true classes in the place of targets the loss is that of
    :func:`sqloss_plugins.losses.linear_multilabel_square_loss`, and the cost likewise.
    *Prediction*: called without targets it returns outputs; :meth:`top_classes` returns the best of them. *Saving*:
    ``state_dict`` has ``weight`` and ``bias`` as an ``nn.Linear``'s, which loads it, and the other way round.

    ``weight`` and ``bias`` are W and b whenever they are read as attributes, which costs some 4 d^2 C operations after
    a step. They are parameters that require no gradient, so that no other optimiser takes them. What
    ``named_parameters()`` yields is V; call :meth:`fold` before reading that. Both may be written to, under
    ``torch.no_grad()``, when they have just been read.

    The learning rate is of the usual size times C, because the loss is divided by C. There is no momentum: it would
    have to be moved into V every few steps, at a cost that grows with C. There is no prior weight: it would scale the
    classes' gradients differently, which no d x d matrix does. Second derivatives are refused. The layer is of one
    process: DistributedDataParallel has no gradient to add up.

    Args:
        in_features: d.
        num_classes: C.
        bias: whether the layer has one.
        ignore_index, reduction, label_smoothing, k, M: as in :func:`sqloss_plugins.losses.square_loss`.
        keep_plain: whether the weight is kept as it is, and every step multiplies it by a d x d matrix in place: 2 d^2
            C operations more, but no gradient of the weight's size. For some 10,000 classes, and where other code reads
            the weight at every step.
        device, dtype: of the weight; float32 or float64. Parts of size d x d are kept in float64.

    Raises:
        ValueError: unknown reduction; k or M not positive and finite; no feature or class; another dtype.
        RuntimeError: label smoothing outside [0, 1].

    Source: Vincent, de Brebisson & Bouthillier (2015), arXiv 1412.7091; here for mini-batches and the rescaled loss,
    with bias, label smoothing and weight decay.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import FactorisedSquareHead
        >>> _ = torch.manual_seed(0)
        >>> head = FactorisedSquareHead(16, 100_000)
        >>> hidden, target = torch.randn(32, 16), torch.randint(100_000, (32,))
        >>> for step in range(3):
        ...     head(hidden, target).backward()
        ...     head.step(lr=10.0)
        ...     head.zero_grad()
        >>> head.top_classes(hidden, 5)[1].shape
        torch.Size([32, 5])
        >>> head.materialise()
        Linear(in_features=16, out_features=100000, bias=True)
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = True,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        k: float = 1.0,
        M: float = 1.0,
        keep_plain: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_options(reduction, label_smoothing)
        check_rescaling(k, M)
        if in_features < 1 or num_classes < 1:
            raise ValueError(f"there must be a feature and a class, got {in_features} and {num_classes}")
        self.in_features, self.num_classes = in_features, num_classes
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing
        self.k, self.M, self.keep_plain = k, M, keep_plain
        weight = torch.empty(num_classes, in_features, device=device, dtype=dtype)
        _check_dtype(weight.dtype)
        # Not by attribute, which reads W: these are the parameters' places.
        self._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
        vector = nn.Parameter(weight.new_empty(num_classes), requires_grad=False) if bias else None
        self._parameters["bias"] = vector
        self._factor: Factor | None = None
        self._state: tuple[Any, ...] = ()
        self._changes = 0  # how often W has become another
        self._pending = Pending()
        self.reset_parameters()

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options: Any) -> FactorisedSquareHead:
        """A head with a copy of a layer's weight and bias.

        Args:
            linear: the layer; float32 or float64.
            **options: of the constructor, but for sizes, bias, device and dtype.
        """
        weight, has_bias = linear.weight, linear.bias is not None
        head = cls(linear.in_features, linear.out_features, bias=has_bias, device="meta", dtype=weight.dtype, **options)
        head = head.to_empty(device=weight.device)
        head.load_state_dict({"weight": weight.detach(), **({"bias": linear.bias.detach()} if has_bias else {})})
        return head

    def reset_parameters(self) -> None:
        """New random values, as those of a new :class:`torch.nn.Linear`."""
        bound = 1.0 / math.sqrt(self.in_features)
        self.zero_grad()
        self._factor = None
        with torch.no_grad():
            for parameter in self._stored():
                if parameter is not None:
                    parameter.uniform_(-bound, bound)

    # ------------------------------------------------------------ the loss

    def forward(self, input: Tensor, target: Tensor | None = None, offsets: Tensor | None = None) -> Tensor:
        """The loss; without targets the outputs, of shape (..., C), of the layer's dtype, or autocast's.

        Args:
            input: what the layer is given, floating point, of shape (..., d).
            target: class indices, int64, of the input's shape without d, each in [0, C) or ``ignore_index``. With
                ``offsets`` the true classes of all rows, one row after the other, int64, of shape (L).
            offsets: for several labels: where in ``target`` each of the N rows of an input (N, d) begins, int64, of
                shape (N); see :func:`sqloss_plugins.losses.linear_multilabel_square_loss`.

        Returns:
            A scalar, or for the reduction ``"none"`` a tensor of one loss for each row; dtype as that of
            ``square_loss``.

        Raises:
            ValueError: shapes or devices that do not fit; lists of classes for a layer with label smoothing.
            IndexError: a target out of range.
            RuntimeError: targets that are not int64; in the backward pass, second derivatives, or a weight that has
                changed since.
        """
        if target is None:  # differentiable by the input alone
            self._check_input(input)
            return F.linear(input.to(self.weight.dtype), self.weight, self.bias)
        of_targets = self._loss if offsets is None else partial(self._loss_of_lists, offsets=offsets)
        # Not by a decorator, which imports the compiler with this module and takes seconds.
        compute = torch.compiler.disable(of_targets) if torch.compiler.is_compiling() else of_targets  # type: ignore[no-untyped-call]
        loss: Tensor = compute(input, target)
        return loss

    def _loss_of_lists(self, input: Tensor, classes: Tensor, offsets: Tensor) -> Tensor:
        self._check_input(input)
        check_label_lists(input, classes, offsets)
        if self.label_smoothing:
            raise ValueError("label smoothing is for examples with one true class, and these have lists of them")
        if {classes.device, offsets.device} != {input.device}:
            raise ValueError(f"classes and offsets are on {classes.device} and {offsets.device}, not {input.device}")
        dtype = self._stored().weight.dtype
        options: dict[str, Any] = {"k": self.k, "M": self.M, "reduction": self.reduction}
        problem = multilabel_problem(len(input), classes, self.num_classes, dtype=dtype, rows_dtype=dtype, **options)
        return self._apply_loss(input, problem, rows_of_pairs(classes, offsets, self.num_classes))

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        self._check(input, target)
        shape, C = target.shape, self.num_classes
        H, y = input.reshape(-1, self.in_features), target.reshape(-1)
        kept = rows_that_count(y, C, self.ignore_index)
        if kept is not None:
            H, y = H[kept], y[kept]
        dtype = self._stored().weight.dtype
        targets = index_targets(H.new_empty((), dtype=dtype).expand(len(H), C), y, None, -100, self.label_smoothing)
        problem = Problem(
            true_class=targets.true_class.squeeze(1),
            rows=targets.rows,
            normaliser=targets.normaliser if self.reduction == "mean" else None,
            reduction=self.reduction,
            on=float(targets.on),
            off=float(targets.off),
            k=float(self.k),
            M=float(self.M),
            constant=0.0,
            dtype=dtype,
            value_dtype=dtype,
            first_class=0,
            num_classes=C,
        )
        loss = self._apply_loss(H, problem, None)
        if self.reduction != "none":
            return loss
        return (loss if kept is None else loss.new_zeros(len(target.reshape(-1))).index_put((kept,), loss)).view(shape)

    def _apply_loss(self, H: Tensor, problem: Problem, row: Tensor | None) -> Tensor:
        """The loss of an input of shape (N, d); ``row``, of each true class, for lists of them."""
        # A loss that needs a gradient, so that there is a backward pass for the layer even where the input needs none.
        own = torch.zeros((), device=H.device, requires_grad=torch.is_grad_enabled())
        with torch.autocast(H.device.type, enabled=False):
            loss: Tensor = _FactorisedLoss.apply(H, own, row, self, problem)  # type: ignore[no-untyped-call]
        return loss.to(result_dtype(H))

    def _check_input(self, input: Tensor) -> None:
        """Refuses an input that does not fit the layer, before any work."""
        check_input(input)
        device = self._stored().weight.device
        if input.dim() < 1 or input.shape[-1] != self.in_features:
            raise ValueError(f"the input is of shape (..., {self.in_features}), got {tuple(input.shape)}")
        if input.device != device:
            raise ValueError(f"the input is on {input.device} and the layer on {device}")

    def _check(self, input: Tensor, target: Tensor) -> None:
        """Refuses what does not fit the layer, before any work."""
        self._check_input(input)
        if target.shape != input.shape[:-1]:
            raise ValueError(
                f"the target has a class index for each row of the input, {tuple(input.shape[:-1])}, "
                f"got {tuple(target.shape)}"
            )
        if target.dtype != torch.int64:
            raise RuntimeError(f"targets are class indices, int64, got {target.dtype}")
        if target.device != input.device:
            raise ValueError(f"the target is on {target.device} and the layer on {input.device}")

    # ------------------------------------------------------------ gradient and step

    @property
    def has_gradient(self) -> bool:
        """Whether a backward pass has left something for :meth:`step`."""
        return self._pending.sums is not None

    def step(self, lr: float, weight_decay: float = 0.0) -> None:
        """The step of :class:`torch.optim.SGD` on the gradients since the last step, which then are gone.

        Without a gradient nothing happens. An error leaves layer and gradient as they were. An interrupt (Ctrl-C) waits
        until the step is made: V without its U is no weight.

        Args:
            lr: learning rate, >= 0; about C times that of a loss that is not divided by C.
            weight_decay: >= 0, of the weight; not of the bias.

        Raises:
            ValueError: a learning rate or weight decay that is negative or not finite.
            FloatingPointError: the gradient, or the weight after the step, is not finite.
        """
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number and not negative, got {value}")
        if not self.has_gradient:
            return
        with torch.no_grad(), torch.autocast(self._stored().weight.device.type, enabled=False):
            rows = self._rows()
            decay = torch.zeros_like(rows.factor.total)
            decay[: self.in_features] = float(weight_decay)
            step = sgd_step(rows, self._pending.gradient(), float(lr), decay, self.keep_plain)
            with interrupts_wait():
                step.write(rows.stored)
                self._keep(step.factor)
                self._changes += 1
                self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients since the last step."""
        self._pending = Pending()

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """The Euclidean norm of the gradient by weight and bias, a float64 scalar; 0 where there is none.

        To clip the gradients of a whole model, take the root of the squares' sum with those of the other parameters.
        """
        device = self._stored().weight.device
        if not self.has_gradient:
            return torch.zeros((), dtype=torch.float64, device=device)
        with torch.autocast(device.type, enabled=False):
            return self._pending.gradient().squared_norm(self._rows()).sqrt()

    def scale_gradient(self, factor: float | Tensor) -> None:
        """Multiplies the gradients since the last step, as ``parameter.grad *= factor`` would."""
        self._pending.scale(factor)

    # ------------------------------------------------------------ the weight

    @property
    def weight(self) -> nn.Parameter:
        """W, of shape (C, d), in the memory of V."""
        self.fold()
        weight: nn.Parameter = self._parameters["weight"]  # type: ignore[assignment]
        return weight

    @property
    def bias(self) -> nn.Parameter | None:
        """b, of shape (C), if there is one."""
        self.fold()
        return self._parameters["bias"]

    @torch.inference_mode(False)
    @torch.no_grad()
    def fold(self) -> None:
        """Makes V the weight itself, so that U is 1 and u is 0; nothing else changes, and no gradient is lost."""
        if self._factor is not None and not self._factor.is_plain:
            rows = self._rows()
            with interrupts_wait():
                self._keep(fold(rows.stored, rows.factor))

    @torch.no_grad()
    def materialise(self) -> nn.Linear:
        """A plain layer with a copy of weight and bias."""
        weight, bias = self.weight, self.bias
        linear = nn.Linear(self.in_features, self.num_classes, bias is not None, device="meta", dtype=weight.dtype)
        linear.weight = nn.Parameter(weight.clone())
        if bias is not None:
            linear.bias = nn.Parameter(bias.clone())
        return linear

    @torch.no_grad()
    def top_classes(self, input: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The largest outputs, and their classes, from the outputs of some classes at a time.

        Args:
            input: of shape (..., d).
            n: how many, at most C.

        Returns:
            Outputs, sorted, and class indices, int64; both of shape (..., n).

        Raises:
            ValueError: n is not between 1 and C; an input whose shape or device does not fit.
        """
        self._check_input(input)
        C = self.num_classes
        if not 1 <= n <= C:
            raise ValueError(f"between 1 and {C} classes can be asked for, got {n}")
        weight, bias = self.weight, self.bias
        H = input.reshape(-1, self.in_features).to(weight.dtype)
        size = max(n, _OUTPUTS // max(1, len(H)))
        best: tuple[Tensor, Tensor] | None = None
        for start in range(0, C, size):
            part = slice(start, start + size)
            outputs = F.linear(H, weight[part], None if bias is None else bias[part])
            values, classes = outputs.topk(min(n, outputs.shape[1]))
            classes = classes + start
            if best is not None:
                values, order = torch.cat([best[0], values], 1).topk(n)
                classes = torch.cat([best[1], classes], 1).gather(1, order)
            best = values, classes
        assert best is not None  # C is at least 1
        return best[0].view(*input.shape[:-1], n), best[1].view(*input.shape[:-1], n)

    def extra_repr(self) -> str:
        """Sizes, k and M, shown by print(module)."""
        bias = self._parameters["bias"] is not None
        return (
            f"in_features={self.in_features}, num_classes={self.num_classes}, bias={bias}, k={self.k:g}, M={self.M:g}"
        )

    # ------------------------------------------------------------ V, U and u

    def _stored(self) -> StoredRows:
        return StoredRows(self._parameters["weight"], self._parameters["bias"])  # type: ignore[arg-type]

    def _keep(self, factor: Factor) -> None:
        """Takes a factor that goes with V as it is now."""
        self._factor, self._state = factor, _state_of(self._stored())

    @torch.inference_mode(False)
    @torch.no_grad()
    def _rows(self) -> FactoredRows:
        """W by V and its factor, which is computed where there is none or the weight was written to.

        Raises:
            RuntimeError: the weight was written to while it was V, or since the backward pass.
        """
        V = self._stored()
        if self._factor is not None and self._state != _state_of(V):
            if not self._factor.is_plain or self.has_gradient:
                raise RuntimeError(
                    "the weight or bias of the factorised head was written to, other than by its step: read it as an "
                    "attribute before (or call fold()), and write when no gradient is left for step()"
                )
            self._factor = None
        if self._factor is None:
            self._keep(plain_factor(V))
            self._changes += 1
        assert self._factor is not None
        return FactoredRows(V, self._factor)

    def _apply(self, fn: Any, recurse: bool = True) -> FactorisedSquareHead:
        """Another device or dtype."""
        if self.has_gradient:
            raise RuntimeError("call step() or zero_grad() before the head is moved")
        if not self._stored().weight.is_meta:
            _check_dtype(fn(self._stored().weight[:0].detach().clone()).dtype)
        self.fold()
        self._factor = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, *args: Any, **options: Any) -> None:
        self.fold()
        super()._save_to_state_dict(*args, **options)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self.fold()
        self.zero_grad()  # the gradient of another weight
        self._factor = None
        super()._load_from_state_dict(*args, **options)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the plain weight, without a gradient."""
        self.fold()
        return {**self.__dict__, "_factor": None, "_pending": Pending()}


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in _DTYPES:
        raise ValueError(f"the factorised head is of dtype float32 or float64 (inputs may be narrower), got {dtype}")


def _state_of(V: StoredRows) -> tuple[Any, ...]:
    """What a factor belongs to."""
    return tuple((tensor.data_ptr(), tensor._version) for tensor in V if tensor is not None)


class _FactorisedLoss(torch.autograd.Function):
    """Loss and gradient of the input in the forward pass; in the backward pass, what the head's step needs."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, own: Tensor, row: Tensor | None, head: FactorisedSquareHead, problem: Problem
    ) -> Tensor:
        """The loss of an input of shape (N, d), reduced."""
        H = input.to(problem.dtype)
        if head._parameters["bias"] is not None:
            H = F.pad(H, (0, 1), value=1.0)
        W = head._rows()
        gram = W.factor.gram.to(problem.dtype)
        if row is None:
            rows = row_losses(H, W, None, gram, problem)
            losses, slope = rows.losses, rows.slope
            input_gradient = rows.input_gradient(problem) if ctx.needs_input_grad[0] else None
        else:
            losses, input_gradient, slope = pair_losses(H, W, None, gram, row, problem)
        ctx.save_for_backward(H, input_gradient, row, problem.true_class, slope)
        ctx.problem, ctx.head, ctx.dtype, ctx.changes = problem, head, input.dtype, head._changes
        return problem.reduce(losses)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the input; that of the layer goes to the layer itself."""
        (grad_output,) = grad_outputs
        if torch.is_grad_enabled():
            raise RuntimeError("the factorised head has no second derivatives: take linear_square_loss")
        H, input_gradient, row, true_class, slope = ctx.saved_tensors
        head, problem = ctx.head, ctx.problem
        if head._changes != ctx.changes or head._state != _state_of(head._stored()):
            raise RuntimeError(
                "the weight of the factorised head has changed since this loss was computed: call backward() before "
                "step(), and before anything else writes to the weight"
            )
        scale = problem.scales(grad_output)
        with torch.autocast(H.device.type, enabled=False):
            sums = row_sums(H, scale, problem.square, problem.linear, problem.dtype, True)
        of_pairs = (slope * scale, H) if row is None else (slope * scale[row], H[row])
        head._pending.add(sums, MicroBatch(true_class, *of_pairs))
        if input_gradient is None or not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        gradient = (input_gradient * scale.unsqueeze(1))[:, : head.in_features]
        return gradient.to(ctx.dtype), None, None, None, None
