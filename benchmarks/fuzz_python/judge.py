"""Whether a call of otr_loss did what it has to do."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.fuzz_python import truth
from benchmarks.fuzz_python.calls import DTYPES, Call, Case
from otr_plugin.loss import otr_loss
from otr_plugin.loss.reference import otr_loss_on_logits

# The largest error of a value, relative to its size (truth.py). Roundings to 16 bits: of the gradient of the logits,
# of its product with the weight, and of the division by num_items.
BOUND = {torch.float64: 2e-13, torch.float32: 4e-6, torch.bfloat16: 3 * 2.0**-8, torch.float16: 3 * 2.0**-11}


def problem_of(case: Case) -> str | None:
    """What is wrong with the outcome of the case; None if nothing is."""
    arguments = case.call.arguments()
    if case.mistake is None:
        return Judge(case.call, arguments).problem()
    mistake = case.mistake
    arguments[mistake.argument] = mistake.value(arguments)
    try:
        _run(case.call, arguments)
    except (ValueError, TypeError) as error:
        text = str(error)
        if not text.startswith(f"otr_loss: {mistake.argument}: expected ") or text.count("\n"):
            return f"the message does not name {mistake.argument}: {text[:200]}"
        return None
    except Exception as error:
        return f"{type(error).__name__} in place of a ValueError: {str(error)[:200]}"
    return "the mistake is accepted"


def _run(call: Call, arguments: dict[str, Any]) -> Any:
    with contextlib.ExitStack() as stack:
        if call.autocast is not None:
            stack.enter_context(torch.autocast("cpu", dtype=DTYPES[call.autocast]))
        if call.mode == "no_grad":
            stack.enter_context(torch.no_grad())
        if call.mode == "inference":
            stack.enter_context(torch.inference_mode())
        return otr_loss(**arguments)


class Judge:
    """Compares one right call with the truth."""

    def __init__(self, call: Call, arguments: dict[str, Any]) -> None:
        self.call, self.arguments, self.config = call, arguments, call.config
        self.bound = BOUND[call.gemm_dtype]
        self.eps = torch.finfo(torch.promote_types(call.gemm_dtype, torch.float32)).eps
        self._read_values()
        self._compute_truth()

    def _read_values(self) -> None:
        """The values with which the loss computes, in float64: those of the tensors, in the GEMM's dtype."""
        self.values = {
            name: self.arguments[name].detach().to(self.call.gemm_dtype).double().numpy()
            for name in ("hidden", "weight", "bias")
            if name in self.arguments
        }
        n, samples = self.call.positions, self.config.samples
        uniforms = self.arguments.get("uniforms")
        if self.config.draws and uniforms is None:
            generator = torch.Generator().manual_seed(self.call.seed)
            uniforms = torch.rand(n, samples, generator=generator)
        self.uniforms = None if uniforms is None else uniforms.double().numpy()

    def _compute_truth(self) -> None:
        """The rows of the truth. Positions whose result hangs on a rounding are masked in the call."""
        h, w = self.values["hidden"], self.values["weight"]
        b = self.values.get("bias", np.zeros(len(w)))
        scale, cap = self.arguments.get("logit_scale", 1.0), self.arguments.get("softcap")
        low, high = torch.finfo(self.call.gemm_dtype), np.float32 if self.eps > 1e-10 else np.float64
        with np.errstate(all="ignore"):
            raw, terms = h @ w.T + b, np.abs(h) @ np.abs(w).T + np.where(np.isfinite(b), np.abs(b), 0)
            is_exact = self.call.steps
            dz = 0.0 if is_exact else (2 * low.eps + self.call.width * self.eps) * terms
            hangs = (terms > low.max / 2) & ~(np.abs(raw) > 2 * low.max)
            hangs = (hangs & np.isfinite(terms)).any(1)
            raw = np.where(np.abs(raw) > low.max, np.sign(raw) * math.inf, raw)
            z, dz = raw * scale, np.zeros_like(raw) + dz * abs(scale)
            if math.frexp(scale)[0] not in (0.5, -0.5):
                dz = dz + self.eps * np.abs(z)
            limit = float(np.finfo(high).max)
            hangs |= ((np.abs(z) > limit / 4) & (np.abs(z) <= limit)).any(1)
            z = np.where(np.abs(z) > limit, np.sign(z) * math.inf, z)
            slope = np.ones_like(z)
            if cap is not None:
                t = np.tanh(z / cap)
                # x / cap may underflow
                dz = dz + np.where(z != 0, cap * torch.finfo(torch.float32).tiny * self.eps, 0)
                dz = np.minimum(dz, 2 * cap) + np.where(np.abs(t) == 1, 0, 4 * self.eps * np.minimum(cap, np.abs(z)))
                slope = 1 - t**2
                self.slope_error = 8 * self.eps + 2 * np.minimum(dz / cap, 1)
                z = cap * t
            else:
                self.slope_error = np.zeros_like(z)
        self.z, self.slope, self.trained = z, slope * scale, self.arguments["labels"].numpy() != -100
        labels = self.arguments["labels"].clone()
        self.rows: dict[int, truth.Row] = {}
        weights = self.arguments.get("token_weights")
        for i in np.flatnonzero(self.trained):
            finite = dz[i][np.isfinite(z[i])]
            u = None if self.uniforms is None else self.uniforms[i]
            weight = 1.0 if weights is None else float(weights[i])
            with np.errstate(all="ignore"):
                row = truth.of_row(z[i], int(labels[i]), u, self.config, float(finite.max(initial=0)), self.eps, weight)
            if (hangs[i] and row.has_loss) or not row.is_sure:
                labels[i] = -100
            else:
                self.rows[int(i)] = row
        self.arguments["labels"], self.labels = labels, labels

    def problem(self) -> str | None:
        copies = {name: t.detach().clone() for name, t in self.arguments.items() if isinstance(t, Tensor)}
        if self.config.draws and self.call.uniforms == "global":
            torch.manual_seed(self.call.seed)
        state = torch.get_rng_state()
        try:
            out = _run(self.call, self.arguments)
            gradients = self._backward(out.loss)
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:300]}"
        for name, copy in copies.items():
            if not torch.equal(copy.nan_to_num(), self.arguments[name].nan_to_num()):
                return f"{name} was changed"
        if self.call.uniforms != "global" and not torch.equal(state, torch.get_rng_state()):
            return "torch's global random numbers were used"
        return (
            self._in_metrics(out.metrics)
            or self._in_loss(out.loss)
            or self._in_gradients(gradients)
            or self._in_reference()
        )

    def _backward(self, loss: Tensor) -> dict[str, Tensor]:
        """The gradients, by one of several ways that have to give the same; then what has to be refused."""
        names = [name for name in self.call.needs_grad if name in self.arguments]
        if self.call.mode != "grad" or not names:
            assert not loss.requires_grad, "the loss requires a gradient"
            return {}
        leaves = [self.arguments[name] for name in names]
        match self.call.backward:
            case "once":
                found = torch.autograd.grad(loss, leaves)
            case "twice":
                first = [g.clone() for g in torch.autograd.grad(loss, leaves, retain_graph=True)]
                found = torch.autograd.grad(loss, leaves)
                assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(first, found, strict=True)), (
                    "backward differs"
                )
            case "scaled":
                found = tuple(g / 4 for g in torch.autograd.grad(loss * 4, leaves))
            case "create_graph":
                found = torch.autograd.grad(loss, leaves, create_graph=True)
                if found[0].requires_grad:
                    try:
                        torch.autograd.grad(found[0].sum(), leaves[0], allow_unused=True)
                    except RuntimeError as error:
                        assert "once_differentiable" in str(error), error  # noqa: PT017 (not a test function)
                    else:
                        raise AssertionError("there is a second derivative")
                found = tuple(g.detach() for g in found)
            case "accumulated":
                (loss / 2 + loss / 2).backward()
                found = tuple(leaf.grad for leaf in leaves)
        for leaf, gradient in zip(leaves, found, strict=True):
            assert gradient.dtype == leaf.dtype, gradient.dtype
            assert gradient.shape == leaf.shape, gradient.shape
        return dict(zip(names, found, strict=True))

    def _in_metrics(self, metrics: dict[str, Tensor]) -> str | None:
        names = [n for n in truth.METRICS if self.config.has_rollout or n not in ("reward", "hit_rate", "unsampled")]
        if self.call.token_weights is not None:
            names.append(truth.WITH_WEIGHTS)
        if set(metrics) != {*names, "tokens"}:
            return f"the metrics are {sorted(metrics)}"
        if int(metrics["tokens"]) != len(self.rows):
            return f"tokens is {metrics['tokens']}, not {len(self.rows)}"
        for name in names:
            want = sum(row.metrics[name] for row in self.rows.values())
            allowed = sum(row.sizes[name] * (self._metric_bound() + row.error) for row in self.rows.values())
            if problem := _compare(f"metric {name}", metrics[name], np.float64(want), np.float64(allowed)):
                return problem
        return None

    def _metric_bound(self) -> float:
        return BOUND[torch.float64] if self.eps < 1e-10 else BOUND[torch.float32]

    @property
    def items(self) -> float:
        items = self.arguments.get("num_items")
        return float(items if items is not None else max(len(self.rows), 1))

    def _in_loss(self, loss: Tensor) -> str | None:
        want = sum(row.metrics["objective"] for row in self.rows.values()) / self.items
        error = sum(row.sizes["objective"] * (self._metric_bound() + row.error) for row in self.rows.values())
        if loss.shape != ():
            return f"the loss has shape {tuple(loss.shape)}"
        if loss.dtype != (torch.float32 if self.eps > 1e-10 else torch.float64):
            return f"the loss is a {loss.dtype}"
        return _compare("loss", loss, np.float64(want), np.float64(error / self.items), self.items)

    def _in_gradients(self, gradients: dict[str, Tensor]) -> str | None:
        n = len(self.values["hidden"])
        v = len(self.values["weight"])
        g, size = np.zeros((n, v)), np.zeros((n, v))
        low = torch.finfo(self.call.gemm_dtype)
        for i, row in self.rows.items():
            with np.errstate(all="ignore"):
                g[i] = row.gradient * self.slope[i]
                error = self.bound + 2 * v**0.5 * self.eps + row.error
                # What is lost where an entry underflows in the logits' dtype
                lost = max(low.smallest_normal * low.eps, torch.finfo(torch.float32).tiny if low.bits < 64 else 0)
                size[i] = row.gradient_size * abs(self.slope[i]) * error + lost
                size[i] += (
                    row.gradient_size
                    * np.abs(self.slope[i] * 0 + self.arguments.get("logit_scale", 1.0))
                    * self.slope_error[i]
                )
                size[i] = np.where(np.isnan(size[i]), math.inf, size[i])
        if self.call.poison is not None and self.call.poison[0] != "bias" and math.isinf(self.call.poison[1]):
            return None  # 0 * inf is NaN, and rounding decides where a probability is 0
        if (np.abs(g) > low.max / 16).any():
            return None  # the gradient of the logits may overflow in their dtype
        for name, got in gradients.items():
            with np.errstate(all="ignore"):
                h, w = self.values["hidden"], self.values["weight"]
                if name == "hidden":
                    want, allowed = g @ w, size @ np.abs(w)
                    trained = np.zeros((n, 1), bool)
                    trained[list(self.rows)] = True
                    want, allowed = np.where(trained, want, 0), np.where(trained, allowed, 0)
                    # The product is in the GEMM's dtype, and in float16 it may overflow before it is divided.
                    allowed = np.where(np.abs(g) @ np.abs(w) >= low.max / 16, math.inf, allowed)
                elif name == "weight":
                    rows = list(self.rows)
                    want, allowed = g[rows].T @ h[rows], size[rows].T @ np.abs(h[rows])
                else:
                    want, allowed = g.sum(0), size.sum(0)
                own = torch.finfo(got.dtype)
                want = want / self.items
                allowed = allowed / self.items + np.abs(want) * 2 * own.eps + own.smallest_normal * own.eps * 2
                # In the dtype of hidden, the undivided gradient is rounded, too
                allowed = allowed + 2 * own.smallest_normal * own.eps / self.items
            if problem := _compare(f"gradient of {name}", got, want, allowed):
                return problem
        return None

    def _in_reference(self) -> str | None:
        """The specification on the same logits."""
        z = torch.from_numpy(self.z).requires_grad_()
        uniforms = None if self.uniforms is None else torch.from_numpy(self.uniforms)
        weights = self.arguments.get("token_weights")
        loss, metrics = otr_loss_on_logits(
            z, self.labels.long(), self.config, num_items=1, uniforms=uniforms, token_weights=weights
        )
        (gradient,) = torch.autograd.grad(loss, z)
        for name, value in metrics.items():
            if name != "tokens":
                want = sum(row.metrics[name] for row in self.rows.values())
                size = sum(row.sizes[name] for row in self.rows.values())
                if problem := _compare(
                    f"the specification's {name}", value, np.float64(want), np.float64(1e-10 * size)
                ):
                    return problem
        for i, row in self.rows.items():
            if problem := _compare(
                "the specification's gradient", gradient[i], row.gradient, 1e-10 * row.gradient_size + 1e-15
            ):
                return problem
        return None


def _compare(name: str, got: Tensor, want: Any, allowed: Any, divided_by: float = 1.0) -> str | None:
    """The first difference that is larger than allowed, in words."""
    own = torch.finfo(got.dtype)
    value = got.detach().double().numpy()
    with np.errstate(all="ignore"):
        nan = np.isnan(want)
        # Near the largest number, a sum may overflow on its way to the result.
        overflows = (np.abs(want) + np.nan_to_num(allowed, nan=math.inf)) * max(1, divided_by) >= own.max / 256
        is_right = np.where(
            nan,
            np.isnan(value),
            (allowed == math.inf)
            | (np.abs(value - want) <= allowed + own.smallest_normal)
            | (value == want)
            | overflows,
        )
    if is_right.all():
        return None
    place = tuple(np.argwhere(~is_right)[0])
    where = [int(i) for i in place]
    return f"{name}: {value[place]!r} in place of {want[place]!r} at {where}, allowed {allowed[place]:.1e}"
