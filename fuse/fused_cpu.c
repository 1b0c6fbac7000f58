/* All Euler steps of dU/dt = D_u Lap U + f(U, V), dV/dt = D_v Lap V + g(U, V) in one pass over the data, and its adjoint.

   A tile is one sequence and LANES neighbouring channels, which do not interact. The forward pass streams the rows
   (clips) of a tile through all steps at once: as row r comes in, step m advances row r - 1 - 2 m, whose right neighbour
   step m - 1 made one row earlier; so no step of a row waits for another. Four rows of every step are kept, in the
   first-level cache. The adjoint takes a chunk of rows with a halo, repeats the steps into a scratch of its own and walks
   back; so memory depends on neither batch nor length.

   Compiled by fused_cpu.py, which defines REAL. Arrays are [B, T, D] without gaps; rates are [4, D]: D_u, D_v, and the two of
   kinetics.py. Rows from lengths[b] on are padding: never read, written as 0. */

#include <stdlib.h>
#include <string.h>

#define LANES 16
#define THRESHOLD ((REAL)0.1)

enum { GRAY_SCOTT, GRAY_SCOTT_SUBSTRATE, SCHNAKENBERG, FITZHUGH_NAGUMO };

typedef REAL lanes __attribute__((vector_size(LANES * sizeof(REAL))));
typedef struct { lanes u, v; } row;
typedef struct { lanes du, dv, a, b; } rates_of;   /* D_u dt, D_v dt, and the kinetics' own */
typedef struct { lanes f, g; } slopes;
typedef struct { lanes fu, fv, gu, gv, fa, ga, fb, gb; } partials;

typedef struct {
    long batch, clips, channels, steps;
    long kinetics, broadcast;                       /* broadcast: v is [B, 1, D] */
    double dt;
    const long *lengths;
    const REAL *u, *v, *rates;
    REAL *u_out, *v_out;                            /* forward; v_out may be NULL */
    const REAL *u_grad, *v_grad;                    /* backward; v_grad may be NULL */
    REAL *u_back, *v_back, *rates_back;             /* [B, T, D], the shape of v, [B, 4, D] */
} problem;

#define INLINE static inline __attribute__((always_inline))

INLINE slopes react(int kinetics, lanes u, lanes v, lanes a, lanes b) {
    lanes made = u * u * v, used = u * v * v;
    switch (kinetics) {
        case GRAY_SCOTT: return (slopes){made - (a + b) * u, a * (1 - v) - made};
        case GRAY_SCOTT_SUBSTRATE: return (slopes){a * (1 - u) - used, used - (a + b) * v};
        case SCHNAKENBERG: return (slopes){a - u + made, b - made};
        default: return (slopes){u * (1 - u) * (u - THRESHOLD) - v, a * (u - b * v)};
    }
}

INLINE partials differentiate(int kinetics, lanes u, lanes v, lanes a, lanes b) {
    lanes none = {0}, uu = u * u, uv = 2 * u * v, vv = v * v;
    switch (kinetics) {
        case GRAY_SCOTT: return (partials){uv - (a + b), uu, -uv, -uu - a, -u, 1 - v, -u, none};
        case GRAY_SCOTT_SUBSTRATE: return (partials){-vv - a, -uv, vv, uv - (a + b), 1 - u, -v, none, -v};
        case SCHNAKENBERG: return (partials){uv - 1, uu, -uv, -uu, none + 1, none, none, none + 1};
        default: return (partials){
            2 * (1 + THRESHOLD) * u - 3 * uu - THRESHOLD, none - 1, a, -a * b, none, u - b * v, none, -a * v};
    }
}

/* One step of one row from the row and its neighbours; a neighbour beyond the end is the row itself: zero flux. */
INLINE row advance(int kinetics, const row *left, const row *x, const row *right, const rates_of *p, REAL dt) {
    slopes s = react(kinetics, x->u, x->v, p->a, p->b);
    return (row){x->u + p->du * (left->u + right->u - 2 * x->u) + dt * s.f,
                 x->v + p->dv * (left->v + right->v - 2 * x->v) + dt * s.g};
}

INLINE lanes fetch(const REAL *from, int n) {
    lanes x = {0};
    if (n == LANES) memcpy(&x, from, sizeof x);
    else memcpy(&x, from, n * sizeof(REAL));
    return x;
}

INLINE void put(REAL *to, lanes x, int n) {
    if (n == LANES) memcpy(to, &x, sizeof x);
    else memcpy(to, &x, n * sizeof(REAL));
}

INLINE rates_of fetch_rates(const problem *q, long first, int n) {
    const REAL *rates = q->rates + first;
    REAL dt = (REAL)q->dt;
    return (rates_of){fetch(rates, n) * dt, fetch(rates + q->channels, n) * dt,
                      fetch(rates + 2 * q->channels, n), fetch(rates + 3 * q->channels, n)};
}

INLINE row fetch_row(const REAL *u, const REAL *v, const problem *q, long b, long i, long first, int n) {
    long at = (b * q->clips + i) * q->channels + first;
    return (row){fetch(u + at, n), v ? fetch(v + (q->broadcast && v == q->v ? b * q->channels + first : at), n) : (lanes){0}};
}

INLINE void forward_tile(int kinetics, const problem *q, long b, long first, int n, row (*ring)[4]) {
    long length = q->lengths[b], steps = q->steps;
    rates_of p = fetch_rates(q, first, n);
    REAL *u_out = q->u_out + b * q->clips * q->channels + first;
    REAL *v_out = q->v_out ? q->v_out + b * q->clips * q->channels + first : NULL;
    for (long r = 0; r < length + 2 * steps - 1 && length; r++) {
        if (r < length) ring[0][r & 3] = fetch_row(q->u, q->v, q, b, r, first, n);
        for (long m = 0; m < steps; m++) {
            long i = r - 1 - 2 * m;
            if (i < 0) break;
            if (i >= length) continue;
            const row *x = &ring[m][i & 3];
            const row *left = i > 0 ? &ring[m][(i - 1) & 3] : x, *right = i + 1 < length ? &ring[m][(i + 1) & 3] : x;
            ring[m + 1][i & 3] = advance(kinetics, left, x, right, &p, (REAL)q->dt);
        }
        long done = r + 1 - 2 * steps;
        if (done < 0) continue;
        put(u_out + done * q->channels, ring[steps][done & 3].u, n);
        if (v_out) put(v_out + done * q->channels, ring[steps][done & 3].v, n);
    }
    for (long i = length; i < q->clips; i++) {
        memset(u_out + i * q->channels, 0, n * sizeof(REAL));
        if (v_out) memset(v_out + i * q->channels, 0, n * sizeof(REAL));
    }
}

/* Rows of a chunk of the adjoint: large beside its halo of 2 (steps - 1) rows on each side, small beside the cache. */
static long chunk_rows(long steps) { return steps < 32 ? 128 : 4 * steps; }

INLINE long at_least(long a, long b) { return a > b ? a : b; }
INLINE long at_most(long a, long b) { return a < b ? a : b; }

/* Writes the gradient of rows [from, to) and adds that of the rates to `sums`, of a repeated v to v_sum.
   states: [steps][rows], adjoint: [2][rows]; row i of the data is row i - low of either. */
INLINE void backward_chunk(int kinetics, const problem *q, long b, long first, int n, long from, long to,
                           const rates_of *p, row *states, row *adjoint, long rows, rates_of *sums, lanes *v_sum) {
    long length = q->lengths[b], steps = q->steps, reach = 2 * (steps - 1);
    REAL dt = (REAL)q->dt;
    long low = at_least(0, from - reach), high = at_most(length, to + reach);
    for (long i = low; i < high; i++) states[i - low] = fetch_row(q->u, q->v, q, b, i, first, n);
    for (long m = 1; m < steps; m++) {
        const row *x = states + (m - 1) * rows - low;
        row *y = states + m * rows - low;
        long start = at_least(0, from - reach + m), stop = at_most(length, to + reach - m);
        for (long i = start; i < stop; i++)
            y[i] = advance(kinetics, &x[i - (i > 0)], &x[i], &x[i + (i + 1 < length)], p, dt);
    }
    row *behind = adjoint - low, *now = adjoint + rows - low;
    low = at_least(0, from - steps), high = at_most(length, to + steps);
    for (long i = low; i < high; i++) behind[i] = fetch_row(q->u_grad, q->v_grad, q, b, i, first, n);
    rates_of s = *sums;
    for (long m = steps - 1; m >= 0; m--) {
        const row *x = states + m * rows - at_least(0, from - reach);
        long start = at_least(0, from - m), stop = at_most(length, to + m);
        for (long i = start; i < stop; i++) {
            const row *l = &behind[i - (i > 0)], *r = &behind[i + (i + 1 < length)];
            lanes u = behind[i].u, v = behind[i].v, u_dt = dt * u, v_dt = dt * v;
            partials d = differentiate(kinetics, x[i].u, x[i].v, p->a, p->b);
            lanes u_lap = l->u + r->u - 2 * u, v_lap = l->v + r->v - 2 * v;
            now[i] = (row){u + p->du * u_lap + u_dt * d.fu + v_dt * d.gu, v + p->dv * v_lap + u_dt * d.fv + v_dt * d.gv};
            if (i < from || i >= to) continue;
            s.du += x[i].u * dt * u_lap;   /* summed over all rows the same as u_dt Lap x: Lap is symmetric */
            s.dv += x[i].v * dt * v_lap;
            s.a += u_dt * d.fa + v_dt * d.ga;
            s.b += u_dt * d.fb + v_dt * d.gb;
        }
        row *swap = behind;
        behind = now, now = swap;
    }
    *sums = s;
    for (long i = from; i < to; i++) {
        put(q->u_back + (b * q->clips + i) * q->channels + first, behind[i].u, n);
        if (q->broadcast) *v_sum += behind[i].v;
        else put(q->v_back + (b * q->clips + i) * q->channels + first, behind[i].v, n);
    }
}

INLINE void backward_tile(int kinetics, const problem *q, long b, long first, int n, row *scratch, long rows) {
    long length = q->lengths[b], chunk = chunk_rows(q->steps), channels = q->channels;
    rates_of p = fetch_rates(q, first, n), sums = {{0}, {0}, {0}, {0}};
    lanes v_sum = {0};
    row *states = scratch, *adjoint = scratch + q->steps * rows;
    for (long from = 0; from < length; from += chunk)
        backward_chunk(kinetics, q, b, first, n, from, at_most(length, from + chunk),
                       &p, states, adjoint, rows, &sums, &v_sum);
    REAL *rates_back = q->rates_back + b * 4 * channels + first;
    put(rates_back, sums.du, n), put(rates_back + channels, sums.dv, n);
    put(rates_back + 2 * channels, sums.a, n), put(rates_back + 3 * channels, sums.b, n);
    if (q->broadcast) put(q->v_back + b * channels + first, v_sum, n);
    for (long i = length; i < q->clips; i++) {
        memset(q->u_back + (b * q->clips + i) * channels + first, 0, n * sizeof(REAL));
        if (!q->broadcast) memset(q->v_back + (b * q->clips + i) * channels + first, 0, n * sizeof(REAL));
    }
}

#define TILES(q) ((q)->batch * (((q)->channels + LANES - 1) / LANES))
#define FOR_TILES(call) \
    for (long tile = first_tile; tile < last_tile; tile++) { \
        long blocks = (q->channels + LANES - 1) / LANES, b = tile / blocks, first = tile % blocks * LANES; \
        int n = (int)at_most(LANES, q->channels - first); \
        switch (q->kinetics) { \
            case GRAY_SCOTT: call(GRAY_SCOTT); break; \
            case GRAY_SCOTT_SUBSTRATE: call(GRAY_SCOTT_SUBSTRATE); break; \
            case SCHNAKENBERG: call(SCHNAKENBERG); break; \
            default: call(FITZHUGH_NAGUMO); \
        } \
    }

long tiles(const problem *q) { return TILES(q); }

/* Tiles [first_tile, last_tile); 0 where all is well, 1 where there is no memory. */
int forward(const problem *q, long first_tile, long last_tile) {
    row (*ring)[4] = aligned_alloc(128, (q->steps + 1) * sizeof *ring);
    if (!ring) return 1;
#define CALL(kinetics) forward_tile(kinetics, q, b, first, n, ring)
    FOR_TILES(CALL)
#undef CALL
    free(ring);
    return 0;
}

int backward(const problem *q, long first_tile, long last_tile) {
    long rows = at_most(q->clips, chunk_rows(q->steps) + 4 * (q->steps - 1) + 2);
    row *scratch = aligned_alloc(128, (q->steps + 2) * rows * sizeof *scratch);
    if (!scratch) return 1;
#define CALL(kinetics) backward_tile(kinetics, q, b, first, n, scratch, rows)
    FOR_TILES(CALL)
#undef CALL
    free(scratch);
    return 0;
}
