"""The Triton kernel of one chunk: a program takes rows in turn, reads each twice and writes it once.

    1  for p and for q: the largest logit, sums, and q's mass in every tile of TILE tokens
       the draws: a binary search for each one's tile, then a running sum inside it
    2  the dense part of the gradient over the logits, then what was drawn, token by token

Draws come sorted, so equal tokens are neighbours: each is written once, and no write meets another. Nothing is atomic;
the same input gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from otr_plugin.loss.triton.logits import LOWEST, load_logits, through_finish

SFT, DFT, EXACT, SAMPLED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def _shares(row, token, vocabulary, label, top, threshold, inverse_temperature, SCALE: tl.constexpr, CAP: tl.constexpr):
    """q of some tokens, not divided by its sum; 0 for the label, and for what may not be drawn."""
    x = load_logits(row, token, token < vocabulary, SCALE, CAP)
    q = tl.exp((x - top) * inverse_temperature)
    return tl.where((token < vocabulary) & (token != label) & (x >= threshold), q, 0.0)


@triton.jit
def loss_kernel(
    logits,
    stride,
    labels,
    uniforms,
    thresholds,
    stats,
    ends,  # scratch: each tile's mass, then where it ends in the running sum [programs, TILES]
    tops,  # scratch: the largest logit so far, at each block [programs, blocks]
    tokens,  # scratch: the draws, in order; -1 where the label was drawn [programs, samples]
    distances,  # scratch: their logits less the largest [programs, samples]
    count,
    vocabulary,
    samples,
    inverse_temperature,
    beta,
    nll_weight,
    draws_to_miss,  # `exact` says how likely this many draws would miss the label
    OBJECTIVE: tl.constexpr,
    CUT: tl.constexpr,
    MEAN_BASELINE: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    TILES: tl.constexpr,
    TILE_STEPS: tl.constexpr,
    SAMPLE_STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    DRAWS: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
):
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
        at_label = load_logits(row, label, valid, SCALE, CAP)
        threshold = LOWEST
        if CUT:
            threshold = tl.load(thresholds + index)

        # 1: sums, each lane its own, in units of exp(the largest logit so far)
        top = LOWEST
        p_sums = tl.zeros((BLOCK,), tl.float32)
        p_moments = tl.zeros((BLOCK,), tl.float32)  # sum of p * (x - top)
        q_sums = tl.zeros((BLOCK,), tl.float32)
        q_moments = tl.zeros((BLOCK,), tl.float32)
        better = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, vocabulary, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = load_logits(row, token, token < vocabulary, SCALE, CAP)
            x = tl.where(token < vocabulary, x, -float("inf"))
            better += ((x > at_label) | ((x == at_label) & (token < label))).to(tl.int32)
            new_top = tl.maximum(top, tl.max(x, 0))
            rise = top - new_top
            top = new_top
            kept = x >= threshold
            x = tl.maximum(x - top, LOWEST)
            p = tl.exp(x)
            shrink = tl.exp(rise)
            p_moments = shrink * (p_moments + p_sums * rise) + p * x
            p_sums = shrink * p_sums + p
            if OBJECTIVE >= EXACT:
                q = tl.exp(x * inverse_temperature)
                if CUT:
                    q = tl.where(kept, q, 0.0)
                if OBJECTIVE == EXACT:
                    shrink = tl.exp(rise * inverse_temperature)
                    q_moments = shrink * (q_moments + q_sums * rise) + q * x
                    q_sums = shrink * q_sums + q
                else:
                    tile = start // TILE + tl.arange(0, BLOCK // TILE)
                    mass = tl.sum(tl.reshape(q, (BLOCK // TILE, TILE)), 1)
                    tl.store(ends + tile, mass.to(tl.float64), mask=tile < TILES)
                    tl.store(tops + start // BLOCK, top)
        p_sum = tl.sum(p_sums, 0)
        log_z = tl.log(p_sum)
        label_distance = at_label - top
        nll = log_z - label_distance
        label_prob = tl.exp(label_distance) / p_sum
        label_weight = tl.exp(label_distance * inverse_temperature)  # q's, not divided by its sum
        if CUT:
            label_weight = tl.where(at_label >= threshold, label_weight, 0.0)

        # What the objective adds, as in torch_kernel: dJ/dz = scale * p - (what was drawn) - label_share (at the label)
        reward, hit_rate, unsampled = nan, nan, nan
        q_share, drawn_share = 0.0, 0.0
        if OBJECTIVE == SFT:
            scale = 1.0
            label_share = 1.0
            objective = nll
        elif OBJECTIVE == DFT:
            scale = label_prob
            label_share = label_prob
            objective = label_prob * tl.where(label_prob > 0, nll, 0.0)  # not 0 * inf
        elif OBJECTIVE == EXACT:
            q_sum = tl.sum(q_sums, 0)
            hit_rate = label_weight / q_sum
            reward = beta + (1 - beta) * hit_rate
            base = reward if MEAN_BASELINE else 0.0
            scale = reward - base
            label_share = (1 - beta) * hit_rate
            q_share = (beta - base) / q_sum
            cross_entropy = log_z - tl.sum(q_moments, 0) / q_sum
            objective = label_share * tl.where(hit_rate > 0, nll, 0.0) + (beta - base) * cross_entropy
            unsampled = tl.exp(draws_to_miss * tl.log(tl.maximum(1 - hit_rate, 1e-37)))
        else:
            # The running sum of q over tokens other than the label, tile by tile, in float64
            tl.debug_barrier()
            tile = tl.arange(0, TILES)
            filled = tile < tl.cdiv(vocabulary, TILE)
            rise = tl.load(tops + tile // (BLOCK // TILE), mask=filled, other=0.0) - top
            mass = tl.load(ends + tile, mask=filled, other=0.0) * tl.exp(rise * inverse_temperature)
            beside = label // TILE * TILE + tl.arange(0, TILE)
            q_beside = _shares(row, beside, vocabulary, label, top, threshold, inverse_temperature, SCALE, CAP)
            mass = tl.where(tile == label // TILE, tl.sum(q_beside, 0).to(tl.float64), mass)
            end = tl.cumsum(mass, 0)
            others = tl.max(end, 0)
            whole = others + label_weight
            tl.debug_barrier()
            tl.store(ends + tile, end)
            tl.debug_barrier()

            hits = 0
            distance_sum = 0.0
            for first in range(0, samples, DRAWS):
                k = first + tl.arange(0, DRAWS)
                live = k < samples
                u = tl.load(uniforms + index * samples + k, mask=live, other=0.0)
                rest = u.to(tl.float64) * whole - label_weight
                is_label = rest < 0
                # Below the total, so that a tile with mass is found, however the sum above was rounded.
                rest = tl.minimum(tl.maximum(rest, 0.0), others - others * 2.220446049250313e-16)
                at = tl.zeros((DRAWS,), tl.int32)  # how many tiles end at or before the draw
                for step in tl.static_range(TILE_STEPS):
                    half = TILES >> (step + 1)
                    at += tl.where(tl.load(ends + at + half - 1) <= rest, half, 0)
                rest -= tl.load(ends + at - 1, mask=at > 0, other=0.0)
                near = at[:, None] * TILE + tl.arange(0, TILE)[None, :]
                q_near = _shares(row, near, vocabulary, label, top, threshold, inverse_temperature, SCALE, CAP)
                place = tl.sum((tl.cumsum(q_near, 1) <= rest.to(tl.float32)[:, None]).to(tl.int32), 1)
                last = tl.max(tl.where(q_near > 0, tl.arange(0, TILE)[None, :], 0), 1)  # rest may be rounded up
                drawn = at * TILE + tl.minimum(place, last)
                is_other = live & (is_label == 0)
                distance = load_logits(row, drawn, is_other, SCALE, CAP) - top
                tl.store(tokens + k, tl.where(is_other, drawn, -1), mask=live)
                tl.store(distances + k, distance, mask=live)
                hits += tl.sum((is_label & live).to(tl.int32), 0)
                distance_sum += tl.sum(tl.where(is_other, distance, 0.0), 0)
            hit_rate = hits / (samples * 1.0)
            reward = beta + (1 - beta) * hit_rate
            unsampled = tl.where(hits == 0, 1.0, 0.0)
            base = reward if MEAN_BASELINE else 0.0
            scale = reward - base
            label_share = (1 - base) * hit_rate
            drawn_share = (beta - base) / samples
            others_log_p = distance_sum - (samples - hits) * log_z
            objective = label_share * tl.where(hits > 0, nll, 0.0) - drawn_share * others_log_p

        objective += nll_weight * tl.where(nll_weight > 0, nll, 0.0)
        accuracy = tl.where(tl.sum(better, 0) == 0, 1.0, 0.0)
        entropy = log_z - tl.sum(p_moments, 0) / p_sum
        out = stats + index * 8
        tl.store(out, tl.where(valid, nll, nan))
        tl.store(out + 1, tl.where(valid, objective, nan))
        tl.store(out + 2, tl.where(valid, label_prob, nan))
        tl.store(out + 3, tl.where(valid, accuracy, nan))
        tl.store(out + 4, tl.where(valid, entropy, nan))
        tl.store(out + 5, tl.where(valid, reward, nan))
        tl.store(out + 6, tl.where(valid, hit_rate, nan))
        tl.store(out + 7, tl.where(valid, unsampled, nan))

        # 2: the gradient
        if WITH_GRAD:
            kind = logits.dtype.element_ty
            scale = tl.where(valid, scale + nll_weight, nan) / p_sum
            tl.debug_barrier()
            for start in range(0, vocabulary, BLOCK):
                token = start + tl.arange(0, BLOCK)
                x = load_logits(row, token, token < vocabulary, SCALE, CAP)
                gradient = scale * tl.exp(x - top)
                if OBJECTIVE == EXACT:
                    q = tl.exp((x - top) * inverse_temperature)
                    if CUT:
                        q = tl.where(x >= threshold, q, 0.0)
                    gradient -= q_share * q
                gradient = tl.where(token == label, gradient - label_share - nll_weight, gradient)
                gradient = through_finish(gradient, x, SCALE, CAP)
                tl.store(row + token, gradient.to(kind), mask=token < vocabulary)
            if OBJECTIVE == SAMPLED:
                tl.debug_barrier()
                for first in range(0, samples, DRAWS):
                    k = first + tl.arange(0, DRAWS)
                    drawn = tl.load(tokens + k, mask=k < samples, other=-1)
                    before = tl.load(tokens + k - 1, mask=(k > 0) & (k < samples), other=-1)
                    is_new = (drawn >= 0) & (drawn != before)
                    # Where its run ends, by binary search among those that follow
                    low, high = k + 1, tl.zeros((DRAWS,), tl.int32) + samples
                    for _ in tl.static_range(SAMPLE_STEPS):
                        middle = (low + high) // 2
                        same = tl.load(tokens + middle, mask=low < high, other=-1) == drawn
                        low, high = tl.where(same & (low < high), middle + 1, low), tl.where(same, high, middle)
                    distance = tl.load(distances + k, mask=is_new, other=0.0)
                    of_drawn = scale * tl.exp(distance) - drawn_share * (low - k)
                    of_drawn = through_finish(of_drawn, distance + top, SCALE, CAP)
                    tl.store(row + drawn, of_drawn.to(kind), mask=is_new)
        tl.debug_barrier()
