// Of each token, the sum over its A chosen experts that are here: weight x (down hidden), in float64, each product rounded to
// float32 first as the other devices do. down [owned, D, F]; hidden as experts_gate_up.cu leaves it; out float64 [T, D], or with
// RESIDUAL float32 [T, D]: residual + the sum, rounded once, and if FS is not 0 shared_down [D, FS] times the shared experts'
// hidden added to that, times FACTOR, and the sigmoid of their gate if GATED. With POST the shared experts' (or a dense block's) is
// not added but normed by beside_norm, as residual + the sum is by sum_norm, both together by both_norm [D], and out is (outer
// [T, D] + that) x SCALE. raw [T, 2, D] and counter [T], zero before and after, are the kernel's own.
//
// grid: (D / (WARPS ROWS), T). One launch for all experts, in one order: nothing is added atomically. With
// POST the last block of a token norms its 3 D values, from the second-level cache.

#define WIDEST (F > FS ? F : FS)
#define CHUNK (WIDEST < 8192 ? WIDEST : 8192)

#if RESIDUAL
typedef float Out;
#else
typedef double Out;
#endif

template <int QUANT>
__device__ __forceinline__ void rows_of(
    const Planes& w, long first, int rows, int cols, const float* hidden, float* xs, float sums[ROWS]) {
    for (int from = 0; from < cols; from += CHUNK) {
        int n = cols - from < CHUNK ? cols - from : CHUNK;
        __syncthreads();
        stage(xs, hidden + from, 0, 1.0f, n);
        __syncthreads();
        add_dots<QUANT, ROWS>(w, first, rows, cols, from, n, xs, sums);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(
    Out* out, float* raw, u32* counter, const float* hidden, const int* ids, const float* weights, const int* local, const float* residual,
    const u8* a, const u8* b, const u8* c, const u8* d, const float* bias,
    const u8* sa, const u8* sb, const u8* sc, const u8* sd,
    const float* sum_norm, const float* beside_norm, const float* both_norm, const float* outer) {
    __shared__ float xs[STAGED(CHUNK)];
    int t = blockIdx.y, row = (blockIdx.x * WARPS + WARP) * ROWS;
    double total[ROWS] = {};
    for (int k = 0; k < A; k++) {
        int pair = t * A + k, id = ids[pair];
        int expert = id < 0 ? -1 : local[id];
        if (expert < 0) continue;  // all of the block
        float sums[ROWS] = {};
        rows_of<QD>(Planes{a, b, c, d}, (long)expert * D + row, D - row, F, hidden + (long)pair * F, xs, sums);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float y = warp_sum(sums[r]);
            if (BIAS && row + r < D) y += bias[(long)id * D + row + r];
            total[r] += (double)weights[pair] * (double)y;
        }
    }
    float beside[ROWS] = {};
    hidden += (long)T * A * F;
    if (FS) rows_of<SD>(Planes{sa, sb, sc, sd}, row, D - row, FS, hidden + (long)t * FS, xs, beside);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (FS) beside[r] = warp_sum(beside[r]);
        if (LANE || row + r >= D) continue;
        long at = (long)t * D + row + r;
        Out sum = RESIDUAL ? (Out)(residual[at] + (float)total[r]) : (Out)total[r];
        float other = FACTOR * (GATED ? beside[r] * sigmoid(hidden[(long)T * FS + t]) : beside[r]);
        if (POST)
            raw[(long)t * 2 * D + row + r] = (float)sum, raw[((long)t * 2 + 1) * D + row + r] = other;
        else
            out[at] = FS ? sum + (Out)other : sum;
    }
#if POST
    __shared__ float shared[32];
    if (!last_block(counter + t, gridDim.x)) return;
    volatile float *sums = raw + (long)t * 2 * D, *others = sums + D;  // other blocks wrote them
    float of_sum = norm_scale(sums, D, EPS, shared), of_other = norm_scale(others, D, EPS, shared), squares = 0;
    for (int c = threadIdx.x; c < D; c += blockDim.x) {
        float y = sums[c] * of_sum * sum_norm[c] + others[c] * of_other * beside_norm[c];
        sums[c] = y;
        squares += y * y;
    }
    float of_both = 1.0f / sqrtf(block_sum(squares, shared) / (float)D + EPS);
    for (int c = threadIdx.x; c < D; c += blockDim.x) {
        long at = (long)t * D + c;
        out[at] = (outer[at] + sums[c] * of_both * both_norm[c]) * SCALE;
    }
#endif
}
