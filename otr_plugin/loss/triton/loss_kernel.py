"""The Triton kernel that computes the metrics and the gradient of a chunk. launch.py runs it.

A program processes one row after another. It reads each row of logits twice and writes it once:

    pass 1    the largest logit, the sums over p and q, and the mass of q, or the largest logit, of every tile of TILE
              tokens
    draws     for each draw, a binary search for its tile, then a running sum within the tile
    pass 2    the dense part of the gradient, over the logits; then the gradient of the drawn tokens, one by one

The uniforms are sorted, so draws of the same token are neighbours and each token is written once, without atomics.
So the same input gives the same bits.

p = softmax(x) and q = softmax(x / kappa) are computed relative to the row's largest logit, and are not divided by
their sums before they are used.
"""

from __future__ import annotations

import triton
import triton.language as tl

from otr_plugin.loss.triton.logits import FAR, LOWEST, load_logits, raw_gradient

# The values of OBJECTIVE. They are only compared for equality; their order has no meaning.
SFT, DFT, EXACT, SAMPLED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
POWER, EAFT = tl.constexpr(4), tl.constexpr(5)


@triton.jit
def _q(x, top, threshold, inverse_temperature, CUT: tl.constexpr):
    """q of tokens with logits x, not divided by its sum; 0 for tokens that cannot be drawn."""
    q = tl.exp(tl.maximum(x - top, FAR) * inverse_temperature)
    if CUT:
        q = tl.where(x >= threshold, q, 0.0)
    return q


@triton.jit
def _q_of_others(
    row, token, vocabulary, label, top, threshold, inverse_temperature, SCALE: tl.constexpr, CAP: tl.constexpr
):
    """q of some tokens, not divided by its sum; 0 for the label and for tokens that cannot be drawn."""
    x = load_logits(row, token, token < vocabulary, SCALE, CAP)
    q = tl.exp((x - top) * inverse_temperature)
    return tl.where((token < vocabulary) & (token != label) & (x >= threshold), q, 0.0)


@triton.jit
def _log_entropy_of_most_probable(
    row,
    vocabulary,
    maxima,
    top,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
    MOST_PROBABLE: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
):
    """entropy.log_entropy_of_most_probable, for one row. `maxima` has the largest logit of every tile.

    Each turn takes the largest logit left, as often as it occurs in its tile, and finds the tile's next smaller one.
    """
    tile = tl.arange(0, TILES)
    left = tl.load(maxima + tile, mask=tile < tl.cdiv(vocabulary, TILE), other=-float("inf")).to(tl.float32)
    missing = MOST_PROBABLE
    second = 0.0  # the second largest logit minus the largest
    mass, moment = -1.0, 0.0  # without one of the largest, relative to the second largest
    for turn in range(MOST_PROBABLE):
        largest = tl.max(left, 0)
        its_tile = tl.min(tl.where(left == largest, tile, TILES), 0)
        token = its_tile * TILE + tl.arange(0, TILE)
        x = load_logits(row, token, token < vocabulary, SCALE, CAP)
        x = tl.where(token < vocabulary, x, -float("inf"))
        taken = tl.minimum(tl.sum((x == largest).to(tl.int32), 0), missing)
        missing -= taken
        below_top = tl.maximum(largest - top, FAR)
        second = tl.where((turn > 0) & (mass == 0), below_top, second)
        relative = tl.exp(below_top - second) * taken
        mass += relative
        moment += relative * below_top
        smaller = tl.max(tl.where(x < largest, x, -float("inf")), 0)
        left = tl.where(tile == its_tile, smaller, left)
    others = mass * tl.exp(second)
    whole = 1 + others
    # log(1 + others) / others, also for small numbers; not every backend of Triton has the log1p of libdevice
    slope = tl.where(whole > 1, tl.log(whole) / tl.where(whole > 1, whole - 1, 1.0), 1.0)
    return second + tl.log(mass * slope - moment / whole)


@triton.jit
def loss_kernel(
    logits,
    stride,
    labels,
    uniforms,  # sorted within each row; only read for SAMPLED
    thresholds,  # the smallest logit that can be drawn; only read with CUT
    token_weights,  # factors of each row's objective and gradient; only read with HAS_WEIGHTS
    row_metrics,
    ends,  # scratch: each tile's mass, later the running sum at its end; for EAFT its largest logit [programs, TILES]
    tops,  # scratch: the largest logit of all blocks up to this one [programs, blocks]
    tokens,  # scratch: the drawn tokens, in the order of the uniforms; -1 for the label [programs, samples]
    distances,  # scratch: the drawn tokens' logits minus the largest [programs, samples]
    count,  # rows
    vocabulary,
    samples,
    inverse_temperature,
    beta,
    nll_weight,
    missing_draws,  # for EXACT, `unsampled` is the probability that this many draws miss the label
    alpha,
    log_largest_entropy,
    min_label_prob,
    max_label_prob,
    OBJECTIVE: tl.constexpr,
    CUT: tl.constexpr,
    MEAN_BASELINE: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    HAS_THRESHOLDS: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    MOST_PROBABLE: tl.constexpr,
    TILES: tl.constexpr,
    TILE_STEPS: tl.constexpr,
    SAMPLE_STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    DRAWS: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
    METRICS: tl.constexpr,  # columns of row_metrics, and the index of each one
    NLL_COLUMN: tl.constexpr,
    OBJECTIVE_COLUMN: tl.constexpr,
    WEIGHT_COLUMN: tl.constexpr,
    LABEL_PROB_COLUMN: tl.constexpr,
    ACCURACY_COLUMN: tl.constexpr,
    ENTROPY_COLUMN: tl.constexpr,
    REWARD_COLUMN: tl.constexpr,
    HIT_RATE_COLUMN: tl.constexpr,
    UNSAMPLED_COLUMN: tl.constexpr,
):
    """Fill row_metrics and, with WITH_GRAD, overwrite the logits with their gradient.

    The contract is that of torch_kernel.compute_chunk. TILES is the number of tiles, rounded up to a power of two, and
    TILE_STEPS its binary logarithm; SAMPLE_STEPS is the number of steps of a binary search among the draws.
    """
    program = tl.program_id(0).to(tl.int64)
    ends += program * TILES
    tops += program * tl.cdiv(vocabulary, BLOCK)
    tokens += program * samples
    distances += program * samples
    nan = float("nan")
    for turn in range(tl.cdiv(count - tl.program_id(0), tl.num_programs(0))):
        index = program + turn * tl.num_programs(0)
        row = logits + index * stride
        label = tl.load(labels + index)
        valid = (label >= 0) & (label < vocabulary)
        label = tl.where(valid, label, 0).to(tl.int32)
        label_x = load_logits(row, label, valid, SCALE, CAP)
        threshold = LOWEST
        if CUT:
            threshold = tl.load(thresholds + index)

        # Pass 1. Each lane has its own sums, relative to the largest logit so far; when that rises, the sums shrink.
        top = LOWEST
        p_sums = tl.zeros((BLOCK,), tl.float32)
        p_moments = tl.zeros((BLOCK,), tl.float32)  # sum of p * (x - top)
        q_sums = tl.zeros((BLOCK,), tl.float32)
        q_moments = tl.zeros((BLOCK,), tl.float32)
        # The largest code of a lane's tokens. 1: before the label in the order of argmax; 2: the logit is NaN or +inf.
        code = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, vocabulary, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = load_logits(row, token, token < vocabulary, SCALE, CAP)
            x = tl.where(token < vocabulary, x, -float("inf"))
            better = ((x > label_x) | ((x == label_x) & (token < label))).to(tl.int32)
            code = tl.maximum(code, tl.where(x < float("inf"), better, 2))  # no comparison with NaN is true
            new_top = tl.maximum(top, tl.max(x, 0))
            rise = tl.maximum(top - new_top, FAR)
            top = new_top
            below_top = tl.maximum(x - top, FAR)
            p = tl.exp(below_top)
            shrink = tl.exp(rise)
            p_moments = shrink * (p_moments + p_sums * rise) + p * below_top
            p_sums = shrink * p_sums + p
            if OBJECTIVE == EXACT:
                q = _q(x, top, threshold, inverse_temperature, CUT)
                shrink = tl.exp(rise * inverse_temperature)
                q_moments = shrink * (q_moments + q_sums * rise) + q * below_top
                q_sums = shrink * q_sums + q
            elif OBJECTIVE == SAMPLED:
                q = _q(x, top, threshold, inverse_temperature, CUT)
                tile = start // TILE + tl.arange(0, BLOCK // TILE)
                mass = tl.sum(tl.reshape(q, (BLOCK // TILE, TILE)), 1)
                tl.store(ends + tile, mass.to(tl.float64), mask=tile < TILES)
                tl.store(tops + start // BLOCK, top)
            elif OBJECTIVE == EAFT:
                tile = start // TILE + tl.arange(0, BLOCK // TILE)
                largest = tl.where(x < float("inf"), x, -float("inf"))  # the interpreter warns of tiles of NaN
                largest = tl.max(tl.reshape(largest, (BLOCK // TILE, TILE)), 1)
                tl.store(ends + tile, largest.to(tl.float64), mask=tile < TILES)
        row_code = tl.max(code, 0)
        valid = valid & (row_code < 2) & (top > LOWEST)  # the top is LOWEST if all logits are -inf
        p_sum = tl.sum(p_sums, 0)
        log_z = tl.log(p_sum)
        label_distance = label_x - top
        nll = log_z - label_distance
        label_prob = tl.exp(label_distance) / p_sum
        label_weight = tl.exp(label_distance * inverse_temperature)  # q of the label, not divided by its sum
        if CUT:
            label_weight = tl.where(label_x >= threshold, label_weight, 0.0)

        # The terms of the gradient: dJ/dz = p_factor * p - label_share (at the label)
        #                                    - q_factor * q (EXACT) - drawn_share for each draw of a token (SAMPLED)
        reward, hit_rate, unsampled = nan, nan, nan
        q_factor, drawn_share = 0.0, 0.0
        if OBJECTIVE == SFT:
            p_factor = 1.0
            label_share = 1.0
            objective = nll
        elif OBJECTIVE == DFT:
            p_factor = label_prob
            label_share = label_prob
            objective = label_prob * tl.where(label_prob > 0, nll, 0.0)  # 0 * inf would be NaN
        elif OBJECTIVE == POWER:
            exponent = alpha * nll
            p_factor = tl.exp(-exponent)
            label_share = p_factor
            # (1 - p^alpha) / alpha. Where p^alpha is near 1, the difference would round: there, Taylor's series.
            ratio = 1 - exponent / 7
            for i in tl.static_range(5):
                ratio = 1 - exponent / (6 - i) * ratio
            near = exponent < 0.5
            objective = tl.where(near, tl.where(near, nll, 0.0) * ratio, (1 - p_factor) / alpha)
        elif OBJECTIVE == EAFT:
            tl.debug_barrier()
            log_entropy = _log_entropy_of_most_probable(
                row, vocabulary, ends, top, TILES, TILE, MOST_PROBABLE, SCALE, CAP
            )  # fmt: skip
            p_factor = tl.exp(alpha * (log_entropy - log_largest_entropy))
            label_share = p_factor
            objective = p_factor * tl.where(p_factor > 0, nll, 0.0)
        elif OBJECTIVE == EXACT:
            q_sum = tl.sum(q_sums, 0)
            hit_rate = label_weight / q_sum
            reward = beta + (1 - beta) * hit_rate
            baseline = reward if MEAN_BASELINE else 0.0
            p_factor = reward - baseline
            label_share = (1 - beta) * hit_rate
            q_factor = (beta - baseline) / q_sum
            cross_entropy = log_z - tl.sum(q_moments, 0) / q_sum
            objective = label_share * tl.where(hit_rate > 0, nll, 0.0) + (beta - baseline) * cross_entropy
            unsampled = tl.exp(missing_draws * tl.log(tl.maximum(1 - hit_rate, 1e-37)))
        elif OBJECTIVE == SAMPLED:
            # The running sum of q over the tokens other than the label, tile by tile, in float64
            tl.debug_barrier()
            tile = tl.arange(0, TILES)
            filled = tile < tl.cdiv(vocabulary, TILE)
            rise = tl.load(tops + tile // (BLOCK // TILE), mask=filled, other=0.0) - top
            mass = tl.load(ends + tile, mask=filled, other=0.0) * tl.exp(rise * inverse_temperature)
            # The tile of the label is summed again without the label: a subtraction would leave a rounding error.
            beside = label // TILE * TILE + tl.arange(0, TILE)
            q_beside = _q_of_others(row, beside, vocabulary, label, top, threshold, inverse_temperature, SCALE, CAP)
            mass = tl.where(tile == label // TILE, tl.sum(q_beside, 0).to(tl.float64), mass)
            end = tl.cumsum(mass, 0)
            others = tl.max(end, 0)
            total = others + label_weight
            tl.debug_barrier()
            tl.store(ends + tile, end)
            tl.debug_barrier()

            hits = 0
            distance_sum = 0.0
            for first in range(0, samples, DRAWS):
                k = first + tl.arange(0, DRAWS)
                live = k < samples
                u = tl.load(uniforms + index * samples + k, mask=live, other=0.0)
                # The place of the draw in the running sum over the other tokens; if it is negative, the label is drawn.
                rest = u.to(tl.float64) * total - label_weight
                is_label = rest < 0
                # Keep rest below the total, so that rounding cannot move a draw behind the last tile that has mass.
                rest = tl.minimum(tl.maximum(rest, 0.0), others - others * 2.220446049250313e-16)  # 2**-52
                before = tl.zeros((DRAWS,), tl.int32)  # number of tiles that end at or before the draw
                for step in tl.static_range(TILE_STEPS):
                    half = TILES >> (step + 1)
                    before += tl.where(tl.load(ends + before + half - 1) <= rest, half, 0)
                rest -= tl.load(ends + before - 1, mask=before > 0, other=0.0)
                inside = before[:, None] * TILE + tl.arange(0, TILE)[None, :]
                q_inside = _q_of_others(row, inside, vocabulary, label, top, threshold, inverse_temperature, SCALE, CAP)
                place = tl.sum((tl.cumsum(q_inside, 1) <= rest.to(tl.float32)[:, None]).to(tl.int32), 1)
                # Rounding may move rest behind the last token of the tile that has mass; that token is then the draw.
                last = tl.max(tl.where(q_inside > 0, tl.arange(0, TILE)[None, :], 0), 1)
                # In a row with NaN the search may end anywhere; the minimum keeps it within the row.
                drawn = tl.minimum(before * TILE + tl.minimum(place, last), vocabulary - 1)
                is_other = live & (is_label == 0)
                distance = load_logits(row, drawn, is_other, SCALE, CAP) - top
                tl.store(tokens + k, tl.where(is_other, drawn, -1), mask=live)
                tl.store(distances + k, distance, mask=live)
                hits += tl.sum((is_label & live).to(tl.int32), 0)
                distance_sum += tl.sum(tl.where(is_other, distance, 0.0), 0)
            hit_rate = hits / (samples * 1.0)
            reward = beta + (1 - beta) * hit_rate
            unsampled = tl.where(hits == 0, 1.0, 0.0)
            baseline = reward if MEAN_BASELINE else 0.0
            p_factor = reward - baseline
            label_share = (1 - baseline) * hit_rate
            drawn_share = (beta - baseline) / samples
            others_log_p = distance_sum - (samples - hits) * log_z
            objective = label_share * tl.where(hits > 0, nll, 0.0) - drawn_share * others_log_p
        else:
            tl.static_assert(
                False, "loss_kernel: OBJECTIVE is not implemented; SFT, DFT, POWER, EAFT, EXACT and SAMPLED are"
            )

        objective += nll_weight * tl.where(nll_weight > 0, nll, 0.0)
        p_factor += nll_weight
        label_share += nll_weight
        if HAS_WEIGHTS or HAS_THRESHOLDS:
            weight = 1.0
            if HAS_WEIGHTS:
                weight = tl.load(token_weights + index).to(tl.float32)
            if HAS_THRESHOLDS:
                weight = tl.where((label_prob >= min_label_prob) & (label_prob <= max_label_prob), weight, 0.0)
            objective = weight * tl.where(weight > 0, objective, 0.0)
            p_factor *= weight
            label_share *= weight
            q_factor *= weight
            drawn_share *= weight
        accuracy = tl.where(row_code == 0, 1.0, 0.0)
        entropy = log_z - tl.sum(p_moments, 0) / p_sum
        out = row_metrics + index * METRICS
        tl.store(out + NLL_COLUMN, tl.where(valid, nll, nan))
        tl.store(out + OBJECTIVE_COLUMN, tl.where(valid, objective, nan))
        tl.store(out + WEIGHT_COLUMN, tl.where(valid, p_factor, nan))
        tl.store(out + LABEL_PROB_COLUMN, tl.where(valid, label_prob, nan))
        tl.store(out + ACCURACY_COLUMN, tl.where(valid, accuracy, nan))
        tl.store(out + ENTROPY_COLUMN, tl.where(valid, entropy, nan))
        tl.store(out + REWARD_COLUMN, tl.where(valid, reward, nan))
        tl.store(out + HIT_RATE_COLUMN, tl.where(valid, hit_rate, nan))
        tl.store(out + UNSAMPLED_COLUMN, tl.where(valid, unsampled, nan))

        # Pass 2: the gradient
        if WITH_GRAD:
            dtype = logits.dtype.element_ty
            p_factor = tl.where(valid, p_factor, nan) / p_sum
            tl.debug_barrier()
            for start in range(0, vocabulary, BLOCK):
                token = start + tl.arange(0, BLOCK)
                x = load_logits(row, token, token < vocabulary, SCALE, CAP)
                gradient = p_factor * tl.exp(x - top)
                if OBJECTIVE == EXACT:
                    gradient -= q_factor * _q(x, top, threshold, inverse_temperature, CUT)
                gradient = tl.where(token == label, gradient - label_share, gradient)
                gradient = raw_gradient(gradient, x, SCALE, CAP)
                tl.store(row + token, gradient.to(dtype), mask=token < vocabulary)
            if OBJECTIVE == SAMPLED:
                tl.debug_barrier()
                for first in range(0, samples, DRAWS):
                    k = first + tl.arange(0, DRAWS)
                    drawn = tl.load(tokens + k, mask=k < samples, other=-1)
                    previous = tl.load(tokens + k - 1, mask=(k > 0) & (k < samples), other=-1)
                    is_new = (drawn >= 0) & (drawn != previous)
                    # A binary search among the later draws finds where the run of draws of this token ends.
                    low, high = k + 1, tl.zeros((DRAWS,), tl.int32) + samples
                    for _ in tl.static_range(SAMPLE_STEPS):
                        middle = (low + high) // 2
                        same = tl.load(tokens + middle, mask=low < high, other=-1) == drawn
                        low, high = tl.where(same & (low < high), middle + 1, low), tl.where(same, high, middle)
                    distance = tl.load(distances + k, mask=is_new, other=0.0)
                    drawn_gradient = p_factor * tl.exp(distance) - drawn_share * (low - k)
                    drawn_gradient = raw_gradient(drawn_gradient, distance + top, SCALE, CAP)
                    tl.store(row + drawn, drawn_gradient.to(dtype), mask=is_new)
        tl.debug_barrier()
