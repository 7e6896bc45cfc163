// The time loop of LSTM and sLSTM, forward and backward. What differs is a struct of gates, a cell:
//
//   CELLS, KEPT       states beside h; how many of them, from the first, have gradients
//   PEEPHOLES         whether gates see c through weights (3, H, K)
//   EMPTY[CELLS]      what the states are where a document begins
//   forward<SAVES>    raw pre-activations and states -> h and states (and four numbers for backward, the gates)
//   again             the kept states after a step from those before and the gates
//   backward          from d h, and the gradients of the kept states, those of the raw pre-activations
//
// A unit of work is one head and a range of batch rows over all time: units never wait for each other. Inside a step, a
// block of W outputs of all four gates is computed for a few rows at once and stays in registers until the gates have
// been applied. For backward the gates are kept in place of the pre-activations, and the states at the start of each
// block of steps; the other states are computed again from the gates, so backward repeats no product.
#pragma once

#include "mixing.h"
#include "pool.h"

namespace exgate {

constexpr int64_t BLOCK = 8;  // steps between two states that are kept, as in recurrence.py

// One call, forward or backward; recurrence.py has the same fields. What a call does not need is null.
struct Call {
    Sizes s;
    int64_t half, exp_f, threads;
    const void* x;  // (B, T, 4, H, K) float32, or bfloat16 if `half`
    const float* r;  // (4, H, K, K)
    const float* peephole;  // (3, H, K), gates i f o
    const uint8_t* reset;  // (B, T)
    const float* start[4];  // (B, H, K) each: h and the cell's states before the first step; backward: gradients after the last
    float* end[4];  // those after the last step; backward: gradients before the first
    float* y;  // (B, T, H, K)
    float* gates;  // (H, T, B, 4, K), null if there will be no backward
    float* kept;  // (blocks of steps, KEPT, B, H, K)
    const float *dy, *h;  // backward: (B, T, H, K), and (B, H, K), h before the first step
    float *dx, *dr, *dpeephole;  // (B, T, 4, H, K), (4, H, K, K), and (B, 3, H, K), to be summed over B
    float* space;  // as many numbers as `space` says
};

// Units: heads times tiles of batch rows, as many as keep every thread busy.
struct Tiles {
    int64_t tiles, rows;  // tiles per head, rows of the largest
    explicit Tiles(const Call& a) {
        const Sizes& s = a.s;
        tiles = 1;
        while (tiles < s.batch && (s.heads * tiles) % a.threads != 0) tiles++;
        if (tiles > s.batch) tiles = s.batch;
        rows = (s.batch + tiles - 1) / tiles;
        tiles = (s.batch + rows - 1) / rows;
    }
};

struct Unit {
    int64_t head, first, rows;
    Unit(const Sizes& s, const Tiles& tiles, int64_t item)
        : head(item / tiles.tiles), first(item % tiles.tiles * tiles.rows),
          rows(s.batch - first < tiles.rows ? s.batch - first : tiles.rows) {}
};

template <class Cell>
int64_t forward_space(const Sizes& s, int64_t rows) {
    return rows * s.padded() * (2 + Cell::CELLS);
}
template <class Cell>
int64_t backward_space(const Sizes& s, int64_t rows) {
    return rows * s.padded() * (1 + Cell::KEPT + 4 + 3 * Cell::PEEPHOLES + Cell::KEPT * (BLOCK + 1));
}

// The peepholes of a block of cells; zero where there are none.
struct Peep {
    vf i = {}, f = {}, o = {};
    Peep(const Call& a, int64_t head, int64_t k, int64_t left) {
        if (!a.peephole) return;
        const float* p = a.peephole + head * a.s.size + k;
        i = load(p, left), f = load(p + a.s.row(), left), o = load(p + 2 * a.s.row(), left);
    }
};

template <class Cell, bool SAVES, class X>
void forward(const Call& a, const X* x, const Unit& unit, const float* panels, float* space) {
    const Sizes& s = a.s;
    const auto [head, first, rows] = unit;
    const int64_t K = s.size, P = s.padded(), J = s.blocks(), size = rows * P, gate = s.row();
    float *h = space, *next = h + size, *cells = next + size;
    take(s, a.start[0], head, first, rows, h);
    for (int v = 0; v < Cell::CELLS; v++) take(s, a.start[1 + v], head, first, rows, cells + v * size);
    for (int64_t t = 0; t < s.steps; t++) {
        if (SAVES && t % BLOCK == 0)
            for (int v = 0; v < Cell::KEPT; v++)
                give(s, cells + v * size, head, first, rows, a.kept + (t / BLOCK * Cell::KEPT + v) * s.batch * gate);
        for (int64_t i = 0; a.reset && i < rows; i++)
            if (a.reset[(first + i) * s.steps + t]) {
                clear(s, h, i, 0.0f);
                for (int v = 0; v < Cell::CELLS; v++) clear(s, cells + v * size, i, Cell::EMPTY[v]);
            }
        for (int64_t turn = 0; turn < J; turn++) {
            const int64_t j = t % 2 ? J - 1 - turn : turn;  // to and fro: the weights last used are still in cache
            const int64_t left = K - j * W;
            const Peep peep(a, head, j * W, left);
            row_groups(rows, [&](int64_t i0, auto count) {
                constexpr int R = decltype(count)::value;
                const X* in = x + ((first + i0) * s.steps + t) * 4 * gate + head * K + j * W;
                vf sums[R][4] = {};
                product<R, 4>(sums, h + i0 * P, P, 1, panels + j * K * 4 * W, K);
                for (int i = 0; i < R; i++, in += s.steps * 4 * gate) {
                    const int64_t b = first + i0 + i, at = (i0 + i) * P + j * W;
                    for (int g = 0; g < 4; g++) __builtin_prefetch(in + (4 + g) * gate);
                    vf raw[4], states[Cell::CELLS], gates[4];
                    for (int g = 0; g < 4; g++) raw[g] = sums[i][g] + load(in + g * gate, left);
                    for (int v = 0; v < Cell::CELLS; v++) states[v] = load(cells + v * size + at);
                    vf out = Cell::template forward<SAVES>(a, peep, raw, states, gates);
                    for (int v = 0; v < Cell::CELLS; v++) store(cells + v * size + at, states[v]);
                    store(next + at, out);
                    store(a.y + (b * s.steps + t) * gate + head * K + j * W, out, left);
                    if (SAVES)
                        for (int g = 0; g < 4; g++)
                            store(a.gates + (((head * s.steps + t) * s.batch + b) * 4 + g) * K + j * W, gates[g], left);
                }
            });
        }
        float* swap = h;
        h = next, next = swap;
    }
    give(s, h, head, first, rows, a.end[0]);
    for (int v = 0; v < Cell::CELLS; v++) give(s, cells + v * size, head, first, rows, a.end[1 + v]);
}

template <class Cell>
void backward(const Call& a, const Unit& unit, const float* panels, float* space) {
    const Sizes& s = a.s;
    const auto [head, first, rows] = unit;
    const int64_t K = s.size, P = s.padded(), size = rows * P, gate = s.row();
    float *carry = space, *dcells = carry + size, *draw = dcells + Cell::KEPT * size;
    float *cells = draw + 4 * size, *dp = cells + Cell::KEPT * (BLOCK + 1) * size;  // cells: [step][state][row]
    take(s, a.start[0], head, first, rows, carry);
    for (int v = 0; v < Cell::KEPT; v++) take(s, a.start[1 + v], head, first, rows, dcells + v * size);
    if (Cell::PEEPHOLES) memset(dp, 0, sizeof(float) * 3 * size);
    auto gates_of = [&](int64_t t, int64_t i) { return a.gates + ((head * s.steps + t) * s.batch + first + i) * 4 * K; };
    auto begins = [&](int64_t t, int64_t i) { return a.reset && a.reset[(first + i) * s.steps + t]; };
    auto read = [&](const float* from, bool empty, vf(&states)[Cell::KEPT]) {
        for (int v = 0; v < Cell::KEPT; v++) states[v] = empty ? vf{} : load(from + v * size);
    };
    for (int64_t start = (s.steps - 1) / BLOCK * BLOCK; start >= 0; start -= BLOCK) {
        const int64_t stop = start + BLOCK < s.steps ? start + BLOCK : s.steps;
        for (int v = 0; v < Cell::KEPT; v++) {
            const float* kept = a.kept + (start / BLOCK * Cell::KEPT + v) * s.batch * gate;
            take(s, kept, head, first, rows, cells + v * size);
        }
        for (int64_t t = start; t < stop; t++)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t k = 0; k < K; k += W) {
                    float* at = cells + (t - start) * Cell::KEPT * size + i * P + k;
                    vf states[Cell::KEPT], gates[4];
                    for (int g = 0; g < 4; g++) gates[g] = load(gates_of(t, i) + g * K + k, K - k);
                    read(at, begins(t, i), states);
                    Cell::again(gates, states);
                    for (int v = 0; v < Cell::KEPT; v++) store(at + (Cell::KEPT + v) * size, states[v]);
                }
        for (int64_t t = stop - 1; t >= start; t--) {
            for (int64_t i = 0; i < rows; i++) {
                const int64_t row = (first + i) * s.steps + t;
                // What the next row takes and gives, which is a power of two away too often to be foreseen by the processor.
                const int64_t then = i + 1 < rows ? row + s.steps : t ? first * s.steps + t - 1 : row;
                for (int64_t k = 0; k < K; k += W) {
                    const int64_t left = K - k, here = i * P + k, column = head * K + k;
                    const float* at = cells + (t - start) * Cell::KEPT * size + here;
                    __builtin_prefetch(a.dy + then * gate + column);
                    for (int g = 0; g < 4; g++) __builtin_prefetch(a.dx + (then * 4 + g) * gate + column, 1);
                    vf gates[4], before[Cell::KEPT], after[Cell::KEPT], dstates[Cell::KEPT], d[4];
                    for (int g = 0; g < 4; g++) gates[g] = load(gates_of(t, i) + g * K + k, left);
                    read(at, begins(t, i), before);
                    read(at + Cell::KEPT * size, false, after);
                    read(dcells + here, false, dstates);
                    vf dh = load(carry + here) + load(a.dy + row * gate + column, left);
                    Cell::backward(Peep(a, head, k, left), gates, before, after, dh, dstates, d);
                    for (int v = 0; v < Cell::KEPT; v++) store(dcells + v * size + here, dstates[v]);
                    for (int g = 0; g < 4; g++) {
                        store(draw + (i * 4 + g) * P + k, d[g]);
                        store(a.dx + (row * 4 + g) * gate + column, d[g], left);
                    }
                    if (Cell::PEEPHOLES && a.peephole) {
                        store(dp + here, load(dp + here) + d[0] * before[0]);
                        store(dp + size + here, load(dp + size + here) + d[1] * before[0]);
                        store(dp + 2 * size + here, load(dp + 2 * size + here) + d[3] * after[0]);
                    }
                }
            }
            unmix(s, draw, panels, carry, rows, t % 2);
            for (int64_t i = 0; i < rows; i++)
                if (begins(t, i)) {
                    clear(s, carry, i, 0.0f);
                    for (int v = 0; v < Cell::KEPT; v++) clear(s, dcells + v * size, i, 0.0f);
                }
        }
    }
    give(s, carry, head, first, rows, a.end[0]);
    for (int v = 0; v < Cell::KEPT; v++) give(s, dcells + v * size, head, first, rows, a.end[1 + v]);
    for (int64_t g = 0; Cell::PEEPHOLES && a.peephole && g < 3; g++)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < K; k += W) {
                float* to = a.dpeephole + (((first + i) * 3 + g) * s.heads + head) * K + k;
                store(to, load(dp + g * size + i * P + k), K - k);
            }
}

// Numbers of float32 work space that a call needs.
template <class Cell>
int64_t space_of(const Call& a, bool back) {
    const Sizes& s = a.s;
    const Tiles tiles(a);
    const int64_t units = s.heads * tiles.tiles;
    if (!back) return s.heads * mixing_numbers(s) + units * forward_space<Cell>(s, tiles.rows);
    const int64_t states = units * backward_space<Cell>(s, tiles.rows);
    const int64_t strips = s.heads * weight_strips(s) * weight_numbers(s);
    return s.heads * unmixing_numbers(s) + (states > strips ? states : strips);
}

template <class Cell>
void forward_call(const Call& a) {
    const Sizes& s = a.s;
    const Tiles tiles(a);
    parallel(s.heads * s.blocks(), a.threads, [&](int64_t item) {
        const int64_t head = item / s.blocks();
        pack_mixing(s, a.r, head, item % s.blocks(), a.space + head * mixing_numbers(s));
    });
    float* rest = a.space + s.heads * mixing_numbers(s);
    parallel(s.heads * tiles.tiles, a.threads, [&](int64_t item) {
        const Unit unit(s, tiles, item);
        const float* panels = a.space + unit.head * mixing_numbers(s);
        float* own = rest + item * forward_space<Cell>(s, tiles.rows);
        auto* f = (const float*)a.x;
        auto* b = (const bf16*)a.x;
        if (a.gates && a.half) forward<Cell, true>(a, b, unit, panels, own);
        if (a.gates && !a.half) forward<Cell, true>(a, f, unit, panels, own);
        if (!a.gates && a.half) forward<Cell, false>(a, b, unit, panels, own);
        if (!a.gates && !a.half) forward<Cell, false>(a, f, unit, panels, own);
    });
}

template <class Cell>
void backward_call(const Call& a) {
    const Sizes& s = a.s;
    const Tiles tiles(a);
    const int64_t panels = unmixing_panels(s), strips = weight_strips(s);
    parallel(s.heads * panels, a.threads, [&](int64_t item) {
        const int64_t head = item / panels;
        pack_unmixing(s, a.r, head, item % panels, a.space + head * unmixing_numbers(s));
    });
    float* rest = a.space + s.heads * unmixing_numbers(s);
    parallel(s.heads * tiles.tiles, a.threads, [&](int64_t item) {
        const Unit unit(s, tiles, item);
        float* own = rest + item * backward_space<Cell>(s, tiles.rows);
        backward<Cell>(a, unit, a.space + unit.head * unmixing_numbers(s), own);
    });
    parallel(s.heads * strips, a.threads, [&](int64_t item) {
        float* own = rest + item * weight_numbers(s);
        weight_gradient(s, a.dx, a.y, a.h, a.reset, item / strips, item % strips, a.dr, own);
    });
}

}  // namespace exgate
