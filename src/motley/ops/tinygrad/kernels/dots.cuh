// Dot products of rows with activations in shared memory: what matrix-vector kernels are made of.
//
// A lane takes every 32nd unit of 32 values of a row, so that a warp reads 32 neighbouring units at once; ROWS rows at a
// time, so that activations are read from shared memory once for all of them. The limit is the weights' bytes: 32 x
// 0.56 (Q4_0, Q4_K) to 34 (Q8_0) of them per unit, read once and in order.

// Activations of one token as shared memory has them: a word more after each 32, or the 32 lanes of a warp, which are at the
// same place of neighbouring units, would all read from one bank.
#define UNITS(cols) (((cols) + 31) / 32)
#define STAGED(cols) (UNITS(cols) * 33)

__device__ __forceinline__ int staged(int c) { return c + (c >> 5); }

// sums[r] += row (first + r) . x over columns [from, from + n), which `xs` holds from 0 on; each lane its part.
template <int QUANT, int ROWS>
__device__ __forceinline__ void add_dots(
    const Planes& w, long first, int rows, int cols, int from, int n, const float* xs, float sums[ROWS]) {
    for (int u = LANE; u < UNITS(n); u += 32) {
        const float* x = xs + u * 33;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r >= rows) continue;
            float v[32];
            unit_of<QUANT>(w, first + r, from / 32 + u, cols, v);
            float sum = 0;
#pragma unroll
            for (int i = 0; i < 32; i++) sum += v[i] * x[i];
            sums[r] += sum;
        }
    }
}

// Lanes that have a row of few columns together: 32 / LANES_OF(cols) rows are a warp's at once.
#define LANES_OF(cols) \
    (UNITS(cols) > 16 ? 32 : UNITS(cols) > 8 ? 16 : UNITS(cols) > 4 ? 8 : UNITS(cols) > 2 ? 4 : UNITS(cols) > 1 ? 2 : 1)

// Row `row` . xs, for LANES neighbouring lanes the same one: each gets the sum, 0 if the row is not `there`.
template <int QUANT, int LANES>
__device__ __forceinline__ float short_dot(const Planes& w, long row, bool there, int cols, const float* xs) {
    float sum = 0;
    for (int u = LANE % LANES; there && u < UNITS(cols); u += LANES) {
        float v[32];
        unit_of<QUANT>(w, row, u, cols, v);
        const float* x = xs + u * 33;
#pragma unroll
        for (int i = 0; i < 32; i++) sum += v[i] * x[i];
    }
    for (int by = LANES / 2; by; by >>= 1) sum += shuffle_xor(sum, by);
    return sum;
}

// x [n] times, if there is a norm, norm [n] and `scale`, to shared memory, with zeros up to a whole unit. All threads of the
// block together.
__device__ __forceinline__ void stage(float* xs, const float* x, const float* norm, float scale, int n) {
    for (int c = threadIdx.x; c < UNITS(n) * 32; c += blockDim.x)
        xs[staged(c)] = c >= n ? 0.0f : norm ? x[c] * scale * norm[c] : x[c];
}

// What a root mean square norm multiplies with, before its weight. x: volatile where other blocks of the launch wrote it.
template <class Floats>
__device__ __forceinline__ float norm_scale(Floats x, int n, float eps, float* shared) {
    float squares = 0;
    for (int c = threadIdx.x; c < n; c += blockDim.x) squares += x[c] * x[c];
    return 1.0f / sqrtf(block_sum(squares, shared) / (float)n + eps);
}
